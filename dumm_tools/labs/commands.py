"""Commands as words, for lab files and for plans: how each object is written."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from dumm_tools import address, language, routing
from dumm_tools.labs.description import SETTINGS, Setting
from dumm_tools.model import DEFAULT_MEMORY, Bridge, Guest, Iface
from dumm_tools.net import shape
from dumm_tools.net.route_check import DEFAULT, EVERYWHERE
from dumm_tools.routing import Route, Rule

Words = tuple[str, ...]
#: Writes a path.
Paths = Callable[[str], str]
#: The order of the options of `iface shape`.
_SHAPE = ("delay", "jitter", "loss", "rate", "duplicate", "corrupt", "reorder")


class Command(NamedTuple):
    """The words of a command, without "dumm-", and its standard input. `guest` is the one that has
    to do its part, if it runs. `new` is the guest that the command is about if this does not exist
    yet, and nothing but records are concerned."""

    words: Words
    document: bytes | None = None
    guest: str | None = None
    new: str | None = None

    @property
    def text(self) -> bytes:
        """The command as a line of a batch."""
        return language.written(self.words, self.document)


def relative_to(labdir: str) -> Paths:
    """Paths as in a lab file: those below the working directory are relative to it."""
    prefix = labdir.rstrip("/") + "/"

    def write(path: str) -> str:
        if not path.startswith(prefix) or path == prefix:
            return path
        rest = path.removeprefix(prefix)
        return f"./{rest}" if rest.startswith("-") else rest

    return write


def option(name: str, value: str) -> Words:
    """An option with its value."""
    return (f"{name}={value}",) if value.startswith("-") else (name, value)


def size(number: int) -> str:
    """A size as --memory takes it."""
    for shift, unit in ((30, "G"), (20, "M"), (10, "K")):
        if number and not number & ((1 << shift) - 1):
            return f"{number >> shift}{unit}"
    return str(number)


def image(spec: str, paths: Paths) -> str:
    """A kernel or master: a name in the cache, or a path."""
    if "/" not in spec:
        return spec
    found = paths(spec)
    return found if "/" in found else f"./{found}"


def init(kernel: str | None, master: str | None, paths: Paths) -> Words:
    """`fs init`, with the working set's own kernel and master."""
    words: Words = ("fs", "init")
    if kernel is not None:
        words += option("--kernel", image(kernel, paths))
    if master is not None:
        words += option("--master", image(master, paths))
    return words


def settings(guest: Guest, paths: Paths) -> dict[Setting, Words]:
    """The options for all settings of a guest that are not the default."""
    found = {}
    for each in SETTINGS:
        value: Any = getattr(guest, each.field)
        if each.field == "memory":
            texts = [] if value == DEFAULT_MEMORY else [size(value)]
        elif each.field in ("kernel", "master"):
            texts = [] if value is None else [image(value, paths)]
        elif each.field in ("disks", "files"):
            texts = [paths(path) for path in value]
        elif each.field == "args":
            texts = list(value)
        else:
            texts = [] if value is None else [value]
        if texts:
            found[each] = tuple(word for text in texts for word in option(each.option, text))
    return found


def guest(guest_: Guest, paths: Paths) -> Words:
    """`guest create`."""
    return ("guest", "create", guest_.name, *_flat(settings(guest_, paths).values()))


def startup(name: str, script: bytes) -> Command:
    """`guest startup`."""
    return Command(("guest", "startup", name, "-"), script)


def bridge(bridge_: Bridge) -> Words:
    """`bridge create`."""
    kind = () if bridge_.kind == "auto" else (f"--{bridge_.kind}",)
    return ("bridge", "create", bridge_.name, *kind, *addresses(bridge_.addresses))


def uplink(bridge_: Bridge) -> Words:
    """`bridge uplink`, for a bridge that has one."""
    up = bridge_.uplink or ""
    if up == "nat":
        more: Words = ("--nat", "--host-access") if bridge_.host_access else ("--nat",)
    else:
        more = option("--to", up.removeprefix("to:"))
    return ("bridge", "uplink", bridge_.name, *more)


def addresses(texts: Iterable[str]) -> Words:
    """--address for each; only the order of those in the same network means something."""
    found = list(texts)
    if len(found) > 1:
        found.sort(key=network)
    return _flat(("--address", text) for text in found)


def network(text: str) -> tuple[bool, str]:
    """The network of an interface's address, IPv4 first."""
    return address.is_v6(text), address.network(text, strict=False)


def iface(iface_: Iface) -> Words:
    """`iface create`."""
    return (
        *("iface", "create", iface_.name),
        *(("--bridge", iface_.bridge) if iface_.bridge is not None else ()),
        *addresses(iface_.addresses),
        *(("--mac", iface_.mac) if iface_.mac else ()),
        *(("--mtu", str(iface_.mtu)) if iface_.mtu != 1500 else ()),
    )


def shaped(iface_: Iface, *, clear: bool = False) -> Words:
    """`iface shape`."""
    values = [
        word
        for key in _SHAPE
        if key in iface_.shape
        for word in (f"--{key}", shape.short_text(iface_.shape[key]))
    ]
    return ("iface", "shape", iface_.name, *(["--clear"] if clear else []), *values)


def route(owner: str, each: Route) -> Words:
    """`iface route add`."""
    return (
        *("iface", "route", "add", owner, destination(each)),
        *_flat(("--via", _hop(hop)) for hop in each.hops if hop.via is not None),
        *_metric_and_table(each),
        *(("--src", each.src) if each.src is not None else ()),
        *(("--onlink",) if each.onlink else ()),
        *((f"--{each.kind}",) if each.kind != routing.UNICAST else ()),
    )


def no_route(owner: str, each: Route, others: Iterable[Route]) -> Words:
    """`iface route del`, distinguishing it from other routes of the interface."""
    words: Words = ("iface", "route", "del", owner, each.dest)
    alike = [other for other in others if other.dest == each.dest and other != each]
    if alike:
        words += ("--metric", str(each.metric or 0), "--table", routing.table_name(each.table))
    return words


def destination(each: Route) -> str:
    """The destination as the user writes it."""
    vias = each.gateways
    usual = vias and EVERYWHERE[all(map(address.is_v6, vias))] == each.dest
    return DEFAULT if usual else each.dest


def _metric_and_table(each: Route) -> Words:
    metric = ("--metric", str(each.metric)) if each.metric is not None else ()
    table = ("--table", routing.table_name(each.table)) if each.table != routing.MAIN else ()
    return metric + table


def _hop(hop: routing.Hop) -> str:
    device = f",dev={hop.device}" if hop.device is not None else ""
    weight = f",weight={hop.weight}" if hop.weight != 1 else ""
    return f"{hop.via}{device}{weight}"


def rule(verb: str, guest_: str, each: Rule) -> Words:
    """`iface rule add` and `del`."""
    words: Words = ("iface", "rule", verb, guest_, "--priority", str(each.priority))
    for name, value in (
        ("--from", each.source),
        ("--to", each.dest),
        ("--iif", each.iif),
        ("--oif", each.oif),
        ("--fwmark", _mark(each)),
        ("--table", routing.table_name(each.table) if each.table is not None else None),
    ):
        words += (name, value) if value is not None else ()
    if each.kind != routing.LOOKUP:
        words += (f"--{each.kind}",)
    if each.source is None and each.dest is None and each.family != "inet":
        words += ("--family", each.family)
    return words


def _mark(each: Rule) -> str | None:
    if each.fwmark is None:
        return None
    return f"{each.fwmark:#x}" + (f"/{each.fwmask:#x}" if each.fwmask is not None else "")


def overlay(name: str, directory: str, paths: Paths, *, create: bool = False) -> Words:
    """`fs overlay add`."""
    words = ("fs", "overlay", "add", name, paths(directory))
    return (*words, "--create") if create else words


def template(name: str, *, create: bool = True, fresh: bool = False) -> Words:
    """`fs template load`."""
    options = (("--create",) if create else ()) + (("--fresh",) if fresh else ())
    return ("fs", "template", "load", name, *options)


def absolute(path: str) -> str:
    """Paths as in a plan, which may be run anywhere."""
    return os.path.abspath(path)


def _flat(rows: Iterable[Iterable[str]]) -> Words:
    return tuple(word for row in rows for word in row)
