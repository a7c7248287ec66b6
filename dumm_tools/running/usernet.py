"""The connection of a lab with its own namespaces to the outside: pasta or slirp4netns.

This is an ordinary program that opens connections on the host for traffic from a device in the
lab's network namespace. It belongs to the lab's user and pid namespaces, so that it ends with them,
and to the host's network namespace: it has to be started by a process that has not entered the lab
yet. `uplink` connects the device to a segment.

To the host, traffic from guests to its own addresses would come from one of its own programs; the
lab's namespace drops it (`close`).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time

from dumm_tools import errors, holder, nft, proc
from dumm_tools.errors import Conflict, DummError
from dumm_tools.linux import child, namespaces, process, sysctl, sysfs
from dumm_tools.linux import mount as mnt
from dumm_tools.model import State
from dumm_tools.waiting import lock

#: The device in the lab.
DEVICE = "uplink"
#: A network that no lab and no host uses: for the two ends of a tunnel (RFC 6333, section 5.7).
_NETWORK, _ADDRESS, _GATEWAY = "192.0.0.0/24", "192.0.0.100", "192.0.0.2"
#: Flags for rewriting our files.
_MADE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
#: Seconds to wait for the device.
TIMEOUT = 10.0
_RTMGRP_LINK, _RTMGRP_IPV4_ROUTE = 0x1, 0x40  # linux/rtnetlink.h


def _pid_file(labdir: str) -> str:
    """Next to the holder's and, like that, not valid in a copy of the working set."""
    path = holder.file_of(labdir)
    return os.path.join(os.path.dirname(path), os.path.basename(path).replace("holder", "outside"))


def ensure(labdir: str) -> None:
    """Make sure that the program is running, and its device is in the lab; call this outside the
    lab's namespaces."""
    if _running(labdir):
        return
    fd = os.open(_pid_file(labdir) + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        lock(fd, TIMEOUT, "the lab's uplink")
        if not _running(labdir):
            _in_child(labdir)
    finally:
        os.close(fd)


def _running(labdir: str) -> bool:
    return process.lives(process.recorded(_pid_file(labdir)))


def hosts() -> list[str]:
    """The host's current IPv4 addresses and broadcast addresses; call this outside the lab's
    namespaces (/proc/net/fib_trie)."""
    found: set[str] = set()
    address = ""
    with open("/proc/thread-self/net/fib_trie", encoding="ascii") as file:
        for line in file:
            if "|--" in line:
                address = line.split()[-1]
            elif "LOCAL" in line or "BROADCAST" in line:
                found.add(address)
    return sorted(a for a in found if not a.startswith("127."))


def close(labdir: str, state: State, hosts: list[str]) -> None:
    """Block these addresses for guests, except on bridges with access to the host; call this
    inside. Only changes take time. DummError."""
    open_ = [b.name for b in state.bridges.values() if b.host_access]
    table = _table(state)
    rules = [f'iifname "{name}" accept' for name in open_]
    if hosts:
        rules.append(f'oifname "{DEVICE}" ip daddr {{ {", ".join(hosts)} }} drop')
    chain = "type filter hook forward priority filter; policy accept;"
    made = f"table {table} {{ chain forward {{ {chain} {'; '.join(rules)}; }}; }}"
    text = f"# {holder.find(labdir)}\n{nft.dropped(table)}{made}\n"
    path = _pid_file(labdir) + ".nft"
    try:
        with open(path, encoding="ascii") as file:
            if file.read() == text:
                return
    except FileNotFoundError:
        pass
    nft.run(text)
    with open(os.open(path, _MADE, 0o600), "w", encoding="ascii") as file:
        file.write(text)


def unclose(labdir: str, state: State) -> None:
    """Remove those rules; call this inside."""
    with contextlib.suppress(FileNotFoundError):  # first, as it says that they exist
        os.unlink(_pid_file(labdir) + ".nft")
    nft.run(nft.dropped(_table(state)))


def _table(state: State) -> str:
    return f"inet {state.table}_hosts"


def end(labdir: str) -> None:
    """End the program, and with it the device."""
    known = process.recorded(_pid_file(labdir))
    pidfd = process.open_pidfd(*known) if known else None
    if pidfd is not None:
        process.send_signal(pidfd, signal.SIGKILL)
        process.wait_exit(pidfd, TIMEOUT)
        os.close(pidfd)
    for name in ("", ".log", ".net", ".lock", ".nft"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_pid_file(labdir) + name)


def _in_child(labdir: str) -> None:
    """Run in a child, since a process cannot leave a namespace again, and for a pid namespace in a
    grandchild. The program is left to the lab's own pid 1."""
    argv = _command(labdir)

    def explain(error: Exception) -> str:
        text = errors.explain(error)
        return f"cannot start {argv[0]}: {text}" if isinstance(error, OSError) else text

    def start() -> None:
        pidfd = _holder(labdir)
        namespaces.enter(pidfd, namespaces.CLONE_NEWUSER | namespaces.CLONE_NEWPID)
        inner = os.fork()
        if inner:
            if os.waitpid(inner, 0)[1]:
                os._exit(1)  # it has written why, unless it was killed
        else:
            _start(labdir, argv, pidfd)

    if text := child.run(start, explain):
        raise DummError(text, hint="'dumm-bridge uplink BR --none' removes the uplink")


def _command(labdir: str) -> list[str]:
    from shutil import which

    namespace = _pid_file(labdir) + ".net"
    # The host's loopback device is off limits: neither program gives access to it.
    if path := which("pasta"):
        # fmt: off
        return [
            path, "--foreground", "--quiet", "--stderr", "--ipv4-only", "--config-net",
            "--ns-ifname", DEVICE, "--no-map-gw", "--no-dhcp",
            "--address", _ADDRESS, "--netmask", _NETWORK.partition("/")[2], "--gateway", _GATEWAY,
            "--tcp-ports", "none", "--udp-ports", "none",
            "--tcp-ns", "none", "--udp-ns", "none",
            "--runas", "0:0", "--netns-only", "--netns", namespace,
        ]
        # fmt: on
    if path := which("slirp4netns"):
        # fmt: off
        return [
            path, "--configure", "--mtu", "65520", "--cidr", _NETWORK,
            "--disable-host-loopback", "--disable-dns", "--netns-type", "path", namespace, DEVICE,
        ]
        # fmt: on
    raise DummError(
        "neither 'pasta' nor 'slirp4netns' was found",
        hint="apt-get install passt, or 'dumm-bridge uplink BR --none'",
    )


def _holder(labdir: str) -> int:
    known = holder.find(labdir)
    pidfd = process.open_pidfd(*known) if known else None
    if pidfd is None:
        raise Conflict("the lab's namespaces have ended")
    return pidfd


def _start(labdir: str, argv: list[str], held: int) -> None:
    proc.log(" ".join(argv))
    log = os.open(
        _pid_file(labdir) + ".log",
        os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW,
        0o600,
    )
    _name_namespace(labdir, _pid_file(labdir) + ".net")
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    actions = [(os.POSIX_SPAWN_DUP2, fd, n) for n, fd in enumerate((null, log, log))]
    pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=actions, setsid=True)
    pidfd = os.pidfd_open(pid)
    # /proc is the host's, where the pid is a different one.
    pid = process.pid_of(pidfd)
    with open(os.open(_pid_file(labdir), _MADE, 0o600), "w", encoding="ascii") as file:
        file.write(f"{pid} {process.start_time(pid)}\n")
    try:
        namespaces.enter(held, namespaces.CLONE_NEWNET)
        _await_device(pidfd)
        sysctl.set_forwarding(DEVICE, True)
    except BaseException:
        ended = process.wait_exit(pidfd, 0)
        process.send_signal(pidfd, signal.SIGKILL)
        os.unlink(_pid_file(labdir))
        words = os.pread(log, 65536, 0).decode(errors="replace").strip().rpartition("\n")[2]
        if ended:
            raise DummError(f"{os.path.basename(argv[0])} failed: {words}") from None
        raise


def _name_namespace(labdir: str, path: str) -> None:
    """Give the lab's network namespace a name that only we and our children see: to open the one in
    /proc, pasta would need as many capabilities as the holder has (ptrace(2))."""
    known = holder.find(labdir) or (0, 0)
    namespaces.unshare(namespaces.CLONE_NEWNS)
    mnt.mount("none", "/", "none", mnt.MS_REC | mnt.MS_PRIVATE, "")
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    mnt.mount(f"/proc/{known[0]}/ns/net", path, "none", mnt.MS_BIND, "")


def _await_device(pidfd: int) -> None:
    """Wait until the lab's network namespace, which is now ours, has the device and a route."""
    import socket

    deadline = time.monotonic() + TIMEOUT
    monitor = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    with monitor:
        monitor.bind((0, _RTMGRP_LINK | _RTMGRP_IPV4_ROUTE))
        poll = select.poll()
        poll.register(monitor, select.POLLIN)
        poll.register(pidfd, select.POLLIN)
        while not sysfs.routed().get(DEVICE):
            events = dict(poll.poll(max(0, int((deadline - time.monotonic()) * 1000))))
            if pidfd in events:
                raise DummError("it ended")
            if not events:
                raise DummError("the lab's uplink did not come up in time")
            with contextlib.suppress(OSError):  # ENOBUFS: some events were lost
                monitor.recv(65536)
