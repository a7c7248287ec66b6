"""idmapped.py SOURCE TARGET UID FIRST: mount a directory on another one, and show its files, which
belong to root, as those of a user with 65535 subordinate ids from FIRST on (mount_setattr(2),
"ID-mapped mounts"). Status 1 if the file system cannot do that."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from pathlib import Path

_SYS_OPEN_TREE, _SYS_MOVE_MOUNT, _SYS_MOUNT_SETATTR = 428, 429, 442  # asm-generic/unistd.h
_CLONE_NEWUSER = 0x10000000  # linux/sched.h
_OPEN_TREE_CLONE, _MOVE_MOUNT_F_EMPTY_PATH, _MOUNT_ATTR_IDMAP = 1, 4, 0x100000  # linux/mount.h
_AT_FDCWD, _AT_EMPTY_PATH = -100, 0x1000  # linux/fcntl.h

_libc = ctypes.CDLL(None, use_errno=True)


def _call(function: str, *arguments: int | bytes) -> int:
    result = int(getattr(_libc, function)(*arguments))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def _namespace(uid: int, first: int) -> int:
    """A user namespace with these ids."""
    made, done = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        _call("unshare", _CLONE_NEWUSER)
        os.write(made[1], b"!")
        os.read(done[0], 1)
        os._exit(0)
    os.read(made[0], 1)
    for kind in ("uid", "gid"):
        Path(f"/proc/{pid}/{kind}_map").write_text(f"0 {uid} 1\n1 {first} 65535\n")
    found = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY)
    os.write(done[1], b"!")
    os.waitpid(pid, 0)
    return found


def main(source: str, target: str, uid: str, first: str) -> int:
    tree = _call("syscall", _SYS_OPEN_TREE, _AT_FDCWD, source.encode(), _OPEN_TREE_CLONE)
    wanted = struct.pack("=4Q", _MOUNT_ATTR_IDMAP, 0, 0, _namespace(int(uid), int(first)))
    try:
        _call("syscall", _SYS_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, wanted, len(wanted))
    except OSError:
        return 1
    flags = _MOVE_MOUNT_F_EMPTY_PATH
    _call("syscall", _SYS_MOVE_MOUNT, tree, b"", _AT_FDCWD, target.encode(), flags)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
