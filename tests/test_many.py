"""Several guests or interfaces at once: exec, wait, cp, capture, and Wireshark."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from support import BIN, PATIENCE
from support.checks import NOISE, one_line_error, until
from support.guests import pid_of, processes
from support.labs import Lab, recorded, shared

from dumm_tools.agent.sink import Sink
from dumm_tools.cli import extcap
from dumm_tools.guests.gathering import KEPT_MAX, LINE_MAX, Kept, Lines, TooMuch
from dumm_tools.labs import named
from dumm_tools.linux import mount
from dumm_tools.model import State
from dumm_tools.net import pcapng

grouped = pytest.mark.xdist_group("many")


@pytest.fixture(scope="module")
def lab(packs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Three guests on a segment, of which c does not run."""
    directory = tmp_path_factory.mktemp("many") / "lab"
    directory.mkdir()
    with shared(directory, packs) as lab:
        lab("dumm-bridge create lan0")
        lab("dumm-guest create a b c")
        for n, guest in enumerate("abc", 1):
            lab(f"dumm-iface create {guest}-eth0 --bridge lan0 --address 10.0.0.{n}/24")
        lab("dumm-guest start a b")
        yield lab


def sh(lab: Lab, options: str, script: str, status: int = 0, stdin: bytes = b"") -> tuple[str, str]:
    """Run a script in several guests; its sorted lines on stdout and on stderr."""
    words = ["dumm-guest", "exec", *options.split(), "--", "sh", "-c", script]
    done = lab(words, status=status, stdin=stdin)
    return ordered(done.out), ordered(done.err)


def ordered(text: str) -> str:
    return "".join(sorted(text.splitlines(keepends=True)))


# ---- exec: lines ----


@pytest.mark.uml
@grouped
def test_each_line_has_its_guest_and_its_stream(lab: Lab) -> None:
    out, err = sh(lab, "--all", "hostname; echo two; echo no >&2; printf half")
    assert out == "a: a\na: half\na: two\nb: b\nb: half\nb: two\n"
    assert err == "a: no\nb: no\n"


@pytest.mark.uml
@grouped
def test_status_is_the_first_failure_in_the_order_of_the_names(lab: Lab) -> None:
    script = "[ $(hostname) = b ] || sleep 0.3; [ $(hostname) = b ] && exit 4; exit 3"
    reports = "dumm-guest: guest 'a': exit status 3\ndumm-guest: guest 'b': exit status 4\n"
    assert sh(lab, "--all", script, status=3) == ("", reports)
    done = lab(["dumm-guest", "exec", "--only", "b,a", "--", "sh", "-c", script], status=4)
    assert done.err == "".join(reversed(reports.splitlines(keepends=True)))


@pytest.mark.uml
@grouped
def test_guests_that_cannot_run_it_do_not_affect_the_others(lab: Lab) -> None:
    out, err = sh(lab, "--only c,a", "hostname", status=125)
    assert (out, one_line_error(err)) == ("a: a\n", "guest 'c' is stopped")
    done = lab("dumm-guest exec --all -- nosuch", status=127)
    assert done.err.splitlines() == [
        f"dumm-guest: guest '{name}': cannot run 'nosuch': command not found" for name in "ab"
    ]
    done = lab("dumm-guest exec --all -- cd /root", status=127)
    said = [line.split(": ")[1] for line in done.err.splitlines()]
    assert said == ["guest 'a'", "hint", "guest 'b'"]  # the same one only once


@pytest.mark.uml
@grouped
def test_nothing_runs_if_a_guest_does_not_exist(lab: Lab) -> None:
    out, err = sh(lab, "--only a,nobody", "touch /root/ran", status=125)
    assert (out, one_line_error(err)) == ("", "no guest 'nobody'")
    assert not (lab.mounted("a") / "root/ran").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--all a -- true", "--all cannot be combined with names before '--'"),
        ("--all --only a -- true", "--all and --only contradict each other"),
        ("--only a, -- true", "--only has an empty name"),
        ("--all -t -- true", "a terminal (-t) is for a single guest only"),
        ("--all", "no command to run"),
        ("--all --host -- true", "--host cannot be combined with other options"),
        ("-j 2 a -- true", "-j and --format need --all or --only"),
        ("--all -j 0 -- true", "invalid value for '-j' / '--jobs'"),
    ],
)
def test_bad_usage_of_exec(tmp_path: Path, words: str, message: str) -> None:
    done = subprocess.run(
        [BIN / "dumm-guest", "-C", recorded(tmp_path, "a"), "exec", *words.split()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert one_line_error(done.stderr).startswith(message)


def test_no_running_guest_is_nothing_to_do(tmp_path: Path) -> None:
    argv = [str(BIN / "dumm-guest"), "-C", recorded(tmp_path, "a"), "exec", "--all", "--", "true"]
    assert subprocess.run(argv, capture_output=True, check=True).stderr == b""


@pytest.mark.uml
@grouped
def test_json_keeps_streams_and_status_of_each(lab: Lab) -> None:
    script = "hostname; printf 'x\\377' >&2; [ $(hostname) = a ]"
    done = lab(
        ["dumm-guest", "exec", "--all", "--format", "json", "--", "sh", "-c", script], status=1
    )
    found = json.loads(done.out)
    assert [type(each.pop("seconds")) for each in found] == [float, float]
    assert found == [
        {"name": n, "status": s, "stdout": f"{n}\n", "stderr": "x\\xff", "error": None}
        for n, s in (("a", 0), ("b", 1))
    ]
    assert done.err == ""
    done = lab("dumm-guest exec --only c --format json -- true", status=125)
    [only] = json.loads(done.out)
    assert (only["status"], only["error"]) == (125, "guest 'c' is stopped")


@pytest.mark.uml
@grouped
def test_input_is_repeated_to_all(lab: Lab) -> None:
    assert sh(lab, "--all", "wc -c", stdin=b"not passed on")[0] == "a: 0\nb: 0\n"
    data = NOISE * 5
    assert sh(lab, "--all -i", "wc -c", stdin=data)[0] == f"a: {len(data)}\nb: {len(data)}\n"
    sums = {line.split()[1] for line in sh(lab, "--all -i", "md5sum", stdin=data)[0].splitlines()}
    assert len(sums) == 1


@pytest.mark.uml
@grouped
def test_one_at_a_time(lab: Lab) -> None:
    done = lab("dumm-guest exec --only b,a -j 1 -- sh -c 'hostname; sleep 0.2; echo end'")
    assert done.lines == ["b: b", "b: end", "a: a", "a: end"]


@pytest.mark.uml
@grouped
def test_many_lines_arrive_whole(lab: Lab) -> None:
    out, _ = sh(lab, "--all", "seq 200000")
    for name in "ab":
        lines = [line[3:] for line in out.splitlines() if line.startswith(f"{name}: ")]
        assert sorted(map(int, lines)) == list(range(1, 200001))


# ---- exec: guests that hang, signals, readers ----


@pytest.mark.uml
@grouped
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_guest_that_hangs_delays_nobody(lab: Lab, number: signal.Signals) -> None:
    kernel = pid_of(lab, "a")
    os.kill(kernel, signal.SIGSTOP)
    try:
        process = lab.start("dumm-guest exec --all -- sh -c 'echo up; exec sleep 1000'")
        assert process.stdout
        assert process.stdout.readline() == b"b: up\n"
        process.send_signal(number)
        _, err = process.communicate(timeout=PATIENCE)
    finally:
        os.kill(kernel, signal.SIGCONT)
    status = 128 + number
    assert process.returncode == status
    assert err.decode().splitlines() == [
        f"dumm-guest: guest '{name}': exit status {status}" for name in "ab"
    ]
    until(lambda: processes(lab, "b") == [], "the command has ended")


@pytest.mark.uml
@grouped
def test_signal_reaches_all_and_is_obeyed_by_each(lab: Lab) -> None:
    script = "trap 'echo got; exit 7' TERM; echo up; while :; do sleep 0.1; done"
    process = lab.start(["dumm-guest", "exec", "--all", "--", "sh", "-c", script])
    assert process.stdout
    assert {process.stdout.readline(), process.stdout.readline()} == {b"a: up\n", b"b: up\n"}
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=PATIENCE)
    assert (ordered(out.decode()), process.returncode) == ("a: got\nb: got\n", 7)


@pytest.mark.uml
@grouped
def test_after_a_signal_no_more_are_begun(lab: Lab) -> None:
    process = lab.start("dumm-guest exec --all -j 1 -- sh -c 'echo up; exec sleep 1000'")
    assert process.stdout
    assert process.stdout.readline() == b"a: up\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert (out, process.returncode, err.count(b"exit status 130")) == (b"", 130, 2)


@pytest.mark.uml
@grouped
def test_timeout_of_each(lab: Lab) -> None:
    script = "[ $(hostname) = a ] || exec sleep 1000; echo done"
    done = lab(
        ["dumm-guest", "exec", "--all", "--timeout", "3", "--", "sh", "-c", script], status=5
    )
    assert done.out == "a: done\n"
    assert one_line_error(done.err) == "guest 'b': 'sh' ran longer than 3 s"
    assert processes(lab, "b") == []


@pytest.mark.uml
@grouped
def test_all_end_when_the_reader_leaves(lab: Lab) -> None:
    process = lab.start("dumm-guest exec --all -- yes")
    assert process.stdout
    assert process.stdout.readline()[1:] == b": y\n"
    process.stdout.close()
    assert process.wait(PATIENCE) == -signal.SIGPIPE
    for name in "ab":
        until(lambda name=name: processes(lab, name) == [], "the command has ended")  # type: ignore[misc]


@pytest.mark.uml
@grouped
def test_signal_ends_it_while_nobody_reads(lab: Lab) -> None:
    process = lab.start("dumm-guest exec --all --timeout 20 -- yes")
    assert process.stdout
    assert process.stdout.read(1 << 16)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 128 + signal.SIGTERM


# ---- exec: without guests ----


def gathered(*pieces: bytes) -> bytes:
    sink = Sink(-1)
    lines = Lines("a: ", sink)
    for piece in pieces:
        lines(piece)
    lines.end()
    return bytes(sink.backlog)


def test_lines_are_put_together() -> None:
    assert gathered() == b""
    assert gathered(b"on", b"e\ntw", b"o\n\nthr", b"ee") == b"a: one\na: two\na: \na: three\n"
    assert gathered(b"\0\xff\n") == b"a: \0\xff\n"


@pytest.mark.parametrize("step", [1000, LINE_MAX, LINE_MAX + 1, 10 * LINE_MAX])
def test_long_lines_are_divided(step: int) -> None:
    data = b"x" * (2 * LINE_MAX + 5)
    pieces = [data[at : at + step] for at in range(0, len(data), step)]
    parts = [data[:LINE_MAX], data[:LINE_MAX], data[:5], b"y"]
    assert gathered(*pieces, b"\ny\n") == b"".join(b"a: %b\n" % part for part in parts)


def test_no_guest_fills_our_memory() -> None:
    kept = Kept()
    kept(bytes(KEPT_MAX))
    with pytest.raises(TooMuch, match="more than 16 MiB of output"):
        kept(b"x")


# ---- wait and cp ----


@pytest.mark.uml
@grouped
def test_wait_for_all(lab: Lab) -> None:
    lab("dumm-guest wait --all")
    lab("dumm-guest wait --only b,a --for booted --until -- true")
    lab("dumm-guest wait --only c --for stopped")
    done = lab("dumm-guest wait --all --for stopped --timeout 0", status=5)
    assert [f"'{name}'" in done.err for name in "abc"] == [True, True, False]
    lab("dumm-guest wait --all a", status=2)
    lab("dumm-guest wait", status=2)


@pytest.mark.uml
@grouped
def test_cp_to_several_guests(lab: Lab) -> None:
    (lab.directory / "file").write_text("x")
    lab("dumm-fs cp file a,c:/root/some")
    lab("dumm-fs cp --all file a:/root/some :/etc")
    assert [(lab.mounted(name) / "root/some").exists() for name in "abc"] == [True, False, True]
    assert [
        (lab.mounted(name) / f"etc/{file}").exists() for file in ("some", "file") for name in "abc"
    ] == [True] * 6
    assert lab("dumm-guest exec b -- cat /etc/file").out == "x"
    done = lab("dumm-fs cp file a,nobody:/root/none", status=3)
    assert one_line_error(done.err, "dumm-fs") == "no guest 'nobody'"
    assert not (lab.mounted("a") / "root/none").exists()
    done = lab("dumm-fs cp file a,b:/none/x", status=3)
    assert done.err.splitlines() == [f"dumm-fs: no directory for '{name}:/none/x'" for name in "ab"]
    done = lab("dumm-fs cp a,b:/etc/passwd .", status=2)
    assert "only the last operand may be" in done.err
    assert "DST is written :PATH" in lab("dumm-fs cp --all file a:/x", status=2).err


# ---- capture ----


class Captured:
    """The blocks of a pcapng file."""

    def __init__(self, data: bytes) -> None:
        self.names: list[str] = []
        self.packets: list[tuple[int, int, bytes]] = []
        self.counts: list[int] = []
        at = 0
        while at < len(data):
            kind, size = struct.unpack_from("<II", data, at)
            assert data[at + size - 4 : at + size] == struct.pack("<I", size)
            body = data[at + 8 : at + size - 4]
            if kind == 1:
                self.names.append(self._options(body[8:])[2].decode())
            elif kind == 6:
                number, high, low, length, full = struct.unpack_from("<5I", body)
                assert length == full
                self.packets.append((number, high << 32 | low, body[20 : 20 + length]))
            elif kind == 5:
                options = self._options(body[12:])
                self.counts.append(int.from_bytes(options[4], "little"))
                assert int.from_bytes(options[5], "little") == 0
            at += size

    @staticmethod
    def _options(data: bytes) -> dict[int, bytes]:
        found, at = {}, 0
        while at < len(data):
            code, size = struct.unpack_from("<HH", data, at)
            found[code] = data[at + 4 : at + 4 + size]
            at += 4 + size + -size % 4
        return found


def captured(lab: Lab, command: str, size: int) -> tuple[Captured, str]:
    """Capture to a file until it has this size, and what the command said."""
    file = lab.directory / "x.pcapng"
    file.unlink(missing_ok=True)
    process = lab.start(command.replace("FILE", str(file)))
    until(lambda: file.exists() and file.stat().st_size > size, "packets in the file")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (0, b"")
    return Captured(file.read_bytes()), err.decode()


def numbers(packets: list[tuple[int, int, bytes]]) -> list[int]:
    """The sequence numbers of echo requests."""
    return [int.from_bytes(data[40:42]) for _, _, data in packets if data[34] == 8]


@pytest.fixture
def pinging(lab: Lab) -> Iterator[Lab]:
    """a pings b."""
    process = lab.start("dumm-guest exec a -- ping -i 0.05 10.0.0.2")
    assert process.stdout
    while b"seq=" not in process.stdout.readline():
        pass
    yield lab
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE)


@pytest.mark.uml
@grouped
def test_capture_of_all_interfaces(pinging: Lab) -> None:
    found, err = captured(pinging, "dumm-iface capture --all -w FILE icmp", 5000)
    assert found.names == ["a-eth0", "b-eth0"]
    assert {number for number, _, _ in found.packets} == {0, 1}
    assert all(len(data) == 98 and data[12:14] == b"\x08\0" for _, _, data in found.packets)
    times = [when for _, when, _ in found.packets]
    assert times == sorted(times)
    assert sum(found.counts) == len(times)
    assert err.splitlines() == [
        "dumm-iface: capturing on a-eth0, b-eth0",
        f"dumm-iface: {len(times)} packets captured, 0 dropped by the kernel",
    ]


@pytest.mark.uml
@grouped
def test_capture_of_some_to_a_pipe(pinging: Lab) -> None:
    process = pinging.start("dumm-bridge capture --all -w -")
    assert process.stdout
    assert len(process.stdout.read(1000)) == 1000
    process.stdout.close()
    assert process.wait(PATIENCE) == -signal.SIGPIPE
    process = pinging.start("dumm-iface capture b-eth0,a-eth0 -w - udp port 9")
    assert process.stdout
    process.stdout.read(28)
    process.stdout.close()
    assert process.wait(PATIENCE) == -signal.SIGPIPE


@pytest.fixture
def talking(lab: Lab) -> Iterator[Lab]:
    """x and y on a cable of their own."""
    lab("dumm-bridge create cable")
    lab("dumm-guest create x y")
    lab("dumm-iface create x-eth0 --bridge cable --address 10.9.0.1/24")
    lab("dumm-iface create y-eth0 --bridge cable --address 10.9.0.2/24")
    lab("dumm-guest start x y")
    yield lab
    lab("dumm-guest stop --if-exists --kill x y", status=None)
    lab("dumm-guest delete x y")
    lab("dumm-bridge delete cable")


def unread_capture(lab: Lab) -> subprocess.Popen[bytes]:
    """A capture of more than fits into the pipe that nobody reads."""
    process = lab.start("dumm-iface capture x-eth0,y-eth0 -w - icmp")
    assert process.stderr
    process.stderr.readline()
    lab("dumm-guest exec x -- ping -q -i 0.01 -c 50 -s 1400 10.9.0.2")
    return process


@pytest.mark.uml
@grouped
def test_capture_waits_for_its_reader_when_the_guests_have_ended(talking: Lab) -> None:
    process = unread_capture(talking)
    talking("dumm-guest stop x y")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(3)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert len(Captured(out).packets) == 200
    assert err.decode() == "dumm-iface: 200 packets captured, 0 dropped by the kernel\n"


@pytest.mark.uml
@grouped
def test_capture_that_nobody_reads_can_be_ended_and_says_so(talking: Lab) -> None:
    process = unread_capture(talking)
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 1
    assert process.stderr
    error = one_line_error(process.stderr.read().decode(), "dumm-iface")
    assert error.startswith("nobody reads the capture: its last ")
    process.communicate()


@pytest.mark.uml
@grouped
def test_pcapng_of_a_single_one(pinging: Lab) -> None:
    for words, name in (("iface capture a-eth0", "a-eth0"), ("bridge capture lan0", "lan0")):
        found, err = captured(pinging, f"dumm-{words} -w FILE --pcapng icmp", 2000)
        assert found.names == [name]
        seen = numbers(found.packets)
        assert seen == list(range(seen[0], seen[-1] + 1))
        assert f"capturing on {name}\n" in err


@pytest.mark.uml
@grouped
def test_captures_that_fail(lab: Lab) -> None:
    def error(words: str, status: int) -> str:
        return one_line_error(lab(f"dumm-iface capture {words}", status=status).err, "dumm-iface")

    assert error("a-eth0,c-eth0 -w x", 4) == "'c-eth0' is not plugged in"
    assert error("a-eth0,d-eth0 -w x", 3) == "no interface 'd-eth0'"
    assert error("--all", 2).startswith("several captures are written to a file")
    assert error("", 2).startswith("nothing to capture")
    assert error("--all -w x -- -c 3", 2).startswith("options of tcpdump are for a single")
    assert error("a-eth0 --pcapng", 2) == "--pcapng needs -w"
    assert error("a-eth0 -w x --pcapng -- -c 3", 2).startswith("options of tcpdump are for")
    assert error("--all -w x no such filter", 1).startswith("cannot capture 'no such filter': ")
    done = lab("dumm-iface capture --all -w /dev/full", status=1)
    assert "dumm-iface: cannot write '/dev/full': No space left on device\n" in done.err
    assert not (lab.directory / "x").exists()


@pytest.mark.uml
@grouped
def test_vlan_tags_are_captured_where_they_were(lab: Lab) -> None:
    device = "ip link add v5 link eth0 type vlan id 5; ip addr add 10.5.0.1/24 dev v5"
    peer = "ip link set v5 up; arp -i v5 -s 10.5.0.2 02:00:00:00:00:02"
    sh(lab, "--only a", f"{device}; {peer}; (ping -i 0.05 10.5.0.2 || true) >/dev/null &")
    try:
        for words in ("vlan 5 and icmp", ""):
            found, _ = captured(lab, f"dumm-iface capture a-eth0,b-eth0 -w FILE {words}", 1500)
            tags = {p[12:18] for _, _, p in found.packets if p[12:14] == b"\x81\0"}
            assert bytes.fromhex("810000050800") in tags
    finally:
        sh(lab, "--only a", "killall ping; ip link del v5")


def test_blocks_of_pcapng() -> None:
    data = pcapng.section("x") + pcapng.interface("a", "d", "icmp") + pcapng.interface("bcde")
    data += pcapng.packet(1, 1 << 33 | 7, b"12345") + pcapng.statistics(1, 1, 0)
    found = Captured(data)
    assert (found.names, found.packets) == (["a", "bcde"], [(1, 1 << 33 | 7, b"12345")])
    assert found.counts == [1]


# ---- Wireshark ----


@pytest.fixture
def wireshark(lab: Lab, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a tshark that knows the lab, and where it looks for programs: before
    version 4.2, only in a directory for all users."""
    (tmp_path / "dumm-extcap").symlink_to(BIN / "dumm-extcap")
    (tmp_path / "config/dumm").mkdir(parents=True)
    (tmp_path / "config/dumm/labs").write_text(f"# mine\n\n{lab.directory}\n/nonexistent\n")
    folders = subprocess.run(
        ["tshark", "-G", "folders"], capture_output=True, text=True, check=True
    )
    *_, place = [x.split("\t")[-1] for x in folders.stdout.splitlines() if "Extcap path:" in x]
    mount.mount(str(tmp_path), place, "none", mount.MS_BIND, "")
    yield {"XDG_CONFIG_HOME": str(tmp_path / "config"), "DUMM_DIR": "", "HOME": str(tmp_path)}
    mount.umount(place, detach=True)


@pytest.mark.root
@pytest.mark.uml
@grouped
def test_wireshark_lists_the_interfaces_of_labs(lab: Lab, wireshark: dict[str, str]) -> None:
    found = [line.split(" ", 1)[1] for line in lab("tshark -D", env=wireshark).lines]
    assert [line for line in found if "lab" in line] == [
        "@lab (lab: all interfaces)",
        "a-eth0@lab (lab: a-eth0 on lan0)",
        "b-eth0@lab (lab: b-eth0 on lan0)",
        "lan0@lab (lab: bridge lan0)",
    ]


@pytest.mark.root
@pytest.mark.uml
@grouped
@pytest.mark.parametrize("what", ["@lab", "a-eth0@lab", "lan0@lab"])
def test_wireshark_captures_them(pinging: Lab, wireshark: dict[str, str], what: str) -> None:
    fields = "-T fields -e frame.interface_name -e icmp.type"
    done = pinging(f"tshark -i {what} -f icmp -c 6 {fields}", env=wireshark)
    rows = [line.split("\t") for line in done.lines]
    names = {"a-eth0", "b-eth0"} if what == "@lab" else {what.partition("@")[0]}
    assert {name for name, _ in rows} == names
    assert {kind for _, kind in rows} == {"0", "8"}


@pytest.mark.uml
@grouped
def test_extcap_alone(lab: Lab) -> None:
    env = {"DUMM_DIR": "", "DUMM_LABS": f"{lab.directory}:{lab.directory}"}
    lines = lab("dumm-extcap --extcap-interfaces --extcap-version=4.6", env=env).lines
    assert lines[0].startswith("extcap {version=")
    assert len(lines) == 5
    words = "dumm-extcap --extcap-interface a-eth0@lab"
    assert lab(f"{words} --extcap-dlts", env=env).out.startswith("dlt {number=1}")
    assert lab(f"{words} --extcap-config", env=env).out == ""
    assert lab(f"{words} --extcap-capture-filter 'icmp or arp'", env=env).out == ""
    assert "syntax error" in lab(f"{words} --extcap-capture-filter 'x y'", env=env).out
    lab("dumm-extcap --extcap-interface c-eth0@lab --capture --fifo x", env=env, status=3)
    lab(f"{words} --capture", env=env, status=2)
    lab("dumm-extcap", env=env, status=2)


@pytest.mark.parametrize(("first", "second", "shown"), [("lab", "lab", "lab"), ("a}", "a)", "a)")])
def test_labs_of_the_same_name_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str, second: str, shown: str
) -> None:
    """Also if they have the same name only in Wireshark."""
    for parent, lab in (("x", first), ("y", second)):
        (tmp_path / parent / lab).mkdir(parents=True)

        def name(state: State, id_: str = parent * 6) -> None:
            state.id = id_

        recorded(tmp_path / parent / lab, "a", fill=name)
    monkeypatch.setenv("DUMM_LABS", f"{tmp_path}/x/{first}:{tmp_path}/y/{second}:{tmp_path}/none")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("DUMM_DIR", raising=False)
    monkeypatch.setattr("dumm_tools.running.liveness.guest_state", lambda *_: "running")
    said: list[str] = []
    names = [place.name for place in named.places(said.append)]
    assert names == [f"@{shown}-xxxxxx", f"@{shown}-yyyyyy"]
    assert said == []


def test_names_that_mean_something_to_wireshark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "}\n{x").mkdir()
    recorded(tmp_path / "}\n{x", "a")
    monkeypatch.setenv("DUMM_LABS", str(tmp_path / "}\n{x"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("DUMM_DIR", raising=False)
    monkeypatch.setattr("dumm_tools.running.liveness.guest_state", lambda *_: "running")
    run = functools.partial(CliRunner().invoke, extcap.cli)
    _, line, *others = run(["--extcap-interfaces"]).output.splitlines()
    assert not others
    found = re.fullmatch(r"interface {value=([^{}]*)}{display=[^{}]*}", line)
    assert found
    done = run(["--extcap-interface", found[1]])
    assert "no interface is plugged in" in str(done.exception)


def test_nothing_is_listed_without_labs(tmp_path: Path) -> None:
    env = {**os.environ, "DUMM_DIR": "", "DUMM_LABS": "", "XDG_CONFIG_HOME": str(tmp_path)}
    done = subprocess.run(
        [BIN / "dumm-extcap", "--extcap-interfaces"], env=env, capture_output=True, check=True
    )
    assert (done.stdout.count(b"\n"), done.stderr) == (1, b"")
