"""Measure and remove whole directory trees. Never follows a symbolic link.

All access is by directory descriptors, so that neither a link swapped in nor a path longer than
PATH_MAX leads elsewhere.
"""

from __future__ import annotations

import errno
import os
import stat

from dumm_tools.errors import Conflict

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DEEP = 100


def size(path: str) -> int:
    """Disk usage of a tree in bytes; a file with several names counts once."""
    total = 0
    seen: set[int] = set()
    stack = [path]
    while stack:
        try:
            with os.scandir(stack.pop()) as entries:
                for entry in entries:
                    info = entry.stat(follow_symlinks=False)
                    if info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode):
                        if info.st_ino in seen:
                            continue
                        seen.add(info.st_ino)
                    total += info.st_blocks << 9
                    if entry.is_dir(follow_symlinks=False):
                        stack.append(entry.path)
        except (FileNotFoundError, PermissionError):
            continue  # deleted meanwhile, or not accessible
    return total


def refuse_mounts(path: str) -> None:
    """Raise Conflict if something is mounted at or below `path`."""
    from dumm_tools.linux import mount  # ctypes takes a while to import

    for point in mount.points_in(path):
        raise Conflict(f"something is mounted on '{point}'")


def remove(path: str, *, look: bool = True) -> None:
    """Remove a tree, or a file, whatever the modes of its directories are.

    A tree in which something is mounted is refused before anything is removed. With `look` false,
    for cases in which this cannot happen, removal stops only when it encounters a mount. It is not
    an error if the tree is already gone.
    """
    if look:
        refuse_mounts(path)
    parent, name = os.path.split(os.path.abspath(path))
    at = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        remove_at(at, name)
    except OSError as e:
        e.filename = path
        raise
    finally:
        os.close(at)


def remove_at(at: int, name: str) -> None:
    """Remove a tree, or a file, in an open directory in which nothing is mounted; it need not
    exist."""
    try:
        info = os.stat(name, dir_fd=at, follow_symlinks=False)
        if stat.S_ISDIR(info.st_mode):
            _remove_directory(at, name, info.st_dev, at, 0)
        else:
            os.unlink(name, dir_fd=at)
    except FileNotFoundError:
        pass


def _remove_directory(above: int, name: str, device: int, top: int, depth: int) -> None:
    at = _open_to_empty(above, name)
    try:
        if os.fstat(at).st_dev != device:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), name)
        while entries := os.listdir(at):
            for entry in entries:
                info = os.stat(entry, dir_fd=at, follow_symlinks=False)
                if not stat.S_ISDIR(info.st_mode):
                    os.unlink(entry, dir_fd=at)
                elif depth >= _DEEP:
                    # Too deep for our descriptors and stack: move it further up.
                    # The loop over the topmost directory will visit it again.
                    os.close(_open_to_empty(at, entry))
                    moved = f".deep-{os.urandom(8).hex()}"
                    os.rename(entry, moved, src_dir_fd=at, dst_dir_fd=top)
                else:
                    _remove_directory(at, entry, device, at if depth == 0 else top, depth + 1)
    finally:
        os.close(at)
    os.rmdir(name, dir_fd=above)


def _open_to_empty(above: int, name: str) -> int:
    """Open a directory for reading and writing, giving ourselves the permissions if necessary."""
    node = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
    try:
        info = os.fstat(node)
        if info.st_mode & 0o700 != 0o700 and info.st_uid == os.geteuid():
            # chmod does not accept an O_PATH descriptor, but its name in /proc (open(2)).
            os.chmod(f"/proc/self/fd/{node}", 0o700)
        return os.open(name, _DIRECTORY, dir_fd=above)
    finally:
        os.close(node)
