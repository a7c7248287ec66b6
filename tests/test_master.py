"""Masters: built, imported completely, and never written outside, whatever an archive contains."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from support import PATIENCE, ROOT

from dumm_tools.errors import Conflict, DummError, NotFound, Usage
from dumm_tools.images import busybox, cache, master, master_import
from dumm_tools.trees import tree

RUN = "from dumm_tools.cli.ending import run; from dumm_tools.cli.fs_master import group; "
SCRIPT = f"{RUN} run(group, 'dumm-fs')"

FILE, LINK, HARD = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
DIR, DEVICE, FIFO = tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE
Member = tuple[str, bytes, str]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return tmp_path / "xdg" / "dumm" / "masters"


def command(*args: str, **kwargs: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [sys.executable, "-c", SCRIPT, *args], capture_output=True, timeout=300, **kwargs
    )


def visible(home: Path) -> list[str]:
    if not home.exists():
        return []
    found = {p.name for p in home.iterdir() if not p.name.endswith(".lock")}
    return sorted(found - {f".{name}.json" for name in found})


def archive(path: Path, *members: Member) -> str:
    """Write a tar archive; a member is its name, its type, and its text or link target."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, text in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            info.mode = 0o755 if kind == DIR else 0o644
            if kind == FILE:
                info.size = len(text)
                tar.addfile(info, io.BytesIO(text.encode()))
            else:
                info.linkname = text
                tar.addfile(info)
    return str(path)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small tree with one of everything."""
    top = tmp_path / "source"
    (top / "etc").mkdir(parents=True)
    (top / "etc/passwd").write_text("root\n")
    os.link(top / "etc/passwd", top / "second")
    (top / "link").symlink_to("/etc/shadow")
    (top / "setuid").write_text("s")
    (top / "setuid").chmod(0o4755)
    os.mkfifo(top / "fifo")
    (top / "closed").mkdir()
    (top / "closed/in").write_text("x")
    (top / "closed").chmod(0o555)
    os.utime(top / "etc", ns=(10**9, 10**9))
    with open(os.path.join(os.fsencode(top), b"odd\n\xff"), "w") as file:
        file.write("odd")
    with open(top / "hole", "wb") as hole:
        hole.truncate(1 << 24)
        hole.seek(1 << 23)
        hole.write(b"data")
    if ROOT:
        os.chown(top / "etc/passwd", 12, 34)
        os.mknod(top / "null", 0o20666, os.makedev(1, 3))
    return top


def check(root: Path) -> None:
    """Check that `root` is a faithful copy of `source`."""
    assert (root / "second").read_text() == "root\n"
    assert (root / "second").stat().st_ino == (root / "etc/passwd").stat().st_ino
    assert os.readlink(root / "link") == "/etc/shadow"
    assert (root / "setuid").stat().st_mode & 0o7777 == 0o4755
    assert (root / "fifo").is_fifo()
    assert (root / "closed").stat().st_mode & 0o7777 == 0o555
    assert (root / "etc").stat().st_mtime == 1
    assert b"odd\n\xff" in os.listdir(os.fsencode(root))
    assert (root / "hole").stat().st_size == 1 << 24
    assert (root / "hole").stat().st_blocks < 1 << 10
    assert not (root / "null").exists()
    if ROOT:
        assert ((root / "second").stat().st_uid, (root / "second").stat().st_gid) == (12, 34)


def test_resolve_names_and_paths(home: Path, tmp_path: Path) -> None:
    for spec in ("x", "", "/nowhere", "a\0b"):
        with pytest.raises(NotFound):
            master.resolve(spec)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(DummError, match=r"^master '.*/empty' is empty$"):
        master.resolve(str(tmp_path / "empty"))
    with pytest.raises(DummError, match="is not a directory"):
        master.resolve(str(tmp_path / "file"))
    assert master.resolve("/") == master.Master("/", None)
    busybox.build("b")
    assert master.resolve("b") == master.Master(str(home / "b"), str(home / ".b.lock"))


def test_default_master(home: Path) -> None:
    assert master.default() is None
    for name in ("one", "two", "busybox"):
        (home / name / "etc").mkdir(parents=True)
        found = master.default()
        if name == "two":
            assert found is None
        else:
            assert found is not None
            assert found.path == str(home / name)


def check_busybox(root: Path) -> None:
    assert os.readlink(root / "bin") == "usr/bin"
    for program in ("sh", "ip", "ping", "nc", "httpd", "telnetd", "udhcpc", "init", "login"):
        place = next(p for p in ("usr/bin", "usr/sbin") if os.path.lexists(root / p / program))
        assert not os.readlink(root / place / program).startswith("/")
        assert (root / place / program).resolve() == root / "usr/bin/busybox"
    assert (root / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert (root / "root").stat().st_mode & 0o7777 == 0o700
    assert (root / "etc/passwd").read_text().startswith("root:x:0:0:")
    script = root / "etc/udhcpc/default.script"
    assert script.resolve() == root / "usr/share/udhcpc/default.script"
    assert os.access(script, os.X_OK)
    subprocess.run(["sh", "-n", script], check=True)
    assert not (root / "etc/hostname").exists()


def test_build_busybox(home: Path) -> None:
    old = os.umask(0o077)
    try:
        assert busybox.build() == "busybox"
    finally:
        os.umask(old)
    check_busybox(home / "busybox")
    assert (home / "busybox/etc").stat().st_mode & 0o777 == 0o755
    with pytest.raises(Conflict):
        busybox.build()
    assert busybox.build(may_exist=True) == "busybox"
    assert visible(home) == ["busybox"]


@pytest.mark.net
def test_build_busybox_of_a_suite(home: Path) -> None:
    done = command("build", "busybox", "--suite", "trixie", "--name", "t")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    check_busybox(home / "t")


def test_import_a_directory(home: Path, source: Path) -> None:
    said: list[str] = []
    assert master_import.import_(str(source), warn=said.append) == "source"
    check(home / "source")
    assert len(said) == ROOT
    with pytest.raises(Conflict):
        master_import.import_(str(source))
    # A tree that contains the cache is copied without the cache.
    assert master_import.import_(str(source.parent), "all") == "all"
    assert (home / "all/xdg").is_dir()
    assert not (home / "all/xdg/dumm").exists()
    master.delete("source", {})
    assert visible(home) == ["all"]


@pytest.mark.parametrize("option", ["--", "--gzip", "--bzip2", "--xz", "--zstd"])
def test_import_an_archive(home: Path, source: Path, tmp_path: Path, option: str) -> None:
    tar = tmp_path / "tree.tar.z"
    subprocess.run(["tar", "-C", source, "--sparse", "-cf", tar, option, "."], check=True)
    assert master_import.import_(str(tar)) == "tree"
    check(home / "tree")
    with open(tar, "rb") as file:
        done = command("import", "-", "--name", "in", input=file.read())
    assert done.returncode == 0, done.stderr
    check(home / "in")
    whole = tar.read_bytes().rstrip(b"\0")  # nobody would miss the padding of a plain tar
    for cut in (len(whole) // 2, len(whole) // 3 // 512 * 512 or 200):
        tar.write_bytes(whole[:cut])
        with pytest.raises(DummError, match=r"is damaged|ends too early"):
            master_import.import_(str(tar), "cut")
    tar.write_bytes(whole[:100])
    why = "is not a tar archive" if option == "--" else "ends too early"
    with pytest.raises(DummError, match=why):
        master_import.import_(str(tar), "cut")
    if option != "--":  # compressed without a fault
        for text in (b"", b"hello\n"):
            tar.write_bytes(subprocess.check_output([option.strip("-"), "-c"], input=text))
            with pytest.raises(DummError, match="is not a tar archive"):
                master_import.import_(str(tar), "text")
        damaged = [whole[:60] + b"\xff" * 40 + whole[100:], whole + b"rubbish"]
        for data in damaged[: 1 if option == "--bzip2" else 2]:  # which ignores what follows
            tar.write_bytes(data)
            with pytest.raises(DummError, match="is damaged: "):
                master_import.import_(str(tar), "damaged")
    assert visible(home) == ["in", "tree"]


BAD: list[list[Member]] = [
    [("../evil", FILE, "x")],
    [("a/../../evil", FILE, "x")],
    [("/{tmp}/evil", FILE, "x")],
    [("link", LINK, "{tmp}"), ("link/evil", FILE, "x")],
    [("link", LINK, "../.."), ("link/evil", FILE, "x")],
    [("link", LINK, "{tmp}"), ("link", DIR, ""), ("link/evil", FILE, "x")],
    [("link", LINK, "{tmp}"), ("link/evil", DIR, "")],
    [("link", LINK, "{tmp}"), ("link/evil", LINK, "x")],
    [("link", LINK, "{tmp}"), ("link/evil", FIFO, "")],
    [("link", LINK, "{tmp}"), ("file", FILE, "x"), ("link/evil", HARD, "file")],
    [("hard", HARD, "{tmp}/victim")],
    [("hard", HARD, "../../../../../../../../{tmp}/victim")],
    [("link", LINK, "{tmp}"), ("hard", HARD, "link/victim"), ("hard", FILE, "x")],
    [("a", DIR, ""), ("a/b", LINK, ".."), ("a/b/../../evil", FILE, "x")],
    [("a", DIR, ""), ("a", LINK, "{tmp}"), ("a/evil", FILE, "x")],
    [(".", LINK, "{tmp}"), ("evil", FILE, "x")],
    [("hard", HARD, "missing")],
    [("x" * 256, FILE, "x")],
    [],
]


@pytest.mark.parametrize("members", BAD)
def test_bad_archives_are_rejected(home: Path, tmp_path: Path, members: list[Member]) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    filled = [(n.format(tmp=tmp_path), k, t.format(tmp=tmp_path)) for n, k, t in members]
    tar = archive(tmp_path / "bad.tar", *filled)
    done = command("import", tar)
    assert done.returncode == 1, done.stderr
    assert done.stdout == b""
    assert len(done.stderr.splitlines()) == 1
    assert b"internal error" not in done.stderr
    assert not os.path.lexists(tmp_path / "evil")
    assert victim.read_text() == "untouched"
    assert victim.stat().st_nlink == 1
    assert visible(home) == []


def test_repeated_members_replace_earlier_ones_and_links_are_not_followed(
    home: Path, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    tar = archive(
        tmp_path / "again.tar",
        ("link", LINK, str(victim)),
        ("link", FILE, "new"),
        ("other", LINK, str(victim)),
        ("hard", HARD, "other"),
        ("hard", FILE, "newer"),
        ("dev", DIR, ""),
        ("dev/null", DEVICE, ""),
        ("deep/down/file", FILE, "x"),
    )
    said: list[str] = []
    master_import.import_(tar, warn=said.append)
    assert (home / "again/link").read_text() == "new"
    assert (home / "again/hard").read_text() == "newer"
    assert victim.read_text() == "untouched"
    assert os.listdir(home / "again/dev") == []
    assert said
    assert "1 device" in said[0]


def test_importing_missing_or_empty_sources_fails(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        master_import.import_("/nowhere")
    with pytest.raises(Usage):
        master_import.import_("-")
    with pytest.raises(Usage):
        master_import.import_("/", "../x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DummError, match="is empty"):
        master_import.import_(str(tmp_path / "empty"))
    (tmp_path / "text").write_text("hello" * 1000)
    with pytest.raises(DummError, match="is not a tar archive"):
        master_import.import_(str(tmp_path / "text"))


@pytest.mark.root
def test_ordinary_user_can_import_build_and_delete(source: Path, tmp_path: Path) -> None:
    place = Path("/tmp") / f"dumm-test-{os.getpid()}"
    place.mkdir()
    tar = place / "tree.tar"
    try:
        subprocess.run(["tar", "-C", source, "--sparse", "-cf", tar, "."], check=True)
        os.chown(place, 65534, 65534)
        env = {**os.environ, "XDG_CACHE_HOME": f"{place}/xdg", "HOME": "/nonexistent"}
        user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        for words in (["import", str(tar)], ["build", "busybox"], ["delete", "tree", "busybox"]):
            if words[0] == "delete":
                master_home = place / "xdg/dumm/masters"
                assert (master_home / "tree/closed").stat().st_mode & 0o777 == 0o555
                assert (master_home / "tree/etc/passwd").stat().st_uid == 65534
                check_busybox(master_home / "busybox")
            done = subprocess.run(
                [*user, sys.executable, "-c", SCRIPT, *words],
                env=env,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
        assert visible(place / "xdg/dumm/masters") == []
    finally:
        tree.remove(str(place))


@pytest.mark.netns
@pytest.mark.parametrize("what", ["tar", "directory", "busybox"])
def test_full_disk_leaves_no_master(source: Path, tmp_path: Path, what: str) -> None:
    place = tmp_path / "small"
    place.mkdir()
    (source / "large").write_bytes(os.urandom(2 << 20))
    tar = tmp_path / "large.tar.gz"
    subprocess.run(["tar", "-C", source, "-czf", tar, "."], check=True)
    words = {
        "tar": ["import", str(tar)],
        "directory": ["import", str(source)],
        "busybox": ["build", "busybox"],
    }
    script = (
        'mount -t tmpfs -o size=1m,mode=700 none "$1" && shift && "$@"; echo $?; '
        'ls -A "$XDG_CACHE_HOME"'
    )
    done = subprocess.run(
        [
            *("unshare", "-m", "sh", "-c", f"{script}/dumm/masters", "sh", str(place)),
            *(sys.executable, "-c", SCRIPT, *words[what]),
        ],
        env={**os.environ, "XDG_CACHE_HOME": str(place)},
        capture_output=True,
        text=True,
        check=False,
    )
    status, *left = done.stdout.split()
    assert status == "1"
    assert "No space left on device" in done.stderr
    assert len([ln for ln in done.stderr.splitlines() if "warning" not in ln]) == 1
    assert [n for n in left if not n.endswith(".lock")] == []


def test_concurrent_builds(home: Path) -> None:
    children = [
        subprocess.Popen([sys.executable, "-c", SCRIPT, "build", "busybox", "--may-exist"])
        for _ in range(6)
    ]
    assert [c.wait(PATIENCE) for c in children] == [0] * 6
    check_busybox(home / "busybox")
    assert visible(home) == ["busybox"]


@pytest.mark.slow
def test_killed_build_can_be_repeated(home: Path, source: Path) -> None:
    for index in range(12):
        child = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, "import", source],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            child.wait(0.02 * index)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        if cache.names("masters"):
            check(home / "source")
            master.delete("source", {})
    assert command("import", str(source)).returncode == 0
    assert visible(home) == ["source"]


def test_master_commands(home: Path) -> None:
    assert command("list", "-q").stdout == b""
    done = command("build", "busybox")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"busybox\n", b"")
    fields = command("list", "-o", "name,path")
    assert fields.stdout == f"busybox\t{home}/busybox\n".encode()
    assert command("build", "busybox").returncode == 4
    assert command("build", "busybox", "--include", "x").returncode == 2
    assert command("build", "debian", "--include", "-x").returncode == 2
    assert command("build", "other").returncode == 2
    fd = cache.hold(str(home / ".busybox.lock"), str(home / "busybox"))
    busy = command("delete", "busybox")
    assert busy.returncode == 4
    assert busy.stderr == b"dumm-fs: master 'busybox' is in use\n"
    os.close(fd)
    assert command("delete", "busybox").returncode == 0
    assert command("delete", "busybox").returncode == 3
    assert command("delete", "busybox", "--if-exists").returncode == 0


def member(name: str, **values: object) -> bytes:
    """The header of an empty file, in the format of pax(1)."""
    info = tarfile.TarInfo(name)
    for key, value in values.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.PAX_FORMAT)


END = bytes(1024)


def test_data_after_the_end_of_an_archive_is_an_error(home: Path, tmp_path: Path) -> None:
    one, two = member("one") + END, member("two") + END
    tar = tmp_path / "x.tar"
    for data in (one + two, one + b"rubbish" * 512, one + bytes(20480) + two):
        tar.write_bytes(data)
        with pytest.raises(DummError, match="continues after its end"):
            master_import.import_(str(tar))
    for data in (member("one"), member("one") + bytes(511)):
        tar.write_bytes(data)
        with pytest.raises(DummError, match="ends too early"):
            master_import.import_(str(tar))
    assert visible(home) == []
    for padding in (0, 1, 512, 20480):
        tar.write_bytes(one + bytes(padding))
        assert master_import.import_(str(tar), f"padded-{padding}")


@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_hole_larger_than_the_disk(home: Path, tmp_path: Path, form: str) -> None:
    with open(tmp_path / "hole", "wb") as hole:
        hole.truncate(8 << 40)
        for at in (0, 1 << 40, (8 << 40) - 3):
            hole.seek(at)
            hole.write(b"end")
    (tmp_path / "zlast").write_text("behind it")
    tar = tmp_path / "x.tar"
    subprocess.run(
        ["tar", "-C", tmp_path, f"--format={form}", "-cSf", tar, "hole", "zlast"],
        check=True,
        timeout=PATIENCE,
    )
    # Reading the holes would take hours.
    assert command("import", str(tar)).returncode == 0
    with open(home / "x/hole", "rb") as file:
        assert os.fstat(file.fileno()).st_size == 8 << 40
        assert os.fstat(file.fileno()).st_blocks < 1 << 10
        for at in (0, 1 << 40, (8 << 40) - 3):
            assert os.pread(file.fileno(), 4, at).rstrip(b"\0") == b"end"
    assert (home / "x/zlast").read_text() == "behind it"


@pytest.mark.root
def test_overlay_attributes_in_an_archive_are_ignored(home: Path, tmp_path: Path) -> None:
    orders = ("trusted.overlay.redirect", "user.overlay.opaque", "user.fuseoverlayfs.opaque")
    headers = {f"SCHILY.xattr.{name}": "y" for name in (*orders, "user.mine")}
    tar = tmp_path / "x.tar"
    directory = member("d", type=tarfile.DIRTYPE, mode=0o755, pax_headers=headers)
    tar.write_bytes(directory + member("f", pax_headers=headers) + END)
    master_import.import_(str(tar))
    assert [os.listxattr(home / "x" / n) for n in "df"] == [["user.mine"]] * 2


def test_closed_standard_input(home: Path) -> None:
    argv = [sys.executable, "-c", SCRIPT, "import", "-", "--name", "x"]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *argv], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[0].endswith("'standard input' is not a tar archive")
    assert visible(home) == []


# ---- --may-exist ----


def test_taken_name_of_something_else(home: Path, tmp_path: Path) -> None:
    """--may-exist is for what would be made; of anything else, it says what differs."""

    def tried(*words: str, status: int = 0) -> str:
        done = command(*words, "--name", "x", "--may-exist")
        text = done.stderr.decode()
        assert (words, done.returncode, text) == (words, status, text)
        return text.partition("\n")[0].removeprefix("dumm-fs: master 'x' already exists, and ")

    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/motd").write_text("hello\n")
    tar = tmp_path / "tree.tar"
    subprocess.run(["tar", "-C", tree, "-cf", tar, "."], check=True)
    for source in (tree, tar, tree, tar):
        assert tried("import", str(source)) == ""
    # The archive is recognized without being read, and read if it was replaced.
    os.utime(tar)
    assert tried("import", str(tar)) == ""
    assert tried("build", "busybox", status=4) == "contains no busybox"
    assert tried("build", "debian", status=4) == "is not a Debian system"
    (tree / "etc/motd").write_text("HELLO\n")
    assert tried("import", str(tree), status=4) == f"'/etc/motd' in '{tree}' differs from it"
    subprocess.run(["tar", "-C", tree, "-cf", tar, "."], check=True)
    assert tried("import", str(tar), status=4) == f"'/etc/motd' in '{tar}' differs from it"
    assert command("delete", "x", "--if-exists").returncode == 0
    assert tried("build", "busybox") == tried("build", "busybox") == ""


def test_debian_that_exists(home: Path) -> None:
    status = home / "x/var/lib/dpkg/status"
    status.parent.mkdir(parents=True)
    status.write_text(
        "Package: frr\nStatus: install ok installed\nProvides: zebra (= 1), ospf\n\n"
        "Package: gone\nStatus: deinstall ok config-files\n"
    )
    release = home / "x/usr/lib/os-release"
    release.parent.mkdir(parents=True)
    release.write_text("ID=debian\nVERSION_CODENAME=trixie\n")
    for words, reason in (
        (["--include", "frr,zebra,ospf"], ""),
        (["--suite", "trixie", "--include", "frr"], ""),
        (["--suite", "stable"], ""),
        (["--include", "frr,gone"], "lacks the package 'gone'"),
        (["--suite", "bookworm"], "is of the suite 'trixie', not 'bookworm'"),
    ):
        done = command("build", "debian", "--name", "x", "--may-exist", *words)
        assert (words, done.returncode) == (words, 4 if reason else 0)
        assert reason in done.stderr.decode()
    done = command("build", "busybox", "--name", "x", "--may-exist")
    assert "is a distribution" in done.stderr.decode()
