"""Who else on this host can reach a directory: where a guest's setuid programs lie, that matters.

A guest's root user makes what files he likes, setuid root ones too, and in a lab of root's they
are the real root's. Others must not get at them.
"""

from __future__ import annotations

import os

_PATH = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def is_open(path: str) -> bool:
    """Can others walk into the directory `path`? Not where it, or one that it is in, is closed to
    them, and belongs to us or to root, who alone could open that."""
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
            except PermissionError:  # we were put here, and cannot tell
                return True
            os.close(at)
            at = above
    finally:
        os.close(at)
        os.close(top)
