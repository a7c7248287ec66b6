"""Queries to nftables over netlink (linux/netfilter/nfnetlink.h, nf_tables.h), since starting
nft(8) takes milliseconds. Changes are left to nft(8)."""

from __future__ import annotations

import socket
import struct

from dumm_tools.linux import rtattr

_NETLINK_NETFILTER = 12
_NFT_MSG_NEWTABLE, _NFT_MSG_GETTABLE = 10 << 8, 10 << 8 | 1
_NFTA_TABLE_NAME = 1
NFPROTO_INET = 1
NFPROTO_IPV4 = 2
#: struct nfgenmsg: family, version, resource.
_NFGENMSG = struct.Struct("=BBH")
_TIMEOUT = 10.0


def has_table(family: int, name: str) -> bool:
    """Whether a table with this name exists in our network namespace. OSError if that cannot be
    determined."""
    wanted = rtattr.attribute(_NFTA_TABLE_NAME, name.encode() + b"\0")
    head = _NFGENMSG.pack(family, 0, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as channel:
        channel.settimeout(_TIMEOUT)
        channel.send(rtattr.message(_NFT_MSG_GETTABLE, 0, head, [wanted]))
        answer = channel.recv(65536)
    _, kind = struct.unpack_from("=IH", answer)
    return bool(kind == _NFT_MSG_NEWTABLE)
