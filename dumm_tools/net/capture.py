"""Captures with the host's tcpdump, where the lab's links are visible."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import shutil
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dumm_tools import proc, statefile
from dumm_tools.errors import Conflict, DummError
from dumm_tools.linux import namespaces, process
from dumm_tools.model import State
from dumm_tools.net import link_views

if TYPE_CHECKING:
    import subprocess

#: Additional directories for tcpdump, which may not be on the PATH of ordinary users.
ALSO = "/usr/local/sbin:/usr/sbin:/sbin"
#: The users that it may run as; the first is Debian's choice.
USERS = ("tcpdump", "nobody")
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def of_interface(labdir: str, name: str) -> str:
    """The host's device of an interface. Usage, NotFound, Conflict if there is none now."""
    state = statefile.load(labdir)
    return _present(state, link_views.interface(state, name).tap, f"'{name}' is not plugged in")


def of_bridge(labdir: str, name: str) -> str:
    """The host's device of a bridge. Usage, NotFound, Conflict if it does not exist."""
    state = statefile.load(labdir)
    return _present(state, link_views.bridge(state, name).name, f"bridge '{name}' is not up")


def _present(state: State, device: str, otherwise: str) -> str:
    if not link_views.ours(state, device):
        raise Conflict(otherwise, hint="it exists while a guest on it is running")
    return device


def run(device: str, words: Sequence[str], file: str | None) -> int:
    """Print the packets of a device, or write them as pcap to a file ("-": stdout), until a signal
    arrives; return tcpdump's exit status. `words` are options of tcpdump and a filter.
    BrokenPipeError if there is no reader any more."""
    argv = [tcpdump(), "--immediate-mode", "-i", device, *tcpdump_user()]
    argv += ["-n", "-l"] if file is None else ["-U", "-w", "-"]
    argv += words
    with _Child(argv) as child:
        return child.relay(None if file == "-" else file)


def tcpdump() -> str:
    """The path of the program."""
    program = shutil.which("tcpdump", path=f"{os.environ.get('PATH', '')}:{ALSO}")
    if program is None:
        raise DummError("cannot find 'tcpdump'", hint="install the package tcpdump")
    return program


def tcpdump_user() -> list[str]:
    """Make tcpdump switch to an ordinary user as soon as it has opened the device: root must not
    parse what guests send. In the namespaces of a user with a single id, root is that user."""
    import pwd

    if os.geteuid() != 0:
        return []
    for name in USERS:
        with contextlib.suppress(KeyError):
            user = pwd.getpwnam(name)
            if namespaces.has_id("uid", user.pw_uid) and namespaces.has_id("gid", user.pw_gid):
                return ["-Z", name]
    if namespaces.is_initial():
        raise DummError(f"this host has no user '{USERS[0]}' for tcpdump to run as")
    namespaces.ease_setgroups()
    return ["-Z", "root"]


class _Child:
    """A tcpdump whose output goes through us: it complains at length when the reader is gone, and
    notices that only at its next packet. Signals that we receive are forwarded to it."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._argv = argv
        self._program: subprocess.Popen[bytes] | None = None
        self._ended = False
        self._early: list[int] = []
        self._watcher: tuple[int, int] | None = None
        self._output = -1
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> _Child:
        try:
            for number in _FORWARDED:
                self._previous[number] = signal.signal(number, self._forward)
            self._previous[signal.SIGPIPE] = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
            self._output, theirs = os.pipe2(os.O_CLOEXEC)
            with contextlib.suppress(OSError):  # the limit of an ordinary user may be used up
                fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, 1 << 20)
            try:
                # In an isolated lab this is in the lab's pid namespace, and ends with it.
                self._program = proc.start(self._argv, stdout=theirs)
            finally:
                os.close(theirs)
            for early in self._early:
                self._forward(early, None)
            self._watcher = _watch(self._program.pid)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._program and not self._ended:
            os.kill(self._program.pid, signal.SIGKILL)
            self._wait(self._program)
        if self._watcher:
            pid, pipe = self._watcher
            os.close(pipe)
            os.waitpid(pid, 0)
        if self._output >= 0:
            os.close(self._output)
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _forward(self, number: int, _frame: object) -> None:
        if self._program is None:
            self._early.append(number)
        elif not self._ended:
            os.kill(self._program.pid, number)

    def _wait(self, program: subprocess.Popen[bytes]) -> int:
        # Its pid cannot be reused until it is reaped.
        os.waitid(os.P_PID, program.pid, os.WEXITED | os.WNOWAIT)
        self._ended = True
        return program.wait()

    def relay(self, file: str | None) -> int:
        """Copy to stdout, or to a file that is created when the first byte arrives: by then tcpdump
        has accepted device and filter. Return the exit status."""
        with contextlib.ExitStack() as stack:
            target = 1 if file is None else -1
            poll = select.poll()
            poll.register(self._output, select.POLLIN)
            if file is None:
                poll.register(target, 0)
            while True:
                if target in dict(poll.poll()):
                    raise BrokenPipeError
                piece = os.read(self._output, 1 << 18)
                if not piece:
                    break
                if target < 0:
                    target = created(str(file))
                    stack.callback(os.close, target)
                while piece:
                    piece = piece[_written(target, piece, file) :]
        assert self._program
        code = self._wait(self._program)
        return code if code >= 0 else 128 - code


def _watch(pid: int) -> tuple[int, int]:
    """Have `pid` killed when we are killed: it would notice only when it has something to print,
    and a process that changes its user loses the kernel's mechanism for this (PR_SET_PDEATHSIG in
    prctl(2)). Return the watching process, and the pipe that keeps it waiting."""
    watched = os.pidfd_open(pid)
    waiting, ours = os.pipe2(os.O_CLOEXEC)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
    watcher = os.fork()
    if watcher:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(waiting)
        os.close(watched)
        return watcher, ours
    try:
        # All signals that we forward are blocked here. The reader of our output waits for its end.
        for fd in map(int, os.listdir("/proc/self/fd")):
            if fd not in (waiting, watched):
                with contextlib.suppress(OSError):  # the descriptor of the listing itself
                    os.close(fd)
        os.read(waiting, 1)
        process.send_signal(watched, signal.SIGKILL)
    finally:
        os._exit(0)


def _written(fd: int, piece: bytes, path: str | None) -> int:
    try:
        return os.write(fd, piece)
    except BrokenPipeError:
        raise
    except OSError as e:
        raise DummError(f"cannot write '{path or 'standard output'}': {e.strerror}") from None


def created(path: str) -> int:
    """Open a file to write a capture to; DummError."""
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOCTTY, 0o666)
    except OSError as e:
        raise DummError(f"cannot write '{path}': {e.strerror}") from None
