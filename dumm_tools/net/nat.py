"""Uplinks through the host's own address: nftables and forwarding.

A table named after the lab contains the rules, and in its set `opened` the devices on which the
host forwarded nothing before: this way, the record of what has to be restored lives exactly as long
as the change itself. The lab's state has it, too, since reloading a firewall deletes all tables. If
several labs share a network, the last of them restores it; the others pass the record on.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable, Iterator

from dumm_tools import address, nft
from dumm_tools.errors import Conflict, DummError
from dumm_tools.linux import sysctl, sysfs
from dumm_tools.model import TABLE_PREFIX, Bridge, State
from dumm_tools.running import liveness

#: Link-local addresses (RFC 3927).
LINK_LOCAL = "169.254.0.0/16"
#: The key of the opened devices in state.json.
_EXTRA = "opened"


def bridges_of(state: State) -> list[Bridge]:
    """The bridges with such an uplink."""
    return [b for _, b in sorted(state.bridges.items()) if b.uplink == "nat"]


def networks(bridge: Bridge) -> list[str]:
    """The IPv4 networks in which the host has an address on the bridge."""
    import ipaddress

    found = [ipaddress.ip_interface(a) for a in bridge.addresses if not address.is_v6(a)]
    return sorted({str(a.network) for a in found})


def check_gateway(bridge: Bridge) -> None:
    """Raise Conflict if the host has no address there that guests can use as a gateway."""
    if not networks(bridge):
        raise Conflict(
            f"the host has no IPv4 address on '{bridge.name}' for guests to use as a gateway",
            hint=f"dumm-bridge address add {bridge.name} 10.0.0.254/24",
        )


def make(state: State) -> None:
    """Update rules and forwarding for the lab's bridges as recorded. DummError; the caller saves
    the state."""
    bridges = bridges_of(state)
    with _locked():
        before = _opened()
        inside = [b.name for b in bridges]
        outside = [d for d in sysfs.routed() if d != "lo" and not _of_a_lab(d)]
        mine = before.get(state.table, set()) | _remembered(state)
        kept = {d for d in mine if sysfs.exists(d) and (d in inside or not _of_a_lab(d))}
        new = [d for d in (*inside, *outside) if sysfs.exists(d) and not sysctl.forwards(d)]
        nft.run(_replaced(state, _rules(bridges, kept | set(new))))
        try:
            _forward(new, True)
        except DummError:
            with contextlib.suppress(DummError):
                _forward(new, False)
            nft.run(_replaced(state, _rules(bridges, kept) if mine else ""))
            raise
        _remember(state, kept | set(new))


def unmake(state: State, bridge: Bridge | None) -> None:
    """Remove a bridge from the rules, or all of them if it is None, and restore what is no longer
    needed. The caller saves the state."""
    with _locked():
        before = _opened()
        if state.table not in before and not _remembered(state):
            return
        mine = before.pop(state.table, set()) | _remembered(state)
        left = [b for b in bridges_of(state) if bridge is not None and b is not bridge]
        if left and bridge is not None:
            _forward(mine & {bridge.name}, False)
            nft.run(_replaced(state, _rules(left, mine - {bridge.name})))
            _remember(state, mine - {bridge.name})
            return
        ours = {d for d in mine if _of_a_lab(d)}
        heir = min(before, default=None)
        if heir and mine - ours:
            nft.run(f"add element ip {heir} opened {_set(mine - ours)}\n")
        _forward(ours if heir else mine, False)
        nft.run(_replaced(state, ""))
        _remember(state, set())


def stands(state: State) -> bool:
    """Whether there is something that `unmake` would remove. Does not use nft(8), which is slow."""
    if _remembered(state):
        return True
    try:
        return nft.has_table(nft.NFPROTO_IPV4, state.table)
    except OSError:  # a kernel without nftables
        return False


def _here() -> str:
    """An identifier of this network namespace, until the host's next boot."""
    return f"{liveness.host_boot()} {os.stat('/proc/thread-self/ns/net').st_ino}"


def _remembered(state: State) -> set[str]:
    match state.extra.get(_EXTRA):
        case {"here": here, "devices": list(devices)} if here == _here():
            return {str(d) for d in devices}
    return set()


def _remember(state: State, opened: set[str]) -> None:
    state.extra.pop(_EXTRA, None)
    if opened:
        state.extra[_EXTRA] = {"here": _here(), "devices": sorted(opened)}


def _of_a_lab(device: str) -> bool:
    return (sysfs.read(device, "ifalias") or "").startswith("dumm:")


def _forward(devices: Iterable[str], on: bool) -> None:
    for device in devices:
        try:
            if sysfs.exists(device):
                sysctl.set_forwarding(device, on)
        except OSError as e:
            raise DummError(f"cannot set forwarding of '{device}': {e.strerror}") from None


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    """One lab at a time in this network namespace: each namespace has its own file."""
    fd = os.open("/proc/sys/net/ipv4/ip_forward", os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _set(devices: Iterable[str]) -> str:
    return "{ " + ", ".join(f'"{d}"' for d in sorted(devices)) + " }"


def _replaced(state: State, rules: str) -> str:
    """A transaction that replaces the table, if it exists, with these rules."""
    table = f"ip {state.table}"
    return nft.dropped(table) + (f"table {table} {{\n{rules}}}\n" if rules else "")


def _rules(bridges: list[Bridge], opened: set[str]) -> str:
    names = _set(b.name for b in bridges)
    own = "".join(f'\t\tiifname "{b.name}" oifname "{b.name}" accept\n' for b in bridges)
    masquerade = "".join(
        f'\t\tip saddr {network} oifname != "{b.name}" masquerade\n'
        for b in bridges
        for network in networks(b)
    )
    elements = f"\t\telements = {_set(opened)}\n" if opened else ""
    # The host's neighbours, such as a cloud's metadata service; and its services, if traffic to the
    # host is redirected to them, as by Docker.
    closed = "".join(
        f'\t\tiifname "{b.name}" ip daddr {LINK_LOCAL} drop\n'
        f'\t\tiifname "{b.name}" ct direction original ct status dnat drop\n'
        for b in bridges
        if not b.host_access
    )
    # If br_netfilter is loaded, frames that stay on their bridge pass through here, too. Only
    # replies come from outside; and devices that forwarded nothing before forward nothing else now.
    return f"""\tset opened {{
\t\ttype ifname
{elements}\t}}
\tchain forward {{
\t\ttype filter hook forward priority filter; policy accept;
{own}\t\toifname {names} ct state established,related accept
\t\toifname {names} drop
{closed}\t\tiifname {names} accept
\t\tiifname @opened ct state established,related accept
\t\tiifname @opened ct status dnat accept
\t\tiifname @opened drop
\t}}
\tchain postrouting {{
\t\ttype nat hook postrouting priority srcnat; policy accept;
{masquerade}\t}}
"""


def _opened() -> dict[str, set[str]]:
    """The tables of labs in this network namespace, and what each has opened."""
    found: dict[str, set[str]] = {}
    for table in nft.listed("tables", "ip"):
        name = table.get("table", {}).get("name", "")
        if name.startswith(TABLE_PREFIX):
            found[name] = set()
            for each in nft.listed("table", "ip", name):
                if each.get("set", {}).get("name") == "opened":
                    found[name] |= set(each["set"].get("elem", ()))
    return found
