"""Framed sessions: `dumm-console --json`."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import BIN, PATIENCE
from support.checks import until
from support.guests import pid_of
from support.labs import Lab, shared
from support.sessions import Session

from dumm_tools.session import requests
from dumm_tools.session.answers import Answers, InPieces

grouped = pytest.mark.xdist_group("session")


@pytest.fixture(scope="module")
def lab(packs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab for this file, with alice running and bob stopped."""
    with shared(tmp_path_factory.mktemp("session"), packs) as lab:
        lab("dumm-guest create alice bob")
        lab("dumm-guest start alice")
        yield lab


@pytest.fixture
def session(lab: Lab) -> Iterator[Session]:
    session = Session(lab)
    yield session
    assert session.end() == 0


def shell(script: str, guest: str = "alice") -> list[str]:
    return ["guest", "exec", guest, "--", "sh", "-c", script]


# ---- requests ----


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"x", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not an object"),
        (b"\xff", "not JSON"),
        ({"run": ["guest"]}, "'id' is a string or a whole number"),
        ({"id": True, "run": ["guest"]}, "'id' is a string or a whole number"),
        ({"id": "x" * 201, "run": ["guest"]}, "'id' has at most 200 characters"),
        (b'{"id": "\\ud800", "run": ["x"]}', "'id' is not text"),
        ({"id": 1 << 64, "run": ["x"]}, "'id' has at most 63 bits"),
        ({"id": 1, "run": ["x"], "stdout": {"stream": 1}}, "'stdout' is an object with 'file'"),
        ({"id": 1}, "one of 'run', 'input', 'input_base64', 'input_end', 'signal', 'forget' is"),
        ({"id": 1, "run": []}, "'run' is a list of words"),
        ({"id": 1, "run": "guest list"}, "'run' is a list of words"),
        ({"id": 1, "run": ["guest", 1]}, "a word of 'run' is not text"),
        ({"id": 1, "run": ["a\0"]}, "a word of 'run' is not text"),
        (b'{"id": 1, "run": ["\\ud800"]}', "a word of 'run' is not text"),
        ({"id": 1, "run": ["x"], "colour": 1}, "unknown key 'colour'"),
        ({"id": 1, "run": ["x"], "timeout": 0}, "'timeout' is above 0"),
        ({"id": 1, "run": ["x"], "timeout": "1"}, "'timeout' is a number of seconds"),
        (b'{"id": 1, "run": ["x"], "timeout": NaN}', "'timeout' is above 0"),
        ({"id": 1, "run": ["x"], "parallel": 1}, "'parallel' is true or false"),
        ({"id": 1, "run": ["x"], "stdin": "x"}, "'stdin' is an object with"),
        ({"id": 1, "run": ["x"], "stdin": {"text": "x", "file": "y"}}, "'stdin' is an object with"),
        ({"id": 1, "run": ["x"], "stdin": {"base64": "?"}}, "'base64' is not base64"),
        ({"id": 1, "run": ["x"], "stdin": {"stream": False}}, "'stream' is true"),
        ({"id": 1, "run": ["x"], "stdin": {"file": ""}}, "the 'file' of 'stdin' is empty"),
        ({"id": 1, "run": ["x"], "stdout": {"append": True}}, "'stdout' is an object with 'file'"),
        ({"id": 1, "run": ["x"], "stderr": {"file": "x", "mode": 1}}, "unknown key 'mode'"),
        (
            {"id": 1, "run": ["x"], "at_end": True, "stdin": {"stream": True}},
            "the input of a request for the end cannot be a stream",
        ),
        ({"id": 1, "run": ["x"], "after": 2}, "'after' is for requests with 'at_end'"),
        ({"id": 1, "run": ["x"], "at_end": True, "after": {}}, "'after' is the id of a request"),
        ({"id": 1, "input": "x"}, "this request is not under way"),
        ({"id": 1, "input": "x", "input_end": True}, "one kind of input at a time"),
        ({"id": 1, "input_end": 1}, "'input_end' is true"),
        ({"id": 1, "signal": "NONE"}, "'signal' is the name of one"),
        ({"id": 1, "signal": 15}, "'signal' is the name of one"),
        ({"id": 1, "signal": "TERM"}, "this request is not under way"),
        ({"id": 1, "forget": True}, "nothing with this id is kept for the end"),
    ],
)
@pytest.mark.uml
@grouped
def test_bad_requests_are_refused(session: Session, line: Any, error: str) -> None:
    assert session.refused(line).startswith(error)
    assert session.run("guest list -q")["stdout"] == "alice\nbob\n"


@pytest.mark.uml
@grouped
def test_lines_of_any_length(session: Session) -> None:
    session.send(b" ")
    session.send(b'{"id": 1, "run": ["guest", "list"], "stdin": {"text": "' + b"x" * (16 << 20))
    assert session.next() == {"id": None, "status": 2, "error": "a line has more than 16 MiB"}
    text = "x" * (10 << 20)
    answer = session.run("guest exec alice -- wc -c", stdin={"text": text})
    assert int(answer["stdout"]) == 10 << 20


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["id", "run", "stdin", "stdout", "text", "file", "stream", "timeout"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON, st.binary(max_size=30))
def test_any_line_is_a_request_or_refused(found: Any, junk: bytes) -> None:
    for line in (json.dumps(found).encode(), junk):
        with contextlib.suppress(requests.Refused):
            requests.parse(line)


@given(st.lists(st.binary(max_size=6)))
def test_pieces_join_to_what_was_printed(pieces: list[bytes]) -> None:
    said: list[dict[str, Any]] = []

    class Heard(Answers):
        def put(self, answer: dict[str, Any]) -> None:
            said.append(answer)

    output = InPieces(Heard(), 1, "stdout")
    for piece in pieces:
        output(piece)
    assert output.end() == {}
    joined = b"".join(
        each["stdout"].encode() if "stdout" in each else base64.b64decode(each["stdout_base64"])
        for each in said
    )
    assert joined == b"".join(pieces)
    if (text := b"".join(pieces)).isascii():
        assert "".join(each["stdout"] for each in said) == text.decode()


# ---- a whole lab ----


@pytest.mark.uml
@pytest.mark.parametrize("kind", ["root", "isolated"])
def test_whole_life_of_a_lab(packs: Path, tmp_path: Path, kind: str) -> None:
    lab = Lab(tmp_path / "lab", packs)
    lab.directory.mkdir()
    session = Session(lab)
    how = "--isolated" if kind == "isolated" or os.geteuid() else "--host-net"
    for _ in range(2):
        session.run(f"fs init --kernel sid --master busybox {how}")
        session.run("dumm-guest create a b")
        session.run("bridge create lan0")
        session.run("iface create a-eth0 --bridge lan0 --address 10.0.0.1/24")
        session.run("iface create b-eth0 --bridge lan0 --address 10.0.0.2/24")
        answer = session.run("guest start a b nobody", status=3)
        assert answer["errors"] == [
            {"operand": "nobody", "message": "no guest 'nobody'", "hint": None}
        ]
        ping = session.run("guest exec a -- ping -c 1 10.0.0.2")
        assert "1 packets received" in ping["stdout"]
        assert json.loads(session.run("guest list --format json")["stdout"])[1]["name"] == "b"
        session.run("fs destroy")
        session.run("guest exec a -- true", status=125)
    assert session.end() == 0


# ---- streams ----


@pytest.mark.uml
@grouped
def test_answers_have_streams_status_and_time(session: Session) -> None:
    answer = session.run(shell("cat; echo wrong >&2; exit 7"), status=7, stdin={"text": "hé\n"})
    assert answer.pop("seconds") > 0
    assert answer == {"id": 1, "status": 7, "stdout": "hé\n", "stderr": "wrong\n"}
    answer = session.run(
        shell("cat; printf '\\377' >&2"), stdin={"base64": base64.b64encode(b"\0\xfe").decode()}
    )
    assert answer["stdout_base64"] == base64.b64encode(b"\0\xfe").decode()
    assert answer["stderr_base64"] == base64.b64encode(b"\xff").decode()
    assert session.run("guest exec alice -- cat")["stdout"] == ""
    assert session.run(shell("kill -9 $$"), status=137)["stdout"] == ""


@pytest.mark.uml
@grouped
def test_files_as_streams(session: Session, lab: Lab) -> None:
    size = 100 << 20
    out, err = lab.directory / "out", lab.directory / "err"
    answer = session.run(
        shell(f"head -c {size} /dev/zero; echo 1 >&2"),
        stdout={"file": str(out)},
        stderr={"file": "err"},
    )
    assert not {"stdout", "stderr"} & set(answer)
    assert out.stat().st_size == size
    session.run(shell("echo 2 >&2"), stderr={"file": "err", "append": True})
    assert err.read_text() == "1\n2\n"
    found = session.run("guest exec alice -- sha256sum", stdin={"file": str(out)})["stdout"]
    assert found.split()[0] == lab.host(["sha256sum", out]).out.split()[0]
    # Those of commands that run on the host, too.
    session.run("guest list -q", stdout={"file": "out"})
    assert out.read_text() == "alice\nbob\n"
    session.run("guest startup bob -", stdin={"file": "out"})
    assert session.run("guest startup bob")["stdout"] == "alice\nbob\n"
    session.run("guest startup bob --clear")
    os.mkfifo(lab.directory / "fifo")
    for options, error in (
        ({"stdin": {"file": "nothing"}}, "no file 'nothing'"),
        ({"stdin": {"file": "."}}, "'.' is not a regular file"),
        ({"stdin": {"file": "fifo"}}, "'fifo' is not a regular file"),
        ({"stdin": {"file": "/dev/stdin"}}, "'/dev/stdin' is not a regular file"),
        ({"stdout": {"file": "/no/such"}}, "cannot write '/no/such': No such file or directory"),
        ({"stdout": {"file": "fifo"}}, "cannot write 'fifo': No such device or address"),
        ({"stdout": {"file": "/dev/full"}}, "'/dev/full' is not a regular file"),
    ):
        answer = session.until(session.begin("guest list", **options))
        assert [each["message"] for each in answer["errors"]] == [error]
        assert answer["status"] in (1, 2, 3)
    for path in ("out", "err", "fifo"):
        (lab.directory / path).unlink()


@pytest.mark.uml
@grouped
@pytest.mark.parametrize("words", ["guest exec alice -- cat", "guest exec --host -- cat"])
def test_streams_both_ways(session: Session, words: str) -> None:
    number = session.begin(words, stdin={"stream": True}, stdout={"stream": True})
    for text in ("one\n", "zwei ", "drei\n"):
        session.send({"id": number, "input": text})
        got = ""
        while got != text:
            answer = session.next()
            got += answer.get("stdout", "")
            assert answer["id"] == number
    session.send({"id": number, "input_base64": base64.b64encode(b"\xff").decode()})
    assert session.until(number, "stdout_base64")["stdout_base64"] == "/w=="
    session.send({"id": number, "input_end": True})
    assert session.until(number)["status"] == 0
    assert session.refused({"id": number, "input": "x"}) == "this request is not under way"


@pytest.mark.uml
@grouped
def test_input_is_acknowledged_and_limited(session: Session) -> None:
    number = session.begin("guest exec alice -- sleep 1000", stdin={"stream": True})
    session.send({"id": number, "input": "x" * 1000})
    assert session.next() == {"id": number, "taken": 1000}
    piece = json.dumps({"id": number, "input": "x" * (15 << 20)}).encode()
    for _ in range(5):
        session.send(piece)
    assert session.until(number)["error"] == "more than 64 MiB of input are waiting"
    assert session.run("guest list -q", parallel=True)["stdout"] == "alice\nbob\n"
    session.send({"id": number, "signal": "TERM"})
    assert session.until(number)["status"] == 143


@pytest.mark.uml
@grouped
def test_too_much_output_for_an_answer(session: Session) -> None:
    for words in ("guest exec alice -- cat /dev/zero", "guest exec --host -- cat /dev/zero"):
        answer = session.until(session.begin(words))
        assert answer["status"] in (1, 125)
        assert answer["errors"][0]["message"] == "more than 16 MiB of output"
        assert answer["errors"][0]["hint"] == '"stdout": {"file": PATH} takes any amount'
    assert session.run(shell("ps | grep -c '[c]at /dev'"), status=1)["stdout"] == "0\n"


@pytest.mark.uml
@grouped
def test_reader_that_stops_reading_stops_only_what_it_reads(session: Session, lab: Lab) -> None:
    flood = session.begin(
        "guest exec alice -- cat /dev/zero", stdout={"stream": True}, parallel=True
    )
    mark, more = lab.directory / "mark", lab.directory / "more"
    other = session.begin(shell("sleep 1; echo done"), stdout={"file": str(mark)}, parallel=True)
    last = session.begin("guest exec --host -- echo there", stdout={"file": str(more)})
    until(lambda: mark.exists() and mark.read_text() == "done\n", "the other one has ended")
    until(lambda: more.exists() and more.read_text() == "there\n", "and so has the last")
    session.send({"id": flood, "signal": "TERM"})
    ended: set[tuple[int, int]] = set()
    while len(ended) < 3:
        answer = session.next()
        if "status" in answer:
            ended.add((answer["id"], answer["status"]))
    assert ended == {(flood, 143), (other, 0), (last, 0)}
    mark.unlink()
    more.unlink()


# ---- many ----


@pytest.mark.uml
@grouped
def test_many_in_a_row_leave_nothing_open(session: Session) -> None:
    session.run("guest exec alice -- true")
    session.run("guest is-running alice")
    before = session.descriptors
    for number in range(300):
        assert session.run(f"guest exec alice -- echo {number}")["stdout"] == f"{number}\n"
    for _ in range(20):
        session.run("guest is-running alice")
    assert session.descriptors == before


@pytest.mark.uml
@grouped
def test_order_and_parallel_requests(session: Session) -> None:
    # One after another, without waiting for answers.
    numbers = [session.begin(shell(f"sleep 0.{9 - n}; echo {n}")) for n in range(3)]
    assert [session.next()["stdout"] for _ in numbers] == ["0\n", "1\n", "2\n"]
    # Beside each other: each ends when the next one has begun.
    waiting = [
        session.begin(shell(f"until [ -e /run/{n} ]; do :; done; echo {n}"), parallel=True)
        for n in range(4)
    ]
    assert session.refused({"id": waiting[0], "run": ["guest"]}) == "this id is in use"
    for n in range(3, -1, -1):
        session.run(shell(f"touch /run/{n}"), parallel=True)
    # Their answers may have come before those of `touch`.
    session.run(shell("rm /run/[0-3]"))


@pytest.mark.uml
@grouped
def test_more_programs_than_lines(session: Session) -> None:
    """A guest has 17 lines for programs."""
    numbers = {session.begin(shell("sleep 0.2; echo x"), parallel=True) for _ in range(40)}
    answers = [session.next() for _ in numbers]
    assert {a["id"] for a in answers} == numbers
    assert {(a["status"], a["stdout"]) for a in answers} == {(0, "x\n")}


@pytest.mark.uml
@grouped
def test_kept_lines_are_given_back(session: Session, lab: Lab) -> None:
    for _ in range(3):
        for _ in range(17):
            session.begin(shell("sleep 0.1"), parallel=True)
        for _ in range(17):
            session.next()
        found = [lab.start(["dumm-guest", "exec", "alice", "--", "echo", "x"]) for _ in range(17)]
        assert [each.communicate(timeout=PATIENCE)[0] for each in found] == [b"x\n"] * 17


@pytest.mark.uml
@grouped
def test_long_queues_are_worked_off(session: Session) -> None:
    """However many end at once."""
    first = session.begin("guest exec alice -- sleep 1")
    for _ in range(1000):
        session.begin("guest exec nosuch -- true")
        session.begin("guest list", stdin={"file": "/no/such"})
    answers = [session.next() for _ in range(2001)]
    assert [each["id"] for each in answers] == list(range(first, first + 2001))
    assert {each["status"] for each in answers[1:]} == {125, 3}


@pytest.mark.uml
@grouped
def test_too_few_descriptors_fail_single_requests(lab: Lab) -> None:
    process = lab.start(["sh", "-c", "ulimit -n 64; exec dumm-console --json"])
    session = Session(lab, process)
    for _ in range(60):
        session.begin("guest exec alice -- cat", stdin={"stream": True}, parallel=True)
    assert session.process.stdin
    session.process.stdin.close()
    session.process.stdin = None
    answers = [session.next() for _ in range(60)]
    assert {each["status"] for each in answers} <= {0, 1, 125}
    failed = [each for each in answers if each["status"]]
    assert failed
    assert "Too many open files" in failed[0]["errors"][0]["message"]
    assert session.process.wait(PATIENCE) == 0


# ---- time and signals ----


@pytest.mark.uml
@grouped
@pytest.mark.parametrize("host", [False, True])
def test_timeouts_and_signals(session: Session, host: bool) -> None:
    words = f"guest exec {'--host' if host else 'alice'} -- sleep 1000"
    late = session.until(session.begin(words, timeout=0.5))
    assert late["status"] == 5
    assert late["errors"][-1]["message"].endswith(" ran longer than 0.5 s")
    for name, status in (("TERM", 143), ("SIGINT", 130), ("KILL", 137)):
        number = session.begin(words)
        until(lambda: session.run(["guest", "is-running", "alice"], parallel=True), "it runs")
        session.send({"id": number, "signal": name})
        assert session.until(number)["status"] == status
    # One that waits is not begun.
    first = session.begin(words)
    second = session.begin(shell("touch /never"))
    session.send({"id": second, "signal": "TERM"})
    assert session.until(second)["status"] == 143
    session.send({"id": first, "signal": "TERM"})
    session.until(first)
    session.run(shell("[ ! -e /never ]"))


# ---- guests that end ----


@pytest.mark.uml
@grouped
def test_guests_that_end_under_a_session(session: Session, lab: Lab) -> None:
    session.run("guest exec bob -- true", status=125)
    session.run("guest start bob")
    session.run("guest exec bob -- true")
    session.until(session.begin("guest exec bob -- reboot"))
    session.run("guest wait bob")
    assert session.run(shell("echo back", "bob"))["stdout"] == "back\n"
    # One that does not answer, on a line that was kept.
    session.run("guest exec bob -- true")
    os.kill(pid_of(lab, "bob"), signal.SIGSTOP)
    answer = session.run("guest exec bob -- true", status=125)
    assert answer["errors"][0]["message"] == "guest 'bob' does not answer"
    os.kill(pid_of(lab, "bob"), signal.SIGCONT)
    session.run("guest exec bob -- true")
    session.run(shell("sleep 3", "bob"))
    session.run("guest pause bob")
    answer = session.run("guest exec bob -- true", status=125)
    assert answer["errors"] == [
        {"operand": "bob", "message": "guest 'bob' is paused", "hint": None}
    ]
    session.run("guest resume bob")
    number = session.begin("guest exec bob -- sleep 1000")
    running = session.begin(shell("echo up", "bob"), parallel=True)
    session.until(running)
    os.kill(pid_of(lab, "bob"), signal.SIGKILL)
    answer = session.until(number)
    assert (answer["status"], answer["errors"][0]["message"]) == (125, "guest 'bob' has ended")
    again = partial(session.begin, "guest exec bob -- true")
    until(lambda: session.until(again())["status"] == 125, "it is noticed")
    session.run("guest stop bob --if-exists")
    session.run("guest start bob")
    assert session.run(shell("echo again", "bob"))["stdout"] == "again\n"
    session.run("guest stop bob")
    session.run("guest exec bob -- true", status=125)


@pytest.mark.uml
@grouped
def test_programs_that_cannot_be_run(session: Session) -> None:
    answer = session.run("guest exec alice -- nosuch", status=127)
    assert answer["stderr"] == "dumm-guest: cannot run 'nosuch': command not found\n"
    assert session.run("guest exec alice -- /etc", status=126)["errors"][0]["operand"] == "alice"
    assert session.run("guest exec alice -u nosuch -- true", status=125)["stdout"] == ""
    assert session.run("guest exec alice -- true")["status"] == 0
    found = session.run(
        ["guest", "exec", "-e", "A=b c", "-w", "/etc", "alice", "--", "sh", "-c", 'echo "$A" $PWD']
    )
    assert found["stdout"] == "b c /etc\n"
    assert session.run("guest exec -C /nosuch alice -- true", status=125)["errors"]
    assert "Usage" in session.run("guest exec alice --help")["stdout"]
    # The command itself refuses these, or needs a terminal.
    session.run("guest exec", status=2)
    session.run("guest exec alice", status=2)
    session.run("guest exec --nosuch alice -- true", status=2)
    session.run("console attach alice", status=1)
    session.run("nosuch tool", status=2)
    assert session.run("console", status=1)["errors"][0]["message"] == "a session within a session"
    assert session.run("guest --help")["stdout"].startswith("Usage: dumm-guest ")


# ---- the end ----


@pytest.mark.uml
@grouped
def test_end_of_input_completes_everything(lab: Lab) -> None:
    session = Session(lab)
    session.send({"id": "b", "run": shell("echo last >>/order"), "at_end": True})
    session.send({"id": "a", "run": shell("echo first >>/order"), "at_end": True})
    session.send({"id": "c", "run": shell("echo never >>/order"), "at_end": True})
    session.send({"id": "c", "forget": True})
    assert [session.next() for _ in range(4)] == [
        *({"id": name, "kept": True} for name in "bac"),
        {"id": "c", "kept": False},
    ]
    session.begin(shell("sleep 0.5; echo 1 >>/order"))
    session.begin(shell("cat >>/order"), stdin={"stream": True})
    session.begin("guest exec --host -- cat", stdin={"stream": True})
    assert session.process.stdin
    session.process.stdin.write(b'{"id": 9, "run": ["guest", "list", "-q"]}')  # no line break
    session.process.stdin.close()
    session.process.stdin = None
    out, err = session.process.communicate(timeout=PATIENCE)
    assert (session.process.returncode, err) == (0, b"")
    answers = [json.loads(line) for line in out.splitlines()]
    assert [each["id"] for each in answers] == [1, 2, 3, 9, "a", "b"]
    assert answers[3]["stdout"] == "alice\nbob\n"
    assert lab("dumm-guest exec alice -- cat /order").out == "1\nfirst\nlast\n"
    lab("dumm-guest exec alice -- rm /order")


@pytest.mark.uml
@grouped
def test_requests_for_the_end_that_depend_on_others(lab: Lab) -> None:
    """The other request is completed, even if nobody reads its answer, and is undone."""
    session = Session(lab)
    for name in ("made", "failed", "never"):
        words = shell(f"echo {name} >>/undone")
        session.send({"id": f"undo {name}", "run": words, "at_end": True, "after": name})
        session.next()
    session.send({"id": "failed", "run": shell("false"), "parallel": True})
    assert session.next()["status"] == 1
    session.send({"id": "made", "run": shell("sleep 1; touch /made"), "parallel": True})
    session.run("guest is-running alice", parallel=True)
    assert session.process.stdout
    session.process.stdout.close()
    session.process.stdout = None
    assert session.process.wait(PATIENCE) == -signal.SIGPIPE
    assert lab("dumm-guest exec alice -- cat /undone").out == "made\n"
    lab("dumm-guest exec alice -- rm /undone /made")


@pytest.mark.uml
@grouped
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_end_a_session_in_order(lab: Lab, number: int) -> None:
    session = Session(lab)
    session.send({"id": "end", "run": shell("touch /ended"), "at_end": True})
    session.next()
    running = session.begin("guest exec alice -- sleep 1000", parallel=True)
    child = session.begin("guest exec --host -- sleep 1000")
    waiting = session.begin("guest list")
    session.run("guest is-running alice", parallel=True)
    session.process.send_signal(number)
    out, err = session.process.communicate(timeout=PATIENCE)
    assert (session.process.returncode, err) == (-number, b"")
    answers = {each["id"]: each["status"] for each in map(json.loads, out.splitlines())}
    assert answers == {running: 143, child: 143, waiting: 128 + number, "end": 0}
    assert lab("dumm-guest exec alice -- rm /ended").err == ""


KILLED = """
import json, os, subprocess, sys
session = subprocess.Popen(
    [sys.argv[1], "--json"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
)
def ask(**request):
    print(json.dumps(request), file=session.stdin, flush=True)
    while "status" not in (answer := json.loads(session.stdout.readline())):
        if "kept" in answer:
            return
    assert answer["status"] == 0, answer
how = "--isolated" if sys.argv[2] == "isolated" or os.geteuid() else "--host-net"
ask(id=1, run=["fs", "init", "--kernel", "sid", "--master", "busybox", how])
ask(id=2, run=["fs", "destroy"], at_end=True)
ask(id=3, run=["guest", "create", "a", "--start"])
request = {"id": 4, "run": ["guest", "exec", "a", "--", "sleep", "1000"]}
print(json.dumps(request), file=session.stdin, flush=True)
print(session.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.uml
@pytest.mark.parametrize("kind", ["root", "isolated"])
def test_killed_client_leaves_nothing(packs: Path, tmp_path: Path, kind: str) -> None:
    lab = Lab(tmp_path / "lab", packs)
    lab.directory.mkdir()
    client = lab.start([sys.executable, "-c", KILLED, BIN / "dumm-console", kind])
    assert client.stdout
    pid = int(client.stdout.readline())
    guest = pid_of(lab, "a") if kind == "root" and not os.geteuid() else None
    client.kill()
    until(lambda: not Path(f"/proc/{pid}").exists(), "the session has ended")
    assert guest is None or not Path(f"/proc/{guest}").exists()
    assert not (lab.directory / "state.json").exists()  # `destroy` was run
    assert not list(lab.directory.glob("run/holder-*"))


@pytest.mark.uml
@grouped
def test_closed_standard_output_ends_it(lab: Lab) -> None:
    session = Session(lab)
    session.send({"id": "end", "run": shell("touch /ended"), "at_end": True})
    session.next()
    session.begin("guest exec alice -- sleep 1000")
    assert session.process.stdout
    session.process.stdout.close()
    session.process.stdout = None
    assert session.process.wait(PATIENCE) == -signal.SIGPIPE
    lab("dumm-guest exec alice -- rm /ended")


@pytest.mark.uml
@grouped
def test_wrong_options(lab: Lab) -> None:
    for words in ("--json list", "--json -k", "--json apply -"):
        lab(f"dumm-console {words}", status=2)


def test_nothing_is_imported_for_it_otherwise() -> None:
    code = "import sys, dumm_tools.cli.console; print([m for m in sys.modules if '.session.' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout == "[]\n"
