"""Programs that `dumm-fs` runs for its own work: apt, dpkg, tar, mmdebstrap. The only user of `sh`.

`sh` takes long to import and starts threads: nothing here is for guests or for reading verbs.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence

from dumm_tools import proc
from dumm_tools.errors import DummError

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_SIGKILL = 9


class ProgramFailed(DummError):
    """A program ended badly; `stderr` is all that it said."""

    def __init__(self, message: str, stderr: str) -> None:
        super().__init__(message)
        self.stderr = stderr


def run(
    argv: Sequence[str],
    *,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
    line: Callable[[str], None] | None = None,
    error_line: Callable[[str], None] | None = None,
) -> str:
    """Run a program to its end and return its stdout, or hand it to `line` as it comes.

    ProgramFailed when it ends badly, DummError when it is not installed. It dies with us.
    """
    import shlex

    import sh

    proc.log(shlex.join(argv))
    try:
        command = sh.Command(argv[0])
    except sh.CommandNotFound:
        raise proc.not_installed(argv[0]) from None
    out: list[str] = []
    err: list[str] = []

    def take_error(text: str) -> None:
        err.append(text)
        if error_line:
            error_line(text.rstrip("\n"))

    def take(text: str) -> None:
        if line:
            line(text.rstrip("\n"))
        else:
            out.append(text)

    with open(os.devnull, "rb") as nothing:
        try:
            command(
                *argv[1:],
                _in=nothing,
                _out=take,
                _err=take_error,
                _tty_out=False,
                _cwd=cwd,
                _env={**os.environ, "LC_ALL": "C", **(env or {})},
                _encoding="utf-8",
                _decode_errors="surrogateescape",
                _preexec_fn=_before_exec(),
            )
        except sh.ErrorReturnCode as e:
            text = "".join(err)
            why = _reason(text) or f"exit status {e.exit_code}"
            raise ProgramFailed(f"{os.path.basename(argv[0])} failed: {why}", text) from None
        except (sh.ForkException, OSError) as e:
            why = str(e).strip().rpartition("\n")[2]
            raise DummError(f"cannot run '{argv[0]}': {why}") from None
    return "".join(out)


def end_threads() -> None:
    """Wait until the threads that `sh` has started have ended: a process that makes a user
    namespace may have none (unshare(2))."""
    import threading
    import time

    deadline = time.monotonic() + 10
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(max(0.0, deadline - time.monotonic()))
    # Python is done with a thread a moment before the kernel is, and nothing tells of that.
    while len(os.listdir("/proc/self/task")) > 1 and time.monotonic() < deadline:
        time.sleep(0.001)


def _before_exec() -> Callable[[], None]:
    """What the child does before its exec; the library is loaded here, on the safe side of fork."""
    import ctypes

    libc = ctypes.CDLL(None)

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)

    return prepare


@contextlib.contextmanager
def decompressed(argv: Sequence[str], chunks: Iterator[bytes]) -> Iterator[int]:
    """Feed `chunks` to a program such as `zstd -dc`; yields a descriptor to read its stdout from.

    Raises when the program found its input to be broken.
    """
    import sh

    try:
        command = sh.Command(argv[0])
    except sh.CommandNotFound:
        raise proc.not_installed(argv[0]) from None
    reader, writer = os.pipe()
    running = None
    try:
        with open(writer, "wb", buffering=0) as out:
            running = command(
                *argv[1:],
                _in=chunks,
                _out=out,
                _tty_out=False,
                _bg=True,
                _bg_exc=False,
                _preexec_fn=_before_exec(),
            )
        yield reader
        try:
            running.wait()
        except sh.ErrorReturnCode as e:
            why = _reason(e.stderr.decode(errors="replace")) or f"exit status {e.exit_code}"
            raise DummError(f"{argv[0]} failed: {why}") from None
    finally:
        os.close(reader)
        if running is not None and running.is_alive():
            running.kill()


def _reason(stderr: str) -> str:
    """The line that says why: apt's first `E:`, a full disk wherever it shows, else the last."""
    lines = [text.strip() for text in stderr.splitlines() if text.strip()]
    for text in lines:
        if "No space left on device" in text:
            return "No space left on device"
    for text in lines:
        if text.startswith("E: "):
            return text[3:].strip()
    return lines[-1] if lines else ""
