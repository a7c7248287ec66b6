"""A network and mount namespace for the process that runs the tests."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shlex
import socket
import struct
import subprocess
from pathlib import Path

from dumm_tools.linux import mount
from support import PATIENCE, ROOT

_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWNET = 0x00020000, 0x10000000, 0x40000000  # linux/sched.h
_MS_BIND, _MS_REC, _MS_PRIVATE = 1 << 12, 1 << 14, 1 << 18  # linux/mount.h
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1  # linux/sockios.h, linux/if.h


def isolate() -> None:
    """Move this process to new network and mount namespaces with /sys and lo of their own."""
    if os.geteuid() == 0:
        _call("unshare", _CLONE_NEWNET | _CLONE_NEWNS)
    else:
        _become_root(_CLONE_NEWNET | _CLONE_NEWNS)
    _make_mounts_private()
    # sysfs shows the network namespace in which it was mounted. Control groups stay where they
    # were.
    groups = mount.clone_tree("/sys/fs/cgroup", recursive=True)
    mount.mount("sysfs", "/sys", "sysfs", 0, "")
    mount.attach(groups, "/sys/fs/cgroup")
    os.close(groups)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh22x", b"lo", 0)
        flags = struct.unpack_from("16xh", fcntl.ioctl(control, _SIOCGIFFLAGS, request))[0]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | _IFF_UP))


def leave_chroot() -> None:
    """Leave a chroot, where the kernel makes no user namespaces, with the help of a mount
    namespace."""
    _call("unshare", _CLONE_NEWNS)
    _make_mounts_private()


def _make_mounts_private() -> None:
    """Keep our mounts out of the namespace that we came from."""
    if ROOT and _chrooted():
        _leave_chroot()
    else:
        mount.mount("none", "/", "none", _MS_REC | _MS_PRIVATE, "")


def _chrooted() -> bool:
    """Whether we are in a chroot(2). There the kernel makes no user namespace, not even for
    root."""
    pid = os.fork()
    if pid == 0:
        try:
            _call("unshare", _CLONE_NEWUSER)
        except OSError as e:
            os._exit(e.errno == errno.EPERM)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0


def _leave_chroot() -> None:
    """Make our root directory, set by chroot(2) and not a mount point, the root of the namespace.

    In a chroot the kernel makes no user namespaces, which jails and ordinary users' labs need.
    """
    root, here = os.open("/", os.O_PATH), os.getcwd()
    namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    # Entering the mount namespace that we are in makes its root ours (setns(2)).
    _call("setns", namespace, _CLONE_NEWNS)
    mount.mount("none", "/", "none", _MS_REC | _MS_PRIVATE, "")
    os.fchdir(root)
    mount.mount(".", ".", "none", _MS_BIND | _MS_REC, "")
    os.chdir(os.getcwd())  # into the mount
    # pivot_root(2), "pivot_root(".", ".")": the old root ends up below the new one, and is
    # unmounted.
    _call("pivot_root", b".", b".")
    mount.umount(".", detach=True)
    os.chdir(here)
    os.close(root)
    os.close(namespace)


def _call(name: str, *arguments: int | bytes) -> None:
    """Call a function of the C library that Python 3.11 does not have."""
    libc = ctypes.CDLL("libc.so.6", use_errno=True)
    if getattr(libc, name)(*arguments):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), name)


def _become_root(flags: int) -> None:
    """Enter a user namespace as its root, with the ids of /etc/subuid, or else only with our
    own."""
    own = {"uid": os.geteuid(), "gid": os.getegid()}
    maps = []
    for kind in own:
        line = _granted(f"/etc/sub{kind}", os.getuid())
        maps.append(
            shlex.join([f"new{kind}map", str(os.getpid()), "0", str(own[kind]), "1", *line])
        )
    # These maps can only be written from outside, by a process that was started before.
    script = f"read -r _ && {maps[0]} && {maps[1]}"
    with subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, text=True) as outside:
        _call("unshare", _CLONE_NEWUSER | flags)
        outside.communicate("go\n", timeout=PATIENCE)
    if outside.returncode:
        Path("/proc/self/setgroups").write_text("deny")
        for kind in own:
            Path(f"/proc/self/{kind}_map").write_text(f"0 {own[kind]} 1")


def _granted(path: str, uid: int) -> list[str]:
    """The arguments of newuidmap(1) for the ids that `path` grants us, from 1 on."""
    import pwd

    names = {str(uid), pwd.getpwuid(uid).pw_name}
    for line in Path(path).read_text().splitlines():
        user, start, count = line.split(":")
        if user in names:
            return ["1", start, count]
    return []
