"""The classes that encode and decode netlink messages: pyroute2's, each imported when it is first
needed. No other module imports pyroute2.

`import pyroute2` takes 100 ms, since its __init__ imports all of its parts, and with them asyncio,
ssl and sqlite3; the message classes alone take 10 to 30 ms. So the __init__ is put off until
somebody uses a name that it defines (`on_demand`).

Messages that pyroute2 lacks, or knows without some of the attributes that we use, are declared here
with its generic classes, `nlmsg` and `nla`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from dumm_tools.linux import on_demand
from dumm_tools.linux.netlink import NLM_F_REQUEST, decoding

#: Names and values of attributes, in the order in which they are sent.
Attributes = Sequence[tuple[str, Any]]

T = TypeVar("T")


def _pyroute2() -> None:
    on_demand.package("pyroute2")
    # The __init__ does this first: it keeps pyroute2's log messages off stderr, unless the process
    # has set up logging.
    from pyroute2.config import log  # noqa: F401


@functools.cache
def link() -> Any:
    """RTM_NEWLINK and the like (struct ifinfomsg)."""
    _pyroute2()
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

    return ifinfmsg


@functools.cache
def address() -> Any:
    """RTM_NEWADDR and the like (struct ifaddrmsg)."""
    _pyroute2()
    from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg

    return ifaddrmsg


@functools.cache
def route() -> Any:
    """RTM_NEWROUTE and the like (struct rtmsg)."""
    _pyroute2()
    from pyroute2.netlink.rtnl.rtmsg import rtmsg

    return rtmsg


@functools.cache
def rule() -> Any:
    """RTM_NEWRULE and the like (struct fib_rule_hdr)."""
    _pyroute2()
    from pyroute2.netlink.rtnl.fibmsg import fibmsg

    return fibmsg


@functools.cache
def qdisc() -> Any:
    """RTM_NEWQDISC and the like (struct tcmsg), with the options of netem. pyroute2 lacks those of
    64 bits, without which a delay is at most 4 s, and a rate at most 34 Gbit/s."""
    _pyroute2()
    from pyroute2.netlink import nla, nlmsg
    from pyroute2.netlink.rtnl.tcmsg import sched_netem, tcmsg

    known = sched_netem.options

    class Netem(nla):
        fields = known.fields
        nla_map = (  # linux/pkt_sched.h
            (1, "TCA_NETEM_CORR", "netem_corr"),
            (3, "TCA_NETEM_REORDER", "netem_reorder"),
            (4, "TCA_NETEM_CORRUPT", "netem_corrupt"),
            (6, "TCA_NETEM_RATE", "netem_rate"),
            (8, "TCA_NETEM_RATE64", "uint64"),
            (10, "TCA_NETEM_LATENCY64", "int64"),
            (11, "TCA_NETEM_JITTER64", "int64"),
        )
        netem_corr = known.netem_corr
        netem_reorder = known.netem_reorder
        netem_corrupt = known.netem_corrupt
        netem_rate = known.netem_rate

    class Message(nlmsg):
        fields = tcmsg.fields
        nla_map = ((1, "TCA_KIND", "asciiz"), (2, "TCA_OPTIONS", "netem"))
        netem = Netem

    return Message


@functools.cache
def bpf_filter() -> Any:
    """RTM_NEWTFILTER and the like (struct tcmsg), with the options of a classic BPF program.
    pyroute2 has the program, and its length, as numbers of 32 bits."""
    _pyroute2()
    from pyroute2.netlink import nla, nlmsg
    from pyroute2.netlink.rtnl.tcmsg import tcmsg

    @functools.cache
    def program(numbers: int) -> Any:
        class Program(nla):  # an array of struct sock_filter, linux/filter.h
            fields = (("value", "=" + "HBBI" * (numbers // 4)),)

        return Program

    class Bpf(nla):
        nla_map = (  # linux/pkt_cls.h
            (4, "TCA_BPF_OPS_LEN", "uint16"),
            (5, "TCA_BPF_OPS", "program"),
            (8, "TCA_BPF_FLAGS", "uint32"),
        )

        @staticmethod
        def program(_options: Any, value: Sequence[int] = (), **_where: Any) -> Any:
            """The class for a program, given the numbers that it consists of."""
            return program(len(value))

    class Message(nlmsg):
        fields = tcmsg.fields
        nla_map = ((1, "TCA_KIND", "asciiz"), (2, "TCA_OPTIONS", "bpf"))
        bpf = Bpf

    return Message


@functools.cache
def nft_table() -> Any:
    """NFT_MSG_NEWTABLE and the like. pyroute2's own class is in the module of its nftables socket,
    which imports asyncio."""
    _pyroute2()
    from pyroute2.netlink.nfnetlink import nfgen_msg

    class Message(nfgen_msg):
        nla_map = ((1, "NFTA_TABLE_NAME", "asciiz"),)  # linux/netfilter/nf_tables.h

    return Message


def encode(
    message_class: Any,
    kind: int,
    flags: int,
    fields: Mapping[str, int],
    attributes: Attributes = (),
) -> bytes:
    """Encode a message; its sequence number is filled in when it is sent."""
    message = message_class()
    message["header"]["type"] = kind
    message["header"]["flags"] = flags | NLM_F_REQUEST
    for field, value in fields.items():
        message[field] = value
    message["attrs"] = list(attributes)
    message.encode()
    return bytes(message.data)


def decode(message_class: Any, data: bytes, subject: str) -> Any:
    """Decode a message, except for its attributes, which are decoded when they are used.
    OSError(EBADMSG)."""
    with decoding(subject):
        message = message_class(data)
        message.decode()
        return message


def value(message: Any, name: str, kind: type[T]) -> T | None:
    """The value of an attribute, or None if the message lacks it. ValueError if it is not of this
    type: pyroute2 returns bytes for an attribute that it cannot decode."""
    found = message.get_attr(name)
    if found is None or isinstance(found, kind):
        return found
    raise ValueError(f"{name}: {found!r}")


def text(message: Any, name: str) -> str | None:
    """As `value`, for a string; invalid UTF-8 is replaced."""
    return next(iter(texts(message, name)), None)


def texts(message: Any, name: str) -> tuple[str, ...]:
    """The values of all attributes with this name."""
    return tuple(_text(found) for found in message.get_attrs(name))


def _text(found: str | bytes) -> str:
    """A string up to its NUL. pyroute2 returns what follows, too, and bytes if it is not UTF-8."""
    whole = found if isinstance(found, str) else found.decode(errors="replace")
    return whole.partition("\0")[0]
