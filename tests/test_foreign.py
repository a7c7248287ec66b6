"""Untrusted files: programs posing as kernels, which inspection must not run, and archives and
binaries with false numbers. None is run, none grows beyond its size, and each ends in a one-line
error."""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import PATIENCE, ROOT
from support.checks import one_line_error
from support.labs import Lab
from support.users import User

from dumm_tools.errors import DummError
from dumm_tools.images import applets, elf, features, kernel_banner, libraries

UML = "/usr/bin/linux.uml"
LOADER = "/lib64/ld-linux-x86-64.so.2"

#: A program that leaves a mark when it runs, and looks like a kernel that can run guests.
EVIL = r"""
#include <fcntl.h>
#include <unistd.h>
#include <stdio.h>
__attribute__((used)) static const char banner[] =
    "Linux version " RELEASE " (x@y) (gcc) #1";
__attribute__((used)) static const char option[] = "uml_dir=";
__attribute__((used)) static const char help[] = "@HELP@";
int main(void) {
    close(open(MARK, O_WRONLY | O_CREAT, 0600));
    puts(RELEASE);
    return 0;
}
"""


@pytest.fixture
def evil(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Compile a program that leaves a mark wherever it can; in the end there must be none."""
    with tempfile.TemporaryDirectory(prefix="dumm-mark-") as place:
        os.chmod(place, 0o777)
        source = tmp_path / "evil.c"
        known = "\\0".join(text.decode() for text in features.HELP.values())
        source.write_text(EVIL.replace("@HELP@", known))

        def compiled(target: Path, *words: str, release: str = "6.9.9-evil") -> Path:
            defines = [f'-DMARK="{place}/it-ran"', f'-DRELEASE="{release}"']
            target.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(
                ["gcc", *defines, *words, "-o", target, source], check=True, timeout=PATIENCE
            )
            return target

        yield compiled
        assert os.listdir(place) == [], "a file of others was executed"


@contextlib.contextmanager
def everyone(packs: Path, tmp_path: Path, number: int) -> Iterator[list[Lab]]:
    """Places for commands of the user who runs the tests and, if that is root, of an ordinary user;
    each contains the files in `given`."""
    cache = tmp_path / "cache"
    cache.mkdir()
    (tmp_path / "own").mkdir()
    labs = [Lab(tmp_path / "own", cache)]
    user = User(number, packs, packs=False) if ROOT else None
    try:
        if user:
            labs.append(user.lab("lab"))
        for lab in labs:
            shutil.copytree(tmp_path / "given", lab.directory, dirs_exist_ok=True)
        yield labs
    finally:
        if user:
            user.end()


def error(lab: Lab, command: str | list[str | Path], status: int = 1) -> str:
    """The one-line message of a failure."""
    return one_line_error(lab(command, status=status).err, "dumm-fs")


@pytest.mark.attack("running-packs")
def test_importing_a_directory_runs_none_of_its_files(
    packs: Path, tmp_path: Path, evil: Callable[..., Path]
) -> None:
    given = tmp_path / "given"
    evil(given / "static/usr/bin/linux.uml", "-static")
    evil(given / "dynamic/usr/bin/linux.uml")
    evil(given / f"dynamic{LOADER}", "-static")
    evil(given / "dynamic/lib/x86_64-linux-gnu/libc.so.6", "-static")
    evil(given / "loaded/linux", "-Wl,--dynamic-linker=/evil")
    evil(given / "loaded/evil", "-static")
    with everyone(packs, tmp_path, 80) as labs:
        for lab in labs:
            assert lab("dumm-fs kernel import static").out == "static\n"
            assert lab("dumm-fs kernel import ./dynamic").out == "dynamic\n"
            shown = lab("dumm-fs kernel list -o name,release").lines
            assert shown == ["dynamic\t6.9.9-evil", "static\t6.9.9-evil"]
            said = error(lab, "dumm-fs kernel import loaded")
            assert said.endswith("requests the loader '/evil', which is not in a system directory")
            assert lab("dumm-fs kernel list -q").lines == ["dynamic", "static"]


@pytest.mark.attack("running-packs")
def test_importing_a_binary_does_not_run_it(
    packs: Path, tmp_path: Path, evil: Callable[..., Path]
) -> None:
    given = tmp_path / "given"
    evil(given / "kernel", "-static")
    loader = evil(tmp_path / "loader", "-static")
    evil(given / "loaded", f"-Wl,--dynamic-linker={loader}")
    evil(given / "audited", f"-Wl,--audit={loader}")
    with everyone(packs, tmp_path, 81) as labs:
        for lab in labs:
            assert lab("dumm-fs kernel import kernel").out == "linux-6.9.9-evil\n"
            said = error(lab, "dumm-fs kernel import loaded --name a")
            assert said.endswith(f"'{loader}', which is not in a system directory")
            lab("dumm-fs kernel import audited --name audited")
            packed = lab.env["XDG_CACHE_HOME"] + "/dumm/kernels/audited"
            libs = lab(["ls", f"{packed}/usr/lib/x86_64-linux-gnu"]).lines
            assert "libc.so.6" in libs
            assert lab("dumm-fs kernel list -q").lines == ["audited", "linux-6.9.9-evil"]


@pytest.mark.attack("running-packs")
@pytest.mark.uml
@pytest.mark.parametrize("option", ["--host-net", "--isolated"] if ROOT else ["--isolated"])
def test_kernel_named_by_path_runs_only_in_a_jail(
    packs: Path, tmp_path: Path, evil: Callable[..., Path], option: str
) -> None:
    kernel = evil(tmp_path / "kernel", "-static")
    loader = evil(tmp_path / "loader", "-static")
    loaded = evil(tmp_path / "loaded", f"-Wl,--dynamic-linker={loader}")
    (tmp_path / "lab").mkdir()
    lab = Lab(tmp_path / "lab", packs)
    lab(["dumm-fs", "init", option, "--kernel", kernel, "--master", "busybox"])
    try:
        said = lab(["dumm-guest", "create", "bad", "--kernel", loaded], status=1).err
        assert one_line_error(said).endswith("which is not in a system directory")
        lab("dumm-guest create a")
        lab("dumm-guest start a", status=1)
        lab(["dumm-guest", "create", "b", "--kernel", UML])
        lab("dumm-guest start b")
        release = lab("dumm-guest exec b -- uname -r").out
        assert release == f"{kernel_banner.release_of(UML)}\n"
    finally:
        lab.end()


@pytest.mark.attack("links-in-packs")
def test_links_out_of_an_imported_directory_are_not_followed(packs: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    for name in ("libc.so.6", "modules.dep", "copyright"):
        (secret / name).write_text("secret")
    shutil.copy(LOADER, secret / "ld.so")
    top = tmp_path / "top"
    release = kernel_banner.release_of(UML)
    (top / "usr/bin").mkdir(parents=True)
    (top / "usr/lib/uml/modules").mkdir(parents=True)
    (top / "usr/lib/x86_64-linux-gnu").mkdir(parents=True)
    (top / "usr/share/doc").mkdir(parents=True)
    (top / "lib64").mkdir()
    shutil.copy(UML, top / "usr/bin/linux.uml")
    shutil.copy(LOADER, top / LOADER[1:])
    library = top / "usr/lib/x86_64-linux-gnu/libc.so.6"
    (top / "usr/lib/uml/modules" / release).symlink_to(secret)
    (top / "usr/share/doc/libc6").symlink_to(secret)
    (tmp_path / "own").mkdir()
    lab = Lab(tmp_path / "own", tmp_path / "cache")
    for to in ("/lib/x86_64-linux-gnu/libc.so.6", "../" * 30 + "lib/x86_64-linux-gnu/libc.so.6"):
        library.symlink_to(to)
        assert "lacks the library 'libc.so.6'" in error(lab, ["dumm-fs", "kernel", "import", top])
        library.unlink()
    os.mkfifo(library)
    error(lab, ["dumm-fs", "kernel", "import", top])
    library.unlink()
    shutil.copy("/lib/x86_64-linux-gnu/libc.so.6", library)
    lab(["dumm-fs", "kernel", "import", top])
    packed = tmp_path / "cache/dumm/kernels/top"
    assert os.listdir(packed / "usr/lib/uml/modules" / release) == []
    assert not (packed / "usr/share/doc").exists()
    (top / LOADER[1:]).unlink()
    (top / LOADER[1:]).symlink_to(secret / "ld.so")
    assert "loader" in error(lab, ["dumm-fs", "kernel", "import", top, "--name", "b"])


@pytest.mark.parametrize("release", ["6.1/../../../../x", "6.1\\n", "six", "6." + "1" * 70])
def test_bad_releases_are_rejected(tmp_path: Path, evil: Callable[..., Path], release: str) -> None:
    path = evil(tmp_path / "kernel", "-static", release=release)
    with pytest.raises(DummError, match="is not a UML kernel"):
        kernel_banner.release_of(str(path))


def test_applets_are_read_without_running_busybox(tmp_path: Path) -> None:
    """The same list as the program prints when it runs."""
    place = shutil.which("busybox") or "/bin/busybox"
    said = subprocess.run([place, "--list-full"], capture_output=True, text=True, check=True)
    paths = [path.rpartition("/") for path in said.stdout.split()]
    own = tmp_path / "busybox"
    shutil.copy(place, own)
    own.chmod(0o600)
    assert applets.of(str(own)) == {
        name: "usr/sbin" if directory.endswith("sbin") else "usr/bin"
        for directory, _, name in paths
    }
    with pytest.raises(DummError, match="is not a busybox binary"):
        applets.of("/usr/bin/gcc")


# ---- readers that trust no number ----

HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
SEGMENT = struct.Struct("<IIQQQQQQ")


def image(needed: list[bytes], interpreter: bytes = LOADER.encode()) -> bytes:
    """A small ELF file: a header, three segments, and the data that they point to."""
    strings = b"\0" + b"\0".join(needed) + b"\0"
    table, places = bytearray(), 1
    for name in needed:
        table += struct.pack("<QQ", 1, places)
        places += len(name) + 1
    at = 64 + 3 * 56
    dynamic = at + len(interpreter) + 1
    text = dynamic + len(table) + 48
    table += struct.pack("<QQQQQQ", 5, text, 10, len(strings), 0, 0)
    whole = text + len(strings)
    header = HEADER.pack(b"\x7fELF\x02\x01", 3, 62, 1, 0, 64, 0, 0, 64, 56, 3, 64, 0, 0)
    segments = [
        SEGMENT.pack(1, 5, 0, 0, 0, whole, whole, 1),
        SEGMENT.pack(3, 4, at, at, at, len(interpreter) + 1, len(interpreter) + 1, 1),
        SEGMENT.pack(2, 4, dynamic, dynamic, dynamic, len(table), len(table), 1),
    ]
    return header + b"".join(segments) + interpreter + b"\0" + bytes(table) + strings


@contextlib.contextmanager
def opened(data: bytes) -> Iterator[int]:
    fd = os.memfd_create("image")
    try:
        os.write(fd, data)
        yield fd
    finally:
        os.close(fd)


def test_generated_image_is_valid() -> None:
    with opened(image([b"libc.so.6", b"libm.so.6"])) as fd:
        assert elf.image(fd, "it") == elf.Image(LOADER, ("libc.so.6", "libm.so.6"))


INTERESTING = (0, 1, 0x7F, 0xFF, 0xFFFF, 1 << 31, (1 << 63) - 1, (1 << 64) - 1)


@pytest.mark.slow
@pytest.mark.attack("damaged-images")
@settings(max_examples=2000, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 400),
            st.one_of(st.sampled_from(INTERESTING), st.integers(0, (1 << 64) - 1)),
            st.sampled_from([1, 2, 4, 8]),
        ),
        max_size=4,
    ),
    st.integers(0, 400),
)
@example([(56, 0xFFFF, 2)], 400)
@example([(64 + 32, (1 << 64) - 1, 8)], 400)
@example([(64 + 56 + 32, 1 << 40, 8)], 400)
@example([(64 + 112 + 32, 1 << 40, 8)], 400)
def test_damaged_images_end_in_an_error(changes: list[tuple[int, int, int]], length: int) -> None:
    data = bytearray(image([b"libc.so.6", b"libm.so.6"]))
    for at, value, size in changes:
        data[at : at + size] = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")
    with opened(bytes(data[:length])) as fd, contextlib.suppress(DummError):
        found = elf.image(fd, "it")
        assert len(found.needed) <= 256
        assert all(len(name) <= 4096 for name in found.needed)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 48), st.integers(0, (1 << 32) - 1))
def test_damaged_library_cache_is_read_safely(tail: bytes, at: int, number: int) -> None:
    data = bytearray(struct.pack("=20sII20x", b"glibc-ld.so.cache1.1", 8, 64) + tail)
    data[20 + at % 28 : 24 + at % 28] = struct.pack("=I", number)
    for name, paths in libraries.cache_entries(bytes(data)).items():
        assert len(name) <= 4096
        assert all(path.startswith("/") for path in paths)


def test_libraries_agree_with_the_loader() -> None:
    """The same list as the loader prints for a program of this host."""
    program = "/usr/bin/gcc"
    with open(program, "rb") as file:
        found = libraries.of_host(elf.image(file.fileno(), program), program)
    said = subprocess.run([LOADER, "--list", program], capture_output=True, text=True, check=True)
    listed = {line.split(" => ")[1].split()[0] for line in said.stdout.splitlines() if "=>" in line}
    assert listed <= set(found)
    assert {os.path.basename(p) for p in set(found) - listed} <= {libraries.UNWINDER}
