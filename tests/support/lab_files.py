"""Random lab files, and what a lab is after the commands of a plan, without running them."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from typing import Any

from hypothesis import strategies as st

from dumm_tools import language, routing
from dumm_tools.cli import lab_file, tools
from dumm_tools.labs import description
from dumm_tools.labs.commands import Command
from dumm_tools.labs.description import Description
from dumm_tools.labs.wanted import Host, Wanted
from dumm_tools.model import State
from dumm_tools.net import route_check, route_requests, rule

LABDIR = "/somewhere/lab"


def _image(_kind: str, spec: str) -> str:
    return os.path.normpath(os.path.join(LABDIR, spec)) if "/" in spec else spec


#: Believes everything.
HOST = Host(_image, list, str)


def wanted(text: bytes, base: Description | None = None, *, prune: bool = False) -> Wanted:
    """The contents of a file."""
    found = Wanted(base or description.empty(LABDIR), HOST, prune=prune)
    lab_file.read(language.of_lines(io.BytesIO(text)), "lab", found)
    return found


def described(text: bytes) -> Description:
    """The lab that a file describes, as if it had been applied to an empty working set."""
    return wanted(text).description()


# ---- the commands of a plan ----


def after(now: Description, commands: Iterable[Command]) -> Description:
    """A lab after the commands of a plan, each of which must be possible. Changes `now`."""
    for command in commands:
        if not _removal(now.state, now.scripts, command.words):
            lab = Wanted(now, HOST)
            lab_file.read(language.of_lines(io.BytesIO(command.text)), "plan", lab)
            now = lab.description()
    return now


def _removal(state: State, scripts: dict[str, bytes], words: Sequence[str]) -> bool:
    """Whether these are the words of a command that removes something, or starts or stops guests;
    do it."""
    match words:
        case ["guest", "stop" | "start", *_]:
            pass
        case ["guest", "delete", name]:
            del state.guests[name]
            scripts.pop(name, None)
            for iface in state.ifaces_of(name):
                del state.ifaces[iface.name]
        case ["iface", "delete", name]:
            of_guest = state.ifaces_of(state.ifaces[name].guest)
            for left in route_requests.without(of_guest, name):
                state.ifaces[left.name].routes = left.routes
            del state.ifaces[name]
        case ["bridge", "delete", name]:
            del state.bridges[name]
            for iface in state.ifaces.values():
                iface.bridge = None if iface.bridge == name else iface.bridge
        case ["iface" | "bridge", "address", "del", name, *texts]:
            record = state.ifaces.get(name) or state.bridges[name]
            assert set(texts) <= set(record.addresses)
            record.addresses = [a for a in record.addresses if a not in texts]
        case ["iface", "route", "del", name, dest, *_]:
            given = _params(words)
            keys = {key: given[key] for key in ("kind", "metric", "table")}
            (meant,) = route_check.meant(state.ifaces[name], dest, given["via"], **keys)
            rows = state.ifaces[name].routes
            state.ifaces[name].routes = [r for r in rows if routing.route(r) != meant.route]
        case ["iface", "rule", "del", name, *_]:
            given = {k: v for k, v in _params(words).items() if k not in ("guest", "if_exists")}
            found, there = rule.planned(state.guests[name], rule.given(**given))
            assert there
            rows = state.guests[name].rules
            state.guests[name].rules = [r for r in rows if routing.rule(r) != found]
        case ["guest", "startup", name, "--clear"]:
            del scripts[name]
        case ["fs", "overlay", "del", name, layer]:
            state.guests[name].overlays.remove(layer)
        case ["fs", "template", "unload"]:
            assert state.template is not None
            state.template = state.fresh = None
        case _:
            return False
    return True


def _params(words: Sequence[str]) -> dict[str, Any]:
    command, verb, rest = tools.resolve(words)
    with command.make_context(verb[-1], rest) as context:
        return dict(context.params)


# ---- random files ----

GUESTS = ("a", "b", "the-other_guest")
BRIDGES = ("lan0", "lan1", "a-eth1")
DEVICES = ("eth0", "eth1")
#: Directories below the working directory; of the others, each test has its own.
LAYERS = ("layers/one", "layers/two words", "layers/-3")
V4 = [f"10.0.{n}.{host}/24" for n in (1, 2) for host in (1, 2, 3)] + ["10.0.0.1/8"]
V6 = ["fd00::1/64", "fd00::2/64", "fd00::1/48"]
SCRIPTS = (b"echo started\n", b"#!/bin/sh\nEND\n\tcat <<E\n$x \\\nE\n", b"\xff\n\n")


def _maybe(*options: st.SearchStrategy[list[str]]) -> st.SearchStrategy[list[str]]:
    """Some of these options, in this order."""
    none: st.SearchStrategy[list[str]] = st.just([])
    each = [none | option for option in options]
    return st.tuples(*each).map(lambda found: [word for words in found for word in words])


def _option(name: str, *values: str) -> st.SearchStrategy[list[str]]:
    return st.sampled_from(values).map(lambda value: [name, value])


def _addresses(most: int, *pools: list[str]) -> st.SearchStrategy[list[str]]:
    pool = [text for each in pools for text in each]
    by_host = st.lists(
        st.sampled_from(pool), max_size=most, unique_by=lambda text: text.partition("/")[0]
    )
    return by_host


def _with(addresses: list[str]) -> list[str]:
    return [word for text in addresses for word in ("--address", text)]


_SETTINGS = _maybe(
    _option("--memory", "64M", "96M", "1G", "67108865"),
    _option("--arg", "foo=1", "-x", "quiet"),
    _option("--arg", "bar='$1'"),
    _option("--init", "/sbin/init"),
    _option("--rootfs", "hostfs"),
)
_SHAPE = _maybe(
    _option("--delay", "10", "20ms", "0.5"),
    _option("--loss", "1%", "0.25"),
    _option("--rate", "10mbit", "64000"),
)
_RULE = _maybe(
    _option("--from", "10.0.0.0/8", "10.0.1.1"),
    _option("--to", "10.20.0.0/16"),
    _option("--iif", "eth0", "ppp0"),
    _option("--fwmark", "1", "0x2/0xff"),
)


@st.composite
def files(draw: Any, *init: str, running: Sequence[str] = ()) -> bytes:
    """A valid lab file; `init` are the options of its first line. With guests that are `running`,
    it has these, and nothing that waits for their next start."""
    lines: list[tuple[list[str], bytes | None]] = []

    def say(*words: str, document: bytes | None = None) -> None:
        lines.append((list(words), document))

    say("fs", "init", *init)
    bridges = draw(st.lists(st.sampled_from(BRIDGES), unique=True))
    guests = running or draw(st.lists(st.sampled_from(GUESTS), unique=True))
    hosts = _addresses(2, V4, V6)
    for name in bridges:
        kind = draw(st.sampled_from([[], ["--hub"], ["--switch"]]))
        say("bridge", "create", name, *kind, *_with(draw(hosts)))
        if draw(st.booleans()):
            say("bridge", "down", name)
    for name in guests:
        say("guest", "create", name, *([] if running else draw(_SETTINGS)))
        if draw(st.booleans()):
            say("guest", "startup", name, "-", document=draw(st.sampled_from(SCRIPTS)))
        for layer in draw(st.lists(st.sampled_from(LAYERS), unique=True)):
            say("fs", "overlay", "add", name, layer)
        _networks(draw, say, name, bridges)
        for words in draw(st.lists(_RULE, max_size=3, unique_by=tuple)):
            # The kernel's own order for equal priorities, too.
            priority = draw(st.sampled_from(["100", "100", "200"]))
            say("iface", "rule", "add", name, "--priority", priority, "--table", "7", *words)
    if draw(st.booleans()):
        fresh = draw(_maybe(st.just(["--fresh"])))
        say("fs", "template", "load", draw(st.sampled_from(["one", "two"])), "--create", *fresh)
    return b"".join(language.written(words, document) for words, document in lines)


def _networks(draw: Any, say: Any, guest: str, bridges: list[str]) -> None:
    """The interfaces of a guest, and their routes."""
    taps = [d for d in DEVICES if f"{guest}-{d}" not in bridges]
    gateways: list[tuple[str, str]] = []
    own: list[str] = []
    for device in draw(st.lists(st.sampled_from(taps), unique=True)) if taps else ():
        name = f"{guest}-{device}"
        addresses = draw(_addresses(3, V4, V6))
        options = draw(
            _maybe(
                _option("--bridge", *bridges) if bridges else st.just([]),
                _option("--mac", "02:00:00:00:00:01", "02:00:00:00:00:02"),
                _option("--mtu", "1280", "1400", "9000"),
            )
        )
        say("iface", "create", name, *options, *_with(addresses))
        own += [text.partition("/")[0] for text in addresses]
        gateways += [(device, text) for text in addresses if text.startswith("10.0.")]
        if draw(st.booleans()):
            say("iface", "down", name)
        if words := draw(_SHAPE):
            say("iface", "shape", name, *words)
        if draw(st.booleans()):
            say("iface", "route", "add", name, "10.9.0.0/16")
            if draw(st.booleans()):
                words = draw(_maybe(_option("--metric", "5"), _option("--table", "7")))
                say("iface", "route", "add", name, "10.10.0.0/16", "--via", "10.9.0.1", *words)
            break  # the next one must not have the same
    near = {device: f"10.0.{text.split('.')[2]}.250" for device, text in gateways}
    for dest, (device, via) in zip(("default", "10.30.0.0/16"), near.items(), strict=False):
        words = ["--via", via]
        others = [(d, v) for d, v in near.items() if d != device]
        if others and draw(st.booleans()):
            words = ["--via", f"{via},weight=3", "--via", f"{others[0][1]},dev={others[0][0]}"]
        say("iface", "route", "add", f"{guest}-{device}", dest, *words)
        if draw(st.booleans()):
            say("iface", "route", "add", f"{guest}-{device}", "10.40.0.0/16", "--via", via)
            return
