"""`dumm-console` without a verb: commands read from a terminal, or as a batch.

Each line runs in a child process, so whatever a command enters, closes or changes does not affect
the next one, and all share a single start of Python.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shlex
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

import click

from dumm_tools import language
from dumm_tools.cli import ending, tools
from dumm_tools.errors import Usage
from dumm_tools.linux import tty

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
    for tool in tools.TOOLS:
        tools.named(tool)  # imported once, for all children
    # A garbage collection in a child touches all objects, and so copies their pages.
    gc.freeze()
    if os.isatty(0):
        return _interactive(directory)
    return _batch(keep_going)


def import_domain(tool: str) -> None:
    """Import the modules that a tool's lines need, for all later children, including the netlink
    messages, which take longest."""
    import importlib

    for name in DOMAIN.get(tool, ()):
        importlib.import_module(f"dumm_tools.{name}")
    if tool in ("iface", "bridge"):
        from dumm_tools.linux import rtnl

        rtnl.load()


def _batch(keep_going: bool) -> int:
    first = 0
    seen = set()
    reader, code = language.of_lines(sys.stdin.buffer), 0
    while True:
        shown = None
        try:
            statement = reader.next()
            if statement is None or statement.words[0].text in LEAVE:
                break
            line, words = statement.words[0].line, statement.texts
            shown = f"line {line} failed: {statement.shown}"
            tool = words[0].removeprefix("dumm-")
            if tool in seen:  # not worth it for a single line
                import_domain(tool)
            seen.add(tool)
            code = _run(words, statement.document, batch=True)
        except language.Malformed as e:
            place = f"{language.STDIN}:{e.line}:{e.column}"
            ending.report("dumm-console", f"{place}: {e}", e.hint)
            code = e.exit_code
        except Usage as e:
            ending.report("dumm-console", str(e), e.hint)
            code = e.exit_code
        if code in (-signal.SIGINT, -signal.SIGPIPE):
            ending.die_of(-code)  # Ctrl-C ends the whole batch, and so does a missing reader
        code = code if code >= 0 else 128 - code
        if code:
            if shown is not None:
                ending.report("dumm-console", shown)
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
    try:
        readline.read_history_file(history)
    except FileNotFoundError:
        pass
    except OSError as e:  # perhaps written by sudo
        ending.report("dumm-console", f"warning: cannot read '{history}': {e.strerror}")
    code, reader = 0, language.Reader(_line)
    while True:
        try:
            statement = reader.next()
            if statement is None or statement.words[0].text in LEAVE:
                break
            code = _run(statement.texts, statement.document, batch=False)
            code = code if code >= 0 else 128 - code
        except KeyboardInterrupt:
            print()
        except Usage as e:
            ending.report("dumm-console", str(e), e.hint)
            code = e.exit_code
    if os.path.isdir(os.path.dirname(history)):
        readline.set_history_length(1000)
        try:
            readline.write_history_file(history)
        except OSError as e:
            ending.report("dumm-console", f"warning: cannot write '{history}': {e.strerror}")
    return code


def _line(continued: bool) -> str | None:
    try:
        return input("> " if continued else "dumm> ") + "\n"
    except EOFError:
        print()
        return None


def _help() -> int:
    for tool in tools.TOOLS:
        verbs = " ".join(sorted(tools.named(tool).commands))
        print(f"{tool:8} {verbs}")
    for word, text in WORDS_OF_OURS.items():
        print(f"{word:8} {text}")
    return 0


def _run(words: list[str], document: bytes | None, *, batch: bool) -> int:
    """Run a command in a child, with a here-document as its standard input; return its exit status,
    or -n if signal n killed it."""
    if words == ["help"]:
        return _help()
    name = tools.tool_of(words[0])
    group = tools.named(name)
    sys.stdout.flush()
    with tty.kept(0) if not batch else contextlib.nullcontext():
        # Ctrl-C is for the command; it is blocked until both processes are ready.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        previous = signal.getsignal(signal.SIGINT)
        pid = os.fork()
        if pid == 0:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            _child(group, f"dumm-{name}", words[1:], document, batch=batch)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        try:
            _, status = os.waitpid(pid, 0)
        finally:
            signal.signal(signal.SIGINT, previous)
    return os.waitstatus_to_exitcode(status)


def _child(
    group: click.Group, prog: str, args: list[str], document: bytes | None, *, batch: bool
) -> NoReturn:
    code = 1
    try:
        if batch or document is not None:  # the command must not read the rest of the batch
            os.dup2(_input(document or b""), 0)
            sys.stdin = open(0, closefd=False)  # noqa: SIM115
        code = ending.outcome(group, prog, args)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _input(document: bytes) -> int:
    """A file to read a here-document from."""
    fd = os.memfd_create("here-document")
    with open(fd, "wb", closefd=False) as file:
        file.write(document)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _complete(buffer: str, text: str, number: int) -> str | None:
    found = candidates(buffer[: len(buffer) - len(text)], text)
    return found[number] if number < len(found) else None


def candidates(before: str, text: str) -> list[str]:
    """Completions of `text` after the words `before`."""
    from click.shell_completion import ShellComplete

    words = before.split()
    if not words:
        return [f"{w} " for w in (*tools.TOOLS, *WORDS_OF_OURS) if w.startswith(text)]
    name = words[0].removeprefix("dumm-")
    if name not in tools.TOOLS:
        return []
    complete = ShellComplete(tools.named(name), {}, f"dumm-{name}", "_DUMM_COMPLETE")

    def found() -> list[str]:
        items = complete.get_completions(words[1:], text)
        ends = [f"{item.value}{'' if item.type == 'part' else ' '}" for item in items]
        return [each for each in ends if shlex.quote(each.strip()) == each.strip()]

    return _in_child(found)


def _in_child(find: Callable[[], list[str]]) -> list[str]:
    """Lines found by a child: to see the files of a guest, it enters the lab's namespaces, from
    which there is no way back."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with open(write, "w", encoding="utf-8", errors="surrogateescape") as out:
                out.write("\n".join(find()))
        finally:
            os._exit(0)
    os.close(write)
    with open(read, encoding="utf-8", errors="surrogateescape") as lines:
        text = lines.read()
    os.waitpid(pid, 0)
    return text.split("\n") if text else []
