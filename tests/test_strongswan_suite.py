"""examples/strongswan-suite, with a small suite of our own in strongSwan's format."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from support import PATIENCE, TOP

SUITE = TOP / "examples" / "strongswan-suite"

#: Debian's charon, which does not tell when it is ready, with a unit as strongSwan has one.
CHARON = """\
#!/usr/bin/perl
use Socket;
if (!fork) {
	select undef, undef, undef, 0.05 until -S '/run/charon.vici';
	socket my $socket, AF_UNIX, SOCK_DGRAM, 0;
	send $socket, "READY=1\\n", 0, pack_sockaddr_un($ENV{NOTIFY_SOCKET});
	exit;
}
exec '/usr/lib/ipsec/charon';
"""
UNIT = """\
[Service]
Type=notify
ExecStart=/etc/charon
ExecStartPost=/usr/sbin/swanctl --load-all --noprompt
"""
CONNECTION = """\
connections {
	net {
		version = 2
		local_addrs = PH_IP_%s
		remote_addrs = PH_IP_%s
		local { auth = psk
			id = %s
		}
		remote { auth = psk
			id = %s
		}
		children { net { mode = transport } }
	}
}
secrets { ike { secret = "Enten nicht in Hamburg" } }
"""
SLEEPER = "[Service]\nExecStart=/bin/sleep 9999\nRestart=on-abnormal\n"
INIT_TEST = """\
#!/bin/bash
tcpdump -l --immediate-mode -i eth0 >/tmp/tcpdump.log 2>/tmp/tcpdump.err.log &
"""
#: Scenarios: what they begin with, what is evaluated, how they end.
TUNNEL = (
    """\
# A comment, and a host that does not exist.
moon::systemctl start strongswan
sun::systemctl start strongswan
oon::echo nobody
moon::swanctl --initiate --child net 2> /dev/null
""",
    """\
moon::swanctl --list-sas 2> /dev/null::net: #1, ESTABLISHED::YES
sun:: swanctl  --list-sas::ESTABLISHED::1
moon::ping -c 1 PH_IP_SUN::64 bytes from PH_IP_SUN: icmp_.eq=1::YES
sun::tcpdump::IP moon >  sun: ESP::YES
sun::tcpdump::IP sun > moon: \\(ESP\\|AH\\)::YES
sun::tcpdump::IP moon > bob::NO
""",
    """\
moon::swanctl --terminate --ike net
moon::systemctl stop strongswan
sun::systemctl stop strongswan
""",
)
LEAVES = (
    """\
moon::echo left > /root/left
moon::ip xfrm policy add dir out src 10.9.0.0/16 dst 10.8.0.0/16
""",
    """\
moon::echo one::two::YES
moon::echo one::one::NO
moon::"printf 'a\\na\\n'"::a::3
moon::"printf 'a\\na\\n'"::a::2
""",
    "",
)
PRISTINE = (
    "sun::systemctl start sleeper\nsun::pkill -KILL -x sleep\n",
    """\
moon::ls /root::left::NO
sun::"until pgrep -x sleep; do :; done"::[0-9]::YES
sun::systemctl is-active sleeper && echo "it is"::it is::YES
sun::"systemctl stop sleeper; pgrep -x sleep"::[0-9]::NO
""",
    "",
)
LACKING = ("moon::tkm_keymanager -c /etc/tkm/tkm.conf\n", "moon::true::x::NO\n", "")
CONF = 'VIRTHOSTS="moon sun"\nTCPDUMPHOSTS="sun" # a comment\nIPSECHOSTS="$VIRTHOSTS"\nSWANCTL=1\n'


def write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


@pytest.fixture
def testing(tmp_path: Path) -> Path:
    """A suite."""
    place = tmp_path / "testing"
    write(place / "do-tests", "")
    write(place / "hosts/winnetou/etc/ca/strongswanCert.pem", "")
    default = place / "hosts" / "default"
    write(default / "etc/hosts", "192.168.0.1 moon\n192.168.0.2 sun\n10.2.0.10 bob\n")
    write(default / "usr/local/bin/init-test", INIT_TEST, 0o755)
    (default / "usr/bin").mkdir(parents=True)
    shutil.copy(SUITE / "systemctl", default / "usr/bin")
    for host in ("alice", "venus", "moon", "carol", "winnetou", "dave", "sun", "bob"):
        write(place / "hosts" / host / "etc/name-of-host", host)
    scenarios = {
        "tunnel": TUNNEL,
        "leaves": LEAVES,
        "pristine": PRISTINE,
        "lacking": LACKING,
    }
    for name, texts in scenarios.items():
        scenario = place / "tests" / "ikev2" / name
        write(scenario / "test.conf", CONF)
        for part, text in zip(("pre", "eval", "post"), texts, strict=True):
            write(scenario / f"{part}test.dat", text)
    for host, peer in (("moon", "sun"), ("sun", "moon")):
        etc = place / "tests/ikev2/tunnel/hosts" / host / "etc"
        names = (host.upper(), peer.upper(), host, peer)
        write(etc / "swanctl/conf.d/net.conf", CONNECTION % names)
        write(etc / "systemd/system/strongswan.service", UNIT)
        write(etc / "charon", CHARON, 0o755)
    write(place / "tests/ikev2/pristine/hosts/sun/etc/systemd/system/sleeper.service", SLEEPER)
    write(place / "tests/ikev2/pristine/hosts/.gitignore", "")
    return place


def play(suite: Path, *options: str, **more: str) -> tuple[int, str]:
    """The status and output of pytest in the suite's directory; `more` is for its environment."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        cwd=suite,
        env=env | more,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.uml
@pytest.mark.xdist_group("plugin")
def test_scenarios_are_played(testing: Path, tmp_path: Path, example_masters: Path) -> None:
    suite = tmp_path / "suite"  # pytest leaves files beside tests
    shutil.copytree(SUITE, suite, ignore=shutil.ignore_patterns("__pycache__"))
    _, said = play(
        suite,
        *("-n", "2", "--dumm-kernel=trixie", "--dumm-master=network"),
        *(f"--testing={testing}", f"--tap={tmp_path}/tap", f"--basetemp={tmp_path}/tmp"),
        f"--junitxml={tmp_path}/junit.xml",
        XDG_CACHE_HOME=str(example_masters),
    )
    assert "1 failed, 2 passed, 1 skipped" in said, said
    # All that failed, and nothing else.
    failures = [
        "moon# echo one | grep 'two'  [YES]",
        "moon# echo one | grep 'one'  [NO]",
        "moon# printf 'a\\na\\n' | grep 'a'  [3]",
        "moon: xfrm policy:\nsrc 10.9.0.0/16 dst 10.8.0.0/16",
    ]
    for text in failures:
        assert text in said
    assert said.count("~~~~~~~ FAIL ~~~~~~~") == 3
    tap = (tmp_path / "tap").read_text()
    assert tap.startswith("TAP version 14\n")
    assert tap.endswith("\n1..4\n")
    assert "test_scenario[ikev2/tunnel] # time=" in tap
    assert "test_scenario[ikev2/lacking] # SKIP needs the program tkm_keymanager" in tap
    assert tap.count("\nnot ok ") == 1
    suites = ElementTree.parse(tmp_path / "junit.xml").getroot()
    (counts,) = [each.attrib for each in suites]
    assert (counts["tests"], counts["failures"], counts["skipped"]) == ("4", "1", "1")
    found = subprocess.run(["ps", "-ewwo", "args"], stdout=subprocess.PIPE, text=True, check=True)
    assert f"{tmp_path}/tmp" not in found.stdout


def test_texts_are_read_as_by_do_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same texts, expanded by bash."""
    monkeypatch.syspath_prepend(SUITE)
    import scenario

    for text in (
        '"ip route add fec1:\\:/16 via fec0:\\:1"',
        '"sed -i \\"s:x:\\`date\\`:\\" /etc/x; echo \\$HOME"',
        "'single \\ $HOME'\\''quote'",
        '"a \\[ 1, b \\] \\\\ c"',
        '""ip route""',
        "plain\\ word",
    ):
        echo = subprocess.run(
            ["bash", "-c", f"echo {text}"], capture_output=True, text=True, check=True
        )
        assert scenario.read_by_shell(text) == echo.stdout.strip(), text


def test_files_land_where_links_of_a_host_lead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SUITE)
    import layer

    printed = "/etc/radius/users\tfiles/authorize\n/etc/raddb\tradius\n/etc/loop\t/etc/loop\n"
    links = layer.links(printed)
    for path, place in (
        ("/etc/hosts", "/etc/hosts"),
        ("/etc/radius/users", "/etc/radius/files/authorize"),
        ("/etc/raddb/users", "/etc/radius/files/authorize"),
        ("/etc/raddb/certs/dh", "/etc/radius/certs/dh"),
    ):
        assert layer.landing(path, links) == place
    with pytest.raises(ValueError, match="too many links"):
        layer.landing("/etc/loop", links)


def test_servers_may_read_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the user's umask: they have users of their own."""
    monkeypatch.syspath_prepend(SUITE)
    import layer

    write(tmp_path / "alice/etc/freeradius/3.0/users", "client PH_IP_MOON1 # PH_IP6_SUN\n")
    write(tmp_path / "alice/etc/rc", "", 0o755)
    earlier = os.umask(0o077)
    try:
        layer.write(tmp_path / "alice", tmp_path / "layer", {})
    finally:
        os.umask(earlier)
    users = tmp_path / "layer/etc/freeradius/3.0/users"
    assert users.read_text() == "client 10.1.0.1 # fec0::2\n"
    modes = {
        str(path.relative_to(tmp_path)): path.stat().st_mode & 0o777
        for path in (tmp_path / "layer", *(tmp_path / "layer").rglob("*"))
    }
    place = "layer/etc/freeradius/3.0/users"
    assert modes == dict.fromkeys(modes, 0o755) | {place: 0o644}


def test_hosts_that_a_scenario_mentions(testing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SUITE)
    import scenario

    place = testing / "tests/ikev2/tunnel"
    # By a step's address, by a name in a file, and by a list that refers to another.
    assert scenario.read(testing, "ikev2/tunnel").all_hosts() == {"moon", "sun", "winnetou"}
    write(place / "hosts/moon/etc/x.conf", "url = http://bob.strongswan.org:8800\n")
    with (place / "evaltest.dat").open("a") as file:
        file.write("moon::ping6 -c 1 ip6-venus.strongswan.org::64 bytes::YES\n")
    with (place / "test.conf").open("a") as file:
        file.write('RADIUSHOSTS="carol"\nDBHOSTS="$RADIUSHOSTS dave"\n')
    found = scenario.read(testing, "ikev2/tunnel")
    assert found.hosts["DBHOSTS"] == ["carol", "dave"]
    assert found.all_hosts() == {"moon", "sun", "winnetou", "bob", "venus", "carol", "dave"}


def test_leaks_are_looked_for_as_by_do_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SUITE)
    import hosts

    found = [
        {key: value for key, value in hosts.environment(leaks=leaks).items() if "LEAK" in key}
        for leaks in (True, False)
    ]
    assert found == [
        {"LEAK_DETECTIVE_LOG": hosts.LEAKS, "LEAK_DETECTIVE_IGNORE_UNKNOWN": "1"},
        {"LEAK_DETECTIVE_DISABLE": "1", "LEAK_DETECTIVE_DISABLE_DAEMON": "1"},
    ]


def collect(*options: str) -> tuple[int, str]:
    """The status and output of pytest, which starts no scenario."""
    return play(SUITE, "--collect-only", *options)


def test_suite_must_be_a_suite(testing: Path, tmp_path: Path) -> None:
    needed = "--testing: a directory made by build.sh is needed"
    status, said = collect(f"--testing={tmp_path}")
    assert (status, needed in said) == (4, True), said
    # As in a checkout.
    (testing / "hosts/winnetou/etc/ca/strongswanCert.pem").unlink()
    status, said = collect(f"--testing={testing}")
    assert (status, needed in said) == (4, True), said


def test_tap(testing: Path, tmp_path: Path) -> None:
    status, said = collect(f"--testing={testing}", f"--tap={tmp_path}")
    assert (status, f"--tap: cannot write '{tmp_path}': Is a directory" in said) == (4, True), said
    assert "Traceback" not in said
    # xdist's workers would take the file for one with tests.
    status, said = collect(f"--testing={testing}", "-n", "2", "--tap", f"{tmp_path}/tap")
    assert (status, "must follow a '=': --tap=..." in said) == (4, True), said
    # Nothing else is printed then.
    status, said = collect(f"--testing={testing}", "--tap=-", "-p", "no:terminal")
    assert (status, said) == (0, "TAP version 14\n1..0\n")


@pytest.mark.parametrize(
    ("checkout", "place", "status", "said"),
    [
        ("none", "out", 3, "no checkout of strongSwan: '{}/none'"),
        ("built", "out", 4, "built in place, make distclean first: '{}/built'"),
        ("clean", "clean/out", 2, "within the checkout: '{}/clean/out'"),
        ("clean", "busy", 4, "another build.sh uses '{}/busy'"),
    ],
)
def test_build_refuses(tmp_path: Path, checkout: str, place: str, status: int, said: str) -> None:
    """Before anything was built."""
    for name in ("built", "clean"):
        write(tmp_path / name / "testing/do-tests", "")
    write(tmp_path / "built/config.status", "")
    write(tmp_path / "busy/.lock", "")
    with (tmp_path / "busy/.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(
            [SUITE / "build.sh", tmp_path / checkout, tmp_path / place],
            env={**os.environ, "MASTER": "never"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr == f"build.sh: {said.format(tmp_path)}\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["built", "busy", "clean"]
    assert [path.name for path in (tmp_path / "clean").iterdir()] == ["testing"]
    assert [path.name for path in (tmp_path / "busy").iterdir()] == [".lock"]
