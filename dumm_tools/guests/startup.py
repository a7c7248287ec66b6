"""The startup script of a guest: kept in the working set, and run at each of its boots."""

from __future__ import annotations

import contextlib
import os

from dumm_tools.agent import protocol
from dumm_tools.errors import DummError, Usage
from dumm_tools.model import Guest
from dumm_tools.net import cable
from dumm_tools.running import guest_views, liveness, startup_file
from dumm_tools.statefile import load, transaction


def show(labdir: str, name: str) -> bytes | None:
    """The script of a guest, or None."""
    guest_views.get(load(labdir), name)
    return startup_file.read(labdir, name)


def set_(labdir: str, name: str, script: bytes | None) -> None:
    """Give a guest a startup script, or take it away (None), effective at its next boot."""
    if script is not None:
        check(script)
        script = startup_file.whole(script)
    with cable.turn_of(labdir, name), transaction(labdir) as change:
        guest = guest_views.get(change.state, name)
        if not _is(labdir, name, script):
            store(labdir, name, script)
        if liveness.guest_state(labdir, change.state, guest) not in ("stopped", "crashed"):
            instruct(labdir, guest, guest.boot.master if guest.boot else "")
            cable.refresh_boots(labdir, change.state, {name})


def _is(labdir: str, name: str, script: bytes | None) -> bool:
    try:
        return startup_file.read(labdir, name) == script
    except DummError:  # it is replaced, whatever it is
        return False


def instruct(labdir: str, guest: Guest, master: str) -> None:
    """Have the boots of a guest from now on run its script or, if it has neither that nor an init,
    the command of the image that its master was made from."""
    command = None
    if guest.current_init is None and not startup_file.exists(labdir, guest.name):
        from dumm_tools.images import startup

        found = startup.command_of(master) if master else None
        if found is not None:
            from dumm_tools.agent.program import Program

            command = Program(found.argv, found.env, found.directory, found.user)
    startup_file.prepare(labdir, guest.name, command)


def check(script: bytes) -> None:
    """Raise Usage for a script that cannot be one."""
    if not script:
        raise Usage("the startup script is empty", hint="--clear removes it")
    if len(startup_file.whole(script)) > protocol.STARTUP_MAX:
        raise Usage(f"a startup script is limited to {protocol.STARTUP_MAX >> 20} MiB")


def store(labdir: str, name: str, script: bytes | None) -> None:
    """Write the file of a guest's script, or remove it."""
    path = startup_file.path(labdir, name)
    if script is None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        return
    # A name with a dot cannot be a guest's. A temporary file of a killed command is replaced.
    temporary = os.path.join(os.path.dirname(path), f".{name}.new")
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(os.path.dirname(path), 0o700)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(startup_file.whole(script))
            file.flush()
            os.fsync(fd)
        os.replace(temporary, path)
    except OSError as e:
        raise DummError(f"cannot write '{path}': {e.strerror}") from None
