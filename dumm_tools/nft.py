"""nftables of the network namespace that we are in: changed and listed by nft(8), and asked by
netlink, since nft(8) takes milliseconds to start."""

from __future__ import annotations

import errno
import json
import os

from dumm_tools import proc
from dumm_tools.linux import message_classes as messages
from dumm_tools.linux import netlink
from dumm_tools.linux.netlink import Request

_NFT_MSG_GETTABLE = 10 << 8 | 1  # linux/netfilter/nfnetlink.h, nf_tables.h
#: Families of tables (linux/netfilter.h).
NFPROTO_INET = 1
NFPROTO_IPV4 = 2


def run(script: str) -> None:
    """Carry out a script: all of it or, with a DummError, nothing."""
    # No pipe: SIGPIPE would end us where the program ends without reading.
    fd = os.memfd_create("nft", os.MFD_CLOEXEC)
    try:
        os.write(fd, script.encode())
        os.lseek(fd, 0, os.SEEK_SET)
        proc.run([_program(), "-f", "-"], stdin=fd, quiet=True)
    finally:
        os.close(fd)


def dropped(table: str) -> str:
    """The script that takes away a table ("FAMILY NAME"), if it is there."""
    return f"add table {table}\ndelete table {table}\n"


def listed(*what: str) -> list[dict[str, dict[str, str]]]:
    """What `nft list` says, as its JSON has it. DummError."""
    done = proc.run([_program(), "-j", "list", *what], capture=True, quiet=True)
    found: list[dict[str, dict[str, str]]] = json.loads(done.stdout)["nftables"]
    return found


def has_table(family: int, name: str) -> bool:
    """Is there a table of this name? OSError where the kernel does not say."""
    fields = {"nfgen_family": family}
    attributes = [("NFTA_TABLE_NAME", name)]
    data = messages.encode(messages.nft_table(), _NFT_MSG_GETTABLE, 0, fields, attributes)
    with netlink.host(netlink.NETLINK_NETFILTER) as channel:
        try:
            netlink.query(channel, Request(data, name))
        except OSError as e:
            if e.errno == errno.ENOENT:
                return False
            raise
    return True


def _program() -> str:
    """It is where ordinary users do not look for programs."""
    from shutil import which

    return which("nft", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or "nft"
