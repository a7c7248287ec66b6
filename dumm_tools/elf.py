"""As much of the ELF format (elf(5)) as telling a kernel binary from other files takes."""

from __future__ import annotations

import os
import struct

from dumm_tools.errors import DummError

_EXECUTABLE_TYPES = (2, 3)  # ET_EXEC, ET_DYN
_X86_64 = 62  # EM_X86_64
_PT_INTERP = 3
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")


def interpreter(path: str) -> str | None:
    """The dynamic loader that a program asks for, None for a static one.

    DummError when the file is no x86-64 Linux program.
    """
    no_program = DummError(f"'{path}' is no x86-64 Linux program")
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as e:
        raise DummError(f"cannot read '{path}': {e.strerror}") from None
    try:
        header = os.pread(fd, _HEADER.size, 0)
        if len(header) < _HEADER.size or header[:6] != b"\x7fELF\x02\x01":
            raise no_program
        values = _HEADER.unpack(header)
        kind, machine, table, entry_size, count = (values[i] for i in (1, 2, 5, 9, 10))
        if kind not in _EXECUTABLE_TYPES or machine != _X86_64 or entry_size != _SEGMENT.size:
            raise no_program
        for index in range(count):
            entry = os.pread(fd, entry_size, table + index * entry_size)
            if len(entry) < entry_size:
                raise no_program
            segment = _SEGMENT.unpack(entry)
            if segment[0] == _PT_INTERP:
                return os.fsdecode(os.pread(fd, min(segment[5], 4096), segment[2]).rstrip(b"\0"))
    except OSError:  # a directory, a FIFO: nothing to read at an offset
        raise no_program from None
    finally:
        os.close(fd)
    return None
