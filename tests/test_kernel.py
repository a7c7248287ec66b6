"""Kernel packs: looked up, made from Debian packages, a directory or a binary; and run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dumm_tools.errors import Conflict, DummError, NotFound, Usage
from dumm_tools.images import apt, cache, elf, kernel, kernel_banner, kernel_pack, suites, virtiofsd
from dumm_tools.trees import tree

UML = "/usr/bin/linux.uml"
RUN = "from dumm_tools.cli.ending import run; from dumm_tools.cli.fs_kernel import group; "

needs_uml = pytest.mark.skipif(not os.path.exists(UML), reason="no user-mode-linux here")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return tmp_path / "xdg" / "dumm" / "kernels"


def command(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"{RUN} run(group, 'dumm-fs')", *args],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def pack(home: Path, name: str, release: str | None = None) -> Path:
    """A pack that is complete enough to be found."""
    root = home / name
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/linux.uml").write_text("")
    if release:
        (root / "pack.json").write_text(json.dumps({"release": release}))
    return root


def visible(home: Path) -> list[str]:
    if not home.exists():
        return []
    return sorted(p.name for p in home.iterdir() if not p.name.endswith(".lock"))


def check_runs(root: Path, release: str) -> None:
    """Check that a pack works as a root directory: links resolve, the kernel prints its release."""
    assert (root / "lib64/ld-linux-x86-64.so.2").is_file()
    assert (root / "bin/linux.uml").is_file()
    assert (root / "usr/lib/uml/modules" / release / "modules.dep").is_file()
    assert (root / "usr/share/doc/user-mode-linux/copyright").is_file()
    if os.geteuid() == 0:
        done = subprocess.run(
            ["setarch", "-R", "chroot", root, UML, "--version"], capture_output=True, text=True
        )
        assert done.stdout == f"{release}\n"


def check_server_runs(root: Path) -> None:
    """Check that a pack's virtiofsd has all that it needs in its own root tree."""
    server = virtiofsd.find(kernel.resolve(str(root)))
    assert server is not None
    assert server.root == str(root / "virtiofsd")
    assert server.lock == str(root.parent / f".{root.name}.lock")
    assert (root / "virtiofsd/usr/share/doc/virtiofsd/copyright").is_file()
    if os.geteuid() == 0:
        done = subprocess.run(
            ["chroot", server.root, server.binary, "--version"], capture_output=True, text=True
        )
        assert done.stdout == f"virtiofsd {kernel.facts(str(root))['virtiofsd'].split('-')[0]}\n"


def test_resolve_a_name_a_path_and_a_link(home: Path, tmp_path: Path) -> None:
    root = pack(home, "a")
    found = kernel.resolve("a")
    assert found == kernel.Kernel(str(root), UML, str(root), (), str(home / ".a.lock"))
    (tmp_path / "linux").symlink_to(root)
    linked = kernel.resolve(str(tmp_path / "linux"))
    assert linked.lock == found.lock
    outside = pack(tmp_path, "elsewhere")
    assert kernel.resolve(str(outside)).lock is None
    # The binary of a pack stands for the pack, which has its libraries.
    (outside / "pack.json").write_text("{}")
    assert kernel.resolve(str(outside / "usr/bin/linux.uml")).root == str(outside)


@pytest.mark.parametrize("spec", ["x", "", "/nowhere/at/all", "../x", "a\0b"])
def test_unknown_kernel_is_not_found(spec: str) -> None:
    with pytest.raises(NotFound) as error:
        kernel.resolve(spec)
    assert error.value.exit_code == 3
    assert error.value.hint == "dumm-fs kernel fetch"


def test_other_files_are_not_a_kernel(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("no kernel")
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    short = tmp_path / "short"
    short.write_bytes(b"\x7fELF\x02\x01" + bytes(20))
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (text, script, short, fifo, tmp_path, Path("/dev/null")):
        with pytest.raises(DummError) as error:
            kernel.resolve(str(path))
        assert error.value.exit_code == 1
        assert str(path) in str(error.value)


def test_default_is_the_highest_release(home: Path) -> None:
    assert kernel.default() is None
    pack(home, "zz", "6.12.9")
    best = pack(home, "b", "7.2.10")
    pack(home, "c", "7.2.9")
    pack(home, "unknown")
    found = kernel.default()
    assert found is not None
    assert found.path == str(best)
    assert [p.release for p in kernel.list_()] == ["7.2.10", "7.2.9", None, "6.12.9"]


def test_guest_sees_only_its_pack(home: Path, tmp_path: Path) -> None:
    root = pack(tmp_path, "elsewhere")
    (root / "linux").symlink_to("usr/bin/linux.uml")
    assert kernel.resolve(str(root)).root == str(root)
    for to in ("/etc/shadow", "../secret"):
        (root / "linux").unlink()
        (root / "linux").symlink_to(to)
        with pytest.raises(DummError, match="leads out of it"):
            kernel.resolve(str(root))


@needs_uml
def test_plain_binary_gets_its_libraries() -> None:
    found = kernel.resolve(UML)
    inside = {jail: host for host, jail in found.binds}
    assert found.root is None
    assert inside[UML] == os.path.realpath(UML)
    assert elf.is_static(UML) or os.path.isfile(inside["/lib64/ld-linux-x86-64.so.2"])
    assert any("libc.so" in path for path in inside)
    assert all(os.path.exists(host) for host, _ in found.binds)
    assert kernel.release(found) == kernel_banner.release_of(UML)


@pytest.mark.slow
@needs_uml
def test_import_a_binary_and_then_the_pack(home: Path, tmp_path: Path) -> None:
    name = kernel_pack.import_(UML)
    release = kernel_banner.release_of(UML)
    assert name == f"linux-{release}"
    check_runs(home / name, release)
    assert kernel_pack.import_(str(home / name), "again") == "again"
    check_runs(home / "again", release)
    # The layout of a package: no merged /usr, and the loader reached through an absolute link.
    old = tmp_path / "old"
    (old / "lib64").mkdir(parents=True)
    shutil.copytree(home / name / "usr/lib/x86_64-linux-gnu", old / "lib/x86_64-linux-gnu")
    shutil.copy(home / name / "usr/lib64/ld-linux-x86-64.so.2", old / "lib/x86_64-linux-gnu/ld.so")
    (old / "lib64/ld-linux-x86-64.so.2").symlink_to("/lib/x86_64-linux-gnu/ld.so")
    shutil.copytree(home / name / "usr/bin", old / "bin")
    assert kernel_pack.import_(str(old)) == "old"
    assert kernel.resolve("old").binary == UML
    (old / "lib/x86_64-linux-gnu/libc.so.6").unlink()
    with pytest.raises(DummError, match=r"lacks the library 'libc\.so\.6'"):
        kernel_pack.import_(str(old), "worse")
    with pytest.raises(Conflict):
        kernel_pack.import_(UML)
    assert kernel_pack.import_(UML, may_exist=True) == name
    assert visible(home) == sorted([name, "again", "old"])


def test_importing_other_files_fails(home: Path, tmp_path: Path) -> None:
    for path, kind in (
        ("/bin/ls", DummError),
        ("/etc/passwd", DummError),
        (str(tmp_path), DummError),
        ("/nowhere", NotFound),
    ):
        with pytest.raises(kind):
            kernel_pack.import_(path)
    with pytest.raises(Usage):
        kernel_pack.import_("/bin/ls", "a b")
    assert visible(home) == []


def test_bad_suites_and_mirrors_are_rejected() -> None:
    for suite in ("a b", "-o", "x\ny", "../x", ""):
        with pytest.raises(Usage):
            apt.check_source(suite, None)
    for mirror in ("x", "http://x y", "http://x\n deb", "http://a]b"):
        with pytest.raises(Usage):
            apt.check_source("sid", mirror)


def test_insecure_settings_and_hooks_of_the_host_are_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "apt.conf"
    config.write_text(
        'Acquire::http::Proxy::example.org "http://proxy:1";\n'
        'Acquire::AllowInsecureRepositories "true";\n'
        'APT::Update::Pre-Invoke { "touch /hooked"; };\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(config))
    found = dict(apt.host_settings())
    assert found["Acquire::http::Proxy::example.org"] == "http://proxy:1"
    assert all(key.startswith("Acquire::") for key in found)
    assert "Acquire::AllowInsecureRepositories" not in found


def test_kernel_commands(home: Path) -> None:
    assert command("list", "-q").stdout == ""
    root = pack(home, "a", "7.2.7")
    fields = command("list", "-o", "name,release,version,path")
    assert fields.stdout == f"a\t7.2.7\t-\t{root}\n"
    [record] = json.loads(command("list", "--format", "json").stdout)
    assert record["name"] == "a"
    assert record["suite"] is None
    assert record["size"] == tree.size(str(root))
    there = command("fetch", "--suite", "sid", "--name", "a")
    assert (there.returncode, there.stdout) == (4, "")
    assert there.stderr == "dumm-fs: kernel 'a' already exists\n"
    may = command("fetch", "--name", "a", "--may-exist", PATH="/nothing")
    assert may.returncode == 4
    assert may.stderr.splitlines()[0] == (
        "dumm-fs: kernel 'a' already exists, and was not fetched from Debian"
    )
    facts = {"suite": "trixie", "virtiofsd": "1.0", "features": "netem"}
    (root / "pack.json").write_text(json.dumps(facts))
    (root / "virtiofsd").mkdir()
    may = command("fetch", "--name", "a", "--may-exist", PATH="/nothing")
    assert (may.returncode, may.stdout, may.stderr) == (0, "", "")
    may = command("fetch", "--name", "a", "--suite", "sid", "--may-exist", PATH="/nothing")
    assert may.returncode == 4
    assert "kernel 'a' already exists, and is of the suite 'trixie', not 'sid'" in may.stderr
    assert command("delete", "a", "b").returncode == 3
    assert command("delete", "--if-exists", "a", "b").returncode == 0
    assert command("delete").returncode == 2
    without = command("fetch", "--suite", "sid", PATH="/nothing")
    assert without.returncode == 1
    assert "hint: apt-get install apt" in without.stderr
    assert visible(home) == []


@pytest.mark.net
def test_fetch_makes_a_pack_that_runs(home: Path) -> None:
    first = command("fetch", "--suite", "trixie")
    assert (first.returncode, first.stdout) == (0, "trixie\n")
    [remark] = first.stderr.splitlines()
    assert remark.startswith("dumm-fs: kernel 'trixie' lacks nft, wireguard, ")
    assert "dumm-fs kernel build" in remark
    [found] = kernel.list_()
    assert found.suite == found.name == "trixie"
    assert found.release is not None
    assert found.release.startswith("6.12.")
    assert found.version
    assert found.date
    assert found.date.endswith("Z")
    check_runs(home / "trixie", found.release)
    check_server_runs(home / "trixie")
    assert command("fetch", "--suite", "trixie").returncode == 4
    assert command("fetch", "--suite", "trixie", "--may-exist").stdout == "trixie\n"
    assert visible(home) == ["trixie"]


@pytest.mark.net
def test_fetch_completes_a_pack_of_an_earlier_version(home: Path, packs: Path) -> None:
    """Debian 12 has no virtiofsd: it comes from another suite. Guests may run meanwhile."""
    root = home / "bookworm"
    shutil.copytree(packs / "dumm/kernels/bookworm", root, symlinks=True)
    tree.remove(str(root / "virtiofsd"))
    old = {"suite": "bookworm", "release": "6.1.1", "version": "6.1um1"}
    (root / "pack.json").write_text(json.dumps(old))
    held = cache.hold(str(home / ".bookworm.lock"), str(root))
    try:
        unreachable = ("--mirror", "http://nohost.invalid/debian")
        offline = command("fetch", "--suite=bookworm", "--may-exist", *unreachable)
        assert (offline.returncode, offline.stdout) == (0, "bookworm\n")
        [warning] = offline.stderr.splitlines()
        assert warning.startswith("dumm-fs: warning: the kernel pack gets no virtiofsd: ")
        done = command("fetch", "--suite=bookworm", "--may-exist", DUMM_ALLOW_EXPIRED="1")
        assert (done.returncode, done.stdout, done.stderr) == (0, "bookworm\n", "")
    finally:
        os.close(held)
    check_server_runs(root)
    found = kernel.facts(str(root))
    assert found.pop("virtiofsd").startswith("1.")
    assert "netem" in found.pop("features").split()
    assert found == old
    again = command("fetch", "--suite=bookworm", "--may-exist", PATH="/nothing")
    assert (again.returncode, again.stderr) == (0, "")
    assert visible(home) == ["bookworm"]


@pytest.mark.net
def test_fetch_from_unknown_suite_or_mirror_fails(home: Path) -> None:
    no_suite = command("fetch", "--suite", "nosuchsuite")
    assert no_suite.returncode == 3
    assert len(no_suite.stderr.splitlines()) == 1
    no_host = command("fetch", "--suite", "trixie", "--mirror", "http://nohost.invalid/debian")
    assert no_host.returncode == 1
    assert "nohost.invalid" in no_host.stderr
    assert len(no_host.stderr.splitlines()) == 1
    assert visible(home) == []


@pytest.mark.net
def test_expired_suite_is_rejected_unless_allowed(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Everything older than a second counts as expired, on any mirror on any day.
    monkeypatch.setattr(apt, "host_settings", lambda: [("Acquire::Max-ValidTime", "1")])
    with pytest.raises(apt.Expired) as error:
        kernel_pack.fetch("trixie")
    assert str(error.value) == "the release file of 'trixie' has expired"
    assert "--allow-expired" in (error.value.hint or "")
    monkeypatch.setattr(suites, "NEWEST_FIRST", ("trixie", "bookworm"))
    said: list[str] = []
    with pytest.raises(apt.Expired):
        kernel_pack.fetch(warn=said.append)
    assert ["'trixie'" in said[0], "'bookworm'" in said[1]] == [True, True]
    assert visible(home) == []
    assert kernel_pack.fetch("bookworm", "old", allow_expired=True) == "old"


@pytest.mark.net
def test_unknown_key_is_rejected(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = home.parent.parent.parent / "empty.gpg"
    empty.write_bytes(b"")
    monkeypatch.setattr(apt, "KEYRINGS", (str(empty),))
    with pytest.raises(DummError, match="cannot verify"):
        kernel_pack.fetch("trixie")
    assert visible(home) == []


@pytest.mark.net
@pytest.mark.root
def test_fetch_as_an_ordinary_user(home: Path, tmp_path: Path) -> None:
    place = Path("/tmp") / f"dumm-test-{os.getpid()}"
    place.mkdir()
    try:
        os.chown(place, 65534, 65534)
        done = subprocess.run(
            [
                "setpriv",
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
                sys.executable,
                "-c",
                f"{RUN} run(group, 'dumm-fs')",
                "fetch",
                "--suite=trixie",
            ],
            env={**os.environ, "XDG_CACHE_HOME": f"{place}/xdg", "HOME": "/nonexistent"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, "trixie\n")
        assert done.stderr.startswith("dumm-fs: kernel 'trixie' lacks nft")
        assert (place / "xdg/dumm/kernels/trixie/bin/linux.uml").stat().st_uid == 65534
    finally:
        tree.remove(str(place))


@pytest.mark.net
def test_killed_fetch_leaves_no_pack(home: Path) -> None:
    for delay in (0.3, 1.0, 2.0, 2.5, 3.0):
        child = subprocess.Popen(
            [sys.executable, "-c", f"{RUN} run(group, 'dumm-fs')", "fetch", "--suite=trixie"],
            stdout=subprocess.DEVNULL,
        )
        try:
            child.wait(delay)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        assert set(cache.names("kernels")) <= {"trixie"}
        if cache.names("kernels"):
            check_runs(home / "trixie", kernel.list_()[0].release or "")
            kernel.delete("trixie")
    assert command("fetch", "--suite", "trixie").returncode == 0
    assert visible(home) == ["trixie"]
