"""Captures: packets as text and as pcap, and how captures end."""

from __future__ import annotations

import shutil
import signal
import struct
import subprocess
from pathlib import Path

import pytest
from support import PATIENCE, ROOT
from support.checks import one_line_error, until
from support.host import installed
from support.labs import Lab
from support.terminal import on_terminal

from dumm_tools.errors import DummError
from dumm_tools.net import capture

pytestmark = [
    pytest.mark.uml,
    pytest.mark.skipif(not installed("tcpdump"), reason="no tcpdump"),
]

#: The global header of a pcap file, microseconds or nanoseconds (pcap-savefile(5)).
MAGIC = {bytes.fromhex("d4c3b2a1"), bytes.fromhex("4d3cb2a1")}


def packets(pcap: bytes) -> list[bytes]:
    """The packets of a pcap file, which must be complete."""
    assert pcap[:4] in MAGIC
    at, found = 24, []
    while at < len(pcap):
        (size,) = struct.unpack_from("=8xI", pcap, at)
        found.append(pcap[at + 16 : at + 16 + size])
        assert len(found[-1]) == size
        at += 16 + size
    return found


@pytest.fixture(params=["--host-net", "--isolated"] if ROOT else ["--isolated"])
def pair(lab: Lab, request: pytest.FixtureRequest) -> Lab:
    """Two guests on one segment, with a pinging b."""
    lab("dumm-fs destroy")
    (lab.directory / "state.json").unlink(missing_ok=True)
    lab(f"dumm-fs init --kernel sid --master busybox {request.param}")
    lab("dumm-bridge create lan0")
    lab("dumm-guest create a b")
    for n, guest in enumerate("ab", 1):
        lab(f"dumm-iface create {guest}-eth0 --bridge lan0 --address 10.0.0.{n}/24")
    lab("dumm-guest start --all")
    lab.start("dumm-guest exec a -- ping -i 0.05 10.0.0.2")
    return lab


def line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return process.stdout.readline()


def test_capture_prints_text_and_takes_filters(pair: Lab) -> None:
    for words in ("dumm-iface capture a-eth0", "dumm-bridge capture lan0"):
        done = pair(f"{words} -- -c 2 icmp and host 10.0.0.2")
        assert [" ICMP echo " in text for text in done.lines] == [True, True]
        assert " captured" in done.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_a_capture(pair: Lab, number: int) -> None:
    process = pair.start("dumm-iface capture a-eth0 icmp")
    assert b"ICMP" in line(process)
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert b" captured" in err


def test_ctrl_c_ends_a_capture(pair: Lab) -> None:
    with on_terminal(pair, ["dumm-bridge", "capture", "lan0", "icmp"]) as terminal:
        terminal.expect(b"ICMP echo")
        terminal.type(b"\x03")
        terminal.expect(b" captured")
        assert terminal.wait() == 0
        assert terminal.is_restored()


def test_pcap_to_stdout(pair: Lab) -> None:
    done = pair("dumm-bridge capture lan0 -w - -- -c 3 icmp")
    found = packets(done.stdout)
    assert len(found) == 3
    assert all(p[12:14] == b"\x08\0" and len(p) == 98 for p in found)


def test_pcap_to_a_file(pair: Lab) -> None:
    here = pair.directory / "here"
    here.mkdir()
    file = here / "x.pcap"
    process = subprocess.Popen(
        [*pair.prefix, "dumm-iface", "capture", "a-eth0", "-w", "x.pcap", "icmp"],
        cwd=here,
        env=pair.env,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    # Each packet is written at once.
    until(lambda: file.exists() and file.stat().st_size > 500, "packets in the file")
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (0, b"")
    assert len(packets(file.read_bytes())) >= 4
    assert file.stat().st_uid == here.stat().st_uid


def test_closed_pipe_ends_a_capture_quietly(pair: Lab) -> None:
    process = pair.start("dumm-iface capture a-eth0 icmp")
    assert process.stdout is not None
    assert process.stderr is not None
    line(process)
    process.stdout.close()
    assert process.wait(PATIENCE) == -signal.SIGPIPE
    text = process.stderr.read()
    assert b"write" not in text
    assert b"Broken" not in text


def test_closed_pipe_ends_a_capture_without_traffic(pair: Lab) -> None:
    process = pair.start("dumm-bridge capture lan0 -w - udp port 9")
    assert process.stdout is not None
    assert len(process.stdout.read(24)) == 24
    process.stdout.close()
    assert process.wait(PATIENCE) == -signal.SIGPIPE


def test_killing_a_capture_kills_its_tcpdump(pair: Lab) -> None:
    """tcpdump has nothing to write here, so it would not notice by itself."""
    process = pair.start("dumm-iface capture a-eth0 port 9")
    assert process.stderr is not None
    while b"listening" not in process.stderr.readline():
        pass
    process.kill()
    # The pipe reaches its end when the last writer is gone.
    assert process.communicate(timeout=PATIENCE)[0] == b""


@pytest.mark.attack("frames-for-root")
def test_tcpdump_does_not_parse_frames_as_root(pair: Lab) -> None:
    """Not even by the root user of an isolated lab."""
    capturing = pair.start("dumm-iface capture a-eth0 icmp")
    assert b"ICMP" in line(capturing)
    found = subprocess.run(
        ["pgrep", "-f", f"^{shutil.which('tcpdump')} .* a-eth0 "], capture_output=True, check=True
    )
    for pid in map(int, found.stdout.split()):
        status = dict(
            text.split(":\t", 1) for text in Path(f"/proc/{pid}/status").read_text().splitlines()
        )
        assert "0" not in status["Uid"].split() + status["Gid"].split()
        assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    capturing.send_signal(signal.SIGINT)
    assert capturing.wait(PATIENCE) == 0


@pytest.mark.root
def test_tcpdump_switches_to_an_unprivileged_user(monkeypatch: pytest.MonkeyPatch) -> None:
    assert capture.tcpdump_user() == ["-Z", "tcpdump"]
    monkeypatch.setattr(capture, "USERS", ("no-such-user", "nobody"))
    assert capture.tcpdump_user() == ["-Z", "nobody"]
    monkeypatch.setattr(capture, "USERS", ("no-such-user",))
    with pytest.raises(DummError, match="no user 'no-such-user'"):
        capture.tcpdump_user()


def test_failed_capture_leaves_no_file(pair: Lab) -> None:
    done = pair("dumm-iface capture a-eth0 -w x.pcap no such filter", status=1)
    assert "filter" in done.err
    done = pair("dumm-iface capture a-eth0 -w nowhere/x.pcap", status=1)
    assert "dumm-iface: cannot write 'nowhere/x.pcap': No such file or directory" in done.err
    assert not Path(pair.directory, "x.pcap").exists()
    done = pair("dumm-iface capture a-eth0 -w /dev/full", status=1)
    assert "dumm-iface: cannot write '/dev/full': No space left on device" in done.err


def test_capturing_unplugged_or_unknown_devices_fails(pair: Lab) -> None:
    pair("dumm-guest stop b")
    done = pair("dumm-iface capture b-eth0", status=4)
    assert one_line_error(done.err, "dumm-iface") == "'b-eth0' is not plugged in"
    pair("dumm-iface capture c-eth0", status=3)
    pair("dumm-bridge capture lan9", status=3)


def test_missing_tcpdump_is_an_error_with_a_hint(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(capture, "ALSO", "")
    with pytest.raises(DummError, match="cannot find 'tcpdump'") as caught:
        capture.run("lo", [], None)
    assert caught.value.hint == "install the package tcpdump"
