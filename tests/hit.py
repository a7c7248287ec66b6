"""Run a command and interrupt it by a signal: hit.py WHERE COUNT SIGNAL COMMAND ARGUMENT...

The signal comes right after the COUNT-th change to the system: a system call by Python, or the
return from one of the project's own kernel calls (dumm_tools/linux). WHERE names the function to
count, or is `any`. A command that makes fewer changes is not hit.
"""

from __future__ import annotations

import importlib
import os
import sys
from types import FrameType

CALLS = """
    mkdir rmdir rename replace unlink symlink link open close write pwrite ftruncate fsync chmod
    fchmod chown kill fork fork_exec posix_spawn waitpid flock send sendto sendmsg connect bind
    setns unshare setxattr mkfifo ioctl
"""


def main() -> None:
    """Run the command in this process."""
    where, count, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    del sys.argv[:4]
    command = importlib.import_module(f"dumm_tools.cli.{sys.argv[0].removeprefix('dumm-')}")
    ours, calls = os.getpid(), frozenset(CALLS.split())

    def watch(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        if event == "c_return":
            name = getattr(argument, "__name__", "")
            if name not in calls:
                return
        elif event == "return":
            name = frame.f_code.co_name
            if name != where and "/dumm_tools/linux/" not in frame.f_code.co_filename:
                return
        else:
            return
        if where not in ("any", name) or "importlib" in frame.f_code.co_filename:
            return
        if os.getpid() != ours:  # a child of the command
            return
        count -= 1
        if count == 0:
            sys.setprofile(None)
            os.kill(ours, number)

    sys.setprofile(watch)
    command.main()


main()
