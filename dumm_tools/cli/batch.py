"""`dumm-console` without a verb: commands read from a terminal, or as a batch.

Each line runs in a child process, so whatever a command enters, closes or changes does not affect
the next one, and all share a single start of Python.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from collections.abc import Iterator
from typing import NoReturn

import click

from dumm_tools.cli import ending
from dumm_tools.errors import Usage
from dumm_tools.linux import tty

TOOLS = ("guest", "iface", "bridge", "fs", "console")
#: Modules imported by most verbs of a tool: once here, rather than in each child.
DOMAIN = {
    "guest": ("guests.start", "guests.execution", "guests.guest", "running.guest_views"),
    "iface": ("net.iface", "net.link_views", "net.route", "net.rule", "net.shape"),
    "bridge": ("net.bridge", "net.link_views"),
}
LEAVE = ("exit", "quit")
WORDS_OF_OURS = {"exit": "leave the console", "quit": "leave the console", "help": "list the verbs"}


def main(directory: str, keep_going: bool) -> int:
    """Read commands from stdin to its end; return the exit status of the first that failed."""
    os.environ["DUMM_DIR"] = directory
    for tool in TOOLS:
        _cli(tool)  # imported once, for all children
    # A garbage collection in a child touches all objects, and so copies their pages.
    gc.freeze()
    if os.isatty(0):
        return _interactive(directory)
    return _batch(keep_going)


def _cli(tool: str) -> click.Group:
    import importlib

    group = importlib.import_module(f"dumm_tools.cli.{tool}").cli
    assert isinstance(group, click.Group)
    return group


def _import_domain(tool: str) -> None:
    """Import the modules that a tool's lines need, for all later children, including the netlink
    messages, which take longest."""
    import importlib

    for name in DOMAIN.get(tool, ()):
        importlib.import_module(f"dumm_tools.{name}")
    if tool in ("iface", "bridge"):
        from dumm_tools.linux import rtnl

        rtnl.load()


def split(line: str) -> list[str]:
    """The words of a line, quoted as in a shell; Usage for an unterminated quote."""
    import shlex

    try:
        return shlex.split(line, comments=True)
    except ValueError as e:
        raise Usage(f"{str(e).lower()}: {line.strip()}") from None


def _batch(keep_going: bool) -> int:
    first = 0
    seen = set()
    # As bytes: invalid UTF-8 is passed to the commands unchanged, as from a shell.
    for number, raw in enumerate(sys.stdin.buffer, 1):
        line = os.fsdecode(raw)
        try:
            words = split(line)
            if words and words[0] in LEAVE:
                break
            if words:
                tool = words[0].removeprefix("dumm-")
                if tool in seen:  # not worth it for a single line
                    _import_domain(tool)
                seen.add(tool)
            code = _run(words, batch=True) if words else 0
        except Usage as e:
            ending.report("dumm-console", str(e), e.hint)
            code = e.exit_code
        if code in (-signal.SIGINT, -signal.SIGPIPE):
            ending.die_of(-code)  # Ctrl-C ends the whole batch, and so does a missing reader
        code = code if code >= 0 else 128 - code
        if code:
            ending.report("dumm-console", f"line {number} failed: {line.strip()}")
            first = first or code
            if not keep_going:
                break
    return first


def _interactive(directory: str) -> int:
    import readline

    readline.set_completer_delims(" \t\n")
    readline.set_completer(lambda text, n: _complete(readline.get_line_buffer(), text, n))
    readline.parse_and_bind("tab: complete")
    history = os.path.join(directory, "run", "history")
    if os.path.exists(history):
        readline.read_history_file(history)
    code = 0
    for line in _lines():
        try:
            words = split(line)
            if not words:
                continue
            if words[0] in LEAVE:
                break
            code = _run(words, batch=False)
            code = code if code >= 0 else 128 - code
        except Usage as e:
            ending.report("dumm-console", str(e), e.hint)
            code = e.exit_code
    if os.path.isdir(os.path.dirname(history)):
        readline.set_history_length(1000)
        readline.write_history_file(history)
    return code


def _lines() -> Iterator[str]:
    while True:
        try:
            yield input("dumm> ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()


def _help() -> int:
    for tool in TOOLS:
        verbs = " ".join(sorted(_cli(tool).commands))
        print(f"{tool:8} {verbs}")
    for word, text in WORDS_OF_OURS.items():
        print(f"{word:8} {text}")
    return 0


def _run(words: list[str], *, batch: bool) -> int:
    """Run a command in a child; return its exit status, or -n if signal n killed it."""
    if words == ["help"]:
        return _help()
    name = words[0].removeprefix("dumm-")
    if name not in TOOLS:
        raise Usage(f"no tool '{words[0]}'", hint=f"the first word is one of: {' '.join(TOOLS)}")
    group = _cli(name)
    sys.stdout.flush()
    with tty.kept(0) if not batch else contextlib.nullcontext():
        # Ctrl-C is for the command; it is blocked until both processes are ready.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        previous = signal.getsignal(signal.SIGINT)
        pid = os.fork()
        if pid == 0:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            _child(group, f"dumm-{name}", words[1:], batch)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        try:
            _, status = os.waitpid(pid, 0)
        finally:
            signal.signal(signal.SIGINT, previous)
    return os.waitstatus_to_exitcode(status)


def _child(group: click.Group, prog: str, args: list[str], batch: bool) -> NoReturn:
    code = 1
    try:
        if batch:  # the command must not read the rest of the batch
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0)
        code = ending.outcome(group, prog, args)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _complete(buffer: str, text: str, number: int) -> str | None:
    found = candidates(buffer[: len(buffer) - len(text)], text)
    return found[number] if number < len(found) else None


def candidates(before: str, text: str) -> list[str]:
    """Completions of `text` after the words `before`."""
    from click.shell_completion import ShellComplete

    words = before.split()
    if not words:
        return [f"{w} " for w in (*TOOLS, *WORDS_OF_OURS) if w.startswith(text)]
    name = words[0].removeprefix("dumm-")
    if name not in TOOLS:
        return []
    complete = ShellComplete(_cli(name), {}, f"dumm-{name}", "_DUMM_COMPLETE")
    return [f"{item.value} " for item in complete.get_completions(words[1:], text)]
