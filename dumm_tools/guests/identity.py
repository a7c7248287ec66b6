"""The identity of guests with an init: a host name, a machine-id(5), SSH host keys.

A master brings those of the machine that it was made on. A file of which the guest still has the
master's version is replaced at its next boot, by its agent (agent/src/machine.c); one that a layer
above the master brings is the guest's own.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat

from dumm_tools.agent import protocol
from dumm_tools.linux import openat2

Record = tuple[bytes, int, bytes]

_HOSTNAME = "etc/hostname"
#: The second one is for D-Bus without systemd; elsewhere, it is a link to the first.
_MACHINE_IDS = ("etc/machine-id", "var/lib/dbus/machine-id")
_SSH = "etc/ssh"
_KEY = re.compile(r"ssh_host_\w{1,32}_key")
#: No file of this kind is larger.
_SIZE_MAX = 65536


def boot_records(tree: str, master: str, name: str) -> list[Record]:
    """The boot instructions that give the guest `name`, whose merged tree is mounted at `tree`, an
    identity of its own."""
    with contextlib.ExitStack() as stack:
        roots = []
        for path in (tree, master):
            roots.append(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
            stack.callback(os.close, roots[-1])
        guest, base = roots
        return [*_own_name(guest, base, name), *_own_id(guest, base), *_own_keys(guest, base)]


def _own_name(tree: int, master: int, name: str) -> list[Record]:
    text = _read(master, _HOSTNAME).strip()
    if not text or text == name.encode() or text != _read(tree, _HOSTNAME).strip():
        return []
    return [_file(_HOSTNAME, name)]


def _own_id(tree: int, master: int) -> list[Record]:
    """One that is empty or "uninitialized" is left to the guest's init."""
    number = os.urandom(16).hex()
    return [
        _file(path, number)
        for path in _MACHINE_IDS
        if re.fullmatch(rb"[0-9a-f]{32}\n?", text := _read(master, path))
        and text == _read(tree, path)
    ]


def _own_keys(tree: int, master: int) -> list[Record]:
    keys = [key for key in _names(master, _SSH) if _KEY.fullmatch(key)]
    for key in keys:
        # All may be missing: a boot was interrupted while it made new ones.
        text = _read(tree, f"{_SSH}/{key}")
        if text and text != _read(master, f"{_SSH}/{key}"):
            return []
    return [(protocol.BOOT_KEYS, 0, b"".join(k.encode() + b"\0" for k in keys))] if keys else []


def _file(path: str, text: str) -> Record:
    return protocol.BOOT_OWN, 0, f"/{path}\0{text}\n\0".encode()


def _read(root: int, path: str) -> bytes:
    """The contents of a regular file; empty if there is none, or it is not for us to read."""
    with contextlib.suppress(OSError):
        fd = openat2.open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            if stat.S_ISREG(os.fstat(fd).st_mode):
                return os.read(fd, _SIZE_MAX)
        finally:
            os.close(fd)
    return b""


def _names(root: int, path: str) -> list[str]:
    with contextlib.suppress(OSError):
        fd = openat2.open_in_root(root, path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return sorted(os.listdir(fd))
        finally:
            os.close(fd)
    return []
