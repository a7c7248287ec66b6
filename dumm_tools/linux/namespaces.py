"""Creating and entering namespaces (namespaces(7), user_namespaces(7), setns(2)).

Python has os.setns and os.unshare since 3.12. In older versions the C library is called directly.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys

from dumm_tools.linux import process, sysfs
from dumm_tools.linux.libc import call

CLONE_NEWNS = 0x00020000  # linux/sched.h
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

#: The namespaces of an isolated lab.
ALL = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS

_SUBIDS = {"uid": "/etc/subuid", "gid": "/etc/subgid"}


#: The files in /proc/PID/ns (namespaces(7)), in the order of entering: the user namespace gives the
#: right to enter the others, and /proc is not read any more once the mounts have changed.
_FILES = {
    "user": CLONE_NEWUSER,
    "pid": CLONE_NEWPID,
    "ipc": CLONE_NEWIPC,
    "uts": CLONE_NEWUTS,
    "net": CLONE_NEWNET,
    "mnt": CLONE_NEWNS,
}
_NS_GET_USERNS, _NS_GET_OWNER_UID = 0xB701, 0xB704  # linux/nsfs.h


def enter(pidfd: int, flags: int = ALL) -> None:
    """Enter the namespaces of a process. The pid namespace applies to our children only; the
    working directory becomes the root of the new mount namespace.

    Entering means trusting the user who controls the namespaces: PermissionError if that is another
    user. Since a process may change its namespaces, the ones that were checked are entered, not
    those that the pidfd refers to by then.
    """
    place = f"/proc/{process.pid_of(pidfd)}/ns"
    opened: list[int] = []

    def namespace(kind: str) -> int:
        opened.append(os.open(f"{place}/{kind}", os.O_RDONLY | os.O_CLOEXEC))
        return opened[-1]

    try:
        user = namespace("user")
        if _owner(user) != os.geteuid():
            raise PermissionError(errno.EPERM, "they belong to another user")
        entered = [
            (user if n == "user" else namespace(n), f) for n, f in _FILES.items() if f & flags
        ]
        for fd, flag in entered:
            if flag != CLONE_NEWUSER and not _belongs(fd, user, opened):
                raise PermissionError(errno.EPERM, "they do not belong to the same user namespace")
        for fd, flag in entered:
            _setns(fd, flag)
        sysfs.forget()
    finally:
        for fd in opened:
            os.close(fd)


def is_holder(pidfd: int) -> bool:
    """Whether a process lives in a user namespace that we own and are not in ourselves."""
    try:
        fd = os.open(f"/proc/{process.pid_of(pidfd)}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        own = os.stat("/proc/self/ns/user")
        return _owner(fd) == os.geteuid() and os.fstat(fd).st_ino != own.st_ino
    except OSError:
        return False
    finally:
        os.close(fd)


def mounts_of(pidfd: int) -> int:
    """The mount namespace of a process, as a descriptor; PermissionError if our own user namespace
    has no rights over it, as it has over a jail's."""
    fd = os.open(f"/proc/{process.pid_of(pidfd)}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    opened = [os.open("/proc/self/ns/user", os.O_RDONLY | os.O_CLOEXEC)]
    try:
        if not _belongs(fd, opened[0], opened):
            raise PermissionError(errno.EPERM, "it belongs to another user namespace")
    except BaseException:
        os.close(fd)
        raise
    finally:
        for each in opened:
            os.close(each)
    return fd


def enter_mounts(namespace: int) -> None:
    """Enter the mount namespace that a descriptor refers to."""
    _setns(namespace, CLONE_NEWNS)


def _owner(user_namespace: int) -> int:
    """The user who owns a user namespace (ioctl_nsfs(2))."""
    answer = fcntl.ioctl(user_namespace, _NS_GET_OWNER_UID, bytes(4))
    return int.from_bytes(answer, sys.byteorder)


def _belongs(namespace: int, user: int, opened: list[int]) -> bool:
    """Whether the user namespace `user` is the one that gives rights over a namespace."""
    opened.append(fcntl.ioctl(namespace, _NS_GET_USERNS))
    owner, wanted = os.fstat(opened[-1]), os.fstat(user)
    return (owner.st_dev, owner.st_ino) == (wanted.st_dev, wanted.st_ino)


def _setns(fd: int, flag: int) -> None:
    if hasattr(os, "setns"):
        os.setns(fd, flag)
    else:
        _call("setns", fd, flag)


def unshare(flags: int) -> None:
    """Move into new namespaces (unshare(2))."""
    if hasattr(os, "unshare"):
        os.unshare(flags)
    else:
        _call("unshare", flags)


def _call(name: str, *args: int) -> None:
    if call(name, *args):
        # The only likely error is a missing permission.
        raise PermissionError(1, f"{name}: not permitted or not possible")


_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2  # linux/prctl.h, linux/seccomp.h
_SYS_SETGROUPS = 116  # x86-64, the only architecture of the jail
#: struct sock_filter (linux/filter.h): check architecture and call; setgroups succeeds as a no-op.
_NO_SETGROUPS = (
    (0x20, 0, 0, 4),  # A = arch
    (0x15, 0, 3, 0xC000003E),  # AUDIT_ARCH_X86_64, else go on
    (0x20, 0, 0, 0),  # A = nr
    (0x15, 0, 1, _SYS_SETGROUPS),
    (0x06, 0, 0, 0x00050000),  # SECCOMP_RET_ERRNO, of no error
    (0x06, 0, 0, 0x7FFF0000),  # SECCOMP_RET_ALLOW
)


def ease_setgroups() -> None:
    """If the kernel denies setgroups(2), as in a user namespace with one id, make it a no-op in
    this process and its children. Otherwise a program that runs as root and drops its groups, such
    as tcpdump, would fail. There are no other groups in such a namespace."""
    with open("/proc/self/setgroups", "rb") as file:
        if file.read().strip() != b"deny":
            return
    import ctypes
    import struct

    rules = b"".join(struct.pack("=HBBI", *rule) for rule in _NO_SETGROUPS)
    room = ctypes.create_string_buffer(rules)
    program = struct.pack("HxxxxxxP", len(_NO_SETGROUPS), ctypes.addressof(room))
    libc = ctypes.CDLL(None, use_errno=True)
    where = ctypes.create_string_buffer(program)
    if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, where, 0, 0):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), "seccomp")


def id_map(kind: str) -> str:
    """The lines for uid_map or gid_map (`kind` "uid" or "gid") that give a lab all available ids: 0
    is ourselves, followed by our ranges in /etc/subuid or /etc/subgid (subuid(5))."""
    if os.geteuid() == 0:  # all ids of our own user namespace
        return "".join(f"{first} {first} {count}\n" for first, count in _mapped(kind))
    own = os.geteuid() if kind == "uid" else os.getegid()
    text, first = f"0 {own} 1\n", 1
    for start, count in _subordinate(kind):
        text += f"{first} {start} {count}\n"
        first += count
    return text


def spare_groups() -> range:
    """Groups of this user namespace that nothing else uses: the upper half of them. Empty if only
    one is mapped; then setgroups(2) is not allowed either."""
    top = min(max(first + count - 1 for first, count in _mapped("gid")), 2**31 - 1)
    return range(top // 2 + 1, top + 1) if top > 1 else range(0)


def is_initial() -> bool:
    """Whether our user namespace is the initial one. In others, root has no power over the host."""
    return _mapped("uid") == [(0, 2**32 - 1)]


def has_id(kind: str, number: int) -> bool:
    """Whether our user namespace has a user ("uid") or group ("gid") with this number."""
    return any(first <= number < first + count for first, count in _mapped(kind))


def outside(kind: str, number: int) -> int:
    """The id ("uid" or "gid") in the parent user namespace that one of ours is mapped to; -1 if it
    is not mapped."""
    with open(f"/proc/self/{kind}_map", encoding="ascii") as file:
        for first, other, count in (map(int, line.split()) for line in file):
            if first <= number < first + count:
                return other + number - first
    return -1


def _mapped(kind: str) -> list[tuple[int, int]]:
    with open(f"/proc/self/{kind}_map", encoding="ascii") as file:
        return [(int(first), int(count)) for first, _, count in map(str.split, file)]


def _subordinate(kind: str) -> list[tuple[int, int]]:
    import pwd

    uid = os.geteuid()
    try:
        names = {pwd.getpwuid(uid).pw_name, str(uid)}
    except KeyError:
        names = {str(uid)}
    found = []
    try:
        with open(_SUBIDS[kind], encoding="utf-8", errors="replace") as file:
            for line in file:
                fields = line.strip().split(":")
                if len(fields) == 3 and fields[0] in names:
                    found.append((int(fields[1]), int(fields[2])))
    except (OSError, ValueError):
        return []
    return found
