"""The library as its manual page shows it, from the docstrings."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from typing import Any, NamedTuple

from dumm_tools import errors

#: Classes by module, in the order of the manual, each with the variable that stands for an object.
CLASSES = {
    "lab.Lab": "lab",
    "guest.Guest": "guest",
    "iface.Iface": "iface",
    "bridge.Bridge": "bridge",
    "template.Template": "template",
    "program.Program": "program",
    "program.Input": "program.stdin",
    "streams.Output": "program.stdout",
    "capture.Capture": "capture",
}
#: Tuples that methods return.
TUPLES = (
    *("answers.Completed", "views.GuestView", "views.IfaceView", "views.BridgeView"),
    *("views.RouteView", "views.TemplateView", "views.Change"),
)
#: Methods that are called by the library itself.
_INNER = {"feed"}


class Entry(NamedTuple):
    """A class, a method or an error: its name or call, and its docstring in parts, each with
    whether it is an example."""

    head: str
    parts: list[tuple[bool, str]]


class Section(NamedTuple):
    """A class with its methods."""

    about: Entry
    methods: list[Entry]


def sections() -> Iterator[Section]:
    """The classes of the library with their public methods, inherited ones included."""
    for path, variable in CLASSES.items():
        kind = _named(path)
        name = kind.__name__
        yield Section(
            Entry(_call(name, kind.__init__) if name == "Lab" else name, parts(kind)),
            [
                Entry(_call(f"{name if of_class else variable}.{each}", method), parts(method))
                for each, method, of_class in _methods(kind)
            ],
        )


def tuples() -> Iterator[Entry]:
    """The tuples that methods return, with their fields."""
    from dumm_tools.net.pcap_file import Packet

    for kind in (*map(_named, TUPLES), Packet):
        yield Entry(f"{kind.__name__}({', '.join(kind._fields)})", parts(kind))


def failures() -> Iterator[Entry]:
    """The errors, with the exit status of each."""
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.DummError):
            yield Entry(kind.__name__, parts(kind))


def parts(thing: Any) -> list[tuple[bool, str]]:
    """The paragraphs and examples of a docstring."""
    found: list[tuple[bool, str]] = []
    for text in inspect.cleandoc(thing.__doc__ or "").split("\n\n"):
        found.append((text.startswith(">>>"), text))
    return found


def _named(name: str) -> Any:
    module, _, kind = name.partition(".")
    return getattr(importlib.import_module(f"dumm_tools.api.{module}"), kind)


def _methods(kind: type) -> Iterator[tuple[str, Any, bool]]:
    """The public methods: name, function, and whether it is called on the class."""
    seen = set(_INNER)
    for each in kind.__mro__:
        if not each.__module__.startswith("dumm_tools."):
            continue
        for name, value in vars(each).items():
            method = getattr(value, "__func__", value)
            if not name.startswith("_") and inspect.isfunction(method) and name not in seen:
                seen.add(name)
                yield name, method, isinstance(value, classmethod)


def _call(name: str, method: Any) -> str:
    """A call with the names of the arguments and their defaults."""
    words = []
    starred = False
    for argument in list(inspect.signature(method).parameters.values())[1:]:
        if argument.kind is argument.VAR_POSITIONAL:
            words.append(f"*{argument.name}")
            starred = True
        elif argument.kind is argument.VAR_KEYWORD:
            words.append(f"**{argument.name}")
        else:
            if argument.kind is argument.KEYWORD_ONLY and not starred:
                words.append("*")
                starred = True
            default = argument.default
            words.append(argument.name + ("" if default is argument.empty else f"={default!r}"))
    call = f"{name}({', '.join(words)})"
    return f"await {call}" if inspect.iscoroutinefunction(method) else call
