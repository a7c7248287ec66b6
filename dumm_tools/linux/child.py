"""Child processes that report what went wrong: a function of ours, or a program with an error pipe.

A child writes the reason for its failure to a pipe. The end of the pipe is the end of its work, and
an empty pipe means success.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple


class Child(NamedTuple):
    """A child process that must be waited for: its pid, and the reading end of its error pipe."""

    pid: int
    errors: int

    def wait(self) -> str:
        """Wait until its work has ended and reap it, even if interrupted; return the error, or ""
        if there was none."""
        text = b""
        try:
            while piece := os.read(self.errors, 4096):
                text += piece
        finally:
            os.close(self.errors)
            code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        if code and not text:
            return f"exit status {code}" if code > 0 else f"ended by signal {-code}"
        return text.decode(errors="replace").strip()


def fork(work: Callable[[], object], explain: Callable[[Exception], str]) -> Child:
    """Do `work` in a child; `explain` makes the error text of an exception."""
    errors, theirs = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except Exception as e:
            os.write(theirs, explain(e).encode(errors="replace"))
        finally:
            os._exit(code)
    os.close(theirs)
    return Child(pid, errors)


def run(work: Callable[[], object], explain: Callable[[Exception], str]) -> str:
    """Do `work` in a child and wait for it; return the error, or "" if there was none."""
    return fork(work, explain).wait()


def spawn(
    program: str,
    descriptors: Sequence[int],
    command: Callable[[int], Sequence[str]],
    env: Mapping[str, str],
) -> Child:
    """Start a program with only these descriptors, which are renumbered consecutively, and with its
    error pipe after them. `command` makes its arguments, given the number of the first. OSError.
    """
    with contextlib.ExitStack() as stack:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        stack.callback(os.close, null)
        errors, theirs = os.pipe2(os.O_CLOEXEC)
        stack.callback(os.close, theirs)
        unused = stack.enter_context(contextlib.ExitStack())
        unused.callback(os.close, errors)
        row = [*descriptors, theirs]
        # Above all that is open, so that no dup2 overwrites a descriptor that is still needed.
        first = max([null, errors, *row]) + 1
        actions = [(os.POSIX_SPAWN_DUP2, null, number) for number in (0, 1, 2)]
        actions += [(os.POSIX_SPAWN_DUP2, fd, first + n) for n, fd in enumerate(row)]
        pid = os.posix_spawn(program, list(command(first)), env, file_actions=actions)
        unused.pop_all()
    return Child(pid, errors)
