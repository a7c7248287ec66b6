"""Lab files: statements, parsed by the commands' own parsers, as a description of a lab."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

from dumm_tools.cli import during, ending, tools
from dumm_tools.errors import DummError, Usage

if TYPE_CHECKING:
    from dumm_tools.labs.wanted import Wanted
    from dumm_tools.language import Reader, Statement, Word

Params = dict[str, Any]
#: Puts what a verb says into the description.
Teller = Callable[["Wanted", Params], None]


class Misplaced(DummError):
    """An error in a file, with its place in front of the message."""

    def __init__(self, place: str, error: DummError) -> None:
        super().__init__(f"{place}: {error}", hint=error.hint)
        self.exit_code = error.exit_code


def read(reader: Reader, name: str, wanted: Wanted) -> None:
    """Read a file of this name to its end. Misplaced."""
    from dumm_tools import language

    last: Statement | None = None
    empty = True
    uplinks: list[Statement] = []
    try:
        while (statement := reader.next()) is not None:
            last, empty = statement, False
            tell(wanted, statement)
            if "uplink" in statement.texts[:3]:
                uplinks.append(statement)
        last = None
        wanted.check(empty=empty)
    except language.Malformed as e:
        raise Misplaced(f"{name}:{e.line}:{e.column}", e) from None
    except click.UsageError as e:
        assert last is not None
        error = Usage(ending.said(e), hint=ending.hint_of(e))
        raise Misplaced(_place(name, last, str(error), _options(e)), error) from None
    except DummError as e:
        if last is None:  # about an uplink, which was right when it was read
            named = [each for each in uplinks if any(f"'{t}'" in str(e) for t in each.texts)]
            where = _place(name, named[-1], str(e), ()) if named else name
            raise Misplaced(where, e) from None
        raise Misplaced(_place(name, last, str(e), ()), e) from None


def _options(error: click.UsageError) -> Iterable[str]:
    """The spellings of the option that an error is about."""
    if isinstance(error, click.NoSuchOption):
        return [error.option_name]
    if isinstance(error, click.BadOptionUsage):
        return [error.option_name]
    if isinstance(error, click.BadParameter) and isinstance(error.param, click.Option):
        return error.param.opts
    return ()


def _place(name: str, statement: Statement, message: str, options: Iterable[str]) -> str:
    """The place of the word that an error is about: an option, or what the message quotes."""
    found = _culprit(statement.words, message, tuple(options))
    return f"{name}:{found.line}:{found.column}"


def _culprit(words: tuple[Word, ...], message: str, options: tuple[str, ...]) -> Word:
    for word in words[1:]:
        if word.text in options or word.text.partition("=")[0] in options:
            return word
    quoted = re.findall("'([^']*)'", message)
    for matches in (_is_word, _is_end_of_path):
        found = [
            word
            for word in words
            if any(matches(part, text) for text in quoted for part in _parts(word.text))
        ]
        if found:
            return found[-1]
    named = set(re.findall("--[a-z-]+", message))  # that contradict each other, for example
    return next((word for word in reversed(words) if word.text in named), words[0])


def _parts(word: str) -> list[str]:
    """The parts of a word that a message may quote: all of it, or the value of an option or key."""
    return [word, word.partition("=")[2]] if "=" in word else [word]


def _is_word(word: str, text: str) -> bool:
    return text in (word, repr(word)[1:-1])


def _is_end_of_path(word: str, text: str) -> bool:
    return bool(word) and text.endswith(f"/{word.removeprefix('./')}")


def tell(wanted: Wanted, statement: Statement) -> None:
    """Put what a statement says into the description. Usage, NotFound, Conflict; UsageError."""
    words = statement.texts
    command, verb, rest = tools.resolve(words)
    teller = TELLERS.get(" ".join(verb))
    if teller is None or {"-h", "--help", "--version"}.intersection(rest):
        what = " ".join(verb) if teller is None else "--help"
        raise Usage(
            f"'{what}' does not describe a lab",
            hint="a batch may have any command: dumm-console <FILE",
        )
    with command.make_context(verb[-1], rest) as context:
        if context.meta.get("dumm.directory") is not None:
            raise Usage("'-C' does not belong in a lab file")
        if during.is_block(context):
            raise Usage("'--' with a command does not belong in a lab file")
        params = {**context.params, "document": statement.document}
    if verb != ["fs", "init"]:
        wanted.need_init()
    teller(wanted, params)
    if statement.document is not None and params["document"] is not None:
        raise Usage("the command does not read its here-document")


# ---- what each verb says ----


def _init(wanted: Wanted, p: Params) -> None:
    wanted.init(p["kernel"], p["master"], p["isolated"])


def _create_guest(wanted: Wanted, p: Params) -> None:
    from dumm_tools.cli.guest_settings import check_wait, given

    check_wait(p["what"], start=p["start"])
    script = _script(wanted, p["script"], p) if p["script"] is not None else None
    for name in dict.fromkeys(p["names"]):
        wanted.create_guest(name, given(empty=p["may_exist"], **p), may_exist=p["may_exist"])
        if script is not None:
            wanted.script(name, script)
    if p["start"]:
        wanted.start(p["names"], p["what"])


def _set_guest(wanted: Wanted, p: Params) -> None:
    from dumm_tools.cli.guest_settings import given

    wanted.set_guest(p["name"], given(**p))


def _startup(wanted: Wanted, p: Params) -> None:
    if (p["file"] is None) != p["clear"]:
        raise click.UsageError("name a file, or use --clear")
    wanted.script(p["name"], None if p["clear"] else _script(wanted, p["file"], p))


def _script(wanted: Wanted, file: str, p: Params) -> bytes:
    from dumm_tools.cli.guest_startup import read_script

    if file != "-":
        path = os.path.join(wanted.labdir, file)
        if os.path.exists(path) and not os.path.isfile(path):  # nobody may ever write to a pipe
            raise Usage(f"'{file}' is not a regular file")
        return read_script(path)
    text: bytes | None = p["document"]
    if text is None:
        raise Usage("'-' needs a here-document", hint="guest startup NAME - <<'END'")
    p["document"] = None
    return text


def _start(wanted: Wanted, p: Params) -> None:
    from dumm_tools.cli.guest_life import check_names

    check_names(p["names"], p["everyone"])
    if p["no_wait"]:
        raise click.UsageError("--no-wait does not belong in a lab file")
    wanted.start(sorted(wanted.state.guests) if p["everyone"] else p["names"], p["what"])


def _kind(p: Params) -> str | None:
    from dumm_tools.cli.bridge import chosen_kind

    return chosen_kind(p["hub"], p["switch"], p.get("auto", False))


def _create_bridge(wanted: Wanted, p: Params) -> None:
    from dumm_tools.cli.iface import need_single

    need_single(p["names"], p["addresses"])
    for name in p["names"]:
        wanted.create_bridge(name, p["addresses"], _kind(p), may_exist=p["may_exist"])


def _set_bridge(wanted: Wanted, p: Params) -> None:
    kind = _kind(p)
    if kind is None:
        raise click.UsageError("one of --hub, --switch and --auto is required")
    wanted.set_kind(p["name"], kind)


def _uplink(wanted: Wanted, p: Params) -> None:
    from dumm_tools.cli.bridge import chosen_uplink

    wanted.uplink(p["name"], chosen_uplink(**p), p["host_access"], if_exists=p["if_exists"])


def _connect(wanted: Wanted, p: Params) -> None:
    for name in p["ifaces"]:
        wanted.connect(p.get("name"), name, if_exists=p.get("if_exists", False))


def _create_iface(wanted: Wanted, p: Params) -> None:
    from dumm_tools.cli.iface import need_single

    need_single(p["names"], p["addresses"], p["mac"])
    for name in p["names"]:
        wanted.create_iface(
            name,
            bridge=p["bridge"],
            addresses=p["addresses"],
            mac=p["mac"],
            mtu=p["mtu"],
            may_exist=p["may_exist"],
        )


def _set_iface(wanted: Wanted, p: Params) -> None:
    wanted.set_iface(p["name"], mac=p["mac"], mtu=p["mtu"])


def _addresses(noun: str) -> Teller:
    def tell(wanted: Wanted, p: Params) -> None:
        change = wanted.bridge_addresses if noun == "bridge" else wanted.iface_addresses
        change(p["name"], p["addresses"], may_exist=p["may_exist"])

    return tell


def _up(noun: str, up: bool) -> Teller:
    def tell(wanted: Wanted, p: Params) -> None:
        for name in p["names"]:
            (wanted.bridge_up if noun == "bridge" else wanted.iface_up)(name, up)

    return tell


def _shape(wanted: Wanted, p: Params) -> None:
    from dumm_tools.net import shape

    values = {key: shape.parsed(key, p[key]) for key in shape.KEYS if p[key] is not None}
    wanted.shape(p["name"], values, clear=p["clear"])


def _route(wanted: Wanted, p: Params) -> None:
    from dumm_tools.net import route_check

    names = ("metric", "table", "src", "onlink")
    route = route_check.wanted(
        p["dest"], p["via"], kind=p["kind"] or "unicast", **{key: p[key] for key in names}
    )
    wanted.route(p["name"], route, may_exist=p["may_exist"])


def _rule(wanted: Wanted, p: Params) -> None:
    from dumm_tools.net import rule

    own = ("guest", "may_exist", "document")
    given = rule.given(**{key: value for key, value in p.items() if key not in own})
    wanted.rule(p["guest"], given, may_exist=p["may_exist"])


def _overlay(wanted: Wanted, p: Params) -> None:
    words, everyone = p["words"], p["everyone"]
    if len(words) != 2 - everyone:
        raise click.UsageError("give one guest or --all, and one directory")
    for name in sorted(wanted.state.guests) if everyone else words[:1]:
        wanted.overlay(name, words[-1], create=p["create"], may_exist=p["may_exist"])


def _template(wanted: Wanted, p: Params) -> None:
    wanted.template(p["name"], create=p["create"], fresh=p["fresh"])


#: The verbs that describe a lab.
TELLERS: dict[str, Teller] = {
    "fs init": _init,
    "fs overlay add": _overlay,
    "fs template load": _template,
    "guest create": _create_guest,
    "guest set": _set_guest,
    "guest startup": _startup,
    "guest start": _start,
    "bridge create": _create_bridge,
    "bridge set": _set_bridge,
    "bridge up": _up("bridge", True),
    "bridge down": _up("bridge", False),
    "bridge connect": _connect,
    "bridge disconnect": _connect,
    "bridge address add": _addresses("bridge"),
    "bridge uplink": _uplink,
    "iface create": _create_iface,
    "iface set": _set_iface,
    "iface up": _up("iface", True),
    "iface down": _up("iface", False),
    "iface address add": _addresses("iface"),
    "iface shape": _shape,
    "iface route add": _route,
    "iface rule add": _rule,
}
