"""Whole directory trees: copy them as they are, measure and remove them. Never follows a symbolic
link.

All access is by directory descriptors, so neither a link swapped in nor a path longer than PATH_MAX
leads elsewhere.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field

from dumm_tools.errors import Conflict, DummError
from dumm_tools.trees import layer

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: Attributes that are meaningful only to the overlay that they come from.
_PRIVATE_XATTRS = ("trusted.overlay.", "user.overlay.", "user.fuseoverlayfs.")
#: Errors from setting an unsupported attribute or owner; any other error is a failure.
NOT_POSSIBLE = frozenset({errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EINVAL, errno.ENODATA})
_NO_COPY_RANGE = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EBADF})
_GONE = frozenset({errno.ENOENT, errno.ESTALE})
_SMALL = 128 << 10
_DEEP = 100
_DEEPEST_COPY = 300


@dataclass(slots=True)
class _Copy:
    device: int
    own: bool
    skip: frozenset[tuple[int, int]]
    marks: layer.Marks | None
    live: bool
    links: dict[tuple[int, int], tuple[str, ...]] = field(default_factory=dict)
    left_aside: int = 0


def copy(
    source: str,
    target: str,
    *,
    skip: tuple[str, ...] = (),
    marks: layer.Marks | None = None,
    live: bool = False,
    private: bool = False,
) -> int:
    """Copy the contents of the directory `source` into the empty directory `target`.

    Modes, times, hard links, holes and attributes are preserved, and owners for root. Device nodes
    and sockets are skipped; their number is returned. Directories on which something is mounted are
    copied as empty ones, those named in `skip` not at all.

    With `marks` the source is a layer: marks for deleted and hidden files are copied as well, and
    so are sockets and, if permitted, devices.

    A `live` source may change during the copy: files that are deleted before they are copied are
    not an error.

    With `private` nobody but us can ever enter `target`: it stays ours, with mode 0700.
    """
    src = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    dst = os.open(target, _DIRECTORY)
    try:
        info = os.fstat(src)
        inodes = frozenset((s.st_dev, s.st_ino) for s in map(os.stat, skip))
        job = _Copy(info.st_dev, os.geteuid() == 0, inodes, marks, live)
        _copy_entries(job, src, dst, dst, ())
        if private:
            # Its access control list (acl(5)) is an attribute, and would be copied.
            _mark_opaque(job, src, dst)
            os.fchmod(dst, 0o700)
        else:
            _attributes(job, src, dst, info)
    finally:
        os.close(src)
        os.close(dst)
    return job.left_aside


def _copy_entries(job: _Copy, src: int, dst: int, top: int, where: tuple[str, ...]) -> None:
    if len(where) > _DEEPEST_COPY:
        raise DummError(f"directories are nested too deeply: '{'/'.join(where[:8])}/...'")
    for name in os.listdir(src):
        try:
            _copy_entry(job, src, dst, top, where, name)
        except OSError as e:
            if job.live and e.errno in _GONE and not _exists(src, name):
                continue
            if e.filename in (None, name):
                e.filename = "/".join((*where, name))
            raise


def _exists(at: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=at, follow_symlinks=False)
    except OSError as e:
        return e.errno not in _GONE
    return True


def _copy_entry(
    job: _Copy, src: int, dst: int, top: int, where: tuple[str, ...], name: str
) -> None:
    info = os.stat(name, dir_fd=src, follow_symlinks=False)
    key = (info.st_dev, info.st_ino)
    kind = stat.S_IFMT(info.st_mode)
    if kind == stat.S_IFDIR:
        if key in job.skip:
            return
        os.mkdir(name, 0o700, dir_fd=dst)
        below = os.open(name, _DIRECTORY, dir_fd=src)
        try:
            made = os.open(name, _DIRECTORY, dir_fd=dst)
            try:
                if info.st_dev == job.device:
                    _copy_entries(job, below, made, top, (*where, name))
                _attributes(job, below, made, info)
            finally:
                os.close(made)
        finally:
            os.close(below)
    elif job.marks and layer.is_mark(os.fsencode(name), job.marks):
        deleted = os.fsencode(name)[len(layer.PREFIX) :]
        if not deleted.startswith(layer.PREFIX):
            os.mknod(deleted, stat.S_IFCHR, dir_fd=dst)
    elif info.st_nlink > 1 and key in job.links:
        _link(top, job.links[key], dst, name)
    elif kind in (stat.S_IFBLK, stat.S_IFCHR, stat.S_IFSOCK) and not _make_node(
        job, dst, name, info
    ):
        job.left_aside += 1
    else:
        if info.st_nlink > 1 and not layer.is_whiteout(info):
            job.links[key] = (*where, name)
        if kind == stat.S_IFREG:
            _copy_file(job, src, dst, name, info)
            return
        if kind == stat.S_IFLNK:
            os.symlink(os.readlink(name, dir_fd=src), name, dir_fd=dst)
        elif kind == stat.S_IFIFO:
            os.mkfifo(name, stat.S_IMODE(info.st_mode), dir_fd=dst)
        if job.own:
            chown(name, info.st_uid, info.st_gid, dst)
        if kind != stat.S_IFLNK:
            os.chmod(name, stat.S_IMODE(info.st_mode), dir_fd=dst)
        times = (info.st_atime_ns, info.st_mtime_ns)
        os.utime(name, ns=times, dir_fd=dst, follow_symlinks=False)


def _make_node(job: _Copy, dst: int, name: str, info: os.stat_result) -> bool:
    """Make a device or a socket in the copy of a layer; return False if that is not permitted."""
    if job.marks is None:
        return False
    try:
        os.mknod(name, info.st_mode, info.st_rdev, dir_fd=dst)
    except PermissionError:
        return False
    return True


def _link(top: int, first: tuple[str, ...], dst: int, name: str) -> None:
    """Make a hard link to `first`, which was copied before."""
    at = os.dup(top)
    try:
        for part in first[:-1]:
            at, above = os.open(part, _DIRECTORY, dir_fd=at), at
            os.close(above)
        os.link(first[-1], name, src_dir_fd=at, dst_dir_fd=dst, follow_symlinks=False)
    finally:
        os.close(at)


def _copy_file(job: _Copy, src: int, dst: int, name: str, info: os.stat_result) -> None:
    # Without blocking, in case a FIFO has just replaced it.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    old = os.open(name, flags, dir_fd=src)
    try:
        new = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=dst)
        try:
            copy_data(old, new, info)
            _attributes(job, old, new, info)
        finally:
            os.close(new)
    finally:
        os.close(old)


def copy_data(old: int, new: int, info: os.stat_result) -> None:
    """Copy the contents of an open file to an empty one, preserving holes."""
    size = info.st_size
    if size <= _SMALL and info.st_blocks << 9 >= size:
        data = os.read(old, size)
        while data:
            data = data[os.write(new, data) :]
        return
    at = 0
    while at < size:
        try:
            at = os.lseek(old, at, os.SEEK_DATA)
        except OSError as e:
            if e.errno == errno.ENXIO:  # only a hole is left
                break
            raise
        end = min(os.lseek(old, at, os.SEEK_HOLE), size)
        while at < end:
            done = _copy_range(old, new, end - at, at)
            if done == 0:
                return  # the file was truncated meanwhile
            at += done
    os.ftruncate(new, size)


def _copy_range(old: int, new: int, count: int, at: int) -> int:
    try:
        done = os.copy_file_range(old, new, count, at, at)
        if done:
            return done
    except OSError as e:
        if e.errno not in _NO_COPY_RANGE:
            raise
    return os.pwrite(new, os.pread(old, min(count, 1 << 20), at), at)


def _attributes(job: _Copy, old: int, new: int, info: os.stat_result) -> None:
    """Set the owner first (chown clears setuid and capabilities), times last."""
    if job.own:
        chown(new, info.st_uid, info.st_gid)
    for name in xattrs(old):
        set_xattr(new, name, os.getxattr(old, name))
    if stat.S_ISDIR(info.st_mode):
        _mark_opaque(job, old, new)
    os.fchmod(new, stat.S_IMODE(info.st_mode))
    os.utime(new, ns=(info.st_atime_ns, info.st_mtime_ns))


def _mark_opaque(job: _Copy, old: int, new: int) -> None:
    if job.marks and layer.is_opaque(old, job.marks):
        layer.make_opaque(new, job.marks)


def is_private(name: str) -> bool:
    """Whether an attribute is meaningful only to the overlay that it comes from."""
    return name.startswith(_PRIVATE_XATTRS)


def xattrs(fd: int) -> list[str]:
    """The names of an open file's attributes, except those of overlays."""
    try:
        found = os.listxattr(fd)
    except OSError as e:
        if e.errno in NOT_POSSIBLE:
            return []
        raise
    return [name for name in found if not is_private(name)]


def set_xattr(fd: int, name: str, value: bytes) -> None:
    """Set an attribute if the file system and our privileges permit it."""
    try:
        os.setxattr(fd, name, value)
    except OSError as e:
        if e.errno not in NOT_POSSIBLE:
            raise


def chown(file: int | str | bytes, uid: int, gid: int, dir_fd: int | None = None) -> None:
    """Give a file to its owner if that is mapped in our user namespace; otherwise it stays ours."""
    try:
        if isinstance(file, int):
            os.fchown(file, uid, gid)
        else:
            os.chown(file, uid, gid, dir_fd=dir_fd, follow_symlinks=False)
    except OSError as e:
        if e.errno not in NOT_POSSIBLE:
            raise


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
        info = os.stat(name, dir_fd=at, follow_symlinks=False)
        if stat.S_ISDIR(info.st_mode):
            _remove_directory(at, name, info.st_dev, at, 0)
        else:
            os.unlink(name, dir_fd=at)
    except FileNotFoundError:
        pass
    except OSError as e:
        e.filename = path
        raise
    finally:
        os.close(at)


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
