"""The cache: objects are complete or absent, despite kills and races; deleting one does not affect
others."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import PATIENCE

from dumm_tools.errors import Conflict, DummError, NotFound
from dumm_tools.images import cache
from dumm_tools.trees import copying, tree


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return tmp_path / "xdg" / "dumm" / "masters"


def make(name: str, text: str = "x") -> None:
    with cache.build("masters", name) as target:
        assert target is not None
        Path(target, "file").write_text(text)


def visible(home: Path) -> list[str]:
    """All entries that are not lock files."""
    return sorted(p.name for p in home.iterdir() if not p.name.endswith(".lock"))


def python(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_relative_cache_home_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/x")
    assert cache.directory("kernels") == "/home/x/.cache/dumm/kernels"


def test_build_find_delete(home: Path) -> None:
    assert cache.names("masters") == []
    make("a")
    assert cache.names("masters") == ["a"]
    assert cache.find("masters", "a") == str(home / "a")
    assert (home / "a").stat().st_mode & 0o777 == 0o755
    with pytest.raises(Conflict):
        make("a")
    with cache.build("masters", "a", may_exist=True) as target:
        assert target is None
    cache.delete("masters", "a")
    with pytest.raises(NotFound):
        cache.delete("masters", "a")
    assert visible(home) == []
    assert (home / ".a.lock").exists()


@pytest.mark.parametrize("name", ["", ".", "..", ".a.lock", "../masters/a", "a/", "a\0b"])
def test_odd_names_are_not_found(name: str) -> None:
    make("a")
    assert cache.find("masters", name) is None


def test_failed_build_leaves_nothing(home: Path) -> None:
    def fail() -> None:
        with cache.build("masters", "a") as target:
            assert target is not None
            os.mkdir(f"{target}/sub", 0o000)
            raise DummError("no")

    with pytest.raises(DummError):
        fail()
    assert visible(home) == []


def test_deleting_a_held_object_fails_at_once(home: Path) -> None:
    make("a")
    lock = cache.lock_of("masters", str(home / "a"))
    assert lock == str(home / ".a.lock")
    fd = cache.hold(lock, str(home / "a"))
    other = cache.hold(lock, str(home / "a"))
    os.close(other)
    with pytest.raises(Conflict, match="in use"):
        cache.delete("masters", "a")
    os.close(fd)
    cache.delete("masters", "a")
    with pytest.raises(NotFound):
        cache.hold(lock, str(home / "a"))


def test_lock_is_held_by_a_child_that_inherits_it(home: Path) -> None:
    make("a")
    fd = cache.hold(str(home / ".a.lock"), str(home / "a"))
    child = subprocess.Popen(["sleep", "1000"], pass_fds=[fd])
    os.close(fd)
    with pytest.raises(Conflict):
        cache.delete("masters", "a")
    child.kill()
    child.wait()
    cache.delete("masters", "a")


def test_lock_of_a_symlink_is_that_of_its_target(home: Path, tmp_path: Path) -> None:
    make("a")
    (tmp_path / "master").symlink_to(home / "a")
    assert cache.lock_of("masters", str(tmp_path / "master")) == str(home / ".a.lock")
    assert cache.lock_of("masters", str(tmp_path)) is None


def test_killed_build_is_swept(home: Path) -> None:
    child = python(
        "import time; from dumm_tools.images import cache\n"
        "with cache.build('masters', 'a') as t:\n"
        "    open(t + '/half', 'w').close(); print('ready', flush=True); time.sleep(60)\n"
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    assert cache.names("masters") == []
    make("other")  # sweeps, but spares what is in use
    assert [n for n in visible(home) if n.startswith(".a.tmp-")]
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    make("a")
    assert visible(home) == ["a", "other"]


@pytest.mark.slow
def test_builds_of_one_name_take_turns(home: Path) -> None:
    code = (
        "from dumm_tools.images import cache\nimport time\n"
        "with cache.build('masters', 'a', may_exist=True) as t:\n"
        "    print(t is not None, flush=True); time.sleep(0.3)\n"
    )
    children = [python(code) for _ in range(4)]
    answers = sorted(c.communicate(timeout=PATIENCE)[0] for c in children)
    assert answers == ["False\n"] * 3 + ["True\n"]
    assert visible(home) == ["a"]


@pytest.mark.slow
def test_builds_of_many_names_at_once(home: Path) -> None:
    code = (
        "import sys; from dumm_tools.images import cache\n"
        "for i in range(30):\n"
        "    with cache.build('masters', f'n{sys.argv[1]}-{i}') as t:\n"
        "        open(t + '/f', 'w').close()\n"
    )
    children = [subprocess.Popen([sys.executable, "-c", code, str(n)]) for n in range(4)]
    assert [c.wait(PATIENCE) for c in children] == [0] * 4
    assert len(cache.names("masters")) == 120
    assert all((home / n / "f").exists() for n in visible(home))


def test_read_only_top_directory_can_be_renamed_and_deleted(home: Path) -> None:
    with cache.build("masters", "a") as target:
        assert target is not None
        os.chmod(target, 0o555)
    assert (home / "a").stat().st_mode & 0o777 == 0o555
    cache.delete("masters", "a")
    assert visible(home) == []


def test_remove_follows_no_links_and_ignores_modes(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").write_text("x")
    top = tmp_path / "top"
    (top / "closed" / "below").mkdir(parents=True)
    (top / "link").symlink_to(outside)
    (top / "closed" / "below" / "link").symlink_to(outside / "keep")
    (top / "closed" / "below").chmod(0o000)
    (top / "closed").chmod(0o500)
    tree.remove(str(top))
    assert not top.exists()
    assert (outside / "keep").exists()
    tree.remove(str(top))  # already gone


@pytest.mark.slow
def test_remove_handles_deep_trees(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    at = os.open(top, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d" * 20, dir_fd=at)
        at, above = os.open("d" * 20, os.O_RDONLY, dir_fd=at), at
        os.close(above)
    os.close(at)
    tree.remove(str(top))
    assert not top.exists()


@pytest.mark.netns
def test_remove_rejects_mount_points(tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "mnt").mkdir(parents=True)
    (top / "first").write_text("x")
    script = (
        f"mount -t tmpfs none {top}/mnt && touch {top}/mnt/keep && "
        f"{sys.executable} -c"
        " 'import sys; from dumm_tools.trees import copying, tree; tree.remove(sys.argv[1])'"
        f" {top}; ls {top}/mnt {top}/first"
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, check=False
    )
    assert "something is mounted on" in done.stderr
    assert "keep" in done.stdout
    assert (top / "first").exists()


def test_copy_preserves_links_holes_modes_and_special_files(tmp_path: Path) -> None:
    src, dst = tmp_path / "src", tmp_path / "dst"
    (src / "sub").mkdir(parents=True)
    dst.mkdir()
    (src / "one").write_text("1")
    os.link(src / "one", src / "sub" / "two")
    (src / "link").symlink_to("/etc/passwd")
    with open(src / "hole", "wb") as file:
        file.truncate(1 << 26)
        file.seek(1 << 25)
        file.write(b"data")
    os.mkfifo(src / "fifo")
    (src / "set").write_text("s")
    (src / "set").chmod(0o4711)
    os.utime(src / "one", ns=(5, 7))
    (src / "sub").chmod(0o555)
    assert copying.copy_tree(str(src), str(dst)) == 0
    assert (dst / "one").stat().st_ino == (dst / "sub" / "two").stat().st_ino
    assert (dst / "one").stat().st_mtime_ns == 7
    assert os.readlink(dst / "link") == "/etc/passwd"
    assert (dst / "hole").read_bytes() == (src / "hole").read_bytes()
    assert (dst / "hole").stat().st_blocks < 1 << 10
    assert (dst / "fifo").is_fifo()
    assert (dst / "set").stat().st_mode & 0o7777 == 0o4711
    assert (dst / "sub").stat().st_mode & 0o7777 == 0o555


def test_lookups_import_few_modules() -> None:
    code = (
        "import sys; from dumm_tools.images import kernel; from dumm_tools.images import master\n"
        "kernel.list_(); master.list_(); kernel.default(); master.default()\n"
        "heavy = {'sh', 'subprocess', 'tarfile', 'shutil', 'tempfile', 'json'} & set(sys.modules)\n"
        "print(sorted(heavy))\n"
    )
    child = python(code)
    assert child.communicate(timeout=PATIENCE)[0] == "[]\n"


def test_build_lock_is_not_inherited(home: Path) -> None:
    with cache.build("masters", "a"):
        child = subprocess.Popen(["sleep", "1000"], close_fds=False)
    fd = os.open(home / ".a.lock", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises if the child has it
    os.close(fd)
    child.kill()
    child.wait()
