"""The startup program of a guest: where the lab keeps its script, and how it travels to the agent.

startup/NAME in the working set is the script. The files for the present boot, and for each reboot
of the guest, are in run/NAME: `startup` is the agent's instruction, xfer/startup the script.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from dumm_tools import trust
from dumm_tools.agent import protocol
from dumm_tools.errors import DummError
from dumm_tools.running import liveness

if TYPE_CHECKING:
    from dumm_tools.agent.program import Program

#: The directory of a working set that contains the scripts.
DIRECTORY = "startup"
#: The agent writes the script to this file in the guest, which is on a tmpfs.
_SCRIPT = "/run/dumm-startup"


def path(labdir: str, name: str) -> str:
    """Where the script of a guest is kept."""
    return os.path.join(labdir, DIRECTORY, name)


def exists(labdir: str, name: str) -> bool:
    """Whether a guest has a script."""
    return os.path.lexists(path(labdir, name))


def whole(script: bytes) -> bytes:
    """A script as it is kept: it ends in a line break, since it is a here-document in lab files."""
    return script if script.endswith(b"\n") else script + b"\n"


def read(labdir: str, name: str) -> bytes | None:
    """The script of a guest, or None. Conflict if it is not the caller's."""
    where = path(labdir, name)
    try:
        fd = os.open(where, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as e:
        raise DummError(f"cannot read '{where}': {e.strerror}") from None
    with open(fd, "rb") as file:
        trust.check_file(labdir, where, fd)
        script = file.read(protocol.STARTUP_MAX + 1)
    if len(script) > protocol.STARTUP_MAX:
        raise DummError(f"'{where}' is larger than {protocol.STARTUP_MAX >> 20} MiB")
    return script


def prepare(labdir: str, name: str, command: Program | None = None) -> None:
    """Have the boots of a guest from now on run its script or, if it has none, the command of its
    image, if that has one. `contact.write_boot` tells the agent."""
    run = liveness.run_dir(labdir, name)
    order, file, log = (
        os.path.join(run, each) for each in ("startup", protocol.STARTUP_FILE, "startup.log")
    )
    script = read(labdir, name)
    if script is None and command is None:
        for each in (order, file, log):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(each)
        return
    from dumm_tools.agent.program import Program, request

    how = protocol.STARTUP_SERVICE
    if script is not None:
        _replace(file, script)
        command, how = Program([_SCRIPT]), protocol.STARTUP_SCRIPT
    assert command is not None
    _replace(order, bytes([how, 0]) + request(command, 24, 80))
    if not os.path.islink(log):
        os.symlink("uml/startup.log", log)


def record(labdir: str, name: str) -> list[tuple[bytes, int, bytes]]:
    """The instruction for the agent, if there is one."""
    try:
        with open(os.path.join(liveness.run_dir(labdir, name), "startup"), "rb") as file:
            order = file.read()
    except FileNotFoundError:
        return []
    return [(protocol.BOOT_STARTUP, int.from_bytes(order[:2], "little"), order[2:])]


def is_ordered(labdir: str, name: str) -> bool:
    """Whether the agent was told to run a program."""
    return os.path.lexists(os.path.join(liveness.run_dir(labdir, name), "startup"))


def _replace(path: str, data: bytes) -> None:
    with open(path + ".new", "wb") as file:
        os.fchmod(file.fileno(), 0o644)  # the guest's kernel runs as another user
        file.write(data)
    os.replace(path + ".new", path)


def state(labdir: str, name: str, alive: bool) -> str | None:
    """The state of a guest's startup program in this boot: waiting, running, done or failed N;
    None if it has none. The guest says so itself."""
    run = liveness.run_dir(labdir, name)
    if not alive:
        return "waiting" if exists(labdir, name) else None
    if found := protocol.startup_state(_said(os.path.join(run, "uml", "startup"))):
        return found
    return "waiting" if is_ordered(labdir, name) else None


def last_line(labdir: str, name: str) -> str:
    """The last line that the startup program has printed, made safe for terminals; or ""."""
    text = _said(os.path.join(liveness.run_dir(labdir, name), "uml", "startup.log"), tail=4096)
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    line = lines[-1][-500:] if lines else ""
    return protocol.explained(line)


def failure(labdir: str, name: str, found: str) -> str:
    """The message about a startup script that has failed."""
    status = found.partition(" ")[2]
    line = last_line(labdir, name)
    what = "startup script" if exists(labdir, name) else "image's command"
    return f"guest '{name}': its {what} failed with status {status}" + (f": {line}" if line else "")


def _said(path: str, tail: int = 64) -> str:
    """The end of a file that the guest can write to, and replace with anything."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        data = os.pread(fd, tail, max(0, os.fstat(fd).st_size - tail))
    except OSError:
        return ""
    finally:
        os.close(fd)
    return "\n".join(protocol.printable(line) for line in data.split(b"\n"))
