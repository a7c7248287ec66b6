"""The text of state.json, to and from records (dumm-state(5)); no files, no locks (`statefile`)."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from types import UnionType
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from dumm_tools import names
from dumm_tools.errors import DummError, Usage
from dumm_tools.model import Boot, Bridge, Guest, Iface, State

VERSION = 1
#: The keys of the tables of objects.
TABLES = ("bridges", "guests", "ifaces")
#: The id becomes part of names in the kernel.
_ID = re.compile(r"[0-9A-Za-z]{1,64}")
#: The directory in templates/ of a copy that is dropped when it is unloaded.
_FRESH = re.compile(r"\.fresh-[0-9a-f]{1,16}")
#: The characters of addresses. They are checked more closely when a command needs them, as that is
#: slow to import.
_NETWORK = re.compile(r"([0-9a-fA-F.:]+)/([0-9]{1,3})")
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")
#: More than the largest value in any unit, 100 Gbit/s.
_SHAPE_MAX = 1e12
#: The kernel supports vec0 to vec999.
_SLOTS = 1000


class Outline(NamedTuple):
    """The part of the state that is needed before anything else: whether the lab is isolated, and
    whether a bridge has the uplink "nat"."""

    isolated: bool = False
    has_nat: bool = False


R = TypeVar("R", Boot, Guest, Iface, Bridge)


def lines(state: State) -> dict[tuple[str, str], str]:
    """The contents of the file: a line for each object, keyed by its table and name, and one for
    each other key, with an empty name."""
    text = json.JSONEncoder(sort_keys=True).encode
    top = {
        **state.extra,
        "version": VERSION,
        "id": state.id,
        "lock_inode": state.lock_inode,
        "isolated": state.isolated,
        "carriers": True,
        "template": state.template,
    }
    if state.fresh is not None:
        top["fresh"] = state.fresh
    found = {(key, ""): f" {text(key)}: {text(value)}" for key, value in top.items()}
    for key in TABLES:
        records: dict[str, Guest | Iface | Bridge] = getattr(state, key)
        for name, record in records.items():
            found[key, name] = f"  {text(name)}: {text(_plain(record))}"
    return found


def encode(state: State) -> str:
    """One line for each object, for readers and for diff; moreover, json's fast encoder, which a
    lab of a thousand guests needs, only writes text without line breaks."""
    parts: dict[str, list[str]] = {key: [] for key in TABLES}
    texts = {}
    for (key, name), line in sorted(lines(state).items()):
        if name:
            parts[key].append(line)
        else:
            texts[key] = line
    for key, rows in parts.items():
        text = "{\n" + ",\n".join(rows) + "\n }" if rows else "{}"
        texts[key] = f" {json.dumps(key)}: {text}"
    return "{\n" + ",\n".join(text for _, text in sorted(texts.items())) + "\n}\n"


def says(path: str, text: str, state: State) -> bool:
    """Whether the text of a file describes this state, perhaps formatted differently. Identical
    lines are equal; only the rest is parsed."""
    after = lines(state)
    known = {line.rstrip(",") for line in text.split("\n")}
    odd = [key for key, line in after.items() if line not in known]
    data = parsed(path, text)
    there = {(key, name) for key in TABLES for name in data.get(key, ())}
    before = lines(decode(path, text, state.lock_inode, only=odd))
    return (
        there == {key for key in after if key[1]}
        and before.keys() <= after.keys()
        and all(before.get(key) == after[key] for key in odd)
    )


def _plain(record: Boot | Guest | Iface | Bridge) -> dict[str, object]:
    out = {**record.extra, **vars(record)}
    del out["extra"]
    out.pop("name", None)
    if out.get("boot") is not None:
        out["boot"] = _plain(out["boot"])
    return out


def parsed(path: str, text: str) -> dict[str, Any]:
    """The text as JSON; DummError unless it is a state in this format."""
    try:
        data: Any = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise DummError(f"'{path}' is not valid JSON: {e}") from None
    if not isinstance(data, dict) or not isinstance(data.get("version"), int):
        raise DummError(f"'{path}' is not a working set's state: no version")
    if data["version"] > VERSION:
        raise DummError(
            f"'{path}' was written by a newer dumm-tools (format {data['version']})",
            hint="use that version, or start a new working set",
        )
    return data


def outline(path: str, text: str) -> Outline:
    """The information that needs no look at each object."""
    data = parsed(path, text)
    bridges = data.get("bridges")
    rows = bridges.values() if isinstance(bridges, dict) else ()
    has_nat = any(isinstance(row, dict) and row.get("uplink") == "nat" for row in rows)
    return Outline(isolated=_isolated(path, data), has_nat=has_nat)


def _isolated(path: str, data: dict[str, Any]) -> bool:
    """Whether the lab is isolated. A value that is neither true nor false must not count as
    false."""
    value = data.get("isolated", False)
    if not isinstance(value, bool):
        raise DummError(f"'{path}': key 'isolated' is not true or false")
    return value


def decode(
    path: str, text: str, lock_inode: int, *, only: list[tuple[str, str]] | None = None
) -> State:
    """The state in the text of the file `path`; with `only`, no other objects than these. If the
    lock is a different file than the text says, the working set is a copy."""
    data = parsed(path, text)
    copied = data.get("lock_inode") != lock_inode
    if not isinstance(data.get("template"), str | None):
        raise DummError(f"'{path}': key 'template' is not a string")
    fresh = data.get("fresh")
    if fresh is not None and not (isinstance(fresh, str) and _FRESH.fullmatch(fresh)):
        raise DummError(f"'{path}': key 'fresh' is not the name of a copy")
    known = ("version", "id", "lock_inode", "isolated", "carriers", "template", "fresh", *TABLES)
    if not isinstance(data.get("id"), str) or not _ID.fullmatch(data["id"]):
        raise DummError(f"'{path}': key 'id' is missing, or not letters and digits")
    state = State(
        # A copy owns nothing made by the original: it gets its own tag.
        id=os.urandom(6).hex() if copied else data["id"],
        lock_inode=lock_inode,
        isolated=_isolated(path, data),
        template=data.get("template"),
        fresh=fresh if data.get("template") is not None else None,
        extra={k: v for k, v in data.items() if k not in known},
        copied=copied,
    )
    if only is not None:
        for key in TABLES:
            data[key] = {n: row for n, row in data.get(key, {}).items() if (key, n) in only}
    state.guests = _records(path, data, "guests", Guest)
    state.ifaces = _records(path, data, "ifaces", Iface)
    state.bridges = _records(path, data, "bridges", Bridge)
    if data.get("carriers") is not True:
        # Before, an interface that was not connected was recorded as down.
        for iface in state.ifaces.values():
            iface.up = iface.up or iface.bridge is None
    if copied:
        state.extra.pop("holder", None)
        for guest in state.guests.values():
            guest.boot = None
    if only is None:
        _check_names(path, state)
    return state


def _check_names(path: str, state: State) -> None:
    """Raise DummError for an invalid or dangling name: names become paths and devices."""
    try:
        if state.template is not None:
            names.pack(state.template, "template name")
        for name in state.bridges:
            names.bridge(name)
        for guest in state.guests.values():
            names.guest(guest.name)
            if guest.boot and not _is_own_group(guest.boot.cgroup, state, guest.name):
                raise Usage(f"bad control group {guest.boot.cgroup!r}")
            for disk in (*guest.disks, *(guest.boot.disks if guest.boot else ())):
                if not disk.startswith("/"):
                    raise Usage(f"'{guest.name}' has a bad disk: {disk!r}")
            for files in guest.files:
                if not files.startswith("/"):
                    raise Usage(f"'{guest.name}' has bad files: {files!r}")
            if guest.rules:
                _check_routing(guest.name, "rule", guest.rules)
        for iface in state.ifaces.values():
            if names.interface(iface.name) != (iface.guest, iface.device):
                raise Usage(f"'{iface.name}' is not '{iface.guest}-{iface.device}'")
            if iface.tap != names.tap(iface.name):
                raise Usage(f"bad tap name {iface.tap!r}")
            if iface.guest not in state.guests:
                raise Usage(f"'{iface.name}' belongs to a guest that does not exist")
            if iface.bridge is not None and iface.bridge not in state.bridges:
                raise Usage(f"'{iface.name}' is on a bridge that does not exist: '{iface.bridge}'")
            _check_values(iface)
        for bridge in state.bridges.values():
            _check_addresses(bridge.addresses)
    except Usage as e:
        raise DummError(f"'{path}': {e}") from None


def _check_values(iface: Iface) -> None:
    """Raise Usage for values of the right type that no command would write."""
    _check_addresses(iface.addresses)
    if iface.routes:
        _check_routing(iface.name, "route", iface.routes)
    for key, value in iface.shape.items():
        if type(value) not in (int, float) or not 0 <= value <= _SHAPE_MAX:
            raise Usage(f"'{iface.name}' has a bad {key}: {json.dumps(value)}")
    if not 0 <= iface.slot < _SLOTS or not 68 <= iface.mtu < 1 << 16:
        raise Usage(f"'{iface.name}' has a bad slot or MTU")
    if not _MAC.fullmatch(iface.mac):
        raise Usage(f"'{iface.name}' has a bad MAC address: {iface.mac!r}")


def _check_routing(owner: str, what: Literal["route", "rule"], found: list[dict[str, Any]]) -> None:
    from dumm_tools import routing  # most labs have neither routes nor rules

    decode: Callable[[dict[str, Any]], object] = getattr(routing, what)
    for each in found:
        try:
            decode(each)
        except ValueError:
            raise Usage(f"'{owner}' has a bad {what}: {json.dumps(each)}") from None


def _check_addresses(addresses: list[Any]) -> None:
    for text in addresses:
        found = _NETWORK.fullmatch(str(text))
        if not found or int(found[2]) > (128 if ":" in found[1] else 32):
            raise Usage(f"bad address {text!r}")


def _is_own_group(path: str, state: State, guest: str) -> bool:
    """Whether it is a control group created by a start of the guest, or none."""
    own = f"/dumm-{state.id}-{guest}"
    return not path or (
        path.startswith("/sys/fs/cgroup/") and path.endswith(own) and os.path.normpath(path) == path
    )


def _records(path: str, data: dict[str, Any], key: str, cls: type[R]) -> dict[str, R]:
    table = data.get(key, {})
    if not isinstance(table, dict):
        raise DummError(f"'{path}': key '{key}' is not an object")
    return {
        name: _record(f"'{path}': {key}.{name}", {**row, "name": name}, cls)
        if isinstance(row, dict)
        else _bad(f"'{path}': {key}.{name} is not an object")
        for name, row in sorted(table.items())
    }


def _bad(message: str) -> Any:
    raise DummError(message)


Check = Callable[[Any], bool]
_checks: dict[type, dict[str, Check]] = {}


def _record(where: str, row: dict[str, Any], cls: type[R]) -> R:
    checks = _checks.get(cls)
    if checks is None:
        hints = get_type_hints(cls)
        checks = _checks[cls] = {k: _check(hints[k]) for k in cls.fields() if k != "extra"}
    values = dict(row)
    extra = {key: values.pop(key) for key in row.keys() - checks.keys()}
    boot = values.get("boot")
    if isinstance(boot, dict):
        values["boot"] = _record(f"{where}.boot", boot, Boot)
    for key, value in values.items():
        if not checks[key](value):
            raise DummError(f"{where}.{key} has a wrong value: {json.dumps(value, default=vars)}")
    try:
        return cls(**values, extra=extra)
    except TypeError:
        raise DummError(f"{where} lacks a key") from None


def _check(hint: Any) -> Check:
    """A function that checks whether a value is of a type; created once for each key of a
    record."""
    if isinstance(hint, UnionType) or get_origin(hint) is Union:  # with a Literal, it is a Union
        arms = [_check(arm) for arm in get_args(hint)]
        return lambda value: any(arm(value) for arm in arms)
    origin = get_origin(hint)
    if origin is list:
        item = _check(get_args(hint)[0])
        return lambda value: isinstance(value, list) and all(map(item, value))
    if origin is dict:
        return lambda value: isinstance(value, dict)
    if origin is not None:  # Literal
        return get_args(hint).__contains__
    if hint is int:
        return lambda value: type(value) is int  # and not bool
    if hint is str:
        return _is_text
    return lambda value: isinstance(value, hint)


def _is_text(value: Any) -> bool:
    """Whether it is a string that can become a path or an argument. Invalid UTF-8 is represented as
    by os.fsdecode."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        return False
    return True
