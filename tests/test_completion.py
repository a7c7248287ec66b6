"""Completion of GUEST:PATH, in the shells, from the files of guests, whatever their names."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import PATIENCE, ROOT, TOP
from support.labs import Lab, recorded
from support.terminal import on_terminal

from dumm_tools.cli import batch
from dumm_tools.model import State

#: Names that a guest may give its files. Ones with control characters are not offered.
ODD = (
    "a b",
    "$(touch owned)",
    "`touch owned`;x",
    "it's",
    '"quoted"',
    "*",
    "back\\slash",
    "getty@tty1.service",
    "a:b=c",
    "~root",
    "-rf",
    "é",
)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A lab with a guest that has never been mounted: its files are in layers."""
    master, own = tmp_path / "tree", tmp_path / "host/alice"
    for directory in (master / "etc/network", master / "usr/bin", own / "etc", own / "odd"):
        directory.mkdir(parents=True)
    (own.parent).chmod(0o700)
    for path in (master / "etc/motd", master / "usr/bin/env", own / "etc/mine", own / "single"):
        path.touch()
    for name in [*ODD, "two\nlines", "\x1b[31m", os.fsdecode(b"\xff")]:
        (own / "odd" / name).touch()
    (master / "bin").symlink_to("usr/bin")
    (master / "up").symlink_to("/../../etc")
    (master / "loop").symlink_to("/loop")

    def fill(state: State) -> None:
        state.guests["alice"].master = str(master)

    (tmp_path / "allfiles").touch()
    return Lab(Path(recorded(tmp_path, "alice", "bob", fill=fill)), tmp_path / "cache")


def offered(lab: Lab, *words: str, tool: str = "dumm-fs") -> list[str]:
    """The candidates for the last word, each with its type."""
    env = {
        f"_{tool.upper().replace('-', '_')}_COMPLETE": "bash_complete",
        "COMP_WORDS": shlex.join([tool, *words]),
        "COMP_CWORD": str(len(words)),
    }
    done = lab(tool, env=env)
    assert done.err == ""
    return done.out.rstrip("\n").split("\n") if done.out.strip() else []


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("al", ["part,alice:/", "plain,allfiles"]),
        ("si", ["file,si"]),
        ("./al", ["file,./al"]),
        ("./x:y", ["file,./x:y"]),
        ("alice:/et", ["part,alice:/etc/"]),
        ("alice:et", ["part,alice:/etc/"]),
        (
            "alice:/etc/",
            ["plain,alice:/etc/mine", "plain,alice:/etc/motd", "part,alice:/etc/network/"],
        ),
        ("alice:/etc/m", ["plain,alice:/etc/mine", "plain,alice:/etc/motd"]),
        ("bob,al", ["part,bob,alice:/"]),
        ("bob,alice:/et", ["part,bob,alice:/etc/"]),
        ("alice:/bi", ["part,alice:/bin/"]),
        ("alice:/bin/", ["plain,alice:/bin/env"]),
        ("alice:/up/mo", ["plain,alice:/up/motd"]),
        ("alice:/up/../../usr/b", ["part,alice:/up/../../usr/bin/"]),
        ("alice:/loo", ["plain,alice:/loop"]),
        ("alice:/loop/", []),
        ("alice:/etc/motd/", []),
        ("alice:/none/", []),
        ("nobody:/", []),
        (":/et", ["part,:/etc/"]),
        ("../x:", ["file,../x:"]),
    ],
)
def test_paths_of_a_guest_that_is_not_mounted(lab: Lab, word: str, expected: list[str]) -> None:
    assert offered(lab, "cp", word) == expected
    assert offered(lab, "cp", "x", word) == expected  # on both sides


def test_the_number_of_candidates_is_bounded(lab: Lab) -> None:
    for number in range(600):
        (lab.directory / f"host/alice/odd/f{number}").touch()
    assert len(offered(lab, "cp", "alice:/odd/f")) == 500
    assert len(offered(lab, "cp", "alice:/odd/f59")) == 11


def test_only_typeable_names_are_offered(lab: Lab) -> None:
    assert sorted(offered(lab, "cp", "alice:/odd/")) == sorted(f"plain,alice:/odd/{n}" for n in ODD)


@pytest.mark.uml
@pytest.mark.parametrize("kind", ["--isolated", *(["--host-net"] if ROOT else [])])
def test_paths_of_guests_that_run_or_not(
    new_lab: Callable[..., Lab], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = new_lab("lab", kind)
    lab("dumm-guest create alice")
    (lab.directory / "a file").touch()
    lab(["dumm-fs", "cp", "a file", "alice:/root/a file"])
    assert offered(lab, "cp", "alice:/root/a") == ["plain,alice:/root/a file"]
    lab("dumm-guest start alice")
    lab(
        [
            "dumm-guest",
            "exec",
            "alice",
            "--",
            "sh",
            "-c",
            "ln -s / /root/top; >/etc/motd; rm '/root/a file'",
        ]
    )
    assert offered(lab, "cp", "alice:/root/") == ["part,alice:/root/top/"]
    assert "part,alice:/root/top/etc/" in offered(lab, "cp", "alice:/root/top/")
    # The console offers the same, and stays where it is; quotes are left to the user.
    monkeypatch.setenv("DUMM_DIR", str(lab.directory))
    here = os.readlink("/proc/self/ns/mnt")
    lab(["dumm-guest", "exec", "alice", "--", "touch", "/root/a b"])
    assert batch.candidates("fs cp ", "alice:/root/") == ["alice:/root/top/"]
    assert batch.candidates("fs cp ", "alice:/root/top/etc/mo") == ["alice:/root/top/etc/motd "]
    assert os.readlink("/proc/self/ns/mnt") == here
    # The links of a guest stay in its tree.
    lab(["dumm-guest", "exec", "alice", "--", "ln", "-s", str(lab.directory), "/root/out"])
    assert offered(lab, "cp", "alice:/root/out/") == []


# ---- in bash ----

BASH = f"""
PS1='ready> '
bind 'set bell-style none'; bind 'set enable-bracketed-paste off'
source {shlex.quote(f"{TOP}/completions/bash/dumm-fs")}
source {shlex.quote(f"{TOP}/completions/bash/dumm-guest")}
show() {{ printf '[%s]' "$@"; echo .; }}
"""


@pytest.fixture
def words(lab: Lab) -> Iterator[Callable[[str], list[str]]]:
    """A function that types something into an interactive bash, and returns the words of the line
    as bash reads them then."""
    (lab.directory / "rc").write_text(BASH)
    bash = ["env", "INPUTRC=/dev/null", "bash", "--noprofile", "--rcfile", "rc", "-i"]
    with on_terminal(lab, bash, size=(50, 500)) as terminal:

        def type_(text: str) -> list[str]:
            terminal.expect(b"ready> ")
            terminal.type(f"{text}\x01show \x05\n".encode())  # control-A, E: beginning, end
            terminal.expect(b"\n[", 30)
            while b"].\r\n" not in terminal.seen:
                terminal.read(PATIENCE)
            line, _, terminal.seen = terminal.seen.partition(b"].\r\n")
            return line.decode().split("][")

        yield type_


@pytest.mark.parametrize("quote", ["", "'", '"'])
def test_odd_names_in_bash(
    lab: Lab, words: Callable[[str], list[str]], tmp_path: Path, quote: str
) -> None:
    for path in (lab.directory / "host/alice/odd").iterdir():
        path.unlink()
    for name in ODD:
        if quote and quote in name:
            continue
        path = lab.directory / f"host/alice/odd/{name}"
        path.touch()
        assert words(f"dumm-fs cp {quote}alice:/odd/\t") == ["dumm-fs", "cp", f"alice:/odd/{name}"]
        path.unlink()
    assert not list(tmp_path.rglob("owned"))


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("cp al\t", ["cp", "al"]),
        ("cp ali\t", ["cp", "alice:/"]),
        ("cp alice:\t", ["cp", "alice:/"]),
        ("cp ali\te\tmi\t", ["cp", "alice:/etc/mine"]),
        ("cp ali\te\tmi\tx", ["cp", "alice:/etc/mine", "x"]),
        ("cp x  alice:/etc/m\ti\t", ["cp", "x", "alice:/etc/mine"]),
        ("cp alice:/odd/a\\ \t", ["cp", "alice:/odd/a b"]),
        ("cp alice:/odd/a:\t", ["cp", "alice:/odd/a:b=c"]),
        ("cp alice:/odd/getty@\t", ["cp", "alice:/odd/getty@tty1.service"]),
        ("cp alice:/odd/getty@t\t", ["cp", "alice:/odd/getty@tty1.service"]),
        ("cp alice:/odd/ge\t", ["cp", "alice:/odd/getty@tty1.service"]),
        ("diff -o path,ki\t", ["diff", "-o", "path,kind"]),
        ("diff --output=path,ki\t", ["diff", "--output=path,kind"]),
        ("cp bo\tx ./allf\t", ["cp", "bob:/x", "./allfiles"]),
    ],
)
def test_words_in_bash(words: Callable[[str], list[str]], typed: str, expected: list[str]) -> None:
    assert words(f"dumm-fs {typed}") == ["dumm-fs", *expected]
