"""Writing to inherited descriptors without blocking."""

from __future__ import annotations

import errno
import os
import pty
import select
import tty

import pytest

from dumm_tools.linux import stream


def filled(fd: int) -> int:
    """Write until poll reports that nothing more is accepted; return the number of bytes."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    total = 0
    while dict(poll.poll(0)).get(fd) == select.POLLOUT:
        taken = stream.write(fd, bytes(10_000))
        total += taken
        if not taken:
            break
    return total


@pytest.mark.slow
def test_terminal_of_another_user_does_not_block_us() -> None:
    """Such a terminal cannot be opened again: its descriptor is blocking. It may be ready for less
    than a piece."""
    reader, writer = pty.openpty()
    tty.setraw(writer)
    fd = os.dup(writer)  # as `stream.writer` does if it may not open the terminal
    try:
        assert os.get_blocking(fd)
        total = filled(fd)
        assert total > 1000
        read = 0
        while read < total:
            read += len(os.read(reader, 1 << 16))
        assert read == total  # each byte that was counted, and no more
        assert not select.select([reader], [], [], 0)[0]
        assert filled(fd) > 1000
        os.close(reader)
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            stream.write(fd, b"x")
    finally:
        os.close(writer)
        os.close(fd)
