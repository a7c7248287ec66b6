"""Small archives that would consume much memory, time or stack. Each is rejected with a one-line
error, or unpacked with no more memory than any other archive takes."""

from __future__ import annotations

import contextlib
import gzip
import io
import lzma
import os
import struct
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import PATIENCE, ROOT, small_tree
from support.checks import one_line_error
from support.labs import Lab
from support.users import User

from dumm_tools.trees import tarball

#: Kilobytes of memory that a command may use, whatever its input (the unit of getrusage(2)).
MEMORY_MAX = 200 << 10
GIGABYTE = 1 << 30
LONGNAME, LONGLINK, PAX, GLOBAL = b"L", b"K", b"x", b"g"
END = bytes(1024)


def header(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0) -> bytes:
    """A GNU tar header, claiming any size."""
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mode = kind, size, 0o755
    return info.tobuf(tarfile.GNU_FORMAT)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def record(key: bytes, value: bytes) -> bytes:
    """A pax header record, whose length field counts itself."""
    length = len(key) + len(value) + 3
    while len(f"{length}") + len(key) + len(value) + 3 != length:
        length = len(f"{length}") + len(key) + len(value) + 3
    return b"%d %s=%s\n" % (length, key, value)


def extended(data: bytes, kind: bytes = PAX) -> bytes:
    return header("pax", kind, len(data)) + padded(data)


def packed(head: bytes, repeated: bytes = b"", times: int = 0, tail: bytes = b"") -> bytes:
    """A gzip archive; concatenated members count as one (gzip(1))."""
    middle = gzip.compress(repeated, 6) * times if times else b""
    return gzip.compress(head, 6) + middle + gzip.compress(tail, 6)


ZEROS = bytes(32 << 20)


def sparse_without_end() -> bytes:
    """A GNU header of a sparse file: each block announces another one."""
    info = tarfile.TarInfo("sparse")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 0
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[386:410] = b"00000000001\x0000000000001\0"
    block[482] = 1
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    more = b"00000000001\x0000000000001\0" * 21 + b"\1" + bytes(7)
    return packed(bytes(block), more * 4096, 16)


BOMBS: dict[str, Callable[[], bytes]] = {
    "a name of 3 GiB": lambda: packed(header("l", LONGNAME, 3 * GIGABYTE), ZEROS, 12),
    "a link to 3 GiB": lambda: packed(header("l", LONGLINK, 3 * GIGABYTE), ZEROS, 12),
    "a pax header of 3 GiB": lambda: packed(header("x", PAX, 3 * GIGABYTE), ZEROS, 12),
    "one for all of 3 GiB": lambda: packed(header("g", GLOBAL, 3 * GIGABYTE), ZEROS, 12),
    "headers of headers": lambda: packed(b"", extended(record(b"a", b"b")) * 20000, 1),
    "headers for all": lambda: packed(
        b"".join(extended(record(b"%d" % n, b"a" * 60000), GLOBAL) for n in range(100))
    ),
    "records in records": lambda: packed(extended(b"3 a" * 100_000 + b"=\n")),
    "digits": lambda: packed(extended(b"9" * 900_000)),
    "sparse blocks": sparse_without_end,
    "a map of holes": lambda: packed(
        extended(
            record(b"GNU.sparse.major", b"1")
            + record(b"GNU.sparse.minor", b"0")
            + record(b"GNU.sparse.realsize", b"1")
        )
        + header("sparse", size=GIGABYTE)
        + padded(b"100000000\n"),
        b"1\n" * (8 << 20),
        12,
    ),
    "a map without lines": lambda: packed(
        extended(
            record(b"GNU.sparse.major", b"1")
            + record(b"GNU.sparse.minor", b"0")
            + record(b"GNU.sparse.realsize", b"1")
        )
        + header("sparse", size=GIGABYTE),
        ZEROS,
        12,
    ),
    "a list of holes": lambda: packed(
        extended(record(b"GNU.sparse.size", b"9") + record(b"GNU.sparse.map", b"1," * 500_000))
    ),
    "a negative size": lambda: packed(header("x", PAX, -1 << 40)),
    "a directory in 5000": lambda: packed(extended(record(b"path", b"a/" * 5000)) + header("x")),
    "data behind the end": lambda: packed(
        extended(record(b"GNU.sparse.size", b"9") + record(b"GNU.sparse.map", b"5,9"))
        + header("x", size=512)
        + bytes(512)
    ),
    "xz that wants a gigabyte": lambda: greedy_xz(header("x") + END),
}


def greedy_xz(data: bytes) -> bytes:
    """An xz stream that claims to need a 1.5 GiB dictionary (xz-file-format.txt, 5.3.1)."""
    packed = bytearray(lzma.compress(data, check=lzma.CHECK_NONE))
    size = (packed[12] + 1) * 4
    place = packed.index(b"\x21\x01", 12) + 2
    packed[place] = 37
    end = 12 + size - 4
    packed[end : end + 4] = struct.pack("<I", zlib.crc32(packed[12:end]))
    return bytes(packed)


#: Runs between us and a command: a process's peak memory includes what it had before its exec,
#: which would be ours.
MEASURE = """
import os, sys
pid = os.fork()
if pid == 0:
    os.execvp(sys.argv[1], sys.argv[1:])
_, status, usage = os.wait4(pid, 0)
print(usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def peak(lab: Lab, command: list[str | Path], status: int = 1) -> tuple[str, int]:
    """Run a command; return its result and its peak memory."""
    done = lab([sys.executable, "-c", MEASURE, *command], status=status)
    return done.err, int(done.lines[-1])


@pytest.mark.attack("huge-headers")
@pytest.mark.parametrize("name", BOMBS)
def test_bomb_is_rejected_in_little_memory(tmp_path: Path, name: str) -> None:
    bomb = tmp_path / "bomb.tar"
    bomb.write_bytes(BOMBS[name]())
    assert bomb.stat().st_size < 13 << 20
    lab = Lab(tmp_path, tmp_path / "cache")
    said, memory = peak(lab, ["dumm-fs", "master", "import", bomb])
    text = one_line_error(said, "dumm-fs")
    assert text.startswith(("'", "directories"))
    assert "internal error" not in text
    assert memory < MEMORY_MAX
    kept = os.listdir(tmp_path / "cache/dumm/masters")
    assert [n for n in kept if not n.endswith(".lock")] == []


@pytest.mark.attack("huge-headers")
def test_bomb_is_rejected_for_an_ordinary_user(packs: Path, tmp_path: Path) -> None:
    if not ROOT:
        return  # the other tests already run as an ordinary user
    user = User(83, packs, packs=False)
    try:
        lab = user.lab("lab")
        for number, name in enumerate(("a name of 3 GiB", "a pax header of 3 GiB")):
            bomb = lab.directory / f"{number}.tar"
            bomb.write_bytes(BOMBS[name]())
            said, memory = peak(lab, ["dumm-fs", "master", "import", bomb])
            assert "a header is too large" in one_line_error(said, "dumm-fs")
            assert memory < MEMORY_MAX
    finally:
        user.end()


@pytest.mark.slow
def test_importing_many_directories_takes_little_memory(tmp_path: Path) -> None:
    """Half a gigabyte of comments is not kept."""
    comment = extended(record(b"comment", b"a" * 1_000_000))
    one = b"".join(comment + header(f"d{n}", tarfile.DIRTYPE) for n in range(50))
    tar = tmp_path / "dirs.tar"
    tar.write_bytes(packed(header("file"), one, 10, END))
    lab = Lab(tmp_path, tmp_path / "cache")
    said, memory = peak(lab, ["dumm-fs", "master", "import", tar], status=0)
    assert said == ""
    assert memory < MEMORY_MAX
    root = tmp_path / "cache/dumm/masters/dirs"
    assert len(os.listdir(root)) == 51
    assert (root / "d0").stat().st_mode & 0o7777 == 0o755


# ---- the reader agrees with tarfile, and trusts nothing ----


def sample(form: int) -> bytes:
    """An archive with long names, owners, times and a little data."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for number, name in enumerate(("short", "d" * 120, "e/" * 90 + "f", "\u20ac" * 60)):
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.uid = number * 700, 1e9 + number, 3_000_000
            info.pax_headers = {"SCHILY.xattr.user.x": "value"} if form == 2 else {}
            tar.addfile(info, io.BytesIO(b"x" * info.size))
            link = tarfile.TarInfo(f"link{number}")
            link.type, link.linkname = tarfile.SYMTYPE, "t" * 150
            tar.addfile(link)
    return out.getvalue()


SAMPLES = [sample(tarfile.GNU_FORMAT), sample(tarfile.PAX_FORMAT)]


@pytest.mark.parametrize("data", SAMPLES)
def test_reader_agrees_with_tarfile(data: bytes) -> None:
    archive = tarball.Archive(io.BytesIO(data))
    with tarfile.open(fileobj=io.BytesIO(data)) as other:
        for theirs in other:
            ours = archive.next()
            assert ours is not None
            for field in ("name", "linkname", "type", "size", "uid", "gid", "mode", "mtime"):
                assert getattr(ours, field) == getattr(theirs, field)
            file = other.extractfile(theirs) if theirs.isreg() else None
            assert archive.read(1 << 20) == (file.read() if file else b"")
    assert archive.next() is None
    assert archive.ended


@pytest.mark.parametrize("form", ["0.0", "0.1", "1.0", "gnu"])
def test_every_sparse_format_is_imported(tmp_path: Path, form: str) -> None:
    with open(tmp_path / "hole", "wb") as file:
        for at in range(0, 60 << 16, 1 << 16):  # more pieces than fit in one header
            file.seek(at)
            file.write(b"piece at %d" % at)
        file.truncate(61 << 16)
    options = ["--format=gnu"] if form == "gnu" else ["--format=posix", f"--sparse-version={form}"]
    tar = tmp_path / "x.tar"
    subprocess.run(
        ["tar", "-C", tmp_path, *options, "-cSf", tar, "hole"], check=True, timeout=PATIENCE
    )
    lab = Lab(tmp_path, tmp_path / "cache")
    lab(["dumm-fs", "master", "import", tar])
    copied = tmp_path / "cache/dumm/masters/x/hole"
    assert copied.read_bytes() == (tmp_path / "hole").read_bytes()
    assert copied.stat().st_blocks < 61 * 128


@pytest.mark.slow
@pytest.mark.attack("damaged-images")
@settings(max_examples=1500, deadline=None)
@given(
    st.sampled_from(SAMPLES),
    st.lists(st.tuples(st.integers(0, 10000), st.binary(min_size=1, max_size=16)), max_size=4),
    st.integers(0, 20000),
    st.booleans(),
)
def test_damaged_archives_end_in_an_error(
    data: bytes, changes: list[tuple[int, bytes]], length: int, mend: bool
) -> None:
    damaged = bytearray(data[: max(length, 512)])
    for at, piece in changes:
        at %= len(damaged)
        damaged[at : at + len(piece)] = piece
    # Mended checksums, since otherwise most changes only cause a checksum error.
    for at in range(0, len(damaged) - 511, 512) if mend else ():
        if bytes(damaged[at + 257 : at + 262]) == b"ustar":
            damaged[at + 148 : at + 156] = b" " * 8
            damaged[at + 148 : at + 156] = b"%06o\0 " % sum(damaged[at : at + 512])
    archive = tarball.Archive(io.BytesIO(bytes(damaged)))
    with contextlib.suppress(tarfile.TarError, ValueError, OverflowError):
        while (member := archive.next()) is not None:
            assert member.size >= 0
            assert len(member.name) <= tarball.NAME_MAX
            while archive.read(1 << 16):
                pass


def test_oversized_pack_json_is_ignored(tmp_path: Path) -> None:
    """A pack.json of one terabyte is ignored."""
    with tempfile.TemporaryDirectory() as place:
        top = Path(place, "top")
        (top / "usr/bin").mkdir(parents=True)
        source = small_tree.make(Path(place, "source")) / "main.c"
        compiler = os.environ.get("CC", "gcc").split()
        subprocess.run([*compiler, "-o", top / "usr/bin/linux.uml", source], check=True)
        with open(top / "pack.json", "wb") as file:
            file.truncate(1 << 40)
        lab = Lab(tmp_path, tmp_path / "cache")
        said, memory = peak(lab, ["dumm-fs", "kernel", "import", top])
        assert "lacks its program's loader" in one_line_error(said, "dumm-fs")
        assert memory < MEMORY_MAX
