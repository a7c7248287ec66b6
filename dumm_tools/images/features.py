"""The capabilities of a kernel, by its configuration: the names that `dumm-fs kernel show` prints,
and the options without which no guest can run.

A feature is there if all of its options are, built in or as modules of the pack. Names are stable,
since scripts use them. Options with the same name in Linux 6.1 and 7.x are chosen; where one was
renamed or split, an alternative follows after `|`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple


class Feature(NamedTuple):
    """`wanted`: whether a kernel for networks that lacks it deserves a remark."""

    name: str
    options: str
    doc: str
    wanted: bool = False


FEATURES = (
    # Filters and translation.
    Feature(
        "nft",
        "NF_TABLES NF_TABLES_INET NF_TABLES_IPV4 NF_TABLES_IPV6 NFT_CT NFT_NAT NFT_MASQ",
        "nftables for IPv4 and IPv6, with connection tracking and NAT; this is what the commands "
        "nft and iptables (iptables-nft) of today's distributions need",
        True,
    ),
    Feature(
        "iptables-legacy",
        "IP_NF_IPTABLES IP_NF_FILTER IP_NF_NAT NETFILTER_XT_MATCH_CONNTRACK",
        "the older tables of iptables-legacy, with connection tracking and NAT",
    ),
    Feature("ipset", "IP_SET IP_SET_HASH_IP IP_SET_HASH_NET", "sets of addresses, ipset(8)"),
    Feature("ipvs", "IP_VS IP_VS_RR IP_VS_PROTO_TCP", "load balancing, ipvsadm(8)"),
    # Tunnels and encryption.
    Feature("wireguard", "WIREGUARD", "WireGuard", True),
    Feature("ipsec", "XFRM_USER INET_ESP INET6_ESP", "IPsec (ESP) for IPv4 and IPv6"),
    Feature("xfrmi", "XFRM_INTERFACE", "XFRM interfaces, for route-based IPsec", True),
    Feature("vti", "NET_IPVTI IPV6_VTI", "VTI devices, the older kind of route-based IPsec"),
    Feature("iptfs", "XFRM_IPTFS", "IP-TFS, aggregated IPsec packets of constant size (RFC 9347)"),
    Feature("espintcp", "INET_ESPINTCP INET6_ESPINTCP", "ESP in TCP (RFC 8229)"),
    Feature("macsec", "MACSEC", "MACsec (802.1AE)"),
    Feature("gre", "NET_IPGRE IPV6_GRE", "GRE tunnels"),
    Feature("ipip", "NET_IPIP IPV6_SIT IPV6_TUNNEL", "IPIP, SIT and IPv6 tunnels"),
    Feature("vxlan", "VXLAN", "VXLAN"),
    Feature("geneve", "GENEVE", "Geneve"),
    Feature("l2tp", "L2TP L2TP_V3 L2TP_IP L2TP_ETH", "L2TPv3 with Ethernet pseudowires", True),
    Feature("pppoe", "PPP PPPOE", "PPP over Ethernet"),
    Feature("tun", "TUN", "tun and tap devices, as of OpenVPN"),
    # Routing.
    Feature("ipv6", "IPV6", "IPv6"),
    Feature("vrf", "NET_VRF", "VRF devices"),
    Feature("mpls", "MPLS_ROUTING MPLS_IPTUNNEL", "MPLS"),
    Feature("srv6", "IPV6_SEG6_LWTUNNEL", "segment routing over IPv6", True),
    Feature("multicast", "IP_MROUTE IPV6_MROUTE", "multicast routing, for IPv4 and IPv6"),
    # Transport protocols.
    Feature("mptcp", "MPTCP", "Multipath TCP", True),
    Feature("sctp", "IP_SCTP", "SCTP"),
    Feature("bbr", "TCP_CONG_BBR", "BBR congestion control"),
    # Devices.
    Feature("bridge", "BRIDGE BRIDGE_VLAN_FILTERING", "bridges with VLAN filters"),
    Feature("vlan", "VLAN_8021Q", "VLAN devices (802.1Q)"),
    Feature("bonding", "BONDING", "bonds, LACP (802.3ad)"),
    Feature("macvlan", "MACVLAN IPVLAN", "macvlan and ipvlan devices"),
    Feature("veth", "VETH NET_NS", "veth devices and network namespaces in the guest"),
    Feature("batman", "BATMAN_ADV", "B.A.T.M.A.N. mesh networks"),
    Feature("openvswitch", "OPENVSWITCH", "the datapath of Open vSwitch"),
    Feature("hwsim", "MAC80211_HWSIM", "simulated Wi-Fi radios"),
    # Traffic control and programs.
    Feature("netem", "NET_SCH_NETEM NET_SCH_TBF", "what dumm-iface shape needs in a guest"),
    Feature("flower", "NET_CLS_FLOWER NET_ACT_MIRRED NET_SCH_INGRESS", "tc filters on ingress"),
    Feature("bpf", "BPF_SYSCALL NET_CLS_BPF", "BPF programs, also as tc filters"),
    Feature("btf", "DEBUG_INFO_BTF", "type information for BPF programs (CO-RE)"),
    Feature("ftrace", "FUNCTION_TRACER", "the function tracer"),
    Feature("kprobes", "KPROBES", "kprobes"),
    # The machine.
    Feature("smp", "SMP", "several processors"),
    Feature("modules", "MODULES", "loadable modules"),
    Feature("virtiofs", "VIRTIO_UML VIRTIO_FS", "root file systems by virtiofs"),
    Feature("virtio-blk", "VIRTIO_UML VIRTIO_BLK", "disks by virtio"),
    Feature("ubd", "BLK_DEV_UBD", "disks by UML's own block device"),
    Feature("fuse", "FUSE_FS", "file systems in user space"),
    Feature("overlayfs", "OVERLAY_FS", "overlay file systems in the guest"),
    Feature("ext4", "EXT4_FS", "ext4"),
    Feature("btrfs", "BTRFS_FS", "Btrfs"),
    Feature("nfs", "NFS_FS NFSD", "NFS, client and server"),
    Feature("cgroups", "CGROUPS MEMCG|CGROUP_PIDS", "control groups, as systemd wants them"),
    Feature("containers", "USER_NS PID_NS NET_NS OVERLAY_FS VETH", "containers in the guest"),
)

#: Options that every guest needs, built in, and for what.
NEEDED = {
    "UML_NET_VECTOR": "network cards",
    "HOSTFS": "its root file system",
    "BLK_DEV_INITRD": "the agent",
    "SSL": "lines to the host",
    "MCONSOLE": "stopping it in good order",
    "BINFMT_ELF": "programs",
    "NET": "networks",
    "INET": "IPv4",
    "PROC_FS": "/proc",
    "SYSFS": "/sys",
    "TMPFS": "/run",
    "DEVTMPFS": "/dev",
    "TTY": "terminals",
    "UNIX98_PTYS": "terminals",
    "SIGNALFD": "the agent",
}
#: Their texts in the kernel's `--help`, which it contains if the option is built in.
HELP = {
    "UML_NET_VECTOR": b"vec[0-9]+:<option>",
    "HOSTFS": b"hostfs=<root dir>",
    "BLK_DEV_INITRD": b"initrd=<initrd image>",
    "SSL": b"ssl[0-9]*=<channel",
    "MCONSOLE": b"mconsole=notify:",
}
#: Needed as well, but modules will do.
NEEDED_SOMEHOW = {"UNIX": "sockets between its programs"}


def of(config: Mapping[str, str], modules: bool) -> list[str]:
    """The names of all features that a kernel with this configuration has, sorted. `modules` says
    whether its modules are there."""
    usable = ("y", "m") if modules else ("y",)
    return sorted(
        feature.name
        for feature in FEATURES
        if all(
            any(config.get(option) in usable for option in group.split("|"))
            for group in feature.options.split()
        )
    )


def missing(config: Mapping[str, str], modules: bool) -> str:
    """The options that guests need and this configuration lacks, as text with their purpose; empty
    if none."""
    return _listed(
        option
        for needed, usable in (
            (NEEDED, ("y",)),
            (NEEDED_SOMEHOW, ("y", "m") if modules else ("y",)),
        )
        for option in needed
        if config.get(option) not in usable
    )


def missing_from(contained: Collection[bytes]) -> str:
    """Likewise for a binary whose configuration is not known, and which contains these of the
    HELP texts."""
    return _listed(option for option, text in HELP.items() if text not in contained)


def _listed(options: Iterable[str]) -> str:
    purposes = {**NEEDED, **NEEDED_SOMEHOW}
    return ", ".join(f"CONFIG_{option} ({purposes[option]})" for option in options)


def remark(has: Collection[str]) -> str:
    """The features that networks often need and this kernel lacks, as text; empty if none."""
    return ", ".join(f.name for f in FEATURES if f.wanted and f.name not in has)
