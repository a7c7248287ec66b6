"""Children of a command that run one after the other, whatever signals the command gets meanwhile.

The command itself stays outside the lab's namespaces; a child may enter them, or become a program.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from dumm_tools import messages

#: Signals that end commands; a terminal sends the first two to the children, too.
_SIGNALS = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP)


class Family:
    """Runs children. Signals sent to us alone are passed on."""

    def __init__(self) -> None:
        self._heeded = {n for n in _SIGNALS if signal.getsignal(n) is not signal.SIG_IGN}
        self._mask: set[int | signal.Signals] = set()
        #: The signal that was sent to us, to end us.
        self.ended_by: int | None = None

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Children can be run inside this block."""
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, {*self._heeded, signal.SIGCHLD})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def run(self, action: Callable[[], int], *, heedless: bool = False) -> int:
        """Run an action in a child; return its status, or -n for signal n. Nothing interrupts a
        `heedless` one."""
        pid = os.fork()
        if pid == 0:
            self._act(action, heedless)
        while True:
            info = signal.sigwaitinfo({*self._heeded, signal.SIGCHLD})
            if info.si_signo == signal.SIGCHLD:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    return os.waitstatus_to_exitcode(status)
            elif not heedless:
                from_user = info.si_code <= 0  # rather than from a terminal
                if from_user or info.si_signo in (signal.SIGTERM, signal.SIGHUP):
                    self.ended_by = info.si_signo
                if from_user:
                    os.kill(pid, info.si_signo)

    def _act(self, action: Callable[[], int], heedless: bool) -> None:
        code = 1
        try:
            for number in self._heeded:
                ours = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
                signal.signal(number, signal.SIG_IGN if heedless else ours)
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
            code = action()
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            os._exit(code)


def become(argv: Sequence[str], prog: str) -> int:
    """Run a program in place of this process; the exit status if that fails."""
    try:
        os.execvp(argv[0], list(argv))
    except OSError as e:
        messages.say(f"{prog}: cannot run '{argv[0]}': {e.strerror}")
        return 127 if isinstance(e, FileNotFoundError) else 126
