"""Members of a tar archive, read from a stream that need not be seekable (tar(5)): ustar, GNU and
pax headers, and sparse files in the three formats of pax and the one of GNU.

Python's tarfile reads all of this, too, but trusts the numbers in an archive: a header of 3 GiB is
read into memory, and the records of a pax header may expand to a multiple of its size. Here every
header and everything kept from it is bounded, whatever the archive says.
"""

from __future__ import annotations

import re
import tarfile
from typing import BinaryIO

_BLOCK = 512
_END = bytes(_BLOCK)
#: GNU long names; the kernel accepts paths of up to 4096 bytes (PATH_MAX).
NAME_MAX = 64 << 10
#: A pax header: an extended attribute is at most 64 KiB (XATTR_SIZE_MAX), and files have few.
PAX_MAX = 1 << 20
#: A global pax header is usually a comment.
GLOBAL_MAX = 64 << 10
#: Headers before a member: two names, a pax header, a global one.
_HEADERS_MAX = 16
#: Pieces of a sparse file.
PIECES_MAX = 1 << 18
_SIZE_MAX = 1 << 62
_NO_ID = (1 << 32) - 1
_NAMES = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_LENGTH = re.compile(rb"(\d{1,7}) ")
_NUMBER = re.compile(r"-?\d{1,20}(\.\d{0,30})?", re.ASCII)

Pieces = list[tuple[int, int]]


class Damaged(tarfile.ReadError):
    """The archive is invalid, or exceeds what any reasonable archive needs."""


class Members:
    """The part of an archive that all formats share: the data of the member that was read last."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        #: Where the member has data, if it is a sparse file.
        self.pieces: Pieces | None = None
        #: Whether the mark of the archive's end has been read.
        self.ended = False
        #: Remaining bytes of the member's data, and of the padding after it.
        self._left = 0
        self._padding = 0

    def read(self, size: int) -> bytes:
        """Read data of the member, up to its end."""
        data = self._stream.read(min(size, self._left))
        self._left -= len(data)
        return data

    def rest(self) -> BinaryIO:
        """Read the data after the archive."""
        return self._stream

    def _skip(self) -> None:
        while self._left:
            if not self.read(64 << 10):
                raise Damaged("unexpected end of data")
        if len(self._stream.read(self._padding)) < self._padding:
            raise Damaged("unexpected end of data")
        self._padding = 0


class Archive(Members):
    """The members of a tar archive, one after the other."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(stream)
        self._global: dict[str, list[str]] = {}

    def next(self) -> tarfile.TarInfo | None:
        """The next member, or None. `pax_headers` has its attributes, and its time if that is not
        a whole number; `size` is that of the resulting file."""
        self._skip()
        names: dict[bytes, str] = {}
        pax: dict[str, list[str]] = {}
        for _ in range(_HEADERS_MAX):
            block = self._stream.read(_BLOCK)
            if block == _END and not names and not pax:
                self.ended = True
                return None
            if len(block) < _BLOCK and not names and not pax:
                return None
            if len(block) < _BLOCK:
                raise Damaged("unexpected end of data")
            member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            if member.type in _NAMES:
                text = self._extension(member.size, NAME_MAX).partition(b"\0")[0]
                names[member.type] = _text(text)
            elif member.type in _PAX:
                pax.update(_records(self._extension(member.size, PAX_MAX)))
            elif member.type == tarfile.XGLTYPE:
                self._global.update(_records(self._extension(member.size, GLOBAL_MAX)))
                if sum(len(k) + sum(map(len, v)) for k, v in self._global.items()) > GLOBAL_MAX:
                    raise Damaged("a header is too large")
            else:
                return self._member(member, block, names, {**self._global, **pax})
        raise Damaged("too many headers for one member")

    def _extension(self, size: int, most: int) -> bytes:
        """The data of a header that is itself a member."""
        if not 0 <= size <= most:
            raise Damaged(f"a header is too large: {size} bytes")
        data = self._stream.read(size + -size % _BLOCK)
        if len(data) < size:
            raise Damaged("unexpected end of data")
        return data[:size]

    def _member(
        self,
        member: tarfile.TarInfo,
        block: bytes,
        names: dict[bytes, str],
        pax: dict[str, list[str]],
    ) -> tarfile.TarInfo:
        last = {key: values[-1] for key, values in pax.items()}
        name = names.get(tarfile.GNUTYPE_LONGNAME, member.name)
        member.name = (last.get("GNU.sparse.name") or last.get("path") or name).rstrip("/")
        link = names.get(tarfile.GNUTYPE_LONGLINK, member.linkname)
        member.linkname = last.get("linkpath") or link
        if max(len(member.name), len(member.linkname)) > NAME_MAX:
            raise Damaged("a name is too long")
        member.uid = int(_number(last.get("uid"), member.uid))
        member.gid = int(_number(last.get("gid"), member.gid))
        if not (0 <= member.uid < _NO_ID and 0 <= member.gid < _NO_ID):
            raise Damaged("an owner is invalid")
        member.mtime = _number(last.get("mtime"), member.mtime)
        stored = int(_number(last.get("size"), member.size))
        if not 0 <= stored <= _SIZE_MAX:
            raise Damaged("a size is invalid")
        member.size = stored
        if member.isreg() or member.type not in tarfile.SUPPORTED_TYPES:
            self._left, self._padding = stored, -stored % _BLOCK
        member.pax_headers = {k: v for k, v in last.items() if k.startswith("SCHILY.xattr.")}
        if "." in last.get("mtime", ""):
            member.pax_headers["mtime"] = last["mtime"]
        self.pieces = self._where(member, block, pax, last)
        for at, size in self.pieces or ():
            if at < 0 or size < 0 or at + size > member.size:
                raise Damaged("a file has data beyond its end")
        return member

    def _where(
        self,
        member: tarfile.TarInfo,
        block: bytes,
        pax: dict[str, list[str]],
        last: dict[str, str],
    ) -> Pieces | None:
        """Where a sparse file has data; None for any other file."""
        if member.type == tarfile.GNUTYPE_SPARSE:
            return self._old_pieces(member, block)
        if not member.isreg():
            return None
        size = last.get("GNU.sparse.realsize", last.get("GNU.sparse.size"))
        if size is None:
            return None
        member.size = int(_number(size, 0))
        if not 0 <= member.size <= _SIZE_MAX:
            raise Damaged("a size is invalid")
        if "GNU.sparse.map" in last:
            return _pairs(last["GNU.sparse.map"].split(","))
        if last.get("GNU.sparse.major") == "1" and last.get("GNU.sparse.minor") == "0":
            return self._map_in_data()
        offsets = pax.get("GNU.sparse.offset", [])
        sizes = pax.get("GNU.sparse.numbytes", [])
        return _pairs([n for pair in zip(offsets, sizes, strict=False) for n in pair])

    def _map_in_data(self) -> Pieces:
        """The map of pieces at the beginning of the data, one number per line."""
        lines: list[str] = []
        text, wanted = b"", 1
        while len(lines) < wanted:
            line, end, rest = text.partition(b"\n")
            if end:
                text = rest
                lines.append(_text(line))
                if len(lines) == 1:
                    wanted = 1 + 2 * int(_number(lines[0], -1))
                    if not 1 <= wanted <= 1 + 2 * PIECES_MAX:
                        raise Damaged("a file has too many holes")
                continue
            more = self.read(_BLOCK)
            text += more
            if len(more) < _BLOCK or len(text) > 2 * _BLOCK:
                raise Damaged("a file's list of holes does not end")
        return _pairs(lines[1:])

    def _old_pieces(self, member: tarfile.TarInfo, block: bytes) -> Pieces:
        """The map of pieces in GNU's header, and in further blocks of this kind."""
        member.size = _field(block[483:495])
        pieces = _fields(block[386:482])
        more = block[482]
        while more:
            block = self._stream.read(_BLOCK)
            if len(block) < _BLOCK:
                raise Damaged("unexpected end of data")
            pieces += _fields(block[:504])
            if len(pieces) > PIECES_MAX:
                raise Damaged("a file has too many holes")
            more = block[504]
        return pieces


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _records(data: bytes) -> dict[str, list[str]]:
    """The records of a pax header, `LENGTH KEY=VALUE\\n`; a key may be repeated."""
    found: dict[str, list[str]] = {}
    at = 0
    while at < len(data) and data[at]:
        length = _LENGTH.match(data, at)
        end = at + int(length[1]) if length else 0
        if not length or end > len(data) or end <= length.end() or data[end - 1] != 0x0A:
            raise Damaged("a header is incomplete")
        key, equals, value = data[length.end() : end - 1].partition(b"=")
        if not key or not equals:
            raise Damaged("a header is incomplete")
        found.setdefault(_text(key), []).append(_text(value))
        at = end
    return found


def _number(text: str | None, otherwise: float) -> float:
    """A number of a pax header, or None if it is empty. Integers stay exact."""
    if not text:
        return otherwise
    if not _NUMBER.fullmatch(text):
        raise Damaged("a header has an invalid number")
    return float(text) if "." in text else int(text)


def _pairs(numbers: list[str]) -> Pieces:
    if len(numbers) > 2 * PIECES_MAX:
        raise Damaged("a file has too many holes")
    found = [int(_number(n, 0)) for n in numbers]
    return list(zip(found[::2], found[1::2], strict=False))


def _field(data: bytes) -> int:
    """A number in a header: octal digits, or binary with the first bit set."""
    if data[:1] == b"\x80":
        number = int.from_bytes(data[1:], "big")
    else:
        try:
            number = int(data.partition(b"\0")[0].strip() or b"0", 8)
        except ValueError:
            raise Damaged("a header has an invalid number") from None
    if not 0 <= number <= _SIZE_MAX:
        raise Damaged("a size is invalid")
    return number


def _fields(data: bytes) -> Pieces:
    """Pairs of numbers in a header, up to the first empty one."""
    found = []
    for at in range(0, len(data) - 23, 24):
        if not data[at : at + 24].strip(b"\0"):
            break
        found.append((_field(data[at : at + 12]), _field(data[at + 12 : at + 24])))
    return found
