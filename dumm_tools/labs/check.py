"""Check what this host needs to run guests: everything is tried, rather than derived from
versions."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from typing import Literal, NamedTuple

from dumm_tools.agent import INITRD, JAIL, PRELOAD
from dumm_tools.errors import DummError
from dumm_tools.guests import limits
from dumm_tools.images import kernel, master
from dumm_tools.labs import probe
from dumm_tools.linux import sysctl
from dumm_tools.model import DEFAULT_MEMORY

#: The features that use nftables.
_WHY_NFT = "for uplinks, and for routing between segments on the host"


class Check(NamedTuple):
    """`missing` prevents guests from starting; `absent` only costs a feature."""

    name: str
    state: Literal["ok", "missing", "absent"]
    found: str
    remedy: str | None = None


def run(labdir: str, *, isolated: bool) -> list[Check]:
    """Try everything for a lab in `labdir`, on the host's network or in its own namespaces."""
    found = [_agent(), _namespaces()]
    if isolated:
        found.append(_ids())
    found += [_files(), _tun()]
    separate = found[1].state == "ok"  # otherwise these cannot be tried
    if separate:
        found += [_shm(), _overlay(labdir, isolated)]
        if not isolated:
            found += [_filters(), _netfilter()]
    found += [_kernel(), _master()]
    for name, package, why in (
        ("gcc", "gcc libc6-dev", "for building the agent"),
        ("tcpdump", "tcpdump", "for capturing traffic"),
        ("nft", "nftables", _WHY_NFT),
        *([("pasta", "passt", "for uplinks")] if isolated else []),
        ("dot", "graphviz", "for pictures"),
        ("mmdebstrap", "mmdebstrap", "for Debian masters"),
        ("apt-get", "apt", "for fetching kernel packs"),
    ):
        found.append(_program(name, package, why))
        if name == "nft" and separate and found[-1].state == "ok":
            found[-1] = _rules(found[-1])
    return [*found, _toolchain(), *_left_behind(labdir)]


def _agent() -> Check:
    if all(map(os.path.exists, (INITRD, PRELOAD))) and os.access(JAIL, os.X_OK):
        return Check("agent", "ok", INITRD)
    return Check(
        "agent", "missing", "not built", "python3 -m dumm_tools.agent.build (needs gcc, libc6-dev)"
    )


def _namespaces() -> Check:
    error = probe.in_child(probe.make_namespaces).rpartition("namespaces: ")[2]
    if not error:
        return Check("namespaces", "ok", "user, mount, network, pid, ipc and uts namespaces")
    remedy = "allow user namespaces: sysctl user.max_user_namespaces=100000"
    if error == os.strerror(errno.EPERM):  # ENOSPC would be the limit (user_namespaces(7))
        remedy = "allow user namespaces: a chroot, or a container's seccomp filter, forbids them"
    if probe.is_in_chroot():
        return Check(
            "namespaces",
            "missing",
            f"{error}: no user namespace can be made in a chroot",
            "run it outside the chroot, or make that a container: systemd-nspawn -D DIR",
        )
    for path, wanted, how in (
        ("kernel/unprivileged_userns_clone", "1", "sysctl kernel.unprivileged_userns_clone=1"),
        (
            "kernel/apparmor_restrict_unprivileged_userns",
            "0",
            "sysctl kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile that "
            f"allows userns to {JAIL}",
        ),
    ):
        try:
            with open(f"/proc/sys/{path}", encoding="ascii") as file:
                if file.read().strip() != wanted:
                    remedy = how
        except OSError:
            continue
    return Check("namespaces", "missing", error, remedy)


def _ids() -> Check:
    from shutil import which

    from dumm_tools.linux import namespaces

    if os.geteuid() == 0:
        return Check("ids", "ok", "all ids")
    ranges = min(namespaces.id_map(kind).count("\n") for kind in ("uid", "gid")) > 1
    if which("newuidmap") is None or which("newgidmap") is None:
        found, remedy = "no newuidmap", "apt-get install uidmap"
    elif not ranges:
        found = "no ids for this user in /etc/subuid and /etc/subgid"
        remedy = "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER"
    else:
        return Check("ids", "ok", "a range of ids")
    return Check("ids", "absent", f"{found}: all files in guests belong to root", remedy)


def _files() -> Check:
    """The limit of open files, of which a guest's server of its root file system needs many."""
    files, wanted = limits.files_needed(DEFAULT_MEMORY)
    found = f"{files} open files"
    if files >= wanted:
        return Check("files", "ok", found)
    found += ": guests on virtiofs soon forget files, and look them up again"
    return Check("files", "absent", found, "ulimit -Hn 524288: limits.conf(5), or LimitNOFILE=")


def _tun() -> Check:
    path = "/dev/net/tun"
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return Check("tun", "missing", f"no {path}", "modprobe tun")
    except OSError as e:
        return Check("tun", "missing", f"{path}: {e.strerror}", f"as root: chmod 0666 {path}")
    return Check("tun", "ok", path)


def _shm() -> Check:
    """A guest's memory is in a tmpfs of its jail: check that one can be mounted and
    executed from."""
    error = probe.in_child(probe.executable_tmpfs)
    if error:
        return Check("shm", "missing", f"tmpfs: {error}", "dumm-tools needs tmpfs in the kernel")
    return Check("shm", "ok", "tmpfs")


def _overlay(labdir: str, isolated: bool) -> Check:
    """Mount an overlay with its upper layer where the working set is."""
    place = labdir if os.access(labdir, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix=".dumm-check-", dir=place) as top:
        for name in ("lower", "upper", "work", "merged"):
            os.mkdir(os.path.join(top, name))
        error = probe.in_child(lambda: probe.mount_overlay(top, isolated))
        if not error:
            return Check("overlay", "ok", "overlayfs")
        from shutil import which

        remedy = "modprobe overlay; keep the working set on ext4, xfs, btrfs or tmpfs"
        if which("fuse-overlayfs") and os.access("/dev/fuse", os.R_OK | os.W_OK):
            return Check(
                "overlay", "absent", f"overlayfs: {error}; fuse-overlayfs will be used", remedy
            )
        remedy += "; or apt-get install fuse-overlayfs, and open /dev/fuse to all (chmod 0666)"
        return Check("overlay", "missing", f"overlayfs: {error}", remedy)


def _filters() -> Check:
    """Without filters on devices, guests reach the host through taps and bridges that have no
    address."""
    error = probe.in_child(probe.filter_device)
    if not error:
        return Check("filters", "ok", "cls_bpf")
    return Check(
        "filters",
        "absent",
        f"cls_bpf: {error}, to keep guests from the host's addresses",
        "modprobe -a sch_ingress cls_bpf, or use an isolated lab",
    )


def _netfilter() -> Check:
    on = sysctl.netfilter_on_bridges()
    if not on:
        return Check("br_netfilter", "ok", "off")
    return Check(
        "br_netfilter",
        "absent",
        "the host's IP filters see, and may drop, what guests on one segment send each other",
        f"sysctl -w {' '.join(f'{name}=0' for name in on)}, or use an isolated lab",
    )


def _rules(program: Check) -> Check:
    """Whether the kernel has what the program nft needs."""
    if not probe.in_child(probe.add_rules):
        return program
    remedy = "modprobe -a nf_tables nft_fib_inet nft_ct nft_masq"
    return Check("nft", "absent", f"the kernel refuses rules of nftables, {_WHY_NFT}", remedy)


def _kernel() -> Check:
    def find() -> str | None:
        found = kernel.default()
        return found.path if found else None

    return _found("kernel", find, "dumm-fs kernel fetch")


def _master() -> Check:
    def find() -> str | None:
        found = master.default()
        return found.path if found else ", ".join(m.name for m in master.list_()) or None

    return _found("master", find, "dumm-fs master build busybox")


def _found(name: str, find: Callable[[], str | None], remedy: str) -> Check:
    try:
        path = find()
    except (DummError, OSError) as e:
        return Check(name, "missing", str(e), remedy)
    if path is None:
        return Check(name, "missing", f"no {name} in the cache", remedy)
    return Check(name, "ok", path)


def _toolchain() -> Check:
    from dumm_tools.images import toolchain

    lacking = toolchain.missing(*toolchain.NEEDED)
    if not lacking:
        return Check("toolchain", "ok", "for building kernels")
    packages = " ".join(lacking.values())
    found = f"no {', no '.join(lacking)}, for building kernels"
    return Check("toolchain", "absent", found, f"apt-get install {packages}")


def _left_behind(labdir: str) -> list[Check]:
    from dumm_tools.labs import left_behind

    try:
        found = left_behind.of(labdir)
    except DummError:  # reported by commands on the lab
        return []
    return [Check("left", "absent", each.text, each.remedy) for each in found]


def _program(name: str, package: str, why: str) -> Check:
    from shutil import which

    path = which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if path:
        return Check(name, "ok", path)
    return Check(name, "absent", f"no {name}, {why}", f"apt-get install {package}")
