"""Members of a cpio archive in the format of an initramfs ("newc"), read from a stream that need
not be seekable."""

from __future__ import annotations

import re
import stat
import tarfile
from typing import BinaryIO

from dumm_tools.trees.tarball import NAME_MAX, Damaged, Members

MAGICS = (b"070701", b"070702")
_HEADER = re.compile(rb"07070[12]([0-9A-Fa-f]{104})")
_HEADER_SIZE = 110
_END = "TRAILER!!!"
_KINDS = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
}
#: Names of files with several names, kept to make hard links.
_LINKS_MAX = 16 << 20


class Archive(Members):
    """The members of a cpio archive, one after the other."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(stream)
        #: The first name of each file whose data has been read, by (device, inode).
        self._known: dict[tuple[int, ...], str] = {}
        #: Members without data whose file has several names: the data may follow with the last.
        self._waiting: dict[tuple[int, ...], list[tarfile.TarInfo]] = {}
        self._ready: list[tarfile.TarInfo] = []
        self._kept = 0

    def next(self) -> tarfile.TarInfo | None:
        """The next member, or None."""
        while True:
            if self._ready:
                return self._ready.pop()
            self._skip()
            if self.ended:
                return None
            member = self._read()
            if member is not None:
                return member

    def _read(self) -> tarfile.TarInfo | None:
        """The member at this place; None if it must wait, or at the end."""
        header = self._stream.read(_HEADER_SIZE)
        matched = _HEADER.fullmatch(header)
        if matched is None:
            raise Damaged("a header is invalid" if header else "unexpected end of data")
        digits = matched[1]
        # fmt: off
        (inode, mode, uid, gid, links, mtime, size, major, minor, _, _, length, _) = (
            int(digits[at:at + 8], 16) for at in range(0, 104, 8)
        )
        # fmt: on
        if not 0 < length <= NAME_MAX:
            raise Damaged("a name is too long")
        name = self._stream.read(length)
        if len(name) < length or not name.endswith(b"\0"):
            raise Damaged("a name is incomplete")
        self._padding = -(_HEADER_SIZE + length) % 4
        self._skip()
        self._left, self._padding = size, -size % 4
        member = tarfile.TarInfo(name[:-1].decode("utf-8", "surrogateescape"))
        if member.name == _END:
            self._finish()
            return None
        member.uid, member.gid, member.mtime = uid, gid, mtime
        member.mode, member.type = mode & 0o7777, _KINDS.get(stat.S_IFMT(mode), b"?")
        if member.issym():
            if size > NAME_MAX:
                raise Damaged("a name is too long")
            member.linkname = self._stream.read(size).decode("utf-8", "surrogateescape")
            self._left = 0
        elif member.isreg():
            member.size = size
            if links > 1:
                return self._linked(member, (major, minor, inode))
        return member

    def _linked(self, member: tarfile.TarInfo, key: tuple[int, ...]) -> tarfile.TarInfo | None:
        """One of several names of a file. As a rule, the last one has the data."""
        self._kept += len(member.name) + 500
        if self._kept > _LINKS_MAX:
            raise Damaged("too many hard links")
        if key in self._known and not member.size:
            return _link(member, self._known[key])
        if not member.size:
            self._waiting.setdefault(key, []).append(member)
            return None
        self._known[key] = member.name
        self._ready = [_link(each, member.name) for each in self._waiting.pop(key, [])]
        return member

    def _finish(self) -> None:
        """At the end, files without data are empty."""
        self.ended = True
        for first, *others in self._waiting.values():
            self._ready += [*(_link(each, first.name) for each in others), first]
        self._waiting.clear()


def _link(member: tarfile.TarInfo, to: str) -> tarfile.TarInfo:
    member.type, member.linkname = tarfile.LNKTYPE, to
    return member
