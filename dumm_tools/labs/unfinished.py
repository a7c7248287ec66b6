"""`apply` runs once at a time in a lab, and notes the command that it runs, so that the next one
completes what a killed one has left half done.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from dumm_tools import waiting
from dumm_tools.errors import DummError

#: Seconds to wait for another one.
PATIENCE = 30.0
#: In run/. Names with a dot cannot be a guest's.
_TURN, _STEP = "apply.turn", "apply.step"


@contextlib.contextmanager
def turn(labdir: str) -> Iterator[None]:
    """Keep others from applying a file meanwhile; TimedOut."""
    run = os.path.join(labdir, "run")
    with contextlib.suppress(FileExistsError):
        os.mkdir(run, 0o700)
    fd = os.open(
        os.path.join(run, _TURN), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
    )
    try:
        waiting.lock(fd, PATIENCE, "'apply'")
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        yield
    finally:
        os.close(fd)


def left(labdir: str) -> bytes:
    """As `read`; also empty while another one is running."""
    with contextlib.suppress(OSError):
        fd = os.open(os.path.join(labdir, "run", _TURN), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return b""
        finally:
            os.close(fd)
    return read(labdir)


def read(labdir: str) -> bytes:
    """The command that was being run by one that was killed, empty if there is none."""
    try:
        with open(_path(labdir), "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""
    except OSError as e:
        raise DummError(f"cannot read '{_path(labdir)}': {e.strerror}") from None


def note(labdir: str, command: bytes) -> None:
    """Note the command that is about to run; empty if all are done."""
    if not command:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_path(labdir))
        return
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    with open(os.open(_path(labdir), flags, 0o600), "wb") as file:
        file.write(command)


def _path(labdir: str) -> str:
    return os.path.join(labdir, "run", _STEP)
