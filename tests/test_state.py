"""state.json: damage, other versions, unknown keys, copies, moves, concurrent writers, full
disks."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import PATIENCE, ROOT
from support.checks import one_line_error
from support.guests import pid_of, state_of
from support.labs import Lab, recorded

from dumm_tools import records
from dumm_tools import statefile as store
from dumm_tools.errors import DummError, NotFound, TimedOut
from dumm_tools.labs import dot, graph, mermaid, picture
from dumm_tools.model import Boot, Bridge, Guest, Iface, State
from dumm_tools.net import nat, nic


@pytest.fixture
def labdir(tmp_path: Path) -> str:
    """A working set with one record of each kind."""

    def fill(state: State) -> None:
        state.guests["alice"] = Guest("alice", args=["a"], boot=Boot("n", "running", "h"))
        state.ifaces["alice-eth0"] = Iface(
            "alice-eth0", "alice", "eth0", 0, "alice-eth0", "02:00:00:00:00:01"
        )
        state.bridges["lan0"] = Bridge("lan0", ["10.0.0.1/24"])

    return recorded(tmp_path, fill=fill)


def data_of(labdir: str) -> dict[str, object]:
    data: dict[str, object] = json.loads(Path(labdir, store.FILE).read_text())
    return data


def rewrite(labdir: str, change: Callable[[dict[str, object]], object]) -> None:
    data = data_of(labdir)
    change(data)
    Path(labdir, store.FILE).write_text(json.dumps(data))


# ---- reading ----


def test_written_state_is_read_back(labdir: str) -> None:
    state = store.load(labdir)
    assert state.guests["alice"].args == ["a"]
    boot = state.guests["alice"].boot
    assert boot
    assert (boot.nonce, boot.phase, boot.host_boot) == ("n", "running", "h")
    assert state.members_of("lan0") == []
    assert [i.name for i in state.ifaces_of("alice")] == ["alice-eth0"]
    assert oct(Path(labdir, store.FILE).stat().st_mode & 0o777) == "0o600"


def test_unknown_keys_are_kept(labdir: str) -> None:
    def add(data: dict[str, object]) -> None:
        data["new"] = {"of": "tomorrow"}
        for table in ("guests", "ifaces", "bridges"):
            for record in data[table].values():  # type: ignore[attr-defined]
                record["colour"] = "blue"
        data["guests"]["alice"]["boot"]["speed"] = 9  # type: ignore[index]

    rewrite(labdir, add)
    with store.transaction(labdir) as change:
        change.state.guests["bob"] = Guest("bob")
    data = data_of(labdir)
    assert data["new"] == {"of": "tomorrow"}
    for table, name in (("guests", "alice"), ("ifaces", "alice-eth0"), ("bridges", "lan0")):
        assert data[table][name]["colour"] == "blue"  # type: ignore[index]
    assert data["guests"]["alice"]["boot"]["speed"] == 9  # type: ignore[index]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not valid JSON"),
        ("{", "is not valid JSON"),
        ("[]", "is not a working set's state"),
        ("{}", "is not a working set's state"),
        ('{"version": 1}', "key 'id'"),
        ('{"version": 99, "id": "x"}', "newer"),
        ('{"version": 1, "id": "x", "guests": []}', "key 'guests' is not an object"),
        ('{"version": 1, "id": "x", "guests": {"a": 1}}', "guests.a is not an object"),
        ('{"version": 1, "id": "x", "guests": {"a": {"memory": "x"}}}', "guests.a.memory"),
        ('{"version": 1, "id": "x", "guests": {"a": {"memory": true}}}', "guests.a.memory"),
        ('{"version": 1, "id": "x", "guests": {"a": {"args": [1]}}}', "guests.a.args"),
        ('{"version": 1, "id": "x", "ifaces": {"a-b": {}}}', "ifaces.a-b lacks a key"),
    ],
)
def test_damaged_state_is_reported(labdir: str, text: str, message: str) -> None:
    Path(labdir, store.FILE).write_text(text)
    with pytest.raises(DummError, match=message.replace(".", r"\.")):
        store.load(labdir)
    assert Path(labdir, store.FILE).read_text() == text


#: A lab with one of everything.
WHOLE: dict[str, Any] = {
    "version": 1,
    "id": "abcdef",
    "isolated": False,
    "template": "t",
    "opened": {"here": "x", "devices": ["eth0"]},
    "guests": {
        "a": {"kernel": "k", "master": "/m", "memory": 1 << 26, "init": "/i", "args": ["x=1"],
              "rules": [{"family": "inet", "priority": 9, "from": "10.0.0.0/8", "table": 5},
                        {"family": "inet6", "priority": 8, "iif": "eth0", "kind": "prohibit"}]},
        "b": {
            "overlays": ["/l"],
            "boot": {"nonce": "n", "phase": "running", "host_boot": "h", "group": 7, "cgroup": ""},
        },
    },
    "ifaces": {
        "a-eth0": {
            "guest": "a", "device": "eth0", "slot": 0, "tap": "a-eth0", "mac": "02:00:00:00:00:01",
            "bridge": "lan0", "mtu": 1500, "up": True, "addresses": ["10.0.0.1/24", "fd00::1/64"],
            "routes": [{"dest": "10.1.0.0/16", "via": "10.0.0.2"}, {"dest": "::/0"},
                       {"dest": "10.2.0.0/16", "kind": "blackhole", "table": 5, "metric": 7},
                       {"dest": "10.3.0.0/16", "src": "10.0.0.1", "onlink": True,
                        "hops": [{"via": "10.0.0.2"}, {"via": "fe80::1", "device": "eth1"}]}],
            "shape": {"delay": 20, "loss": 1.5, "rate": 1000000},
        },
    },
    "bridges": {"lan0": {"addresses": ["10.0.0.254/24"], "uplink": "nat"}, "lan1": {}},
}  # fmt: skip


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to all values in a JSON object."""
    yield path
    keys = value if isinstance(value, dict) else range(len(value) if isinstance(value, list) else 0)
    for key in keys:
        yield from _places(value[key], (*path, key))


PLACES = [path for path in _places(WHOLE) if path]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=9)
    | st.sampled_from(["../..", "a/b", "lo", "\0", "999.1.1.1/99", "::/0", "nat", "to:eth0", "a"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)  # fmt: skip


@pytest.mark.slow
@given(st.lists(st.tuples(st.sampled_from(PLACES), JSON | st.just(...)), min_size=1, max_size=3))
@example([(("ifaces", "a-eth0", "routes", 0, "via"), 0)])
@settings(max_examples=1500, deadline=None)
def test_state_damaged_at_any_place_is_reported(changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    """Every command that reads it prints a one-line error, or succeeds."""
    data = copy.deepcopy(WHOLE)
    for (*path, last), value in changes:
        with contextlib.suppress(KeyError, IndexError, TypeError):
            place = data
            for key in path:
                place = place[key]
            if value is ...:
                del place[last]
            else:
                place[last] = value
    with contextlib.suppress(DummError, OSError):
        state = records.decode("state.json", json.dumps({**data, "lock_inode": 5}), 5)
        records.says("state.json", records.encode(state), state)
        drawing = picture.look("/nonexistent", state)
        for draw in (graph.as_json, dot.as_dot, mermaid.as_mermaid):
            draw(drawing)
        for name in state.guests:
            with contextlib.suppress(DummError, OSError):
                nic.boot_records(state, name)
        with contextlib.suppress(DummError, OSError):
            list(map(nat.networks, state.bridges.values()))


def test_state_that_is_not_text(labdir: str) -> None:
    Path(labdir, store.FILE).write_bytes(b"\xff\xfe")
    with pytest.raises(DummError, match="not UTF-8"):
        store.load(labdir)


def test_missing_working_set_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        store.load(str(tmp_path))
    with pytest.raises(NotFound):
        store.load(str(tmp_path / "no/such"))


def test_copied_state_owns_nothing(labdir: str, tmp_path: Path) -> None:
    copy = tmp_path.parent / f"{tmp_path.name}-copy"
    subprocess.run(["cp", "-a", labdir, copy], check=True)
    assert store.load(str(copy)).id != "abcdef"
    assert store.load(str(copy)).guests["alice"].boot is None
    assert store.load(labdir).guests["alice"].boot is not None
    moved = tmp_path.parent / f"{tmp_path.name}-moved"
    os.rename(labdir, moved)
    assert store.load(str(moved)).id == "abcdef"


# ---- writing ----


def test_error_undoes_the_transaction(labdir: str) -> None:
    before = Path(labdir, store.FILE).read_bytes()

    def fail_in_the_middle() -> None:
        with store.transaction(labdir) as change:
            change.state.guests["bob"] = Guest("bob")
            change.save()
            assert "bob" in store.load(labdir).guests
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_in_the_middle()
    assert Path(labdir, store.FILE).read_bytes() == before
    assert sorted(os.listdir(labdir)) == [".lock", "state.json"]


def test_error_names_the_process_that_holds_the_lock(
    labdir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "LOCK_TIMEOUT", 0.1)
    with (
        store.transaction(labdir),
        pytest.raises(TimedOut, match=f"is locked by process {os.getpid()}"),
        store.transaction(labdir),
    ):
        pass


def test_lock_is_free_when_its_holder_is_killed(labdir: str) -> None:
    code = (
        "import sys, time; from dumm_tools import statefile as state\n"
        f"with state.transaction({labdir!r}): print(flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        holder.stdout.read(1)
        holder.kill()
    with store.transaction(labdir):
        pass


# ---- the commands ----


@pytest.mark.uml
def test_concurrent_updates_are_not_lost(lab: Lab) -> None:
    """Eight writers, each creating guests, interfaces and bridges of its own."""
    script = (
        "for i in 1 2; do dumm-guest create g$0$i; dumm-iface create g$0$i-eth0;"
        " dumm-bridge create br$0$i; dumm-bridge connect br$0$i g$0$i-eth0; done"
    )
    running = [lab.start(["sh", "-ec", script, str(n)]) for n in range(8)]
    for process in running:
        _, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, err) == (0, b"")
    rows = lab("dumm-iface list -o name,bridge").lines
    assert rows == [f"g{n}{i}-eth0\tbr{n}{i}" for n in range(8) for i in (1, 2)]
    assert len(lab("dumm-guest list -q").lines) == 16


@pytest.mark.uml
def test_moved_working_set_stays_usable(new_lab: Callable[..., Lab]) -> None:
    lab = new_lab()
    lab("dumm-guest create alice --start")
    lab("dumm-iface create alice-eth0 --address 10.0.0.1/24")
    old, new = lab.directory, lab.directory.with_name("moved")
    old.rename(new)
    lab.directory = new
    lab.env["DUMM_DIR"] = str(new)
    assert state_of(lab, "alice") == "running"
    lab("dumm-guest exec alice -- sh -c 'echo x >/root/x'")
    assert (lab.mounted("alice") / "root/x").read_text() == "x\n"
    lab("dumm-guest restart alice")
    assert "10.0.0.1/24" in lab("dumm-guest exec alice -- ip addr show eth0").out


@pytest.mark.uml
@pytest.mark.parametrize("running", [False, True])
def test_copied_working_set_is_independent(new_lab: Callable[..., Lab], running: bool) -> None:
    """Commands on the copy do not affect the original's guests, links and mounts."""
    lab = new_lab()
    lab("dumm-guest create alice bob")
    lab("dumm-bridge create lan0")
    lab("dumm-iface create alice-eth0 --bridge lan0 --address 10.0.0.1/24")
    lab("dumm-guest start alice")
    pid = pid_of(lab, "alice")
    if not running:
        lab("dumm-guest stop alice")
    copy = Lab(lab.directory.with_name("copy"), Path(lab.env["XDG_CACHE_HOME"]))
    lab.host(["cp", "-a", lab.directory, copy.directory])
    assert copy("dumm-guest list -o name,state").lines == ["alice\tstopped", "bob\tstopped"]
    try:
        copy("dumm-guest start bob")
        if running and ROOT:  # the links belong to the original
            done = copy("dumm-guest start alice", status=4)
            assert one_line_error(done.err).endswith(
                "already exists and does not belong to this lab"
            )
        copy("dumm-guest exec bob -- touch /root/of-the-copy")
    finally:
        copy.end()
    shutil.rmtree(copy.directory)
    if running:
        assert pid_of(lab, "alice") == pid
        assert state_of(lab, "alice") == "running"
        lab("dumm-guest exec alice -- ip addr show eth0")
    assert "lan0" in lab("dumm-bridge list -q").lines
    assert not (lab.directory / "host/bob/root/of-the-copy").exists()


# ---- full and read-only disks ----


def fill(place: Path) -> Path:
    filler = place / "filler"
    with open(filler, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return filler


@pytest.mark.uml
@pytest.mark.netns
def test_full_disk_leaves_the_state_intact(small: Path, packs: Path) -> None:
    directory = small / "lab"
    directory.mkdir()
    filler = fill(small)
    lab = Lab(directory, packs)
    done = lab("dumm-fs init --kernel sid --master busybox", status=1)
    assert "No space left on device" in one_line_error(done.err, "dumm-fs")
    assert os.listdir(directory) == []
    filler.unlink()
    lab("dumm-fs init --kernel sid --master busybox")
    try:
        fill(small)
        before = sorted(os.listdir(directory / "host")), (directory / "state.json").read_bytes()
        done = lab("dumm-guest create alice", status=1)
        assert "No space left on device" in one_line_error(done.err)
        after = sorted(os.listdir(directory / "host")), (directory / "state.json").read_bytes()
        assert after == before
        filler.unlink()
        lab("dumm-guest create alice")
        fill(small)
        done = lab("dumm-guest start alice", status=1)
        assert "No space left on device" in one_line_error(done.err)
        assert state_of(lab, "alice") == "stopped"
        filler.unlink()
        lab("dumm-guest start alice")
        fill(small)
        big = os.urandom(300_000)
        assert lab("dumm-guest exec alice -- cat", stdin=big).stdout == big
        lab("dumm-guest exec alice -- sh -c 'cat >/root/big'", stdin=big, status=1)
        lab("dumm-guest list")
        lab("dumm-guest stop alice", status=None)  # 1 if its end could not be recorded
        assert state_of(lab, "alice") == "stopped"
    finally:
        filler.unlink(missing_ok=True)
        lab.end()


@pytest.mark.uml
@pytest.mark.netns
def test_read_only_disk_permits_only_reading(small: Path, packs: Path) -> None:
    lab = Lab(small, packs)
    lab("dumm-fs init --kernel sid --master busybox")
    lab("dumm-guest create alice")
    lab("dumm-fs umount alice")
    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
    try:
        assert lab("dumm-guest list -q").out == "alice\n"
        for command in ("dumm-guest create bob", "dumm-guest start alice", "dumm-fs destroy"):
            done = lab(command, status=1)
            assert "Read-only file system" in one_line_error(done.err, command.split()[0])
    finally:
        subprocess.run(["mount", "-o", "remount,rw", small], check=True)
        lab.end()
    empty = small / "empty"
    empty.mkdir()
    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
    done = Lab(empty, packs)("dumm-fs init", status=1)
    assert "Read-only file system" in one_line_error(done.err, "dumm-fs")


@pytest.mark.uml
@pytest.mark.netns
@pytest.mark.root
def test_running_lab_seen_through_a_read_only_mount(lab: Lab, tmp_path: Path) -> None:
    lab("dumm-guest create alice --start")
    seen = tmp_path / "seen"
    seen.mkdir()
    subprocess.run(["mount", "--bind", lab.directory, seen], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", seen], check=True)
        there = {"DUMM_DIR": str(seen)}
        assert lab("dumm-guest exec alice -- echo hi", env=there).out == "hi\n"
        for verb in ("pause alice", "set alice --memory 80M", "mconsole alice -- version"):
            done = lab(f"dumm-guest {verb}", status=1, env=there)
            assert one_line_error(done.err).endswith("Read-only file system")
    finally:
        subprocess.run(["umount", seen], check=True)
    assert state_of(lab, "alice") == "running"


@pytest.mark.uml
def test_guest_recreated_after_a_killed_delete(lab: Lab) -> None:
    """delete may be killed at any moment: the next guest of that name does not get its
    leftovers."""
    lab("dumm-guest create alice")
    for n in range(2000):
        (lab.directory / f"host/alice/etc/junk{n}").parent.mkdir(exist_ok=True)
        (lab.directory / f"host/alice/etc/junk{n}").touch()
    for delay in (0.08, 0.1, 0.12, 0.14, 0.16):
        deleting = lab.start("dumm-guest delete alice")
        time.sleep(delay)
        deleting.kill()
        deleting.wait()
    lab("dumm-guest delete --if-exists alice")
    lab("dumm-guest create alice --start")
    assert "junk" not in lab("dumm-guest exec alice -- ls /etc").out
