"""Listings of directories that change meanwhile, in guests on hostfs; and preload.so, which gives
them."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import PATIENCE, PLACES, TOP
from support.labs import Lab

from dumm_tools.agent import PRELOAD, build

FILES = 400
#: The size of musl's buffer in readdir(3), and one for two parts; glibc's is 32768.
SIZES = (2048, 8192)
ACTIONS = ("nothing", "remove-some", "create", "write", "rename", "remove")


class Entry(ctypes.Structure):
    """linux_dirent64."""

    _fields_ = (
        ("inode", ctypes.c_uint64),
        ("next", ctypes.c_int64),
        ("length", ctypes.c_uint16),
        ("type", ctypes.c_uint8),
        ("name", ctypes.c_char * 256),
    )


class Listing:
    """The functions of preload.so, used as hostfs does."""

    def __init__(self) -> None:
        build.build()
        library = ctypes.CDLL(PRELOAD, use_errno=True)
        library.opendir.restype = ctypes.c_void_p
        library.opendir.argtypes = (ctypes.c_char_p,)
        library.readdir64.restype = ctypes.POINTER(Entry)
        library.readdir64.argtypes = library.closedir.argtypes = (ctypes.c_void_p,)
        library.seekdir.argtypes = (ctypes.c_void_p, ctypes.c_long)
        self._library = library

    def part(self, path: Path, position: int, count: int) -> tuple[list[bytes], int]:
        """The next names from `position` on, at most `count`, and the position after them
        (hostfs_readdir)."""
        directory = self._library.opendir(os.fsencode(path))
        if not directory:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), path)
        self._library.seekdir(directory, position)
        names: list[bytes] = []
        while (entry := self._library.readdir64(directory)) and len(names) < count:
            names.append(entry.contents.name)
            position = entry.contents.next
        self._library.closedir(directory)
        return names, position

    def names(self, path: Path, count: int) -> Iterator[bytes]:
        """All names, some at a time."""
        position = 0
        while True:
            names, position = self.part(path, position, count)
            if not names:
                return
            yield from names


@pytest.fixture(scope="module")
def listing() -> Listing:
    """preload.so in this process."""
    return Listing()


def fill(directory: Path, number: int = 200) -> set[bytes]:
    """Make empty files; return all names in the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for n in range(number):
        (directory / f"{n}").touch()
    return {b".", b"..", *(b"%d" % n for n in range(number))}


def open_descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("count", [1, 2, 7, 199, 202, 1000])
def test_directory_is_listed_in_parts(listing: Listing, tmp_path: Path, count: int) -> None:
    want = fill(tmp_path / "d")
    before = open_descriptors()
    found = list(listing.names(tmp_path / "d", count))
    assert (len(found), set(found)) == (len(want), want)
    assert open_descriptors() == before  # at the end, it is not kept open


def test_missing_directory_is_an_error(listing: Listing, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError):
        listing.part(tmp_path / "none", 0, 1)
    with pytest.raises(NotADirectoryError):
        listing.part(tmp_path / "file", 0, 1)


def test_listing_goes_on_in_the_same_directory_only(listing: Listing, tmp_path: Path) -> None:
    wants = [fill(tmp_path / f"{n}", 50 + n) for n in range(20)]
    lists = [listing.names(tmp_path / f"{n}", 3) for n in range(20)]
    found: list[list[bytes]] = [[] for _ in lists]
    more = True
    while more:
        more = False
        for names, list_ in zip(found, lists, strict=True):
            if (name := next(list_, None)) is not None:
                names.append(name)
                more = True
    assert [set(names) for names in found] == wants
    assert all(len(names) == len(set(names)) for names in found)


def test_abandoned_listings_do_not_add_up(listing: Listing, tmp_path: Path) -> None:
    before = open_descriptors()
    for n in range(100):
        fill(tmp_path / f"{n}", 5)
        listing.part(tmp_path / f"{n}", 0, 2)
    assert open_descriptors() <= before + 32
    assert set(listing.names(tmp_path / "0", 2)) == {b".", b"..", *(b"%d" % n for n in range(5))}


def test_abandoned_listing_is_not_taken_for_a_later_one(listing: Listing, tmp_path: Path) -> None:
    want = fill(tmp_path / "d", 60)
    for count in (7, 7, 9):
        begun, _ = listing.part(tmp_path / "d", 0, count)
        gone = next(iter(want - {b".", b"..", *begun}))
        (tmp_path / "d" / os.fsdecode(gone)).unlink()
        want.remove(gone)
        found = list(listing.names(tmp_path / "d", count))
        assert (len(found), set(found)) == (len(want), want)


@pytest.mark.slow
def test_listings_at_the_same_time(listing: Listing, tmp_path: Path) -> None:
    wants = [fill(tmp_path / f"{n}", 100 + n) for n in range(4)]
    wrong: list[object] = []

    def list_(n: int) -> None:
        for turn in range(50):
            found = list(listing.names(tmp_path / f"{n}", 2 + turn))
            if set(found) != wants[n] or len(found) != len(wants[n]):
                wrong.append((n, turn, found))

    threads = [threading.Thread(target=list_, args=(n % 4,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not wrong


def test_kernel_library_needs_only_the_place_of_errno(listing: Listing) -> None:
    """It is linked into kernels with other C libraries than ours."""
    said = subprocess.run(["nm", "-D", PRELOAD], check=True, capture_output=True, text=True).stdout
    undefined = {line.split()[-1] for line in said.splitlines() if " U " in line}
    defined = {line.split()[-1] for line in said.splitlines() if " T " in line}
    assert undefined == {"__errno_location"}
    directories = {"opendir", "readdir", "readdir64", "telldir", "seekdir", "closedir"}
    assert defined == directories | {"sigaction", "ptrace"}


# ---- in guests ----


@pytest.fixture(scope="module")
def listdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program listdir.c."""
    target = tmp_path_factory.mktemp("listdir") / "listdir"
    compiler = os.environ.get("CC", "gcc").split()
    source = TOP / "tests/listdir.c"
    subprocess.run([*compiler, "-O1", "-static", "-o", target, source], check=True)
    return target


def directories() -> Iterator[tuple[str, int, str]]:
    """The name of a directory for each test, a size and an action."""
    for size in SIZES:
        for action in ACTIONS:
            yield f"{action}-{size}", size, action


@pytest.mark.uml
@pytest.mark.parametrize(("suite", "kind"), PLACES)
def test_directory_that_changes_is_listed_in_full(
    new_lab: Callable[..., Lab], listdir: Path, suite: str, kind: str
) -> None:
    """In a lower layer, where the first change copies the directory up, and in two layers, where
    each change makes its listing another."""
    lab = new_lab("lab", kind, kernel=suite)
    low, top = lab.directory / "low", lab.directory / "top"
    for name, *_ in directories():
        fill(low / "low" / name, FILES)
        fill(low / "both" / name, 10)
    for name in ("rm", "find"):
        fill(low / name, 2500)
    shutil.copy(listdir, low / "listdir")
    top.mkdir()
    lab("dumm-guest create a --start")
    lab(["dumm-fs", "overlay", "add", "a", low])
    lab(["dumm-fs", "overlay", "add", "a", top])
    script = [
        f"cd /both; for d in *; do cd $d; for i in $(seq 10 {FILES - 1}); do >$i; done; cd ..; done"
    ]
    wants = []
    for place in ("low", "both"):
        for name, size, action in directories():
            script.append(f"echo {place} {name} $(/listdir /{place}/{name} {size} {action})")
            wants.append(f"{place} {name} {FILES} 0")
    done = lab(["dumm-guest", "exec", "a", "--", "sh", "-c", "; ".join(script)])
    assert done.lines == wants
    assert done.err == ""
    lab("dumm-guest exec a -- rm -r /rm")
    lab("dumm-guest exec a -- find /find -name '*3*' -exec rm {} +")
    left = lab("dumm-guest exec a -- find /find -type f").lines
    assert len(left) == len(set(left)) == sum("3" not in str(n) for n in range(2500))
    removed = lab("dumm-fs diff a -q").lines
    assert "/rm" in removed
    assert len([path for path in removed if path.startswith("/find/")]) == 2500 - len(left)
