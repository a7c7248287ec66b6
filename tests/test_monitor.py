"""`dumm-guest monitor`: changes of a lab as they happen."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import BIN, PATIENCE
from support.checks import is_waiting, one_line_error, until
from support.guests import pid_of
from support.labs import Lab, recorded

from dumm_tools import records, statefile
from dumm_tools.errors import NotFound
from dumm_tools.following import Following
from dumm_tools.labs.monitor import Monitor
from dumm_tools.model import Bridge, Guest, Iface, State


def iface(name: str, bridge: str | None = None, slot: int = 0) -> Iface:
    guest, _, device = name.rpartition("-")
    return Iface(name, guest, device, slot, name, "02:00:00:00:00:01", bridge)


@contextlib.contextmanager
def changed(labdir: str) -> Iterator[State]:
    with statefile.transaction(labdir) as change:
        yield change.state


class Watched:
    """A running `monitor`."""

    def __init__(self, process: subprocess.Popen[bytes], end: str = "\n") -> None:
        self.process, self._end = process, end.encode()
        self._text = b""

    def next(self) -> str:
        """The next line."""
        assert self.process.stdout is not None
        while self._end not in self._text:
            piece = os.read(self.process.stdout.fileno(), 4096)
            assert piece, (self._text, self.process.communicate())
            self._text += piece
        line, _, self._text = self._text.partition(self._end)
        return line.decode()

    def until(self, *wanted: str) -> list[str]:
        """The lines up to the last of these, whatever their order; spaces stand for tabs."""
        found: list[str] = []
        while not found or not set(wanted) <= set(found):
            found.append(self.next().replace("\t", " "))
        return found

    def end(self) -> tuple[int, str]:
        """The exit status, and what it printed on stderr."""
        err = self.process.communicate(timeout=PATIENCE)[1]
        return self.process.returncode, err.decode()


@pytest.fixture
def watch() -> Iterator[Callable[..., Watched]]:
    """Start `monitor --initial` in a working set, and read what it says of the lab."""
    started: list[subprocess.Popen[bytes]] = []

    def start(labdir: str | Lab, *options: str, last: str = "lab - template -") -> Watched:
        argv = ["dumm-guest", "monitor", "--initial", *options]
        if isinstance(labdir, Lab):
            process = labdir.start(argv)
        else:
            argv[0] = f"{BIN}/dumm-guest"
            process = subprocess.Popen(
                [*argv, "-C", labdir], stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            started.append(process)
        found = Watched(process, "\0" if "-z" in options else "\n")
        if last:
            found.until(last)
        return found

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=PATIENCE)


# ---- the state file ----


def test_following_decodes_only_what_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a large lab is followed in a time that does not grow with it."""
    labdir = recorded(tmp_path, *(f"g{n}" for n in range(300)))
    following = Following(labdir)
    decoded: list[int | None] = []
    decode = records.decode

    def counting(*args: object, only: list[tuple[str, str]] | None = None) -> State:
        decoded.append(None if only is None else len(only))
        return decode(*args, only=only)  # type: ignore[arg-type]

    monkeypatch.setattr(records, "decode", counting)
    text = (tmp_path / "state.json").read_text()
    for n in range(300):
        line = next(line for line in text.split("\n") if line.startswith(f'  "g{n}": '))
        text = text.replace(line, line.replace('"memory": 67108864', '"memory": 99999999'))
        (tmp_path / "state.json").write_text(text)
        assert following.refresh() == {("guests", f"g{n}")}
    assert decoded == [1] * 300
    assert {g.memory for g in following.state.guests.values()} == {99999999}


NAMES = st.sampled_from(["a", "b", 'é"\\,}', "d"])
STATES = st.fixed_dictionaries(
    {
        "guests": st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(50, 52)),
        "overlays": st.lists(NAMES, max_size=2),
        "bridges": st.dictionaries(st.sampled_from(["a", "b"]), st.booleans()),
        "template": st.sampled_from([None, "t", "u"]),
        "formatted": st.booleans(),
    }
)


@given(st.lists(STATES, max_size=6))
@settings(deadline=None)
def test_following_is_the_same_as_loading(
    tmp_path_factory: pytest.TempPathFactory, wanted: list[dict[str, Any]]
) -> None:
    directory = tmp_path_factory.mktemp("lab")
    labdir = recorded(directory)
    following = Following(labdir)
    before = records.lines(following.state)
    for each in wanted:
        with changed(labdir) as state:
            state.guests = {
                name: Guest(name, memory=memory, overlays=[f"/{o}" for o in each["overlays"]])
                for name, memory in each["guests"].items()
            }
            state.bridges = {name: Bridge(name, up=up) for name, up in each["bridges"].items()}
            state.template = each["template"]
        if each["formatted"]:
            path = directory / "state.json"
            path.write_text(json.dumps(json.loads(path.read_text()), indent=1))
        keys = following.refresh()
        after = records.lines(statefile.load(labdir))
        assert records.lines(following.state) == after
        differ = {k for k in before.keys() | after.keys() if before.get(k) != after.get(k)}
        assert keys == {key for key in differ if key[1]}
        before = after


def test_following_a_damaged_or_missing_file(tmp_path: Path) -> None:
    following = Following(recorded(tmp_path, "a"))
    text = (tmp_path / "state.json").read_text()
    (tmp_path / "state.json").write_text(text.replace('"a": {', '"a": {{'))
    with pytest.raises(Exception, match="is not valid JSON"):
        following.refresh()
    (tmp_path / "state.json").write_text(text.replace('"memory": ', '"memory": "" '))
    with pytest.raises(Exception, match="is not valid JSON"):
        following.refresh()
    (tmp_path / "state.json").unlink()
    with pytest.raises(NotFound):
        following.refresh()


# ---- records ----


def test_lines_of_what_changes(tmp_path: Path, watch: Callable[..., Watched]) -> None:
    labdir = recorded(tmp_path, "a")
    seen = watch(labdir, last="")
    assert seen.until("lab - template -") == [
        "guest a exists yes",
        "guest a state stopped",
        "guest a startup -",
        "guest a booted no",
        "guest a overlays -",
        "lab - exists yes",
        "lab - template -",
    ]
    with changed(labdir) as state:
        state.bridges["lan0"] = Bridge("lan0")
    assert seen.until("bridge lan0 kind cable") == [
        "bridge lan0 exists yes",
        "bridge lan0 state down",
        "bridge lan0 address -",
        "bridge lan0 members -",
        "bridge lan0 uplink -",
        "bridge lan0 kind cable",
    ]
    with changed(labdir) as state:
        state.ifaces["a-eth0"] = iface("a-eth0", "lan0")
        state.ifaces["a-eth0"].addresses = ["10.0.0.2/24", "10.0.0.1/24"]
    assert seen.until("bridge lan0 members a-eth0") == [
        "iface a-eth0 exists yes",
        "iface a-eth0 state down",
        "iface a-eth0 carrier yes",
        "iface a-eth0 bridge lan0",
        "iface a-eth0 addresses 10.0.0.1/24,10.0.0.2/24",
        "iface a-eth0 mtu 1500",
        "iface a-eth0 mac 02:00:00:00:00:01",
        "iface a-eth0 shape -",
        "bridge lan0 members a-eth0",
    ]
    with changed(labdir) as state:
        state.bridges["lan0"].up = False  # its members lose their carriers
    assert seen.next() == "iface\ta-eth0\tcarrier\tno"
    with changed(labdir) as state:
        state.ifaces["a-eth0"].bridge = None
        state.ifaces["a-eth0"].shape = {"delay": 20, "loss": 0.5}
        state.ifaces["a-eth0"].mtu = 9000
    assert seen.until("bridge lan0 members -") == [
        "iface a-eth0 bridge -",
        "iface a-eth0 mtu 9000",
        "iface a-eth0 shape delay=20,loss=0.5",
        "bridge lan0 members -",
    ]
    (tmp_path / "startup").mkdir()
    (tmp_path / "startup/a").touch()
    assert seen.next() == "guest\ta\tstartup\twaiting"
    with changed(labdir) as state:
        state.guests["a"].overlays = ["/two\nlines", "/b"]
        state.template = "t"
    assert seen.next() == "guest\ta\toverlays\t/two\\nlines,/b"  # one change is one line
    assert seen.next() == "lab\t-\ttemplate\tt"
    with changed(labdir) as state:
        del state.ifaces["a-eth0"], state.guests["a"], state.bridges["lan0"]
    assert seen.until("bridge lan0 exists no") == [
        "guest a exists no",
        "iface a-eth0 exists no",
        "bridge lan0 exists no",
    ]
    (tmp_path / "state.json").unlink()
    assert seen.next() == "lab\t-\texists\tno"
    status, err = seen.end()
    assert status == 3
    assert one_line_error(err) == f"no working set in '{tmp_path}'"


def test_count_timeout_and_selection(tmp_path: Path, watch: Callable[..., Watched]) -> None:
    labdir = recorded(tmp_path, "a", "b")
    counted = watch(labdir, "-n", "2")
    chosen = watch(labdir, "-n", "1", "b", last="guest b overlays -")
    as_json = watch(labdir, "--format", "json", "-n", "1", last="")
    for _ in range(12):
        row = json.loads(as_json.next())
    assert list(row) == ["object", "name", "field", "value", "before", "time"]
    assert (row["object"], row["name"], row["value"]) == ("lab", None, None)
    fields = watch(labdir, "-z", "-o", "value,before,name,time", "-n", "1", last="")
    for _ in range(12):
        fields.next()
    with changed(labdir) as state:
        for name in ("a", "b"):
            state.guests[name].overlays = ["/x\ny"]
        state.template = "t"
    assert counted.until("guest b overlays /x\\ny") == [
        "guest a overlays /x\\ny",
        "guest b overlays /x\\ny",
    ]
    assert chosen.next() == "guest\tb\toverlays\t/x\\ny"
    row = json.loads(as_json.next())
    assert (row["field"], row["value"], row["before"]) == ("overlays", ["/x\ny"], [])
    value, before, name, when = fields.next().split("\t")
    assert (value, before, name) == ("/x\ny", "-", "a")
    assert float(when) > 1e9
    assert [each.end() for each in (counted, chosen, as_json, fields)] == [(0, "")] * 4
    status, err = watch(labdir, "--timeout", "0.1", last="").end()
    assert (status, one_line_error(err)) == (5, "timed out after 0.1 s")


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ("-n 0", 2),
        ("--timeout nan", 2),
        ("--format json -z", 2),
        ("--format json -o name", 2),
        ("-o nonsense", 2),
        ("nobody", 3),
    ],
)
def test_wrong_input(tmp_path: Path, options: str, status: int) -> None:
    argv = [f"{BIN}/dumm-guest", "-C", recorded(tmp_path, "a"), "monitor", *options.split()]
    done = subprocess.run(argv, capture_output=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (status, b"")
    one_line_error(done.stderr.decode())


def test_it_ends_with_its_reader_and_costs_nothing(
    tmp_path: Path, watch: Callable[..., Watched]
) -> None:
    seen = watch(recorded(tmp_path, "a"))
    until(lambda: is_waiting(seen.process.pid), "it waits")
    assert seen.process.stdout is not None
    seen.process.stdout.close()
    assert seen.process.wait(PATIENCE) == -signal.SIGPIPE  # without anything to print


def test_nothing_is_lost_between_look_and_watch(tmp_path: Path) -> None:
    labdir = recorded(tmp_path, "a")
    with Monitor(labdir) as monitor:
        with changed(labdir) as state:
            state.guests["b"] = Guest("b")
        monitor.first()
        with changed(labdir) as state:
            state.guests["a"].overlays = ["/x"]
        found = [(c.name, c.field) for c in monitor.wait(0) or ()]
    assert ("b", "exists") in found
    assert ("a", "overlays") in found


def test_events_that_were_lost(tmp_path: Path) -> None:
    """The kernel keeps so many: a guest can cause any number, and other programs, too."""
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    labdir = recorded(tmp_path, "a", "b")
    (tmp_path / "run/a/uml").mkdir(parents=True)
    (tmp_path / "startup").mkdir()
    with Monitor(labdir) as monitor:
        monitor.first()
        for place in ("run/a/uml", "."):
            files = [f"{tmp_path}/{place}/{name}" for name in "xy"]
            Path(files[0]).touch()
            for n in range(most // 2 + 10):  # each time, one goes and another comes
                os.rename(files[n % 2], files[1 - n % 2])
        (tmp_path / "startup/b").touch()
        with changed(labdir) as state:
            state.guests["a"].overlays = ["/x"]
        end = time.monotonic() + PATIENCE
        found = {(c.name, c.field) for c in monitor.wait(end) or ()}
        assert found == {("a", "overlays"), ("b", "startup")}
        assert monitor.wait(0) is None


# ---- guests ----


@pytest.mark.uml
def test_life_of_a_guest(lab: Lab, watch: Callable[..., Watched]) -> None:
    seen = watch(lab)
    lab("dumm-guest create a")
    seen.until("guest a overlays -")
    lab.batch("bridge create lan0", "iface create a-eth0 --bridge lan0")
    seen.until("bridge lan0 state up", "bridge lan0 members a-eth0")
    lab("dumm-guest startup a -", stdin=b"until [ -e /go ]; do sleep 0.1; done; exit 3")
    assert seen.next() == "guest\ta\tstartup\twaiting"
    lab("dumm-guest start a")
    # Not `starting`: a busy machine may not get to look at it meanwhile.
    seen.until("guest a state running", "iface a-eth0 state up", "guest a startup running")
    lab("dumm-guest exec a -- touch /go")
    seen.until("guest a startup failed 3", "guest a booted yes")
    for verb, state in (("pause", "paused"), ("resume", "running")):
        lab(f"dumm-guest {verb} a")
        seen.until(f"guest a state {state}")
    # A reboot of its own is a boot, too.
    lab("dumm-guest exec a -- reboot", status=None)
    seen.until("guest a booted no")
    seen.until("guest a state running", "guest a booted yes")
    # Killed, without a command that would record it.
    os.kill(pid_of(lab, "a"), signal.SIGKILL)
    killed = seen.until("guest a booted no")
    assert [line for line in killed if line.startswith("guest a state")] == [
        "guest a state crashed"
    ]
    lab("dumm-guest start a")
    seen.until("guest a booted yes")
    # As `stop --kill` does; that it was meant to is recorded before.
    pid = pid_of(lab, "a")
    with changed(str(lab.directory)) as record:
        boot = record.guests["a"].boot
        assert boot is not None
        boot.phase = "stopping"
    os.kill(pid, signal.SIGKILL)
    assert "guest a state crashed" not in seen.until("guest a state stopped")
    lab("dumm-guest start a")
    seen.until("guest a booted yes")
    lab("dumm-guest stop a")
    assert "guest a state stopping" in seen.until("guest a state stopped")
    lab("dumm-guest start a")
    seen.until("guest a booted yes")
    lab("dumm-guest exec a -- poweroff", status=None)  # by itself
    seen.until("guest a state stopped")
    until(lambda: is_waiting(seen.process.pid), "it waits")


@pytest.mark.uml
def test_in_an_isolated_lab_and_beside_destroy(
    new_lab: Callable[..., Lab], watch: Callable[..., Watched]
) -> None:
    lab = new_lab("isolated", "--isolated")
    seen = watch(lab)  # there are no namespaces yet
    lab.batch("guest create a", "bridge create lan0", "iface create a-eth0 --bridge lan0")
    lab("dumm-guest start a")
    seen.until("bridge lan0 state up", "guest a booted yes")
    os.kill(pid_of(lab, "a"), signal.SIGKILL)
    assert "guest a state crashed" in seen.until("guest a booted no")
    # It holds none of the lab's namespaces.
    own = os.readlink("/proc/self/ns/mnt")
    assert os.readlink(f"/proc/{seen.process.pid}/ns/mnt") == own
    holder = next(lab.directory.glob("run/holder-*")).read_text().split()[0]
    os.kill(int(holder), signal.SIGKILL)  # and with it all that it holds
    seen.until("bridge lan0 state down")
    lab("dumm-guest start a")
    seen.until("bridge lan0 state up", "guest a booted yes")
    lab("dumm-fs destroy")
    gone = seen.until("lab - exists no")
    assert {"guest a state stopped", "guest a exists no", "iface a-eth0 exists no"} <= set(gone)
    assert seen.end()[0] == 3


@pytest.mark.uml
def test_booted_is_asked_of_an_init(lab: Lab, watch: Callable[..., Watched]) -> None:
    lab("dumm-guest create a --init /sbin/init --start")
    seen = watch(lab, last="")
    seen.until("guest a booted yes")
    seen.process.kill()
