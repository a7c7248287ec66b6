"""Guests that boot an init of their master, systemd or that of System V, and those with the agent
alone: a machine of their own, its ends, and how it comes back."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support import PATIENCE, ROOT, SUITES
from support.checks import is_waiting, until
from support.guests import inside, state_of
from support.labs import Lab

pytestmark = pytest.mark.uml

KINDS = ["--host-net", "--isolated"] if ROOT else ["--isolated"]
SYSTEMD, SYSVINIT, AGENT = "systemd", "sysvinit", "agent"
#: How to create a guest of each kind.
OPTIONS = {
    SYSTEMD: "--master debian-systemd --memory 192M --init /sbin/init",
    SYSVINIT: "--master debian-sysvinit --memory 128M --init /sbin/init",
    AGENT: "--master busybox",
}
#: A kernel's last words; 6.1 cannot tell the two.
POWER_OFF = "reboot: (Power down|System halted)"


@pytest.fixture(params=OPTIONS)
def kind(request: pytest.FixtureRequest, debian_systemd: str, debian_sysvinit: str) -> str:
    """Each kind of guest in turn."""
    found: str = request.param
    return found


def says(lab: Lab, command: str, name: str = "a") -> str:
    """The output of a command in a guest, whatever its status."""
    return lab(["dumm-guest", "exec", name, "--", "sh", "-c", command], status=None).out.strip()


def is_up(lab: Lab, kind: str, name: str = "a") -> bool:
    if kind == SYSTEMD:
        return says(lab, "systemctl is-system-running", name) in ("running", "degraded")
    return kind == AGENT or says(lab, "runlevel", name) == "N 2"


def await_up(lab: Lab, kind: str, name: str = "a") -> None:
    until(lambda: is_up(lab, kind, name), "its init has come up")


def boot_id(lab: Lab, name: str = "a") -> str:
    return lab(f"dumm-guest exec {name} -- cat /proc/sys/kernel/random/boot_id").out


# ---- each way to end, and to come back ----


@pytest.mark.parametrize("suite", SUITES)
def test_ends_and_reboots(new_lab: Callable[..., Lab], suite: str, kind: str) -> None:
    lab = new_lab(kernel=suite)
    lab("dumm-bridge create lan --address 10.0.0.254/24")
    lab(f"dumm-guest create a {OPTIONS[kind]}")
    lab("dumm-iface create a-eth0 --bridge lan --address 10.0.0.1/24")
    lab("dumm-guest start a")
    ping = "dumm-guest exec a -- ping -c1 -W30 10.0.0.254"
    await_up(lab, kind)
    lab(ping)

    # A reboot, which a script waits for at once.
    first = boot_id(lab)
    lab("dumm-guest exec a -- reboot", status=None)
    lab("dumm-guest wait a")
    assert boot_id(lab) != first
    await_up(lab, kind)
    lab(ping)

    # Memory runs out: what takes it is killed, and nothing else.
    lab("dumm-guest exec a -- tail /dev/zero", status=137)
    assert re.search(r"Out of memory: Killed process \d+ \(tail\)", lab("dumm-console log a").out)
    assert state_of(lab, "a") == "running"
    lab(ping)

    # A panic.
    lab(["dumm-guest", "exec", "a", "--", "sh", "-c", "echo c >/proc/sysrq-trigger"], status=125)
    until(lambda: state_of(lab, "a") == "crashed", "it has crashed")
    assert "Kernel panic - not syncing: sysrq triggered crash" in lab("dumm-console log a").out
    lab("dumm-guest start a")
    await_up(lab, kind)
    lab(ping)

    # It ends itself, in both ways.
    lab("dumm-guest exec a -- poweroff", status=None)
    lab("dumm-guest wait a --for stopped")
    assert state_of(lab, "a") == "stopped"
    assert re.search(POWER_OFF, lab("dumm-console log a").out)
    lab("dumm-guest start a")
    await_up(lab, kind)
    lab("dumm-guest exec a -- halt", status=None)
    lab("dumm-guest wait a --for stopped")
    assert state_of(lab, "a") == "stopped"
    assert lab("dumm-iface list -o state").out == "down\n"


@pytest.mark.parametrize("suite", SUITES)
def test_panic_reboots_where_the_kernel_is_told_to(new_lab: Callable[..., Lab], suite: str) -> None:
    lab = new_lab(kernel=suite)
    lab("dumm-bridge create lan --address 10.0.0.254/24")
    lab("dumm-guest create a --arg panic=1")
    lab("dumm-iface create a-eth0 --bridge lan --address 10.0.0.1/24")
    lab("dumm-guest start a")
    pid = lab("dumm-guest list -o pid").out
    for how in ("echo c >/proc/sysrq-trigger", "reboot -f", "echo c >/proc/sysrq-trigger"):
        first = boot_id(lab)
        lab(["dumm-guest", "exec", "a", "--", "sh", "-c", how], status=None)
        lab("dumm-guest wait a")
        assert boot_id(lab) != first
        lab("dumm-guest exec a -- ping -c1 -W30 10.0.0.254")
        assert lab("dumm-guest list -o pid").out == pid
    assert lab("dumm-console log a").out.count("dumm: the kernel has panicked") == 2
    # It can be killed while it waits.
    lab("dumm-guest stop a")
    lab("dumm-guest set a --arg panic=1000")
    lab("dumm-guest start a")
    lab.start(["dumm-guest", "exec", "a", "--", "sh", "-c", "echo c >/proc/sysrq-trigger"])
    until(lambda: state_of(lab, "a") == "starting", "it is about to reboot")
    lab("dumm-guest stop a")
    assert state_of(lab, "a") == "stopped"


# ---- stop ----


@pytest.mark.parametrize("suite", SUITES)
def test_stop_is_orderly(new_lab: Callable[..., Lab], suite: str, kind: str) -> None:
    """Init ends its services, and then the kernel; nobody waits for the agent."""
    lab = new_lab(kernel=suite)
    lab(f"dumm-guest create a {OPTIONS[kind]} --start")
    await_up(lab, kind)
    lab(f"dumm-guest stop a --timeout {PATIENCE}")
    assert state_of(lab, "a") == "stopped"
    log = lab("dumm-console log a").out
    assert re.search(POWER_OFF, log)
    assert "failed" not in log.partition("Asking all remaining processes")[2].partition("\n")[0]


STUBBORN = """\
[Service]
ExecStart=/bin/sleep infinity
ExecStop=/bin/sh -c "touch /stopping; while ! test -e /enough; do sleep 0.1; done; touch /stopped"
TimeoutStopSec=infinity
"""


def test_stop_waits_for_services_of_systemd(lab: Lab, debian_systemd: str) -> None:
    lab(f"dumm-guest create a {OPTIONS[SYSTEMD]}")
    tree = lab.mounted("a")
    (tree / "etc/systemd/system/stubborn.service").write_text(STUBBORN)
    lab("dumm-guest start a")
    await_up(lab, SYSTEMD)
    lab("dumm-guest exec a -- systemctl start stubborn")
    stop = lab.start(["dumm-guest", "stop", "a", "--timeout", str(PATIENCE)])
    until(lambda: (tree / "stopping").exists(), "the service is told to stop")
    assert state_of(lab, "a") == "stopping"
    assert is_waiting(stop.pid)
    (tree / "enough").touch()
    assert stop.wait(PATIENCE) == 0
    assert (tree / "stopped").exists()
    assert state_of(lab, "a") == "stopped"
    # A limit holds.
    for name in ("stopping", "stopped", "enough"):
        (tree / name).unlink()
    lab("dumm-guest start a")
    await_up(lab, SYSTEMD)
    lab("dumm-guest exec a -- systemctl start stubborn")
    lab("dumm-guest stop a --timeout 2")
    assert state_of(lab, "a") == "stopped"
    assert not (tree / "stopped").exists()


# ---- a machine of its own ----

KEYS = ("ssh_host_ed25519_key", "ssh_host_rsa_key")
#: In place of ssh-keygen -A, which makes those keys that are missing.
KEYGEN = """\
#!/bin/sh
[ "$*" = -A ] || exit 1
for key in ed25519 rsa dsa; do
    key=/etc/ssh/ssh_host_${key}_key
    [ -e $key ] || { echo new $(cat /proc/sys/kernel/random/uuid) >$key; echo new >$key.pub; }
done
"""
LATEST = "cat /etc/hostname /etc/machine-id /etc/ssh/*_key; hostname"


@pytest.fixture
def used(packs: Path, tmp_path: Path) -> Path:
    """A master that was copied from a machine in use."""
    master = tmp_path / "used"
    shutil.copytree(packs / "dumm/masters/busybox", master, symlinks=True)
    (master / "etc/ssh").mkdir()
    (master / "etc/hostname").write_text("vm.example.org\n")
    (master / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    for key in KEYS:
        (master / "etc/ssh" / key).write_text(f"old {key}\n")
        (master / "etc/ssh" / f"{key}.pub").write_text("old\n")
    (master / "usr/bin").mkdir(parents=True, exist_ok=True)
    (master / "usr/bin/ssh-keygen").write_text(KEYGEN)
    (master / "usr/bin/ssh-keygen").chmod(0o755)
    return master


@pytest.mark.parametrize("where", KINDS)
def test_guest_has_an_identity_of_its_own(
    new_lab: Callable[..., Lab], used: Path, where: str
) -> None:
    lab = new_lab("lab", where)
    lab(f"dumm-guest create a b --master {used} --init /sbin/init")
    lab("dumm-guest start a b")
    found = {name: says(lab, LATEST, name).splitlines() for name in "ab"}
    for name, (etc, machine, *keys, hostname) in found.items():
        assert etc == hostname == name
        assert re.fullmatch("[0-9a-f]{32}", machine)
        assert [key.split()[0] for key in keys] == ["new"] * 3
    assert not set(found["a"]) & set(found["b"])
    changed = {f"{p}{end}" for p in KEYS for end in ("", ".pub")}
    listed = set(lab("dumm-fs diff a -o kind,path").lines)
    assert listed >= {f"M\t/etc/ssh/{name}" for name in changed} | {"M\t/etc/hostname"}
    assert "old" in (used / "etc/ssh" / KEYS[0]).read_text()
    # It keeps that, and what it is given later.
    lab("dumm-guest exec a -- reboot -f", status=None)
    lab("dumm-guest wait a")
    assert says(lab, LATEST).splitlines() == found["a"]
    lab("dumm-guest restart a")
    assert says(lab, LATEST).splitlines() == found["a"]
    says(lab, "echo other >/etc/hostname; rm /etc/ssh/ssh_host_rsa_key")
    for command in ("exec a -- reboot -f", "restart a"):
        lab(f"dumm-guest {command}", status=None)
        lab("dumm-guest wait a")
        assert says(lab, "cat /etc/hostname; ls /etc/ssh/*_key | wc -l") == "other\n2"
    # The next boot does the rest of one that was interrupted.
    lab("dumm-guest stop b")
    for key in lab.mounted("b").glob("etc/ssh/ssh_host*"):
        key.unlink()
    lab("dumm-guest start b")
    assert says(lab, "ls /etc/ssh/*_key | wc -l", "b") == "3"


def test_identity_of_a_layer_stays(lab: Lab, used: Path) -> None:
    (lab.directory / "layer/etc/ssh").mkdir(parents=True)
    (lab.directory / "layer/etc/hostname").write_text("www\n")
    (lab.directory / "layer/etc/ssh" / KEYS[1]).write_text("known\n")
    lab(f"dumm-guest create a --master {used} --init /sbin/init")
    lab("dumm-fs overlay add a layer")
    lab("dumm-guest start a")
    assert says(lab, "cat /etc/hostname /etc/ssh/*_key") == f"www\nold {KEYS[0]}\nknown"
    # Without an init, nothing is done at all.
    lab(f"dumm-guest create plain --master {used} --start")
    assert lab("dumm-fs diff plain").out == ""
    assert says(lab, "hostname", "plain") == "plain"


HOSTILE = {
    "a link to itself": "ln -s hostname etc/hostname",
    "a pipe": "mkfifo etc/hostname",
    "a directory": "mkdir etc/hostname",
    "much": "tr '\\0' x </dev/zero | head -c 70000 >etc/hostname",
    "no directory": "rm -r etc/ssh; ln -s /dev/zero etc/ssh",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_identity_in_a_strange_tree(lab: Lab, used: Path, what: str) -> None:
    """Whatever master and guest have in these places, the guest starts."""
    for place in ("master", "guest"):
        master = shutil.copytree(used, lab.directory / f"{place}-master", symlinks=True)
        lab(f"dumm-guest create {place} --master {master} --init /sbin/init")
        tree = master if place == "master" else lab.mounted(place)
        lab.host(["sh", "-c", f"cd {inside(tree)} && rm -rf etc/hostname && {HOSTILE[what]}"])
        lab(f"dumm-guest start {place}")
        assert says(lab, "hostname", place) == place


@pytest.mark.parametrize("suite", SUITES)
def test_name_of_a_debian_guest(
    new_lab: Callable[..., Lab], suite: str, debian_systemd: str, debian_sysvinit: str, packs: Path
) -> None:
    """The master has none, nor the build host's name servers; each guest has its own."""
    lab = new_lab(kernel=suite)
    for kind, master in ((SYSTEMD, debian_systemd), (SYSVINIT, debian_sysvinit)):
        for name in ("hostname", "resolv.conf"):
            assert not (packs / "dumm/masters" / master / "etc" / name).exists()
        lab(f"dumm-guest create {kind} {OPTIONS[kind]}")
    lab("dumm-guest start --all")
    for kind in (SYSTEMD, SYSVINIT):
        await_up(lab, kind, kind)
        assert says(lab, "hostname", kind) == kind
        assert says(lab, "getent hosts localhost", kind).startswith("::1 ")
        assert says(lab, f"getent hosts {kind} >/dev/null && echo yes", kind) == "yes"
        assert "hostname" not in lab(f"dumm-fs diff {kind}").out
    # Its host keys are not the master's; sshd has started with them.
    kept = packs / "dumm/masters" / debian_systemd / "etc/ssh/ssh_host_ed25519_key.pub"
    key = says(lab, "cat /etc/ssh/ssh_host_ed25519_key.pub", SYSTEMD)
    assert key.startswith("ssh-ed25519 ")
    assert key != kept.read_text().strip()
    assert says(lab, "systemctl is-active ssh", SYSTEMD) == "active"
    assert re.fullmatch("[0-9a-f]{32}", says(lab, "cat /etc/machine-id", SYSTEMD))


# ---- the agent beside an init ----


@pytest.mark.parametrize("kind", [SYSTEMD, SYSVINIT], indirect=True)
def test_kernel_spares_the_agent_but_not_its_programs(lab: Lab, kind: str) -> None:
    lab(f"dumm-guest create a {OPTIONS[kind]} --start")
    await_up(lab, kind)
    assert says(lab, "cat /proc/$(cat /run/sendsigs.omit.d/dumm-agent)/oom_score_adj") == "-1000"
    assert says(lab, "cat /proc/self/oom_score_adj") == "0"


# ---- devices ----


@pytest.mark.parametrize("modprobe", [True, False])
@pytest.mark.parametrize("suite", SUITES)
def test_devices_load_their_modules(
    new_lab: Callable[..., Lab], suite: str, modprobe: bool
) -> None:
    """Those of the pack's modules.devname, with the guest's modprobe or without any."""
    lab = new_lab(kernel=suite)
    lab("dumm-guest create a")
    if not modprobe:
        (lab.mounted("a") / "sbin/modprobe").unlink()
    lab("dumm-guest start a")
    assert says(lab, "stat -c %a /run/lock") == "1777"
    modes = {"ppp": "600", "net/tun": "666", "fuse": "666", "cuse": "600", "loop-control": "600"}
    for name, mode in modes.items():
        assert says(lab, f"stat -c '%F %a' /dev/{name}") == f"character special file {mode}"
    assert says(lab, "cut -d' ' -f1 /proc/modules | grep -e ppp -e tun -e fuse") == ""
    for name in ("ppp", "net/tun", "fuse", "cuse"):
        lab(["dumm-guest", "exec", "a", "--", "sh", "-c", f": <>/dev/{name}"])
    # Others by their aliases.
    lab("dumm-guest exec a -- ip link add v type vrf table 7")
    lab("dumm-guest exec a -- ip link add b type bond")
    loaded = says(lab, "cut -d' ' -f1 /proc/modules").split()
    assert {"ppp_generic", "tun", "fuse", "cuse", "vrf", "bonding"} <= set(loaded)
    done = lab("dumm-guest exec a -- ip link add x type nonsense", status=None)
    assert done.code
    assert lab("dumm-fs diff a").lines == ([] if modprobe else ["D /usr/sbin/modprobe"])


@pytest.mark.parametrize("suite", SUITES)
def test_pppoe(new_lab: Callable[..., Lab], suite: str, debian_systemd: str) -> None:
    lab = new_lab(kernel=suite)
    lab("dumm-bridge create lan")
    lab(f"dumm-guest create server client --memory 96M --master {debian_systemd}")
    lab("dumm-iface create server-eth0 client-eth0 --bridge lan")
    lab("dumm-guest start server client")
    options = "printf 'noauth\\nnoccp\\n' >/etc/ppp/pppoe-server-options"
    says(lab, f"{options}; pppoe-server -I eth0 -L 10.9.0.1 -R 10.9.0.2", "server")
    dial = "pppd plugin pppoe.so eth0 noauth noccp updetach"
    lab(f"dumm-guest exec client -- {dial}")
    lab("dumm-guest exec client -- ping -c1 -W30 10.9.0.1")
