"""The startup scripts of imported guests."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from dumm_tools import language, messages

FIRST = b"#!/bin/sh\n"
#: Containers have bash, or the scripts in them would not rely on it.
BASH = b'[ -n "$BASH_VERSION" ] || ! command -v bash >/dev/null || exec bash "$0"\n'


def exports(values: Mapping[str, str]) -> list[bytes]:
    """Lines that set environment variables."""
    return [_line("export", f"{name}={value}") for name, value in values.items()]


def sysctls(values: Mapping[str, str]) -> list[bytes]:
    """Lines that set what a container would get before its first process; a kernel without IPv6
    lacks some of them."""
    if not values:
        return []
    lines = [b'put() { [ ! -e "/proc/sys/$1" ] || echo "$2" >"/proc/sys/$1"; }\n']
    for name, value in values.items():
        lines.append(_line("put", name.replace(".", "/"), value))
    return lines


def command(words: Iterable[str]) -> bytes:
    """A command that is run without a shell."""
    return _line(*words)


def background(words: Iterable[str]) -> bytes:
    """A command that runs for as long as the guest does."""
    return command(words).rstrip(b"\n") + b" </dev/null &\n"


def section(title: str, text: bytes, *, apart: bool) -> list[bytes]:
    """A script within the script, perhaps in a process of its own, so that it cannot end it."""
    text = text if text.endswith(b"\n") or not text else text + b"\n"
    head = b"\n# ---- " + messages.printable(title).encode() + b"\n"
    return [head, b"(\n" + text + b")\n" if apart else text]


def _line(*words: str) -> bytes:
    return os.fsencode(" ".join(map(language.quoted, words))) + b"\n"
