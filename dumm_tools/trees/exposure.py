"""Which directories other users of this host can reach, since a guest's setuid programs may be
there.

A guest's root user can create any file, including setuid root programs; in a lab of root, these
give real root privileges. Other users must not be able to run them.
"""

from __future__ import annotations

import os

_PATH = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def is_open(path: str) -> bool:
    """Whether others can enter the directory `path`. They cannot if it, or a directory above it, is
    closed to them and belongs to us or to root, the only users who could open it."""
    at = os.open(path, _PATH)
    top = os.open("/", _PATH)
    try:
        while True:
            info = os.fstat(at)
            if not info.st_mode & 0o011 and info.st_uid in (os.geteuid(), 0):
                return False
            if os.path.samestat(info, os.fstat(top)):
                return True
            try:
                above = os.open("..", _PATH, dir_fd=at)
            except PermissionError:  # we were placed here, and cannot tell
                return True
            at, below = above, at  # first, or an interrupt has it closed twice
            os.close(below)
    finally:
        os.close(at)
        os.close(top)
