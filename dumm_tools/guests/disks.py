"""Disks: files on the host that are block devices of a guest (arch/um/drivers/ubd_kern.c).

A disk is recorded as its absolute path, with ":ro" if the guest may only read it; a path that ends
in one of the suffixes itself gets another.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

from dumm_tools import trust
from dumm_tools.errors import Conflict, DummError, NotFound, Usage
from dumm_tools.model import Guest, State
from dumm_tools.running import liveness
from dumm_tools.trees import exposure

#: The kernel has 16 of them (MAX_DEV), and uses the first if it finds a file called root_fs.
MOST = 15
_SUFFIXES = (":ro", ":rw")

#: How files begin that would be useless as disks: formats of other programs.
_FORMATS = {
    b"QFI\xfb": "qcow2",
    b"KDMV": "vmdk",
    b"vhdxfile": "vhdx",
    b"<<< ": "vdi",
}


class Disk(NamedTuple):
    """A file, and whether the guest may only read it."""

    path: str
    read_only: bool


def parse(text: str) -> Disk:
    """A disk in its written form."""
    if text.endswith(_SUFFIXES):
        return Disk(text[:-3], text.endswith(":ro"))
    return Disk(text, False)


def device(number: int) -> str:
    """The name in the guest of the disk with this number, from 0 on."""
    return f"ubd{chr(ord('b') + number)}"


def place(number: int) -> str:
    """Where a disk is in the guest's jail."""
    return f"/disks/{device(number)}"


def argument(number: int, disk: Disk) -> str:
    """The kernel's argument for a disk: its contents are never taken for a list of changes to
    another file ("d")."""
    return f"ubd{number + 1}{'r' if disk.read_only else ''}d={place(number)}"


def checked(texts: Sequence[str]) -> list[str]:
    """The records of disks that a user names. Usage, NotFound, DummError."""
    if len(texts) > MOST:
        raise Usage(f"{len(texts)} disks are too many: a guest can have {MOST}")
    found: list[Disk] = []
    for text in texts:
        disk = parse(text)
        if not disk.path:
            raise Usage(f"--disk '{text}' names no file")
        disk = disk._replace(path=os.path.realpath(disk.path))
        with contextlib.closing(_Opened(disk)) as opened:
            _check_contents(disk.path, opened.fd)
        for other in found:
            if os.path.samefile(other.path, disk.path) and not (other.read_only and disk.read_only):
                raise Usage(f"disk '{disk.path}' is named twice, and not read-only each time")
        found.append(disk)
    return [written(disk) for disk in found]


def _user(labdir: str, state: State, name: str, fd: int) -> str:
    """The guest, other than the one with this name, that has a disk, if it belongs to this lab."""
    for guest in state.guests.values():
        if guest.name == name or guest.boot is None or not liveness.alive(labdir, guest.name):
            continue
        for text in guest.boot.disks:
            with contextlib.suppress(OSError):
                if os.path.samestat(os.fstat(fd), os.stat(parse(text).path)):
                    return f"guest '{guest.name}'"
    return "another lab or program"


def written(disk: Disk) -> str:
    """The written form of a disk."""
    if disk.read_only:
        return disk.path + ":ro"
    return disk.path + ":rw" * disk.path.endswith(_SUFFIXES)


class _Opened:
    """An open disk: a regular file that the caller may use as the guest will, and that nobody else
    can replace, so that the name means the same file at the next start."""

    def __init__(self, disk: Disk) -> None:
        path = disk.path
        try:
            _need_file(path, os.stat(path).st_mode)  # opening a device may have effects
            how = os.O_RDONLY if disk.read_only else os.O_RDWR
            self.fd = os.open(path, how | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"no such file '{path}'") from None
        except OSError as e:
            denied = e.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and not disk.read_only
            raise DummError(
                f"cannot open disk '{path}': {e.strerror}",
                hint=f"--disk '{path}:ro' is for reading only" if denied else None,
            ) from None
        try:
            _need_file(path, os.fstat(self.fd).st_mode)
            if os.path.realpath(path) != path:
                raise Conflict(
                    f"disk '{path}' has been replaced with a link",
                    hint="to use that file: dumm-guest set --disk",
                )
            trust.check_name(path)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        os.close(self.fd)


def _need_file(path: str, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise Usage(f"disk '{path}' is a directory, not a file")
    if not stat.S_ISREG(mode):
        kind = "block device" if stat.S_ISBLK(mode) else "special file"
        raise Usage(f"disk '{path}' is a {kind}, not a file")


def _check_contents(path: str, fd: int) -> None:
    head = os.pread(fd, 16, 0)
    if not head:
        raise Usage(f"disk '{path}' is empty", hint=f"truncate -s 1G '{path}'")
    for start, name in _FORMATS.items():
        if head.startswith(start):
            raise Usage(
                f"disk '{path}' is in {name} format, not raw",
                hint=f"qemu-img convert -O raw '{path}' NEW",
            )


def exposed(texts: Sequence[str]) -> list[str]:
    """Those of the disks that are written to and can be reached by other users of the host: a
    guest's root user can turn its disk into a setuid program."""
    paths = [os.path.realpath(d.path) for d in map(parse, texts) if not d.read_only]
    return [path for path in paths if exposure.is_open(os.path.dirname(path))]


def taken(labdir: str, state: State, guest: Guest) -> list[int]:
    """Open and lock the disks of a guest that is about to start: a guest that writes to one has it
    for itself. NotFound, Conflict, DummError, Usage."""
    fds: list[int] = []
    try:
        for disk in map(parse, guest.disks):
            fds.append(_Opened(disk).fd)
            how = fcntl.LOCK_SH if disk.read_only else fcntl.LOCK_EX
            try:
                fcntl.flock(fds[-1], how | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Conflict(
                    f"disk '{disk.path}' is in use by {_user(labdir, state, guest.name, fds[-1])}"
                ) from None
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    return fds
