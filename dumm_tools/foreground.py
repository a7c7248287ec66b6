"""The runner for programs that `dumm-fs` runs for its own work: apt, dpkg, mmdebstrap, zstd. The
only user of `sh`.

`sh` passes on a program's output line by line, and feeds it, with threads. A command that has
entered a lab cannot start threads: it uses `proc`. `sh` is slow to import, too, so reading verbs do
not use this.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from dumm_tools import proc
from dumm_tools.errors import DummError

if TYPE_CHECKING:
    import sh

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_SIGKILL = 9


class ProgramFailed(DummError):
    """A program failed; `stderr` is its complete error output."""

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
    """Run a program to its end and return its stdout, or pass it to `line` as it arrives.

    ProgramFailed if it fails, DummError if it is not installed. It dies with us.
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
    """Wait for the threads that `sh` has started to end: a process that creates a user namespace
    must not have any (unshare(2))."""
    import threading
    import time

    deadline = time.monotonic() + 10
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(max(0.0, deadline - time.monotonic()))
    # Python is done with a thread a moment before the kernel is, without any notification.
    while len(os.listdir("/proc/self/task")) > 1 and time.monotonic() < deadline:
        time.sleep(0.001)


def _before_exec() -> Callable[[], None]:
    """The child's work before exec; the library is loaded here, before the fork."""
    import ctypes
    import signal

    libc = ctypes.CDLL(None)

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)

    return prepare


@contextlib.contextmanager
def _broken_pipes() -> Iterator[None]:
    """Survive it if a program ends before it has read all of its input: its status says why."""
    import signal

    before = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGPIPE, before)


@contextlib.contextmanager
def decompressed(argv: Sequence[str], chunks: Iterator[bytes]) -> Iterator[int]:
    """Feed `chunks` to a program such as `zstd -dc`; yield a descriptor to read its stdout from.

    Raises ProgramFailed if the program found its input to be corrupt, or what `chunks` raises. Once
    the caller has had enough, their source may be closed at any time.
    """
    import sh

    failed: list[BaseException] = []
    try:
        command = sh.Command(argv[0])
    except sh.CommandNotFound:
        raise proc.not_installed(argv[0]) from None
    reader, writer = os.pipe()
    running = None
    with _broken_pipes():
        try:
            with open(writer, "wb", buffering=0) as out:
                running = command(
                    *argv[1:],
                    _in=_guarded(chunks, failed),
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
                failed.append(_failure(argv[0], e))
            if failed:
                raise failed[0]  # the cause, if the program failed because of its input
        finally:
            os.close(reader)
            if running is not None and running.is_alive():
                with contextlib.suppress(ProcessLookupError):  # it ended just now
                    running.kill()


def filtered(argv: Sequence[str], chunks: Iterator[bytes], target: int) -> None:
    """Feed `chunks` to a program such as `zstd -c` whose stdout is the descriptor `target`. Raises
    if it fails, or what `chunks` raises."""
    import sh

    failed: list[BaseException] = []
    try:
        command = sh.Command(argv[0])
    except sh.CommandNotFound:
        raise proc.not_installed(argv[0]) from None
    try:
        with _broken_pipes(), open(target, "wb", buffering=0, closefd=False) as out:
            command(
                *argv[1:],
                _in=_guarded(chunks, failed),
                _out=out,
                _tty_out=False,
                _preexec_fn=_before_exec(),
            )
    except sh.ErrorReturnCode as e:
        raise _failure(argv[0], e) from None
    if failed:
        raise failed[0]


def _guarded(chunks: Iterator[bytes], failed: list[BaseException]) -> Iterator[bytes]:
    """The same, with what is raised in `failed`: a thread of `sh` would only print it."""
    try:
        yield from chunks
    except BaseException as e:
        failed.append(e)


def _failure(program: str, error: sh.ErrorReturnCode) -> ProgramFailed:
    text = error.stderr.decode(errors="replace")
    why = _reason(text) or f"exit status {error.exit_code}"
    return ProgramFailed(f"{program} failed: {why}", text)


def _reason(stderr: str) -> str:
    """The line with the reason: the first `E:` of apt, a full disk wherever it appears, or else the
    last line."""
    lines = [text.strip() for text in stderr.splitlines() if text.strip()]
    for text in lines:
        if "No space left on device" in text:
            return "No space left on device"
    for text in lines:
        if text.startswith("E: "):
            return text[3:].strip()
    return lines[-1] if lines else ""
