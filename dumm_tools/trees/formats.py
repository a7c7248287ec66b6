"""Archives told apart by their first bytes, and other files that users take for archives."""

from __future__ import annotations

from typing import BinaryIO

from dumm_tools.errors import DummError
from dumm_tools.trees import cpio, decompress, tarball

_HEAD = 68 << 10
_MOUNT = "mount it with 'mount -o loop', and import the directory"
_DISK = "with the tools of libguestfs: virt-tar-out -a FILE / - | dumm-fs master import -"
#: Where, and what, each format has: (offset, bytes), its name, and what to do with it.
_OTHERS = (
    (0, b"QFI\xfb", "a qcow2 disk image", _DISK),
    (0, b"KDMV", "a VMware disk image", _DISK),
    (0, b"# Disk DescriptorFile", "a VMware disk image", _DISK),
    (64, b"\x7f\x10\xda\xbe", "a VirtualBox disk image", _DISK),
    (0, b"vhdxfile", "a VHDX disk image", _DISK),
    (0, b"\x63onectix", "a VHD disk image", _DISK),
    (512, b"EFI PART", "a disk image with a partition table", _DISK),
    (0, b"LUKS\xba\xbe", "an encrypted disk image", "open it with cryptsetup(8) and mount it"),
    (0, b"hsqs", "a squashfs image", "unsquashfs -d DIR FILE, and import DIR"),
    (32769, b"CD001", "an ISO 9660 image", _MOUNT),
    (1080, b"\x53\xef", "an ext4 file system image", _MOUNT),
    (0, b"XFSB", "an XFS image", _MOUNT),
    (65600, b"_BHRfS_M", "a Btrfs image", _MOUNT),
    (1024, b"\xe2\xe1\xf5\xe0", "an EROFS image", _MOUNT),
    (
        0,
        b"!<arch>\ndebian",
        "a Debian package",
        "dpkg-deb --fsys-tarfile FILE writes a tar archive",
    ),
    (0, b"\xed\xab\xee\xdb", "an RPM package", "rpm2cpio FILE writes a cpio archive"),
    (0, b"PK\x03\x04", "a zip archive", "unpack it, and import the directory"),
    (0, b"070707", "a cpio archive in an old format", "pack it with 'cpio -o -H newc'"),
    (0, b"\xc7\x71", "a cpio archive in an old format", "pack it with 'cpio -o -H newc'"),
    (0, b"\x7fELF", "a program", "'dumm-fs kernel import' is for kernels"),
)
_BOOT_SECTOR = (510, b"\x55\xaa")
_TAR = (257, b"ustar")


def archive(stream: BinaryIO, label: str) -> tarball.Archive | cpio.Archive:
    """The archive in a stream that is not compressed. DummError if it is recognized as something
    else."""
    head = b""
    while len(head) < _HEAD and (more := stream.read(_HEAD - len(head))):
        head += more
    whole = decompress.headed(head, stream)
    if head.startswith(cpio.MAGICS):
        return cpio.Archive(whole)
    if not _has(head, *_TAR):
        for at, magic, name, remedy in _OTHERS:
            if _has(head, at, magic):
                raise DummError(f"'{label}' is {name}, not an archive", hint=remedy)
        if _has(head, *_BOOT_SECTOR):
            raise DummError(f"'{label}' is a raw disk image, not an archive", hint=_DISK)
    return tarball.Archive(whole)


def _has(head: bytes, at: int, magic: bytes) -> bool:
    return head[at : at + len(magic)] == magic
