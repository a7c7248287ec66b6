"""A program to run in a guest: how to ask for it, and why it was not started."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Mapping, Sequence

from dumm_tools.agent import protocol
from dumm_tools.errors import ExecFailed
from dumm_tools.model import Record


class Program(Record):
    """The program to run. An argv of ["~"] means the user's login shell, a cwd of "~" the home
    directory."""

    argv: Sequence[str]
    env: Mapping[str, str] = {}
    cwd: str = "/"
    user: str = "root"
    terminal: bool = False
    timeout: float | None = None


#: Commands that shells run themselves (sh(1), SPECIAL BUILT-IN UTILITIES), and some others.
_OF_SHELLS = frozenset(
    (".", "alias", "cd", "eval", "exec", "exit", "export", "for", "if", "set", "source", "ulimit")
)


def request(program: Program, rows: int, cols: int) -> bytes:
    """The payload of RUN (src/protocol.h). ExecFailed if a string contains a NUL, or if there are
    too many."""
    strings = [program.user, program.cwd, *program.argv]
    strings += [f"{k}={v}" for k, v in program.env.items()]
    raw = [os.fsencode(s) for s in strings]
    if any(b"\0" in s for s in raw):
        raise ExecFailed("an argument contains a NUL byte")
    if len(program.argv) > protocol.WORDS_MAX:
        what = f"cannot run '{program.argv[0]}' with {len(program.argv) - 1} arguments"
        raise ExecFailed(what, hint=f"at most {protocol.WORDS_MAX - 1}")
    head = struct.pack("<BHHH", protocol.RUN_TTY * program.terminal, rows, cols, len(program.argv))
    return head + b"".join(s + b"\0" for s in raw)


def shell_hint(program: Program, subject: str) -> str | None:
    """How to run what only a shell understands: no shell reads the words of `exec`."""
    from shlex import join

    words = program.argv
    if subject != words[0]:  # a script whose interpreter is missing
        return None
    name, equals, _ = subject.partition("=")
    if equals and name.isidentifier():
        return f"-e {join([subject])} sets an environment variable"
    if subject.partition(" ")[0] == "cd":
        return "-w DIR runs a command in another directory"
    if len(words) == 1 and any(char in subject for char in " \t\n|&;<>()$`*?\"'"):
        return f"no shell reads this; to have one: sh -c {join([subject])}"
    if subject in _OF_SHELLS:
        return f"this is a command of shells: sh -c {join([join(words)])}"
    return None


def refusal(program: Program, number: int, data: bytes) -> ExecFailed:
    """The error for a FAILED: the program could not be started."""
    reason = os.strerror(number)
    stage, _, subject = protocol.printable(data).partition(" ")
    if stage == "exec":
        subject = subject or program.argv[0]
        code = 127 if number in (errno.ENOENT, errno.ENOTDIR) else 126
        what = "command not found" if code == 127 and "/" not in subject else reason
        return ExecFailed(
            f"cannot run '{subject}': {what}", code, hint=shell_hint(program, subject)
        )
    if stage in ("user", "group"):
        return ExecFailed(f"no {stage} '{subject}' in the guest")
    if stage == "directory":
        return ExecFailed(f"cannot change to '{subject}': {reason}")
    return ExecFailed(f"{stage} {subject}: {reason}")
