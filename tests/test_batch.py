"""`dumm-console` without a verb: a batch from a pipe, and the interactive console."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Lab
from uml_helpers import Terminal

from dumm_tools.cli import batch


def test_batch_runs_all_lines_in_one_lab(lab: Lab) -> None:
    script = b"""
# two guests on a segment
guest create alice bob --start
bridge create lan0
dumm-iface create alice-eth0 --bridge lan0 --address 10.0.0.1/24
iface create bob-eth0 --bridge lan0 --address 10.0.0.2/24
guest exec alice -- ping -c 1 -q 10.0.0.2
guest exec alice -- sh -c 'echo "two words"; cat'   # stdin is not the rest of the batch
guest list -q
"""
    out = lab("dumm-console", stdin=script).lines
    assert out[-3:] == ["two words", "alice", "bob"]


def test_batch_ends_at_the_first_failure(lab: Lab) -> None:
    done = lab("dumm-console", stdin=b"guest create a\nguest start b\nguest create c\n", status=3)
    assert done.err.splitlines() == [
        "dumm-guest: no guest 'b'",
        "dumm-console: line 2 failed: guest start b",
    ]
    assert lab("dumm-guest list -q").lines == ["a"]
    done = lab(
        "dumm-console -k", stdin=b"guest start b\nguest create c\nguest create 'x\n", status=3
    )
    assert "dumm-console: no closing quotation" in done.err
    assert lab("dumm-guest list -q").lines == ["a", "c"]


def test_words_that_are_no_tool(lab: Lab) -> None:
    done = lab("dumm-console", stdin=b"reboot now\n", status=2)
    assert done.err.startswith("dumm-console: no tool 'reboot'")


def test_completion_knows_tools_verbs_and_guests(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab("dumm-guest create alice bob")
    monkeypatch.setenv("DUMM_DIR", str(lab.directory))
    assert batch.candidates("", "g") == ["guest "]
    assert batch.candidates("guest ", "st") == ["start ", "stop "]
    assert batch.candidates("guest start ", "") == ["alice ", "bob "]
    assert batch.candidates("nothing ", "") == []


def test_on_a_terminal(lab: Lab, tmp_path: Path) -> None:
    lab("dumm-guest create alice")
    with Terminal(lab, ["dumm-console"], (24, 80)) as terminal:
        terminal.expect(b"dumm> ")
        terminal.type(b"guest li\t-q\n")
        terminal.expect(b"alice\r\n")
        terminal.expect(b"dumm> ")
        terminal.type(b"guest start nobody\n")
        terminal.expect(b"no guest 'nobody'")
        terminal.type(b"exit\n")
        assert terminal.wait() == 3
    assert "guest list -q" in (lab.directory / "run/history").read_text()
