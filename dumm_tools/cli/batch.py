"""`dumm-console` without a verb: commands read from a terminal, or as a batch.

Each line runs in a child: what one command enters, closes or changes is nothing to the next, and
they all share one start of Python.
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

from dumm_tools.cli import common
from dumm_tools.errors import Usage
from dumm_tools.linux import tty

TOOLS = ("guest", "iface", "bridge", "fs", "console")
#: What most verbs of a tool import when they run: once here, or else in each child anew.
DOMAIN = {
    "guest": ("guests.start", "guests.execution", "guests.guest", "running.guest_views"),
    "iface": ("net.iface", "net.link_views", "net.route", "net.shape"),
    "bridge": ("net.bridge", "net.link_views"),
}
LEAVE = ("exit", "quit")
WORDS_OF_OURS = {"exit": "leave the console", "quit": "leave the console", "help": "list the verbs"}


def main(directory: str, keep_going: bool) -> int:
    """Read commands from stdin until its end; the exit status of the first that failed."""
    os.environ["DUMM_DIR"] = directory
    for tool in TOOLS:
        _cli(tool)  # imported once, for all children
    # A collector in a child looks at all objects, and so copies their pages.
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
    """Import what a tool's lines need, for all children to come; the messages of netlink, which
    take the longest, too."""
    import importlib

    for name in DOMAIN.get(tool, ()):
        importlib.import_module(f"dumm_tools.{name}")
    if tool in ("iface", "bridge"):
        from dumm_tools.linux import rtnl

        rtnl.load()


def split(line: str) -> list[str]:
    """The words of a line, quoted as in a shell; Usage for a quote that does not end."""
    import shlex

    try:
        return shlex.split(line, comments=True)
    except ValueError as e:
        raise Usage(f"{str(e).lower()}: {line.strip()}") from None


def _batch(keep_going: bool) -> int:
    first = 0
    seen = set()
    # As bytes: what is no UTF-8 goes to the commands as it is, as from a shell.
    for number, raw in enumerate(sys.stdin.buffer, 1):
        line = os.fsdecode(raw)
        try:
            words = split(line)
            if words and words[0] in LEAVE:
                break
            if words:
                tool = words[0].removeprefix("dumm-")
                if tool in seen:  # not for a single line
                    _import_domain(tool)
                seen.add(tool)
            code = _run(words, batch=True) if words else 0
        except Usage as e:
            common.report("dumm-console", str(e), e.hint)
            code = e.exit_code
        if code in (-signal.SIGINT, -signal.SIGPIPE):
            common.die_of(-code)  # Ctrl-C is for all of it, and so is a reader that left
        code = code if code >= 0 else 128 - code
        if code:
            common.report("dumm-console", f"line {number} failed: {line.strip()}")
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
            common.report("dumm-console", str(e), e.hint)
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
    """Run one command in a child; its exit status, -n when signal n ended it."""
    if words == ["help"]:
        return _help()
    name = words[0].removeprefix("dumm-")
    if name not in TOOLS:
        raise Usage(f"no tool '{words[0]}'", hint=f"the first word is one of: {' '.join(TOOLS)}")
    group = _cli(name)
    sys.stdout.flush()
    with tty.kept(0) if not batch else contextlib.nullcontext():
        # Ctrl-C is the command's; one that comes before both sides are ready waits until they are.
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
        if batch:  # the rest of the batch is not the command's input
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0)
        code = common.outcome(group, prog, args)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _complete(buffer: str, text: str, number: int) -> str | None:
    found = candidates(buffer[: len(buffer) - len(text)], text)
    return found[number] if number < len(found) else None


def candidates(before: str, text: str) -> list[str]:
    """What may follow the words `before`, beginning with `text`."""
    from click.shell_completion import ShellComplete

    words = before.split()
    if not words:
        return [f"{w} " for w in (*TOOLS, *WORDS_OF_OURS) if w.startswith(text)]
    name = words[0].removeprefix("dumm-")
    if name not in TOOLS:
        return []
    complete = ShellComplete(_cli(name), {}, f"dumm-{name}", "_DUMM_COMPLETE")
    return [f"{item.value} " for item in complete.get_completions(words[1:], text)]
