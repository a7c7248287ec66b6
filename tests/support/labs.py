"""Labs to test in.

`lab` is a working set and the installed commands to use it with, as a user has them; `labdir` is
the path of one that only has records, for functions called in this process.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from dumm_tools import statefile
from dumm_tools.model import Guest, State
from support import BIN, PATIENCE, SUITES
from support.world import World

#: Whether a test has failed.
FAILED = pytest.StashKey[bool]()


@dataclass(frozen=True)
class Done:
    """The result of a command."""

    argv: tuple[str, ...]
    code: int
    stdout: bytes
    stderr: bytes

    @property
    def out(self) -> str:
        """Standard output as text."""
        return self.stdout.decode("utf-8", "surrogateescape")

    @property
    def err(self) -> str:
        """Standard error as text."""
        return self.stderr.decode("utf-8", "surrogateescape")

    @property
    def lines(self) -> list[str]:
        """The lines of standard output."""
        return self.out.splitlines()


class Lab:
    """A working set, and the installed commands to use it with.

    A call runs a command line as a user would type it, or a list of arguments, with DUMM_DIR
    naming the working set, and fails the test unless the exit status is as expected.
    """

    def __init__(self, directory: Path, cache: Path) -> None:
        self.directory = directory
        #: The prefix that runs a command as another user (users.py).
        self.prefix: list[str] = []
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith("DUMM_")},
            "PATH": f"{BIN}:{os.environ['PATH']}:/usr/sbin:/sbin",
            "XDG_CACHE_HOME": str(cache),
            "DUMM_DIR": str(directory),
            "LC_ALL": "C.UTF-8",
        }
        self._started: list[subprocess.Popen[bytes]] = []

    def __call__(
        self,
        command: str | Sequence[str | Path],
        *,
        status: int | None = 0,
        stdin: bytes = b"",
        timeout: float = PATIENCE,
        env: Mapping[str, str] | None = None,
    ) -> Done:
        """Run a command to its end; `status` None accepts any exit status."""
        argv = _argv(command)
        process = self.start(argv, env=env)
        try:
            out, err = process.communicate(stdin, timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            pytest.fail(f"{shlex.join(argv)}: not done after {timeout} s\n{_text(out, err)}")
        if status is not None and process.returncode != status:
            pytest.fail(
                f"{shlex.join(argv)}: exit {process.returncode}, not {status}\n{_text(out, err)}"
            )
        return Done(argv, process.returncode, out, err)

    def batch(self, *lines: str) -> None:
        """Run command lines, without `dumm-`, that must succeed, with one start of Python."""
        self("dumm-console", stdin="".join(f"{line}\n" for line in lines).encode())

    def start(
        self, command: str | Sequence[str | Path], *, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a command with pipes for its three streams; it is killed when the lab ends."""
        process = subprocess.Popen(
            [*self.prefix, *_argv(command)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**self.env, **(env or {})},
            cwd=self.directory,
        )
        self._started.append(process)
        return process

    def host(self, command: str | Sequence[str | Path], *, status: int | None = 0) -> Done:
        """Run a program of the host in the lab's network and mount namespaces."""
        return self(["dumm-guest", "exec", "--host", "--", *_argv(command)], status=status)

    def mounted(self, guest: str) -> Path:
        """The tree of a guest on the host: mount/NAME, seen in the lab's own mount namespace."""
        tree = self.directory / "mount" / guest
        for file in self.directory.glob("run/holder-*"):
            return Path(f"/proc/{file.read_text().split()[0]}/root{tree}")
        return tree

    def end(self) -> None:
        """Kill what `start` left running, and destroy the working set."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.communicate(timeout=PATIENCE)
        if (self.directory / "state.json").exists():
            self("dumm-fs destroy")

    def logs(self) -> str:
        """The ends of the guests' console logs, to explain a failure."""
        return "\n".join(
            f"--- {path}\n{path.read_bytes()[-4000:].decode(errors='replace')}"
            for path in sorted(self.directory.glob("run/*/console.log"))
        )


def _argv(command: str | Sequence[str | Path]) -> tuple[str, ...]:
    return tuple(shlex.split(command) if isinstance(command, str) else map(str, command))


def _text(out: bytes, err: bytes) -> str:
    return f"stdout: {out[-2000:]!r}\nstderr: {err.decode(errors='replace')[-4000:]}"


@pytest.fixture
def new_lab(
    packs: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Lab]]:
    """Make working sets: `new_lab("lab", "--isolated", kernel="sid")`, with further options
    of `dumm-fs init`; all are destroyed at the end, and must leave nothing behind.
    """
    labs: list[Lab] = []
    before = World.now()

    def make(name: str = "lab", *options: str, kernel: str = SUITES[0]) -> Lab:
        directory = tmp_path / name
        directory.mkdir()
        lab = Lab(directory, packs)
        labs.append(lab)
        lab(["dumm-fs", "init", "--kernel", kernel, "--master", "busybox", *options])
        return lab

    yield make
    if request.node.stash.get(FAILED, False):
        for lab in labs:
            print(lab.logs())
    for lab in labs:
        lab.end()
    left = World.now().beyond(before, tmp_path)
    for lab in labs:
        for name in ("run", "mount"):
            there = lab.directory / name
            left += [f"file {path}" for path in there.glob("*")] if there.exists() else []
    assert not left, "left behind: " + "; ".join(left)


@contextlib.contextmanager
def shared(directory: Path, packs: Path) -> Iterator[Lab]:
    """A working set shared by all tests of a file, which defines its fixture `lab` with it."""
    lab = Lab(directory, packs)
    lab(["dumm-fs", "init", "--kernel", SUITES[0], "--master", "busybox"])
    try:
        yield lab
    finally:
        lab.end()


@pytest.fixture
def lab(new_lab: Callable[..., Lab]) -> Lab:
    """A working set in a fresh directory, with the newest kernel and the busybox master."""
    return new_lab()


def recorded(
    directory: Path, *guests: str, fill: Callable[[State], object] = lambda state: None
) -> str:
    """Make a working set that only has records: these guests, which never ran, and what `fill`
    adds."""
    (directory / ".lock").touch()
    inode = os.stat(directory / ".lock").st_ino
    state = State("abcdef", inode, guests={name: Guest(name) for name in guests})
    fill(state)
    statefile.create(str(directory), state)
    return str(directory)
