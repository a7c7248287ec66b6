"""`dumm-console apply`: make a lab what a file says."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import click

from dumm_tools import language
from dumm_tools.cli import ending, lab, lab_file, tools
from dumm_tools.errors import NotFound, Usage

if TYPE_CHECKING:
    from dumm_tools.labs.commands import Command
    from dumm_tools.labs.description import Description
    from dumm_tools.model import GuestState


class File(NamedTuple):
    """A lab file."""

    name: str
    text: bytes


def read(path: str) -> File:
    """Read a lab file, or standard input (-)."""
    if path == "-":
        return File(language.STDIN, ending.stdin().read())
    try:
        with open(path, "rb") as file:
            return File(path, file.read())
    except FileNotFoundError:
        raise NotFound(f"no such file '{path}'") from None
    except OSError as e:
        raise Usage(f"cannot read '{path}': {e.strerror}") from None


def show(file: File, *, prune: bool) -> int:
    """Print the commands that would be run; 1 if there are any."""
    from dumm_tools.labs import unfinished

    labdir = lab.labdir()
    steps = _completing(labdir, unfinished.left(labdir))
    steps += _plan(labdir, file, prune=prune).steps
    sys.stdout.buffer.write(b"".join(dict.fromkeys(command.text for command in steps)))
    return 1 if steps else 0


def run(file: File, *, prune: bool) -> int:
    """Run them; the exit status of the first that fails, which is the last one."""
    from dumm_tools.labs import unfinished

    labdir = lab.labdir()
    if not _exists(labdir):
        init = _plan(labdir, file, prune=prune).steps[0]
        if code := _run(init):
            return code
    with unfinished.turn(labdir):
        for command in _completing(labdir, unfinished.read(labdir)):
            ending.note(f"an earlier 'apply' was interrupted in: {_shown(command)}")
            lab.entered()
            _run(command)
        plan = _plan(labdir, file, prune=prune)
        code = _run_all(labdir, plan) if plan.steps else 0
        unfinished.note(labdir, b"")
    return code


def _run_all(labdir: str, plan: _Plan) -> int:
    from dumm_tools.labs import unfinished
    from dumm_tools.labs.commands import Command

    with _outside(labdir, plan.steps) as outside:
        lab.entered()
        click.get_current_context().meta["dumm.entered"] = True
        _check_names(labdir, plan.steps)
        _check_guests(labdir, plan.steps)
        for group in _groups(plan.steps):
            command = group[0]
            if names := [*dict.fromkeys(each.new for each in group if each.new)]:
                command = Command(("guest", "create", *names))
            unfinished.note(labdir, command.text)
            if names:
                code = _create(labdir, plan, names)
            else:
                code = outside(command) if _is_outside(command) else _run(command)
            if code:
                ending.report("dumm-console", f"failed: {_shown(command)}")
                return code
    return 0


def _groups(steps: list[Command]) -> Iterator[list[Command]]:
    """The commands one by one, but those about several new guests together."""
    from dumm_tools.labs import new_guests

    group: list[Command] = []
    for command in steps:
        names = {each.new for each in group}
        if (
            not group
            or command.new is None
            or None in names
            or (command.new not in names and len(names) == new_guests.MOST)
        ):
            if group:
                yield group
            group = []
        group.append(command)
    if group:
        yield group


def _create(labdir: str, plan: _Plan, names: list[str]) -> int:
    """Create new guests; the exit status."""
    from dumm_tools.cli.guest_settings import warn_of_disks
    from dumm_tools.labs import new_guests

    try:
        new_guests.create(labdir, plan.wanted, names, ending.warn)
    except Exception as e:
        return ending.tell("dumm-console", e)
    warn_of_disks(tuple(d for name in names for d in plan.wanted.state.guests[name].disks))
    return 0


def _completing(labdir: str, text: bytes) -> list[Command]:
    """Commands that complete one that a killed `apply` has left half done."""
    if not text:
        return []
    from dumm_tools.cli import interrupted

    return interrupted.completing(labdir, text)


def _exists(labdir: str) -> bool:
    from dumm_tools import statefile

    return os.path.lexists(os.path.join(labdir, statefile.FILE))


class _Plan(NamedTuple):
    """The commands that make the lab what the file says, and the latter."""

    steps: list[Command]
    wanted: Description


def _plan(labdir: str, file: File, *, prune: bool) -> _Plan:
    """Check a file, and compare it with the lab."""
    from dumm_tools.labs import description, dump

    now = description.of(labdir) if _exists(labdir) else description.empty(labdir)
    if file.text == dump.text(now):
        return _Plan([], now)
    from dumm_tools.labs import looking, plan
    from dumm_tools.labs.wanted import Wanted
    from dumm_tools.running import liveness

    def look(name: str) -> GuestState:
        return liveness.guest_state(labdir, now.state, now.state.guests[name])

    read = Wanted(now, looking.host(labdir), prune=prune)
    lab_file.read(language.of_lines(io.BytesIO(file.text)), file.name, read)
    wanted = read.description()
    return _Plan(list(plan.plan(now, wanted, look, read.starts)), wanted)


def _check_names(labdir: str, steps: list[Command]) -> None:
    """Raise Conflict if the name of a new bridge is in use on the host."""
    from dumm_tools import statefile
    from dumm_tools.net import host_links

    state = statefile.load(labdir)
    for command in steps:
        if command.words[:2] == ("bridge", "create"):
            host_links.check_free(state, command.words[2])


def _check_guests(labdir: str, steps: list[Command]) -> None:
    """Raise Conflict if one of the guests that have to do something is paused, or comes or goes."""
    from dumm_tools import statefile
    from dumm_tools.net import cable

    state = statefile.load(labdir)
    for name in sorted({command.guest for command in steps if command.guest in state.guests}):
        cable.reachable(labdir, state, name)


def _run(command: Command) -> int:
    """Run a command in this process; its exit status."""
    verb, name, rest = tools.resolve(command.words)
    try:
        with (
            _standard_input(command.document),
            verb.make_context(name[-1], rest, click.get_current_context()) as context,
        ):
            status = verb.invoke(context)
    except click.exceptions.Exit as e:
        return e.exit_code
    except click.UsageError as e:
        ending.report("dumm-console", ending.said(e))
        return e.exit_code
    except click.Abort:
        raise
    except Exception as e:
        return ending.tell("dumm-console", e)
    return status if isinstance(status, int) else 0


@contextlib.contextmanager
def _standard_input(document: bytes | None) -> Iterator[None]:
    before = sys.stdin
    sys.stdin = io.TextIOWrapper(io.BytesIO(document or b""))
    try:
        yield
    finally:
        sys.stdin = before


def _shown(command: Command) -> str:
    return language.shortened(" ".join(map(language.quoted, command.words)))


# ---- uplinks of labs with namespaces of their own ----


def _is_outside(command: Command) -> bool:
    """Whether a command must not run inside the lab's namespaces: from there, no way leads to the
    outside."""
    return command.words[:2] == ("bridge", "uplink") and "--nat" in command.words


@contextlib.contextmanager
def _outside(labdir: str, steps: list[Command]) -> Iterator[Callable[[Command], int]]:
    """Yield a function that runs commands outside the namespaces that this process is about to
    enter, which it cannot leave again."""
    from dumm_tools import statefile

    if not (statefile.outline(labdir).isolated and any(map(_is_outside, steps))):
        yield _run
        return
    ask, answer = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ask[1])
        os.close(answer[0])
        _stay_outside(labdir, steps, ask[0], answer[1])
    os.close(ask[0])
    os.close(answer[1])

    def run(command: Command) -> int:
        os.write(ask[1], b"%d\n" % steps.index(command))
        return (os.read(answer[0], 1) or b"\1")[0]

    try:
        yield run
    finally:
        os.close(ask[1])
        os.close(answer[0])
        os.waitpid(pid, 0)


def _stay_outside(labdir: str, steps: list[Command], asked: int, answer: int) -> NoReturn:
    """Run the commands that the other process names, each in a process of its own, until it
    ends."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.environ["DUMM_DIR"] = labdir
        with open(asked, "rb") as numbers:
            for number in numbers:
                tool, *words = steps[int(number)].words
                pid = os.fork()
                if pid == 0:
                    signal.signal(signal.SIGINT, signal.default_int_handler)
                    os._exit(ending.outcome(tools.named(tool), "dumm-console", words))
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                os.write(answer, bytes([status if 0 <= status < 256 else 1]))
    finally:
        os._exit(0)
