"""Talking to a running guest: to its agent over its lines, to its kernel over its mconsole."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import select
import struct
import time
from collections.abc import Iterator

from dumm_tools import waiting
from dumm_tools.agent import protocol, steps
from dumm_tools.agent.client import ANSWER_TIMEOUT, LINES, Control, Line, inward
from dumm_tools.agent.protocol import BadFrame, Booted, LineLost, Ready, Rebooted
from dumm_tools.agent.steps import Steps, Wait
from dumm_tools.errors import Conflict, DummError, TimedOut
from dumm_tools.linux import mconsole as mc
from dumm_tools.model import Guest
from dumm_tools.running import liveness, startup_file

#: The tag of a virtiofs with a guest's root file system, and the directory of that.
ROOT_TAG = "root"
#: The directory that the server serves, in its jail, and the guest's tree in there.
SERVED = "/shared"


@contextlib.contextmanager
def conversation(labdir: str, name: str) -> Iterator[int]:
    """The guest's pidfd, for a conversation with its agent, whose failures are explained. Conflict,
    TimedOut, DummError."""
    waiting.must_not_wait(f"guest '{name}'")
    pidfd = liveness.pidfd_of(labdir, name)
    if pidfd is None:
        raise Conflict(f"guest '{name}' is not running")
    try:
        with explained(name):
            yield pidfd
    finally:
        os.close(pidfd)


@contextlib.contextmanager
def explained(name: str) -> Iterator[None]:
    """Explain the failures of a conversation with the guest's agent. Conflict, TimedOut,
    DummError."""
    try:
        yield
    except BadFrame:
        raise DummError(f"guest '{name}' gave an invalid answer") from None
    except Rebooted:
        raise Conflict(f"guest '{name}' has rebooted") from None
    except LineLost:
        raise Conflict(f"guest '{name}' has ended") from None
    except TimeoutError:
        raise TimedOut(f"guest '{name}' does not answer") from None


@contextlib.contextmanager
def _taken(labdir: str, name: str, numbers: range, deadline: float) -> Iterator[Line]:
    with (
        conversation(labdir, name) as pidfd,
        contextlib.closing(steps.run(_take(labdir, name, numbers, pidfd, deadline))) as line,
    ):
        yield line


def _take(labdir: str, name: str, numbers: range, pidfd: int, deadline: float) -> Steps[Line]:
    """The first free line; if there is none, wait until one is closed."""
    directory = liveness.run_dir(labdir, name)
    ends: dict[int, int] = {}
    with contextlib.ExitStack() as stack:
        closed = -1
        while True:
            for number in numbers:
                try:
                    return Line(directory, number, pidfd, opened=ends.get(number))
                except BlockingIOError:
                    continue
                except FileNotFoundError:
                    raise Conflict(f"guest '{name}' is not running") from None
            from dumm_tools.linux import inotify  # rarely needed, and slow to import

            if closed < 0:  # and try again: one may have been closed before the watch
                for number in numbers:  # closing one after each try would wake us again and again
                    with contextlib.suppress(FileNotFoundError):
                        ends[number] = inward(directory, number)
                        stack.callback(os.close, ends[number])
                closed = inotify.watch(directory, inotify.IN_CLOSE)
                stack.callback(os.close, closed)
                continue
            # The limit of a second is for hosts that do not report events on FIFOs.
            until = min(deadline, time.monotonic() + 1.0)
            events = yield Wait({closed: select.POLLIN, pidfd: select.POLLIN}, until)
            if pidfd in events:
                raise Conflict(f"guest '{name}' is not running")
            if time.monotonic() >= deadline:
                raise TimedOut(f"guest '{name}' is busy: all its lines are in use")
            inotify.drain(closed)


@contextlib.contextmanager
def control(labdir: str, name: str, timeout: float = ANSWER_TIMEOUT) -> Iterator[Control]:
    """The guest's control line, synchronized. Conflict, TimedOut, DummError.

    `timeout` covers all waiting until the end of the block.
    """
    deadline = time.monotonic() + timeout
    with _taken(labdir, name, range(1), deadline) as line:
        line.hello(_left(deadline))
        yield Control(line, deadline)


def _left(deadline: float, most: float = math.inf) -> float:
    return min(most, max(0.0, deadline - time.monotonic()))


def power_off(labdir: str, name: str, timeout: float) -> None:
    """Ask the guest's agent for an orderly shutdown, without waiting for an answer."""
    with _taken(labdir, name, range(1), time.monotonic() + timeout) as line:
        line.send(protocol.HELLO, os.urandom(protocol.NONCE))
        Control(line).power(protocol.POWER_OFF)


@contextlib.contextmanager
def program_line(
    labdir: str, name: str, timeout: float = ANSWER_TIMEOUT, *, deadline: float = math.inf
) -> Iterator[Line]:
    """A free line for a program, synchronized within `timeout` seconds. If all are in use, wait for
    one, until the deadline."""
    with (
        conversation(labdir, name) as pidfd,
        contextlib.closing(
            steps.run(opening(labdir, name, pidfd, timeout, deadline=deadline))
        ) as line,
    ):
        yield line


def opening(
    labdir: str,
    name: str,
    pidfd: int,
    timeout: float = ANSWER_TIMEOUT,
    *,
    deadline: float = math.inf,
) -> Steps[Line]:
    """`program_line` for a loop that has many conversations, and closes the line."""
    line = yield from _take(labdir, name, range(1, LINES), pidfd, deadline)
    try:
        deadline = min(deadline, time.monotonic() + timeout)
        ready = yield from line.greeting(_left(deadline))
        for number in ready.busy - {0}:
            yield from _drop_orphan(labdir, name, number, pidfd, deadline)
    except BaseException:
        line.close()
        raise
    return line


def _drop_orphan(labdir: str, name: str, number: int, pidfd: int, deadline: float) -> Steps[None]:
    """End the program on a line whose client has died: the line is in use, but nobody holds its
    lock."""
    try:
        line = Line(liveness.run_dir(labdir, name), number, pidfd)
    except BlockingIOError:
        return
    try:
        yield from line.greeting(_left(deadline))
    finally:
        line.close()


def wait_ready(labdir: str, name: str, nonce: str, timeout: float) -> Ready:
    """Wait for the agent of the boot `nonce` to answer on the control line."""
    deadline = time.monotonic() + timeout
    with _taken(labdir, name, range(1), deadline) as line:
        ready = line.hello(_left(deadline))
    if ready.nonce != nonce:
        raise DummError(f"guest '{name}' answered for another boot")
    return ready


def wait_booted(labdir: str, name: str, timeout: float) -> Booted | None:
    """Wait for the guest to have booted; None if that takes longer, or if it reboots meanwhile.
    DummError if its agent cannot tell."""
    deadline = time.monotonic() + timeout
    with contextlib.suppress(TimedOut), program_line(labdir, name, deadline=deadline) as line:
        line.send(protocol.STATE)
        # Nothing to store: every agent refuses, but an older one has not answered STATE before.
        line.send(protocol.STORE, b"-")
        try:
            frame = line.wait_frame(_left(deadline), (protocol.BOOTED, protocol.DONE))
            if frame.kind == protocol.DONE:
                if not line.taken:
                    raise DummError(
                        f"guest '{name}' was started by an earlier version, and cannot tell",
                        hint=f"dumm-guest restart {name}",
                    )
                frame = line.wait_frame(_left(deadline), (protocol.BOOTED,))
        except (TimeoutError, Rebooted):
            return None
        return protocol.booted(frame.data)
    return None


def _reply(labdir: str, name: str) -> tuple[str, str]:
    """Our address for a guest's kernel, whose working directory is the jail's root."""
    return liveness.run_dir(labdir, name), f"uml/reply.{os.urandom(6).hex()}"


def mconsole(labdir: str, name: str, command: str, timeout: float = ANSWER_TIMEOUT) -> str:
    """Send an mconsole command to the guest's kernel and return its answer; DummError with the
    kernel's text if it refuses, Conflict if nobody is there, TimedOut."""
    waiting.must_not_wait(f"guest '{name}'")
    path = os.path.join(liveness.umid_dir(labdir, name), "mconsole")
    try:
        failed, text = mc.request(path, command, timeout, reply=_reply(labdir, name))
    except TimeoutError:
        raise TimedOut(f"guest '{name}' does not answer on its mconsole") from None
    except OSError as e:
        if e.errno == errno.EMSGSIZE:
            raise DummError("an mconsole command is limited to 511 bytes") from None
        if e.errno == errno.EBADMSG:
            raise DummError(f"guest '{name}' gave an invalid answer on its mconsole") from None
        if e.errno in (
            errno.ENOENT,
            errno.ENOTDIR,
            errno.ELOOP,
            errno.ENOTSOCK,
            errno.ECONNREFUSED,
        ):
            raise Conflict(f"guest '{name}' is not running") from None
        raise DummError(f"cannot reach the mconsole of guest '{name}': {e.strerror}") from None
    if failed:
        raise DummError(f"guest '{name}': {command.split()[0]}: {text}")
    return text


def halt(labdir: str, name: str, timeout: float = ANSWER_TIMEOUT) -> None:
    """Suspend the guest's kernel. A kernel that does not answer is not asked to: it would obey
    later, when nobody sends "go" any more (which overtakes: mconsole_commands, mconsole_kern.c)."""
    mconsole(labdir, name, "version", timeout)
    try:
        mconsole(labdir, name, "stop", timeout)
    except DummError as e:
        if "Already stopped" not in str(e):
            raise


def write_boot(labdir: str, guest: Guest, records: list[tuple[bytes, int, bytes]]) -> None:
    """Write the instructions for this boot and for each reboot of the guest, atomically: for its
    agent (src/boot.c) and, before that, for its jail (jail/boot.c)."""
    head: list[tuple[bytes, int, bytes]] = [
        (protocol.BOOT_HOSTNAME, 0, guest.name.encode() + b"\0")
    ]
    if init := guest.current_init:
        head.append((protocol.BOOT_INIT, 0, os.fsencode(init) + b"\0"))
    if guest.is_served:
        head.append((protocol.BOOT_ROOT, 0, f"{ROOT_TAG}\0{guest.root}\0".encode()))
    if guest.boot is not None:
        head += [(protocol.BOOT_DISK, n, b"") for n in range(len(guest.boot.disks))]
    head += startup_file.record(labdir, guest.name)
    path = os.path.join(liveness.run_dir(labdir, guest.name), protocol.BOOT_FILE)
    with open(path + ".new", "wb") as file:
        os.fchmod(file.fileno(), 0o644)
        for kind, slot, payload in head + records:
            file.write(struct.pack("<cBHI", kind, 0, slot, len(payload)) + payload)
    os.replace(path + ".new", path)
