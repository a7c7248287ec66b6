"""Protection of the host itself from traffic on segments.

Linux accepts packets for any of its addresses on any of its devices, answers ARP for all of them,
and trusts hosts that advertise themselves as routers. Therefore

- settings of the device prevent whatever settings can prevent;
- on a bridge without an address, and on a tap that is not on a bridge, a filter on the device drops
  everything. A bridge's own filter sees only traffic that goes up to the host, not traffic that
  stays on the segment;
- on a bridge with an address, nftables drop packets for other addresses of the host. Only nftables
  can distinguish these from packets that the host forwards. A host without them gets a filter that
  passes only packets for the address, and so forwards nothing from there.

Broadcasts and multicasts pass if there is an address: the host is then a member of the segment, and
may run services and routing daemons for guests. If the address is there for an uplink to the
outside (`nat`), the host is a gateway and nothing more, unless the user wants more.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Collection, Sequence

from dumm_tools import address, nft, proc
from dumm_tools.errors import DummError
from dumm_tools.linux import filter as packets
from dumm_tools.linux import netlink, sysctl, sysfs
from dumm_tools.linux.filter import Operation, Program
from dumm_tools.linux.netlink import Channel
from dumm_tools.model import Bridge, State
from dumm_tools.net import link_views

#: On each device. Source addresses must match the route; the host sends from its address there.
_IPV4 = {
    "accept_redirects": 0,
    "accept_source_route": 0,
    "arp_accept": 0,
    "arp_announce": 2,
    "rp_filter": 1,
    "send_redirects": 0,
}
_IPV6 = {"accept_ra": 0, "accept_redirects": 0, "accept_source_route": 0, "autoconf": 0}
#: Answer no ARP requests, or only those for addresses of the device.
_ARP_IGNORE = {False: 8, True: 1}

# linux/if_ether.h
_IP, _ARP, _VLAN, _IP6, _VLAN_AD = 0x0800, 0x0806, 0x8100, 0x86DD, 0x88A8
_MULTICAST_IP = 0xE0000000  # and above: broadcast
_MULTICAST_IP6 = 0xFF000000


def _drop(*kinds: int) -> list[Operation]:
    """Drop frames of these protocols, once the protocol is loaded."""
    return [op for kind in kinds for op in (packets.unless_equal(kind, 1), packets.DROP)]


_NOTHING: Program = [packets.DROP]
_NO_IPV4: Program = [packets.LOAD_PROTOCOL, *_drop(_IP, _ARP, _VLAN, _VLAN_AD), packets.PASS]

_FAMILY = "inet"


def settings(device: str, *, ipv4: bool = False) -> None:
    """Apply the settings of a device that is not up yet; with `ipv4`, the host has such an address
    there."""
    wanted = {"ipv4": {**_IPV4, "arp_ignore": _ARP_IGNORE[ipv4]}, "ipv6": _IPV6}
    # If /proc/sys is read-only, as in a container, the other means must suffice.
    for family, values in wanted.items():
        with contextlib.suppress(OSError):
            sysctl.set_all(family, device, values)


def tap(channel: Channel, device: str, *, bridged: bool) -> None:
    """Block all traffic from a tap to the host, unless the tap is on a bridge: a port that was
    opened (`rtnl.open_port`) leaves nothing to the host. OSError."""
    _put(channel, device, [] if bridged else _NOTHING)


def bridge(channel: Channel, state: State, record: Bridge, addresses: Sequence[str]) -> None:
    """Let guests on a bridge reach these addresses of the host, which it is about to get or has
    kept, and no others. OSError."""
    ipv4, ipv6 = ([a for a in addresses if address.is_v6(a) is v6] for v6 in (False, True))
    if record.addresses or addresses:
        known = refresh(state, {record.name} if addresses else set(), {record.name})
    else:
        known = True
    settings(record.name, ipv4=bool(ipv4))
    if not addresses:
        program = _NOTHING
    elif not known and not record.host_access:
        program = _only(ipv4, ipv6)
    else:
        program = [] if ipv4 else _NO_IPV4
    _put(channel, record.name, program)


def _only(ipv4: Sequence[str], ipv6: Sequence[str]) -> Program:
    """Pass traffic for these addresses, broadcasts and multicasts."""
    import ipaddress

    groups = [packets.unless_at_least(_MULTICAST_IP, 1), packets.PASS]
    to_ip = [packets.load(16, network=True), *(groups if ipv4 else [])]
    for text in ipv4:
        own = ipaddress.IPv4Interface(text)
        for number in {int(own.ip), int(own.network.broadcast_address)}:
            to_ip += [packets.unless_equal(number, 1), packets.PASS]
    to_ip6 = [packets.load(24, network=True), packets.mask(_MULTICAST_IP6)]
    to_ip6 += [packets.unless_equal(_MULTICAST_IP6, 1), packets.PASS]
    for text in ipv6:
        packed = ipaddress.IPv6Interface(text).ip.packed
        for n in range(0, 16, 4):
            word = int.from_bytes(packed[n : n + 4], "big")
            to_ip6 += [packets.load(24 + n, network=True), packets.unless_equal(word, 7 - n // 2)]
        to_ip6.append(packets.PASS)
    return [
        packets.LOAD_PROTOCOL,
        *packets.when_equal(_IP, [*to_ip, packets.DROP]),
        *packets.when_equal(_IP6, [*to_ip6, packets.DROP]),
        packets.unless_equal(_ARP, 1),
        packets.PASS if ipv4 else packets.DROP,
        packets.DROP,
    ]


def _put(channel: Channel, device: str, program: Program) -> None:
    index = sysfs.number(device, "ifindex") or 0
    try:
        if program:
            netlink.transact(channel, packets.put(index, program, device))
        else:
            netlink.transact(channel, [packets.remove(index, device)])
    except OSError as e:
        # ENOENT and EINVAL: there is no filter, or never was; or the kernel does not support any.
        if e.errno not in (errno.ENOENT, errno.EINVAL, errno.EOPNOTSUPP):
            raise
        if program:
            proc.log(f"cannot set a filter on '{device}': {e.strerror}")


def refresh(state: State, also: Collection[str] = (), without: Collection[str] = ()) -> bool:
    """Update the rules for the lab's existing bridges that have addresses, for `also`, and not for
    others that are in `without`. False if nftables cannot do it."""
    names = [
        name
        for name, record in state.bridges.items()
        if name in also
        or (record.addresses and name not in without and link_views.ours(state, name))
    ]
    return _run(state, names)


def renew(state: State) -> bool:
    """Rebuild the rules for the lab's bridges as recorded; False if there are none."""
    return any(b.addresses for b in state.bridges.values()) and refresh(state)


def mend(state: State) -> bool:
    """Restore the rules if somebody removed them, such as a reloaded firewall; False if that is not
    the case, or not possible."""
    return _has_rules(state) is False and renew(state)


def clear(state: State) -> None:
    """Remove all rules, whatever is recorded, because the lab ends."""
    if _has_rules(state):
        _run(state, ())


def _has_rules(state: State) -> bool | None:
    """Whether the lab's table exists. None if the kernel does not support tables."""
    try:
        return nft.has_table(nft.NFPROTO_INET, state.table)
    except OSError:
        return None


def _run(state: State, names: Sequence[str]) -> bool:
    try:
        nft.run(_script(state, names))
    except DummError as e:
        proc.log(str(e))
        return False
    return True


def forget(state: State, devices: Collection[str]) -> None:
    """Remove deleted bridges from the rules."""
    if any(d in state.bridges and state.bridges[d].addresses for d in devices):
        refresh(state, without=devices)


def _script(state: State, names: Sequence[str]) -> str:
    table = f"{_FAMILY} {state.table}"
    if not names:
        return nft.dropped(table)
    guarded = [n for n in names if not state.bridges[n].host_access]
    gateways = [n for n in guarded if state.bridges[n].uplink == "nat"]
    rules = [
        "iif != @guarded accept",
        # Some of the kernel's settings for these apply to the whole host, not to a device.
        "icmp type redirect drop",
        "icmpv6 type { nd-router-advert, nd-redirect } drop",
    ]
    if gateways:
        rules.append("iif @gateways ct state established,related accept")
    rules.append("fib daddr . iif type != { local, broadcast, multicast, anycast } drop")
    if gateways:
        asked = "{ echo-request, nd-neighbor-solicit, nd-neighbor-advert }"
        rules += [
            "icmp type echo-request accept",
            f"icmpv6 type {asked} accept",
            "iif @gateways drop",
        ]
    lines = [f"add table {table}"]
    for name, members in (("guarded", guarded), ("gateways", gateways)):
        # By index: a device that later gets the name of a deleted bridge is not meant.
        numbers = [str(sysfs.number(n, "ifindex")) for n in members]
        lines += [f"add set {table} {name} {{ type iface_index; }}", f"flush set {table} {name}"]
        if numbers:
            lines.append(f"add element {table} {name} {{ {', '.join(numbers)} }}")
    chain = "{ type filter hook input priority filter; policy accept; }"
    lines += [f"add chain {table} input {chain}", f"flush chain {table} input"]
    lines += [f"add rule {table} input {rule}" for rule in rules]
    return "\n".join(lines) + "\n"
