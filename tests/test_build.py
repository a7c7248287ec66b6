"""The C programs: what is built and when, and the errors when it cannot be."""

from __future__ import annotations

import graphlib
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from support import PATIENCE, TOP

from dumm_tools.agent import INITRD, JAIL, build, protocol


def members(data: bytes) -> dict[str, tuple[int, tuple[int, int], bytes]]:
    """Mode, device and content of the members of a newc archive."""
    found: dict[str, tuple[int, tuple[int, int], bytes]] = {}
    at = 0
    while True:
        assert data[at : at + 6] == b"070701"
        head = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        name_end = at + 110 + head[11]
        name = data[at + 110 : name_end - 1].decode()
        if name == "TRAILER!!!":
            return found
        start = name_end + -name_end % 4
        found[name] = (head[1], (head[9], head[10]), data[start : start + head[6]])
        at = start + head[6] + -head[6] % 4


def test_archive_holds_init_and_console() -> None:
    data = build.archive(b"\x7fELF!")
    assert data == build.archive(b"\x7fELF!")
    assert len(data) % 4 == 0
    assert members(data) == {
        "dev": (0o40755, (0, 0), b""),
        "dev/console": (0o20600, (5, 1), b""),
        "init": (0o100755, (0, 0), b"\x7fELF!"),
    }


def is_static(program: bytes) -> bool:
    """Whether a file has no PT_INTERP segment (elf(5))."""
    assert program[:6] == b"\x7fELF\x02\x01"
    offset = struct.unpack_from("<Q", program, 32)[0]
    size, count = struct.unpack_from("<HH", program, 54)
    kinds = [struct.unpack_from("<I", program, offset + n * size)[0] for n in range(count)]
    return 3 not in kinds


def test_built_programs_are_static() -> None:
    build.build()
    assert is_static(Path(JAIL).read_bytes())
    agent = members(Path(INITRD).read_bytes())["init"][2]
    assert is_static(agent)
    assert len(agent) < 64 << 10  # each guest keeps it in memory


@pytest.mark.slow
def test_build_runs_once_and_again_when_a_source_is_newer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build.build(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == ["initrd.cpio", "jail.bin", "preload.so"]
    jail = tmp_path / "jail.bin"
    first = jail.stat()
    assert first.st_mode & 0o777 == 0o755
    build.build(str(tmp_path))
    assert jail.stat() == first
    os.utime(jail, (0, 0))
    others = [tmp_path / name for name in ("initrd.cpio", "preload.so")]
    for other in others:
        os.utime(other, (0, 0))
    content = [path.read_bytes() for path in (jail, *others)]
    build.build(str(tmp_path))
    assert jail.stat().st_mtime > 0
    # The build is reproducible.
    assert content == [path.read_bytes() for path in (jail, *others)]


def test_missing_compiler_is_a_one_line_error(tmp_path: Path) -> None:
    code = f"import sys; from dumm_tools.agent import build; build.build({str(tmp_path)!r})"
    for env in ({"CC": "/nonexistent/cc"}, {"CC": "", "PATH": "/nonexistent"}):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].endswith(build.NO_COMPILER)
        assert "\n" not in build.NO_COMPILER
    assert os.listdir(tmp_path) == []


def test_failed_compilation_leaves_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "false --option")
    with pytest.raises(build.BuildError, match="cannot compile agent/src: false failed"):
        build.build(str(tmp_path))
    assert os.listdir(tmp_path) == []


# ---- the sources ----

SOURCES = Path(build.__file__).parent


@pytest.mark.parametrize("program", ["src", "jail"])
def test_c_files_have_no_cyclic_calls(program: str, tmp_path: Path) -> None:
    """The C files of a program must be layered, too: the linker's symbols show who uses whom."""
    files = sorted((SOURCES / program).glob("*.c"))
    subprocess.run(["gcc", "-O0", "-ffreestanding", "-c", *files], cwd=tmp_path, check=True)
    home: dict[str, str] = {}
    uses: dict[str, set[str]] = {}
    for file in files:
        listed = subprocess.run(
            ["nm", file.with_suffix(".o").name],
            cwd=tmp_path,
            check=True,
            capture_output=True,
            text=True,
        )
        symbols = [line.split()[-2:] for line in listed.stdout.splitlines()]
        home |= {name: file.name for kind, name in symbols if kind in "TDBRC"}
        uses[file.name] = {name for kind, name in symbols if kind == "U"}
    assert len(uses) > 5
    order = graphlib.TopologicalSorter(
        {file: {home[name] for name in names if name in home} for file, names in uses.items()}
    )
    order.prepare()  # CycleError names the cycle


def _words_in_c() -> dict[str, bytes | int | str]:
    """The names that src/protocol.h defines: characters and byte values as bytes, numbers, and
    strings."""
    text = re.sub(r"/\*.*?\*/", "", (SOURCES / "src/protocol.h").read_text(), flags=re.DOTALL)
    found: dict[str, bytes | int | str] = {
        name: letter.encode() for name, letter in re.findall(r"(\w+) = '(.)'", text)
    }
    for name, value in re.findall(r"#define (\w+) +(.+)", text):
        constant = eval(value.strip(), {})
        found[name] = constant
    return found


def test_protocol_constants_agree_in_c_and_python() -> None:
    in_c = _words_in_c()
    for name in ("END", "ESC", "ESC_END", "ESC_ESC"):
        octet = in_c[name]
        assert isinstance(octet, int)
        in_c[name] = bytes([octet])
    opened = in_c["OPENED"]
    assert isinstance(opened, str)
    in_c["OPENED"] = opened.encode()
    in_python = {
        name: value
        for name, value in vars(protocol).items()
        if name.isupper() and not name.startswith("_")
    }
    # Only in Python: IN_MAX with a margin, and the most that RUN can count.
    own = {"FRAME_MAX", "WORDS_MAX"}
    assert in_c == {name: value for name, value in in_python.items() if name not in own}


FUZZED = """\
int LLVMFuzzerTestOneInput(const unsigned char *data, unsigned long size);
int main(void)
{
	return LLVMFuzzerTestOneInput((const unsigned char *)"", 0);
}
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fuzz_agent", "fuzz_jail"])
def test_fuzzers_have_all_of_their_sources(name: str, tmp_path: Path) -> None:
    """`make fuzz` needs clang, and is run by hand."""
    (tmp_path / "main.c").write_text(FUZZED)
    compiler = os.environ.get("CC", "gcc").split()
    source = TOP / "tests" / "fuzz" / f"{name}.c"
    argv = [*compiler, "-w", "-o", *map(str, (tmp_path / name, source, tmp_path / "main.c"))]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    subprocess.run([tmp_path / name], check=True, timeout=PATIENCE)
