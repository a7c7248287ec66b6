"""`dumm-fs kernel build`: from a small source tree, where make's part is short, and for real."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import BIN, PATIENCE, small_tree

from dumm_tools.errors import DummError, NotFound
from dumm_tools.images import builds, cache, kernel, kernel_build, kernel_compile, kernel_origin

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return tmp_path / "xdg" / "dumm"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return small_tree.make(tmp_path / "linux")


def start(*args: str | Path, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [BIN / "dumm-fs", "kernel", *args],
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def command(*args: str | Path, status: int = 0, **env: str) -> tuple[str, str]:
    process = start(*args, **env)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == status, err
    return out, err


def build(*args: str | Path, status: int = 0, **env: str) -> str:
    """Run a build and return what it says on stderr."""
    return command("build", *args, status=status, **env)[1]


def compiled(home: Path, name: str = "linux") -> int:
    """The number of files that the last build compiled."""
    return (home / "builds" / name / "log").read_text().count("  CC ")


def has(pack: Path, text: str) -> bool:
    return f"({text})" in (pack / "usr/bin/linux.uml").read_bytes().decode(errors="replace")


def test_a_pack_of_a_tree_that_is_only_read(home: Path, tree: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in (tree, *tree.rglob("*"))}
    for path in before:
        path.chmod(path.stat().st_mode & ~0o222)
    assert command("build", tree) == ("linux\n", "")
    assert {p: p.stat().st_mtime_ns for p in (tree, *tree.rglob("*"))} == before
    out, _ = command("list", "-o", "name,release,source,suite")
    assert out == "linux\t7.2.13-dumm\tlinux\t-\n"
    assert str(tree) not in (home / "kernels/linux/pack.json").read_text()
    pack = home / "kernels/linux"
    assert kernel.resolve("linux").root == str(pack)
    assert (pack / "lib64/ld-linux-x86-64.so.2").is_file()
    # For modprobe in guests, of what is built in.
    modules = pack / "usr/lib/uml/modules/7.2.13-dumm"
    assert b"ham" in (modules / "modules.builtin.bin").read_bytes()
    assert (modules / "modules.dep").is_file()
    assert not list(modules.glob("kernel"))
    assert sorted(p.name for p in (home / "builds").iterdir()) == [".linux.lock", "linux"]
    assert compiled(home) == 1


def test_the_next_build_compiles_what_has_changed(home: Path, tree: Path) -> None:
    build(tree, "--name", "dev")
    pack = home / "kernels/dev"
    assert has(pack, "first")
    assert command("build", tree, "--name", "dev") == ("", "")
    assert compiled(home, "dev") == 0
    small_tree.edit(tree, "second")
    build(tree, "--name", "dev")
    assert compiled(home, "dev") == 1
    assert has(pack, "second")
    # Another configuration, and newer Kconfig files.
    small_tree.edit(tree, "third")
    config = tree / "../fragment"
    config.write_text("CONFIG_GOOD=y\n")
    build(tree, "--name", "dev", "--config", config)
    objects = home / "builds/dev/objects"
    assert "CONFIG_GOOD=y\n" in (objects / ".config").read_text()
    (objects / ".config").write_text("")
    future = time.time() + 10
    os.utime(tree / "Kconfig", (future, future))
    build(tree, "--name", "dev", "--config", config)
    assert "CONFIG_GOOD=y\n" in (objects / ".config").read_text()
    assert has(pack, "third")


def test_guests_that_run_keep_the_kernel_that_is_replaced(home: Path, tree: Path) -> None:
    build(tree)
    found = kernel.resolve("linux")
    assert found.lock is not None
    guest = cache.hold(found.lock, found.path)
    files = os.open(found.path, os.O_PATH)
    old = Path(f"/proc/self/fd/{files}")
    small_tree.edit(tree, "second")
    build(tree)
    assert has(home / "kernels/linux", "second")
    assert has(old, "first")
    # A guest of the new one has a lock of its own, and so does one of the next.
    second = cache.hold(found.lock, found.path)
    assert not os.path.samestat(os.fstat(guest), os.fstat(second))
    assert "is in use" in command("delete", "linux", status=4)[1]
    small_tree.edit(tree, "third")
    build(tree)
    assert has(old, "first")
    assert len(kept(home)) == 2
    os.close(guest)
    build(tree)
    assert len(kept(home)) == 1
    assert os.stat(f"/proc/self/fd/{files}").st_nlink == 0
    os.close(second)
    os.close(files)
    command("delete", "linux")
    assert kept(home) == []
    assert sorted(p.name for p in (home / "kernels").iterdir()) == [".linux.lock"]
    assert sorted(p.name for p in (home / "builds").iterdir()) == [".linux.lock"]


def kept(home: Path) -> list[Path]:
    return list((home / "kernels").glob(".*.tmp-*"))


def test_a_pack_from_elsewhere_is_left_alone(home: Path, tree: Path, tmp_path: Path) -> None:
    build(tree, "--name", "one")
    other = small_tree.make(tmp_path / "other", "other")
    assert build(other, "--name", "one", status=4).splitlines() == [
        f"dumm-fs: kernel 'one' already exists, and was not built from '{other}'",
        "dumm-fs: hint: choose another name with --name",
    ]
    assert "was not built from Debian's linux-source" in build("--name", "one", status=4)
    assert "was not built from" in build(other, "--name", "one", "--may-exist", status=4)
    assert "was not built from" in build("--name", "one", "--may-exist", status=4)
    build(tree, "--name", "one", "--may-exist", PATH="/nothing")
    assert has(home / "kernels/one", "first")
    # Once it is deleted, nothing of the first tree is used.
    command("delete", "one")
    build(other, "--name", "one")
    assert has(home / "kernels/one", "other")
    # So it is if only the pack is gone.
    shutil.rmtree(home / "kernels/one")
    build(tree, "--name", "one")
    assert has(home / "kernels/one", "first")


@pytest.mark.parametrize(
    ("change", "status", "error"),
    [
        ("rm Makefile", 1, "'{}' is not the source of a kernel with UML"),
        ("rm arch/um/Makefile", 1, "'{}' is not the source of a kernel with UML"),
        ("touch .config", 1, "'{}' contains a build (.config), with which make builds nowhere"),
        ("mkdir -p include/config", 1, "'{}' contains a build (include/config), with which"),
        ("rm -r arch Kconfig lacking Makefile main.c", 1, "'{}' is not the source of a kernel"),
    ],
)
def test_trees_that_cannot_be_built(
    change: str, status: int, error: str, home: Path, tree: Path
) -> None:
    subprocess.run(change.split(), cwd=tree, check=True)
    assert build(tree, status=status).startswith(f"dumm-fs: {error.format(tree)}")
    assert not home.exists()


def test_bad_operands(home: Path, tree: Path, tmp_path: Path) -> None:
    assert "no such directory" in build(tmp_path / "nowhere", status=3)
    assert "no such directory" in build(tree / "Makefile", status=3)
    assert "are for Debian's source" in build(tree, "--suite", "sid", status=2)
    assert "bad kernel name" in build(tree, "--name", "a b", status=2)
    assert "bad suite" in build("--suite", "a b", status=2)
    assert "no such file" in build(tree, "--config", tmp_path / "nowhere", status=3)
    assert "is a directory" in build(tree, "--config", tree, status=2)
    build(tree, "--jobs", "0", status=2)
    spaced = small_tree.make(tmp_path / "a b")
    assert "with spaces or colons" in build(spaced, "--name", "x", status=1)
    assert not home.exists()


def test_options_that_do_not_take_effect(home: Path, tree: Path, tmp_path: Path) -> None:
    small_tree.lack(tree, "CONFIG_BTRFS_FS=y", "CONFIG_HSR=y", "CONFIG_TIPC=y")
    assert build(tree) == ("dumm-fs: warning: options that this kernel does not have: HSR, TIPC\n")
    assert build(tree) == ""
    config = tmp_path / "fragment"
    config.write_text("CONFIG_BTRFS_FS=y\nCONFIG_GOOD=y\n")
    small_tree.edit(tree, "second")
    for _ in range(2):
        assert build(tree, "--config", config, status=1) == (
            f"dumm-fs: {config}: CONFIG_BTRFS_FS=y did not take effect: "
            "it depends on BLOCK && MOON\n"
        )
        assert compiled(home) == 0
    assert has(home / "kernels/linux", "first")
    build(tree)
    assert has(home / "kernels/linux", "second")


def test_errors_and_warnings_of_the_compiler(home: Path, tree: Path) -> None:
    build(tree)
    main = tree / "main.c"
    good = main.read_text()
    main.write_text(good.replace("{", "{ int unused;"))
    assert re.fullmatch(r"main.c:2:\d+: warning: .*unused.*\n", build(tree))
    main.write_text(good.replace("puts", "moon +"))
    *errors, failed, hint = build(tree, status=1).splitlines()
    assert all(re.match(r"main.c:2:\d+: error: ", line) for line in errors)
    assert "moon" in errors[0]
    log = home / "builds/linux/log"
    assert failed == "dumm-fs: make failed"
    assert hint == f"dumm-fs: hint: all output: {log}"
    assert "moon" in log.read_text()
    assert has(home / "kernels/linux", "first")
    main.write_text(good.replace("first", "second"))
    build(tree)
    assert has(home / "kernels/linux", "second")


@contextlib.contextmanager
def stuck(home: Path, tree: Path, *args: str) -> Iterator[subprocess.Popen[str]]:
    """A build that has half compiled a file, until its end."""
    os.mkfifo(tree / "slow")
    process = start("build", tree, *args)
    half = home / "builds/linux/objects/main.o"
    deadline = time.monotonic() + PATIENCE
    while not half.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    try:
        yield process
        process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.communicate()
        (tree / "slow").unlink()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_build_that_was_interrupted_continues(
    how: signal.Signals, home: Path, tree: Path
) -> None:
    with stuck(home, tree) as process:
        process.send_signal(how)
    assert process.returncode == -how
    half = home / "builds/linux/objects/main.o"
    deadline = time.monotonic() + PATIENCE
    while half.exists() and time.monotonic() < deadline:  # make outlives us for a moment
        time.sleep(0.01)
    assert not half.exists()
    assert command("list", "-q") == ("", "")
    build(tree)
    assert has(home / "kernels/linux", "first")
    assert not list((home / "builds/linux").glob(".*"))


def test_two_builds_of_a_name_wait_for_each_other(home: Path, tree: Path) -> None:
    with stuck(home, tree) as process:
        assert "is being built" in command("delete", "linux", status=4)[1]
        second = start("build", tree)
        with (tree / "slow").open("w") as go:
            go.write("\n")
        assert process.wait(PATIENCE) == 0
    second.communicate(timeout=PATIENCE)
    assert second.returncode == 0
    assert compiled(home) == 0


def test_what_a_host_lacks_is_said_in_one_line(tree: Path, tmp_path: Path) -> None:
    place = tmp_path / "bin"
    place.mkdir()
    for program in ("gcc", "ld", "make", "depmod"):
        found = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        assert found
        (place / program).symlink_to(found)
    code = (
        "from dumm_tools.images import toolchain; "
        f"toolchain.PATH = {str(place)!r}; toolchain.check(debian=False)"
    )
    done = subprocess.run(
        [BIN / "python", "-c", code], capture_output=True, text=True, timeout=PATIENCE
    )
    assert "building a kernel needs flex, bison, bc" in done.stderr


def test_progress_on_a_terminal(tree: Path) -> None:
    terminal, ours = os.openpty()
    with open(terminal, "rb", buffering=0) as shown:
        argv: list[str | Path] = [BIN / "dumm-fs", "kernel", "build", tree, "--name", "x"]
        subprocess.run(argv, stderr=ours, check=True, timeout=PATIENCE)
        os.close(ours)
        text = b""
        with contextlib.suppress(OSError):  # the end of a terminal
            while piece := shown.read(4096):
                text += piece
    assert b"configuring the kernel" in text
    assert b"compiling (1 of 1) main.o" in text
    assert text.endswith(b"\r\x1b[K")


def test_modules_are_installed_if_asked_for(home: Path, tree: Path) -> None:
    build(tree)
    modules = home / "kernels/linux/usr/lib/uml/modules/7.2.13-dumm"
    assert not (modules / "kernel").exists()
    build(tree, "--modules")
    assert (modules / "kernel/extra.ko").is_file()
    assert not os.path.lexists(modules / "build")


def test_settings_of_another_make_are_not_taken_over(home: Path, tree: Path) -> None:
    """As when `kernel build` is run by a makefile, or by somebody who builds kernels."""
    build(
        tree,
        ARCH="arm64",
        O="/nowhere",
        KBUILD_OUTPUT="/nowhere",
        MAKEFLAGS="-n --jobserver-auth=3,4",
        KCONFIG_ALLCONFIG="/nowhere",
    )
    assert has(home / "kernels/linux", "first")


def test_built_kernels_are_preferred_to_fetched_ones_of_the_same_release(
    home: Path, tree: Path
) -> None:
    for name, facts in (("zz", {"release": "7.2.13"}), ("new", {"release": "7.2.14"})):
        pack = home / "kernels" / name
        (pack / "usr/bin").mkdir(parents=True)
        (pack / "usr/bin/linux.uml").touch()
        (pack / "pack.json").write_text(json.dumps(facts))
    build(tree)
    chosen = kernel.default()
    assert chosen
    assert chosen.path.endswith("/new")
    shutil.rmtree(home / "kernels/new")
    chosen = kernel.default()
    assert chosen
    assert chosen.path.endswith("/linux")


def test_a_directory_for_builds_is_removed_with_its_pack(home: Path) -> None:
    with builds.opened("x") as place:
        builds.start(place, "one")
        (Path(place) / "objects").mkdir()
        builds.start(place, "one")
        assert (Path(place) / "objects").exists()
        builds.start(place, "other")
        assert os.listdir(place) == ["origin"]
        assert builds.origin(place) == "other"
    command("delete", "x")  # there never was a pack
    assert "no kernel 'x'" in command("delete", "x", status=3)[1]


def test_suite_of_an_existing_build_counts(home: Path) -> None:
    pack = home / "kernels/linux-7.2"
    (pack / "usr/bin").mkdir(parents=True)
    (pack / "usr/bin/linux.uml").touch()
    facts = {"release": "7.2.13", "suite": "sid", **kernel_origin.DEBIAN}
    (pack / "pack.json").write_text(json.dumps(facts))
    order = kernel_compile.Order({}, 1, False, None, None, None, False)
    for suite in (None, "sid", "unstable"):
        assert kernel_build.from_debian(suite, None, order, may_exist=True) == "linux-7.2"
    with pytest.raises(DummError):
        kernel_build.from_debian("trixie", None, order, may_exist=True, mirror="file:///nowhere")


def test_an_imported_pack_is_not_taken_for_a_build(home: Path, tree: Path) -> None:
    """Whatever its pack.json says: only builds of this user are replaced, or used for Debian's."""
    build(tree, "--name", "one")
    pack = home / "kernels/one"
    command("export", "one", home / "one.tar")
    facts = {"source": "linux-source", "suite": "sid"}
    for name, source in (("one", {}), ("debian", facts)):
        known = json.loads((pack / "pack.json").read_text())
        (pack / "pack.json").write_text(json.dumps({**known, **source}))
        command("import", pack, "--name", f"my{name}")
    said = build(tree, "--name", "myone", status=4)
    assert f"'myone' already exists, and was not built from '{tree}'" in said
    command("delete", "one")
    assert kernel_origin.any_of_debian(None) is None
    assert "was not built from Debian's" in build("--name", "mydebian", status=4)


@pytest.mark.root
def test_tree_of_another_user_is_not_built(
    home: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.chown(tree / "Makefile", 1234, 1234)
    said = build(tree, status=4)
    assert f"'{tree}/Makefile' belongs to user 1234, not to " in said
    assert not (home / "builds").exists()
    build(tree, SUDO_UID="1234")
    build(tree, DUMM_SAFE_DIRECTORY=str(tree))
    os.chown(tree / "Makefile", 0, 0)
    tree.chmod(0o777)
    assert "is writable by others" in build(tree, status=4)


def test_delete_during_a_build_keeps_the_pack(home: Path) -> None:
    pack = home / "kernels/x/usr/bin"
    pack.mkdir(parents=True)
    (pack / "linux.uml").touch()
    with builds.opened("x"):
        assert "is being built" in command("delete", "x", status=4)[1]
        assert (pack / "linux.uml").exists()
    command("delete", "x")
    assert not (home / "kernels/x").exists()


def test_delete_takes_names_and_not_paths(home: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    (home / "builds").mkdir(parents=True)
    (home / "masters").mkdir()
    victim.mkdir()
    (victim / "file").touch()
    # Never a directory that matters: a version of this deleted the one that was named.
    for name in (str(victim), f"../../../{victim.name}", "../masters", "..", ".", ""):
        with pytest.raises(NotFound):
            kernel.delete(name)
        with pytest.raises(NotFound):
            kernel.delete(f"{name}/")
    assert (victim / "file").exists()
    assert list((home / "builds").iterdir()) == []
    assert (home / "masters").is_dir()
