"""nftables in the current network namespace: changed and listed by nft(8). Whether a table exists
is asked over netlink, since nft(8) takes milliseconds to start."""

from __future__ import annotations

import errno
import json
import os

from dumm_tools import proc
from dumm_tools.linux import message_classes, netlink
from dumm_tools.linux.netlink import Request

_NFT_MSG_GETTABLE = 10 << 8 | 1  # linux/netfilter/nfnetlink.h, nf_tables.h
#: Families of tables (linux/netfilter.h).
NFPROTO_INET = 1
NFPROTO_IPV4 = 2


def run(script: str) -> None:
    """Run a script; with a DummError, none of it has taken effect."""
    # Not a pipe: if the program ended without reading it, we would get SIGPIPE.
    fd = os.memfd_create("nft", os.MFD_CLOEXEC)
    try:
        os.write(fd, script.encode())
        os.lseek(fd, 0, os.SEEK_SET)
        proc.run([_program(), "-f", "-"], stdin=fd, quiet=True)
    finally:
        os.close(fd)


def dropped(table: str) -> str:
    """The script that removes a table ("FAMILY NAME"), if it exists."""
    return f"add table {table}\ndelete table {table}\n"


def listed(*what: str) -> list[dict[str, dict[str, str]]]:
    """The JSON output of `nft list`. DummError."""
    done = proc.run([_program(), "-j", "list", *what], capture=True, quiet=True)
    found: list[dict[str, dict[str, str]]] = json.loads(done.stdout)["nftables"]
    return found


def has_table(family: int, name: str) -> bool:
    """Whether a table with this name exists. OSError if the kernel cannot tell."""
    fields = {"nfgen_family": family}
    attributes = [("NFTA_TABLE_NAME", name)]
    data = message_classes.encode(
        message_classes.nft_table(), _NFT_MSG_GETTABLE, 0, fields, attributes
    )
    with netlink.host(netlink.NETLINK_NETFILTER) as channel:
        try:
            netlink.query(channel, Request(data, name))
        except OSError as e:
            if e.errno == errno.ENOENT:
                return False
            raise
    return True


def _program() -> str:
    """The path of nft(8), whose directory is not in the PATH of ordinary users."""
    from shutil import which

    return which("nft", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or "nft"
