"""A guest's turn: the right to talk to the guest, or to make it match its record.

The lab's lock (`statefile.transaction`) is held for milliseconds; a turn is held while waiting for
its guest, so that only commands on the same guest wait. It is a flock on run/NAME/turn, taken
before the lab's lock and never while holding it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator

from dumm_tools import names, statefile, waiting
from dumm_tools.errors import DummError, NotFound, TimedOut, Usage
from dumm_tools.running import liveness

#: Seconds to wait for another command that has the turn.
TIMEOUT = 10.0
#: With several guests, seconds for those that answer immediately: for each, and for all together.
PROMPT, PROMPT_ALL = 0.3, 1.0
#: After that, seconds for all the others together.
PATIENCE = 10.0
#: Seconds for a guest that the command is not about.
ASIDE = 2.0
#: Minimum for each guest (seconds).
LEAST = 0.02


@contextlib.contextmanager
def taken(labdir: str, name: str, timeout: float = TIMEOUT) -> Iterator[int | None]:
    """Take a guest's turn; TimedOut names the process that has it. Ctrl-C inside waits for the end.

    Yields the lock's descriptor, with which a child process shares the turn; None if the guest does
    not exist, which the caller will see in the records.
    """
    fd = _take(labdir, name, time.monotonic() + timeout)
    try:
        with waiting.unbroken(begun=False):
            yield fd
    finally:
        if fd is not None:
            os.close(fd)


def await_launch(labdir: str, name: str, deadline: float) -> None:
    """If a guest is being started, wait until its pid is known or the attempt has failed; TimedOut.
    Until then the starting command, and then the launcher of the jail, have the turn."""
    if liveness.pid_of(labdir, name) is None and liveness.alive(labdir, name):
        with taken(labdir, name, min(deadline - time.monotonic(), 1e6)):
            return


@contextlib.contextmanager
def of_templates(labdir: str) -> Iterator[None]:
    """The turn for changing the loaded template, which affects all guests. TimedOut."""
    waiting.must_not_wait("the turn of the templates")
    with contextlib.suppress(FileExistsError):
        os.mkdir(os.path.join(labdir, "run"), 0o700)
    fd = _opened(os.path.join(labdir, "run", "templates.turn"))
    try:
        waiting.lock(fd, PATIENCE + TIMEOUT, "the template")
        with waiting.unbroken():
            yield
    finally:
        os.close(fd)


def _take(labdir: str, name: str, deadline: float) -> int | None:
    waiting.must_not_wait(f"the turn of guest '{name}'")
    try:
        directory = liveness.run_dir(labdir, names.guest(name))
    except Usage:
        return None
    while True:
        try:
            fd = _opened(os.path.join(directory, "turn"))
        except FileNotFoundError:
            try:
                if name not in statefile.load(labdir).guests:
                    return None
            except NotFound:  # there is no lab either
                return None
            liveness.make_run_dir(labdir, name)
            continue
        try:
            left = max(0.001, deadline - time.monotonic())
            waiting.lock(fd, left, f"guest '{name}'")
            if _is_at(fd, os.path.join(directory, "turn")):
                with contextlib.suppress(OSError):  # a full disk: only its name is missing
                    os.ftruncate(fd, 0)
                    os.pwrite(fd, b"%d\n" % os.getpid(), 0)
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # the guest was deleted meanwhile


def _opened(path: str) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileNotFoundError:
        raise
    except OSError as e:
        raise DummError(f"cannot open '{path}': {e.strerror}") from None


def _is_at(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def each(
    labdir: str,
    guests: Iterable[str],
    talk: Callable[[str, float], object],
    then: Callable[[list[str]], object],
    again: Callable[[str, float], object],
    *,
    first: Callable[[list[str]], object] = lambda _: None,
    about: Callable[[str], bool] = lambda _: True,
) -> dict[str, Exception]:
    """Call `talk` for each guest, in its turn and within the given seconds; return the failures.

    A guest that does not answer immediately does not delay the others: when these are done, `then`
    records it for them, their turns end, and only then `again` is called for the late ones. `first`
    is called before everything else, for those whose turns were available; if it fails, nothing
    more is done. Late ones that the command is not `about` are given less time.
    """
    failures: dict[str, Exception] = {}
    ready: list[str] = []
    late: list[str] = []
    deadline = time.monotonic() + PROMPT_ALL

    def share() -> float:
        return max(LEAST, min(PROMPT, deadline - time.monotonic()))

    with contextlib.ExitStack() as turns:
        for name in sorted(guests):
            try:
                turns.enter_context(taken(labdir, name, share()))
                ready.append(name)
            except TimedOut:
                late.append(name)
        first(ready)
        done = []
        for name in ready:
            try:
                talk(name, share())
                done.append(name)
            except TimedOut:
                late.append(name)
            except Exception as e:  # one failure must not affect the others
                failures[name] = e
        then(done)
    deadline = time.monotonic() + PATIENCE
    for number, name in enumerate(late):
        seconds = (deadline - time.monotonic()) / (len(late) - number)
        seconds = max(LEAST, seconds if about(name) else min(seconds, ASIDE))
        try:
            with taken(labdir, name, seconds):
                again(name, seconds)
        except Exception as e:
            failures[name] = e
    return failures


@contextlib.contextmanager
def unless_ended(labdir: str, guest: str) -> Iterator[None]:
    """Have a running guest do something, unless it has just ended."""
    try:
        yield
    except DummError:
        pidfd = liveness.pidfd_of(labdir, guest)
        if pidfd is not None:
            os.close(pidfd)
            raise
