"""`dumm-console --json`: a framed session, for programs in any language."""

from __future__ import annotations

import functools
import gc
import json
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

import click

from dumm_tools.agent.program import Program
from dumm_tools.cli import batch, ending, execute, tools
from dumm_tools.errors import DummError
from dumm_tools.session.child_job import Begun
from dumm_tools.session.loop import Session

#: Options of `guest exec` that only concern the program.
_ALONE = {"-e", "--env", "-w", "--workdir", "-u", "--user", "--timeout"}


def main(directory: str) -> int:
    """Serve the requests on stdin; the exit status, unless a signal ends us."""
    os.environ["DUMM_DIR"] = directory
    for tool in tools.TOOLS:
        tools.named(tool)
        batch.import_domain(tool)
    gc.freeze()
    if number := Session(directory, _program, _act).run():
        ending.die_of(number)
    return 0


def _program(words: list[str]) -> tuple[str, Program] | None:
    """The guest and the program of `guest exec` in a single guest without a terminal."""
    if len(words) < 4 or words[0].removeprefix("dumm-") != "guest" or words[1] != "exec":
        return None
    end = words.index("--") if "--" in words else len(words)
    options = [word for word in words[2:end] if word.startswith("-")]
    if not all(_option(word) in _ALONE for word in options) or (options and end == len(words)):
        return None  # for a child: they may print something, or mean another lab
    given = _parsed(tuple(words[2:end]))
    if given is None:
        return None  # the command itself says what is wrong
    name, *argv = list(given["words"])[:-1] + words[end + 1 :]
    if not argv:
        return None
    cwd, user = given["workdir"] or "/", given["user"] or "root"
    return name, Program(argv, given["env"], cwd, user, False, given["timeout"])


@functools.lru_cache(maxsize=100)
def _parsed(head: tuple[str, ...]) -> Mapping[str, Any] | None:
    """The parameters of `guest exec` with these words, and one word of a program; None if they are
    wrong. Parsing takes as long as all else that is done here for a program, and most requests of a
    session begin alike."""
    try:
        params = execute.exec_.make_context("exec", [*head, "--", "true"]).params
    except (click.ClickException, click.exceptions.Exit, DummError):
        return None
    return params if len(params["words"]) > 1 else None


def _option(word: str) -> str:
    """The name of an option that may have a value."""
    return word.partition("=")[0] if word.startswith("--") else word[:2]


def _act(begun: Begun) -> NoReturn:
    """Be the command that a request names."""
    code = 1
    try:
        told = _arrange(begun)

        def hear(operand: str | None, message: str, hint: str | None) -> None:
            os.write(told, json.dumps([operand, message, hint]).encode() + b"\n")

        ending.hear = hear
        code = _outcome(begun.run.words)
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                code = code or 1
        os._exit(code)


def _arrange(begun: Begun) -> int:
    """Give the process its descriptors and no others, and the signals of a new one; return the one
    that takes failures."""
    signal.set_wakeup_fd(-1)
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
        ours = signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL
        signal.signal(each, ours)
    signal.pthread_sigmask(signal.SIG_SETMASK, begun.mask)
    given = (begun.stdin, begun.stdout, begun.stderr, begun.told)
    high = [os.dup(fd) for fd in given]  # above 3, where nothing else is overwritten
    for number, fd in enumerate(high[:3]):
        os.dup2(fd, number)
    told = os.dup2(high[3], 3, inheritable=False)
    os.closerange(4, 1 << 20)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    return told


def _outcome(words: list[str]) -> int:
    try:
        name = tools.tool_of(words[0])
    except DummError as e:
        return ending.tell("dumm-console", e)
    if name == "console" and (len(words) == 1 or "--json" in words):
        return ending.tell("dumm-console", DummError("a session within a session"))
    return ending.outcome(tools.named(name), f"dumm-{name}", words[1:])
