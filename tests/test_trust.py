"""Directories of other users: neither root nor another user must act on what an ordinary user puts
there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import BIN, PATIENCE, TOP
from support.checks import one_line_error
from support.guests import state_of
from support.labs import Lab
from support.users import User, UserLab
from support.world import mounts

from dumm_tools import names, records, trust
from dumm_tools.errors import Conflict, DummError
from dumm_tools.linux import process
from dumm_tools.model import State

#: A user id that nobody on this machine has.
STRANGER = 64190

pytestmark = [pytest.mark.netns, pytest.mark.root]


@pytest.fixture(scope="module")
def mallory(packs: Path) -> Iterator[User]:
    """A malicious user."""
    user = User(80, packs)
    yield user
    user.end()


@pytest.fixture
def trap(mallory: User) -> Iterator[UserLab]:
    """A lab of mallory."""
    lab = mallory.lab("trap")
    lab("dumm-fs init --kernel sid")
    yield lab
    lab("dumm-fs destroy", status=None)
    shutil.rmtree(lab.directory)


@pytest.fixture
def victim(packs: Path, trap: UserLab) -> Lab:
    """Root's commands, run in mallory's directory."""
    return Lab(trap.directory, packs)


def evil(lab: Lab, module: str, proof: Path) -> None:
    """Mount something over a Python module inside a lab."""
    code = lab.directory / "evil.py"
    code.write_text(f"open({str(proof)!r}, 'w').close()\nraise SystemExit(0)\n")
    code.chmod(0o644)
    lab(["dumm-guest", "exec", "--host", "--", "mount", "--bind", code, module])


VERBS = [
    "dumm-bridge list",
    "dumm-bridge create lan9",
    "dumm-iface list",
    "dumm-guest list",
    "dumm-guest create g --start",
    "dumm-guest start --all",
    "dumm-guest stop --all",
    "dumm-guest delete g",
    "dumm-guest exec g -- true",
    "dumm-guest exec --host -- true",
    "dumm-console list",
    "dumm-console log g",
    "dumm-fs destroy",
    "dumm-fs init",
    "dumm-fs template list",
    "dumm-fs check",
]


@pytest.mark.attack("others-directory")
def test_root_does_not_act_on_the_directory_of_another_user(
    trap: UserLab, victim: Lab, tmp_path: Path
) -> None:
    proof = tmp_path / "proof"
    evil(trap, f"{TOP}/dumm_tools/net/link_views.py", proof)
    before = (trap.directory / "state.json").read_bytes()
    for verb in VERBS:
        done = victim(verb, status=4)
        message = one_line_error(done.err, verb.split()[0])
        assert f"belongs to user {trap.directory.stat().st_uid}" in message
        assert not proof.exists()
        assert (trap.directory / "state.json").read_bytes() == before


@pytest.mark.attack("others-name")
def test_directory_of_another_user_is_rejected_however_it_is_named(
    trap: UserLab, victim: Lab, tmp_path: Path
) -> None:
    mine = Lab(tmp_path, Path(victim.env["XDG_CACHE_HOME"]))
    del mine.env["DUMM_DIR"]
    mine(["dumm-guest", "-C", trap.directory, "list"], status=4)
    mine("dumm-guest list", status=4, env={"DUMM_DIR": str(trap.directory)})
    (tmp_path / "link").symlink_to(trap.directory)
    mine("dumm-guest -C link list", status=4)
    completing = {"_DUMM_BRIDGE_COMPLETE": "bash_complete", "COMP_CWORD": "2"}
    trap("dumm-bridge create offered")
    words = {**completing, "COMP_WORDS": "dumm-bridge show ", "DUMM_DIR": str(trap.directory)}
    assert "offered" in trap("dumm-bridge", env=words).out
    assert "offered" not in mine("dumm-bridge", env=words).out
    batch = mine.start("dumm-console", env={"DUMM_DIR": str(trap.directory)})
    assert b"belongs to" in batch.communicate(b"guest list\n")[1]
    assert batch.returncode == 4


def test_directory_can_be_declared_safe(new_lab: Callable[..., Lab], tmp_path: Path) -> None:
    lab = new_lab()
    for path in (lab.directory, *lab.directory.rglob("*")):
        os.chown(path, STRANGER, STRANGER, follow_symlinks=False)
    lab("dumm-guest list", status=4)
    safe = {"DUMM_SAFE_DIRECTORY": f"/nonexistent:{lab.directory}"}
    lab("dumm-guest list", env=safe)
    lab("dumm-guest list", status=4, env={"DUMM_SAFE_DIRECTORY": str(tmp_path / "other")})
    lab("dumm-guest list", status=4, env={"DUMM_SAFE_DIRECTORY": "*:/"})
    lab.env.update(safe)


@pytest.mark.attack("others-namespaces")
def test_namespaces_of_another_user_are_not_entered(
    trap: UserLab, packs: Path, tmp_path: Path
) -> None:
    """The second line of defence: all that is recorded about them was written by root."""
    trap("dumm-bridge create lan0")
    held = next((trap.directory / "run").glob("holder-*"))
    directory = tmp_path / "mine"
    directory.mkdir(mode=0o700)
    lab = Lab(directory, packs)
    lab("dumm-fs init --isolated")
    inode = (directory / ".lock").stat().st_ino
    (directory / f"run/holder-{inode}").write_bytes(held.read_bytes())
    (directory / f"run/holder-{inode}").chmod(0o600)
    for verb in ("dumm-bridge list", "dumm-bridge create lan1"):
        done = lab(verb, status=1)
        assert one_line_error(done.err, "dumm-bridge") == (
            "cannot enter the lab's namespaces: they belong to another user"
        )
    (directory / f"run/holder-{inode}").unlink()
    lab("dumm-fs destroy")
    assert trap("dumm-bridge list -q").lines == ["lan0"]


@pytest.mark.attack("mounted-modules")
def test_files_mounted_over_modules_in_a_lab_are_not_run(packs: Path, tmp_path: Path) -> None:
    """In root's own lab, too, whatever has been mounted there."""
    directory = tmp_path / "mine"
    directory.mkdir(mode=0o700)
    lab = Lab(directory, packs)
    lab("dumm-fs init --isolated --kernel sid --master busybox")
    lab("dumm-bridge create lan0")
    proof = tmp_path / "proof"
    packages = Path(next((TOP / ".venv/lib").glob("python*/site-packages")))
    for module in (
        packages / "tabulate/__init__.py",
        TOP / "dumm_tools/linux/rtnl.py",
        TOP / "dumm_tools/net/uplink.py",
        TOP / "dumm_tools/net/nic.py",
    ):
        assert module.exists()
        evil(lab, str(module), proof)
    assert "lan0" in lab("dumm-bridge list").out
    lab("dumm-guest create a --start")
    lab("dumm-iface create a-eth0 --bridge lan0 --address 10.0.0.1/24")
    assert "a-eth0" in lab("dumm-iface list").out
    assert not proof.exists()
    lab("dumm-fs destroy")


def test_pinned_imports_come_from_the_original_directories(tmp_path: Path) -> None:
    """Sources, packages and C extensions, from directories that have been moved away since."""
    code = f"""
import os, shutil, sys
sys.path.insert(0, {str(tmp_path / "lib")!r})
from dumm_tools.linux import pinned
pinned.pin()
os.rename({str(tmp_path / "lib")!r}, {str(tmp_path / "away")!r})
shutil.copytree({str(tmp_path / "evil")!r}, {str(tmp_path / "lib")!r})
import package.inner, plain, termios, wave
print(package.inner.VALUE, plain.VALUE, os.path.basename(package.inner.__file__))
try:
    import nowhere
except ModuleNotFoundError as e:
    print(e)
"""
    for kind, value in (("lib", "good"), ("evil", "bad")):
        (tmp_path / kind / "package").mkdir(parents=True)
        (tmp_path / kind / "package/__init__.py").write_text("")
        (tmp_path / kind / "package/inner.py").write_text(f"VALUE = '{value}'\n")
        (tmp_path / kind / "plain.py").write_text(f"VALUE = '{value}'\n")
    (tmp_path / "evil/nowhere.py").write_text("")
    done = subprocess.run(
        [BIN / "python", "-c", code], capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["good good inner.py", "No module named 'nowhere'"]


# ---- contents of a directory ----


@pytest.fixture
def own(packs: Path, tmp_path: Path) -> Lab:
    """An empty directory that belongs to root."""
    directory = tmp_path / "own"
    directory.mkdir(mode=0o700)
    return Lab(directory, packs)


@pytest.mark.attack("planted-part")
@pytest.mark.parametrize("name", ["host", "run", "mount", "templates", ".lock", "linux", "master"])
def test_init_rejects_existing_files_of_another_user(own: Lab, name: str) -> None:
    path = own.directory / name
    if name == ".lock":
        path.write_text("")
    elif name in ("linux", "master"):
        path.symlink_to("/tmp")
    else:
        path.mkdir(mode=0o700)
    os.chown(path, STRANGER, STRANGER, follow_symlinks=False)
    done = own("dumm-fs init", status=4)
    assert f"'{path}' belongs to user {STRANGER}, not to 'root'" in done.err
    assert os.listdir(own.directory) == [name]


@pytest.mark.attack("writable-part")
@pytest.mark.parametrize("mode", [0o720, 0o702, 0o770, 0o1777])
def test_init_rejects_a_directory_that_others_can_write_to(own: Lab, mode: int) -> None:
    own.directory.chmod(mode)
    done = own("dumm-fs init", status=4)
    assert "belongs to 'root', is writable by others" in done.err
    assert os.listdir(own.directory) == []


@pytest.mark.attack("parent-directory")
def test_init_rejects_a_directory_below_that_of_another_user(own: Lab) -> None:
    """That user could replace it with another one."""
    inner = own.directory / "inner"
    inner.mkdir(mode=0o700)
    own.env["DUMM_DIR"] = str(inner)
    os.chown(own.directory, STRANGER, STRANGER)
    assert f"'{own.directory}' belongs to user {STRANGER}" in own("dumm-fs init", status=4).err
    os.chown(own.directory, 0, 0)
    own.directory.chmod(0o777)
    assert "is writable by others" in own("dumm-fs init", status=4).err
    own.directory.chmod(0o1777)  # like /tmp
    own("dumm-fs init")
    own("dumm-fs destroy")


PARTS = ["", "state.json", ".lock", "host", "mount", "run", "templates", "linux", "run/a"]


@pytest.mark.attack("planted-part", "writable-part")
@pytest.mark.parametrize(
    ("part", "how"),
    [(p, "owner") for p in PARTS] + [(p, "mode") for p in PARTS if p != "linux"],
)
def test_every_part_of_a_working_set_is_checked(lab: Lab, part: str, how: str) -> None:
    lab("dumm-guest create a")
    path = lab.directory / part
    found = os.lstat(path)
    if how == "owner":
        os.chown(path, STRANGER, STRANGER, follow_symlinks=False)
        text = f"belongs to user {STRANGER}"
    else:
        path.chmod(found.st_mode | 0o020)
        text = "is writable by others"
    for verb in ("dumm-guest list -q", "dumm-guest delete a", "dumm-fs destroy"):
        assert text in lab(verb, status=4).err
    os.chown(path, 0, 0, follow_symlinks=False)
    if not path.is_symlink():
        path.chmod(found.st_mode & 0o7777)
    assert lab("dumm-guest list -q").lines == ["a"]


def test_user_in_a_directory_that_belongs_to_root(mallory: User, tmp_path: Path) -> None:
    lab = UserLab(mallory, mallory.own("home/his"), {})
    place = mallory.place / "roots"
    place.mkdir(mode=0o755)
    lab.env["DUMM_DIR"] = str(place)
    assert f"belongs to 'root', not to '{mallory.name}'" in lab("dumm-fs init", status=4).err
    assert "belongs to 'root'" in lab("dumm-guest list", status=4).err


def test_private_group_of_a_user_is_trusted(mallory: User) -> None:
    """As distributions with umask 002 make directories."""
    lab = mallory.lab("group")
    lab.directory.chmod(0o770)
    lab("dumm-fs init --kernel sid")
    assert lab("dumm-guest list -q").lines == []
    os.chown(lab.directory, mallory.uid, 4)
    lab("dumm-guest list -q", status=4)
    os.chown(lab.directory, mallory.uid, mallory.uid)
    lab("dumm-fs destroy")


# ---- contents of the state ----


def edit(lab: Lab, change: Callable[[dict[str, dict[str, dict[str, object]]]], object]) -> None:
    """Change state.json by hand."""
    path = lab.directory / "state.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


@pytest.mark.attack("impossible-state")
def test_control_group_of_something_else_is_rejected(lab: Lab, tmp_path: Path) -> None:
    place = tmp_path / "empty"
    place.mkdir()
    lab("dumm-guest create a --start")
    before = (lab.directory / "state.json").read_text()
    true = json.loads(before)["guests"]["a"]["boot"]["cgroup"]
    wrong = [
        str(place),
        "/sys/fs/cgroup",
        true.replace("-a", "-b"),
        true.replace("/dumm", "/../dumm"),
    ]
    for path in wrong if true else wrong[:2]:
        edit(lab, lambda data, path=path: data["guests"]["a"]["boot"].update(cgroup=path))  # type: ignore[misc]
        assert "bad control group" in lab("dumm-guest stop a", status=1).err
    assert place.is_dir()
    (lab.directory / "state.json").write_text(before)
    lab("dumm-guest stop a")


@pytest.mark.attack("impossible-state")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d["guests"].update({"../../etc": d["guests"]["a"]}), "bad guest name"),
        (lambda d: d["bridges"].update({"a/b": d["bridges"]["lan0"]}), "bad bridge name"),
        (lambda d: d["ifaces"]["a-eth0"].update(tap="eth0"), "bad tap name 'eth0'"),
        (
            lambda d: d["ifaces"]["a-eth0"].update(bridge="gone"),
            "is on a bridge that does not exist: 'gone'",
        ),
        (lambda d: d["guests"].pop("a"), "'a-eth0' belongs to a guest that does not exist"),
        (lambda d: d["ifaces"]["a-eth0"].update(device="eth1"), "is not 'a-eth1'"),
        (lambda d: d.update(template="../.."), "bad template name"),
        (lambda d: d.update(id='x"; drop'), "key 'id'"),
        (lambda d: d.update(isolated="yes"), "key 'isolated'"),
    ],
)
def test_impossible_state_is_rejected(
    lab: Lab, change: Callable[[object], object], said: str
) -> None:
    lab("dumm-guest create a")
    lab("dumm-bridge create lan0")
    lab("dumm-iface create a-eth0 --bridge lan0")
    before = (lab.directory / "state.json").read_text()
    edit(lab, change)
    for verb in ("dumm-guest list", "dumm-bridge graph", "dumm-iface list", "dumm-fs destroy"):
        done = lab(verb, status=1)
        assert said in one_line_error(done.err, verb.split()[0])
        assert "internal error" not in done.err
    (lab.directory / "state.json").write_text(before)


@pytest.mark.attack("planted-link")
def test_link_among_the_work_directories_is_not_followed(lab: Lab, tmp_path: Path) -> None:
    """An archive could bring one: its target is not removed."""
    place = tmp_path / "precious.dumm-work"
    kept = place / ("0" * 12)
    kept.mkdir(parents=True)
    beside = tmp_path / "other.dumm-work"
    beside.symlink_to(tmp_path / "precious.dumm-work")
    lab("dumm-guest create a")
    work = lab.directory / "run/a/work"
    work.mkdir(exist_ok=True)
    (work / "abc").symlink_to(kept)
    (work / ("1" * 12)).symlink_to(kept)
    (work / ("0" * 12)).symlink_to(beside / ("0" * 12))
    lab("dumm-guest delete a")
    assert kept.is_dir()


@pytest.mark.attack("forged-pid")
def test_pid_file_that_others_can_write_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    path.write_text(f"1 {process.start_time(1)}\n")
    path.chmod(0o600)
    assert process.recorded(str(path)) == (1, process.start_time(1))
    path.chmod(0o620)
    assert process.recorded(str(path)) is None
    path.chmod(0o600)
    os.chown(path, STRANGER, 0)
    assert process.recorded(str(path)) is None
    (tmp_path / "link").symlink_to(path)
    assert process.recorded(str(tmp_path / "link")) is None


def test_file_in_place_of_a_directory(own: Lab) -> None:
    (own.directory / "run").write_text("")
    with pytest.raises(Conflict, match="is not a directory"):
        trust.resolve(str(own.directory))
    (own.directory / "run").unlink()
    os.mkfifo(own.directory / "state.json")
    assert "is not a file" in own("dumm-guest list", status=4).err


# ---- the cache ----


@pytest.mark.attack("others-cache")
def test_kernels_of_another_user_are_rejected(mallory: User, tmp_path: Path) -> None:
    his = mallory.own("home/lure")
    for part in ("dumm", "dumm/kernels", "dumm/kernels/new", "dumm/masters"):
        mallory.own(f"home/lure/{part}")
    lab = Lab(tmp_path, his)
    for verb in ("dumm-fs kernel list", "dumm-fs master list", "dumm-fs init --kernel new"):
        assert f"belongs to user {mallory.uid}" in lab(verb, status=4).err
    assert os.listdir(tmp_path) == []


def test_pack_of_another_user_in_ones_own_cache_is_rejected(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    pack = cache / "dumm/kernels/odd"
    pack.mkdir(parents=True, mode=0o700)
    lab = Lab(tmp_path, cache)
    os.chown(pack, STRANGER, STRANGER)
    assert f"belongs to user {STRANGER}" in lab("dumm-fs init --kernel odd", status=4).err


# ---- `isolated` is parsed and enforced ----


@pytest.mark.attack("compact-state")
@pytest.mark.parametrize("compact", [True, False])
def test_isolated_is_recognized_in_any_json_formatting(own: Lab, compact: bool) -> None:
    own("dumm-fs init --isolated --kernel sid")
    path = own.directory / "state.json"
    data = json.loads(path.read_text())
    path.write_text(
        json.dumps(data, separators=(",", ":")) if compact else json.dumps(data, indent=8)
    )
    own("dumm-bridge create lan7")
    assert not os.path.exists("/sys/class/net/lan7")
    assert own("dumm-bridge list -o name,state").lines == ["lan7\tup"]
    own("dumm-fs destroy")


@pytest.mark.attack("from-outside")
def test_isolated_lab_is_not_changed_from_outside(own: Lab) -> None:
    """The domain itself enforces this: callers have to enter the lab first."""
    own("dumm-fs init --isolated --kernel sid")
    own("dumm-bridge create lan0")
    code = (
        "import sys; from dumm_tools.net import bridge\n"
        f"bridge.create({str(own.directory)!r}, 'lan8')\n"
    )
    done = subprocess.run(
        [BIN / "python", "-c", code], capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert "can only be changed from inside its own namespaces" in done.stderr
    assert not os.path.exists("/sys/class/net/lan8")
    assert own("dumm-bridge list -q").lines == ["lan0"]
    own("dumm-fs destroy")


@pytest.mark.parametrize(
    "verb", ["dumm-fs diff a", "dumm-fs cp a:/etc/passwd ..", "dumm-guest show a"]
)
def test_reading_commands_do_not_rewrite_an_edited_state(lab: Lab, verb: str) -> None:
    lab("dumm-guest create a")
    path = lab.directory / "state.json"
    text = json.dumps(json.loads(path.read_text()), indent=3)
    path.write_text(text)
    lab(verb)
    assert path.read_text() == text
    lab("dumm-guest set a --memory 80M")
    assert '"memory": 83886080' in path.read_text()


def test_state_text_is_compared_by_content() -> None:
    state = State(id="abc", lock_inode=5)
    text = records.encode(state)
    assert records.says("x", json.dumps(json.loads(text), indent=9), state)
    assert not records.says("x", text, state.but(extra={"new": 1}))
    assert not records.says("x", text.replace('"abc"', '"abd"'), state)
    with pytest.raises(DummError):
        records.decode("x", "[" * 100_000, 5)
    assert names.tap("a-eth0") == "a-eth0"


# ---- lost directories ----


def test_isolated_lab_whose_run_directory_is_gone(own: Lab) -> None:
    own("dumm-fs init --isolated --kernel sid --master busybox")
    own("dumm-guest create a --start")
    own("dumm-bridge create lan0")
    held = int(next((own.directory / "run").glob("holder-*")).read_text().split()[0])
    pidfd = os.pidfd_open(held)
    own(["rm", "-rf", "run"])
    own("dumm-guest start a")
    assert process.wait_exit(pidfd, 10)
    os.close(pidfd)
    assert state_of(own, "a") == "running"
    own("dumm-iface create a-eth0 --bridge lan0")
    own("dumm-fs destroy")


# ---- a state that was restored from a backup ----


@pytest.mark.attack("restored-state")
@pytest.mark.parametrize("kind", ["--host-net", "--isolated"])
def test_guests_that_run_without_a_record_are_noticed(own: Lab, kind: str) -> None:
    """The lock counts, not the record."""
    own(f"dumm-fs init {kind} --kernel sid --master busybox")
    path = own.directory / "state.json"
    own("dumm-bridge create lan0")
    own("dumm-guest create a")
    own("dumm-iface create a-eth0 --bridge lan0")
    before = path.read_bytes()
    own("dumm-guest create b")
    own("dumm-iface create b-eth0 --bridge lan0")
    own("dumm-guest start --all")
    pids = [int(pid) for pid in own("dumm-guest list -o pid").lines]
    pidfds = [os.pidfd_open(pid) for pid in pids]
    path.write_bytes(before)
    assert own("dumm-guest list -o name,state,pid").lines == [f"a\trunning\t{pids[0]}"]
    for verb in ("start", "delete", "pause"):
        own(f"dumm-guest {verb} a", status=4)
    assert own("dumm-guest exec a -- hostname").out == "a\n"
    own("dumm-guest stop a")
    assert process.wait_exit(pidfds[0], 0)
    assert state_of(own, "a") == "stopped"
    own("dumm-guest start a")
    own("dumm-fs destroy")
    assert process.wait_exit(pidfds[1], 10)
    for fd in pidfds:
        os.close(fd)
    assert not any(os.path.exists(f"/sys/class/net/{n}") for n in ("a-eth0", "b-eth0", "lan0"))
    assert not [m for m in mounts() if m.target.startswith(str(own.directory))]


# ---- umasks, groups, packs of others ----


@pytest.mark.parametrize("umask", [0o002, 0o000, 0o077])
def test_umask_does_not_lock_the_owner_out(own: Lab, umask: int) -> None:
    own("dumm-fs init --kernel sid --master busybox")
    under = ["sh", "-c", f'umask {umask:04o}; exec "$@"', "sh"]
    for words in (
        "dumm-guest create a --start",
        "dumm-bridge create lan0",
        "dumm-iface create a-eth0 --bridge lan0",
        "dumm-guest restart a",
        "dumm-guest stop a",
    ):
        own([*under, *words.split()])
    assert own("dumm-guest list -q").lines == ["a"]
    own(["rm", "-rf", "host", "mount"], status=None)
    own([*under, "dumm-fs", "destroy"])


def test_mounting_closes_the_guests_directories_again(own: Lab) -> None:
    own("dumm-fs init --kernel sid --master busybox")
    own("dumm-guest create a")
    own("dumm-fs umount a")
    shutil.rmtree(own.directory / "host")
    (own.directory / "mount").chmod(0o755)
    own("dumm-fs mount a")
    modes = [oct((own.directory / n).stat().st_mode & 0o777) for n in ("host", "mount")]
    assert modes == ["0o700", "0o700"]
    own("dumm-fs destroy")


@pytest.mark.attack("others-cache")
def test_pack_of_another_user_named_by_path_is_rejected(
    own: Lab, packs: Path, tmp_path: Path
) -> None:
    pack = tmp_path / "pack"
    pack.mkdir(mode=0o755)
    for entry in (packs / "dumm/kernels/sid").iterdir():
        (pack / entry.name).symlink_to(entry)
    os.lchown(pack / "lib", STRANGER, STRANGER)
    done = own(["dumm-fs", "init", "--kernel", pack], status=4)
    assert f"'{pack}/lib' belongs to user {STRANGER}" in done.err
    assert os.listdir(own.directory) == []


def test_private_group_of_a_user_in_their_namespaces(mallory: User) -> None:
    """There the user is root."""
    lab = mallory.lab("inside")
    mallory.home.chmod(0o775)
    lab("dumm-fs init --kernel sid")
    lab("dumm-bridge create lan0")
    assert lab("dumm-bridge list -q").lines == ["lan0"]
    lab("dumm-fs destroy")
    mallory.home.chmod(0o700)


@pytest.mark.attack("others-namespaces")
def test_lab_declared_safe_is_not_entered(trap: UserLab, victim: Lab) -> None:
    trap("dumm-bridge create lan0")
    stranger = subprocess.Popen(["sleep", "1000"])
    safe = {"DUMM_SAFE_DIRECTORY": str(trap.directory)}
    started = process.start_time(stranger.pid)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    path = trap.directory / "state.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "holder": [boot, stranger.pid, started]})
    )
    for verb in ("list", "create lan1"):
        done = victim(f"dumm-bridge {verb}", status=4, env=safe)
        assert "has namespaces of user" in one_line_error(done.err, "dumm-bridge")
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()
    assert trap("dumm-bridge list -o name,state").lines == ["lan0\tup"]
