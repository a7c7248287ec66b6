"""The right command for a word that is not one: a misspelt verb, a verb of another tool of the
suite, or a word of neighbouring tools (Docker, virsh, Mininet, ip).

Imported only when a word is not a verb.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence

import click

from dumm_tools.cli.suite import TOOLS, named
from dumm_tools.missing import closest

#: Words of other tools for our verbs, in the order of preference.
_VERBS = {
    ("delete", "del"): "rm remove del delete rmi undefine erase",
    ("list",): "ls ps dir",
    ("create", "add"): "add new define create mk",
    ("shell",): "ssh login enter bash sh terminal vtysh telnet",
    ("attach",): "screen tty",
    ("log",): "logs dmesg messages",
    ("show", "list"): "info inspect status get describe print",
    ("start",): "boot up",
    ("stop", "destroy"): "halt shutdown poweroff down kill",
    ("restart",): "reboot",
    ("pause",): "suspend freeze",
    ("resume",): "unpause thaw continue",
    ("capture",): "tcpdump sniff wireshark tshark dump",
    ("shape",): "tc netem impair delay loss rate",
    ("connect",): "plug addif join attach",
    ("disconnect",): "unplug detach delif",
    ("address",): "addr ip",
    ("route",): "routes",
    ("cp",): "copy scp push",
    ("graph",): "draw plot topology map",
    ("set",): "edit config configure modify update",
    ("reset",): "rollback revert",
    ("check",): "doctor verify",
    ("destroy",): "clean purge teardown cleanup",
    ("fetch",): "pull download",
    ("pop",): "undo",
    ("master",): "images image",
    ("kernel",): "kernels",
    ("template",): "snapshot checkpoint",
}
#: Advice for words that no single verb stands for.
_SENTENCES = {
    "console": "dumm-console shell NAME, or dumm-console attach NAME for its kernel's console",
    "run": "dumm-guest create NAME --start, then dumm-guest exec NAME -- CMD",
    "help": "--help after any command, or the manual: man dumm",
}
#: Programs that run in a guest.
_PROGRAMS = frozenset(("ping", "traceroute", "ifconfig", "cat", "iperf3", "curl", "wget"))


def hint(context: click.Context, word: str) -> str | None:
    """The question or advice for a word that is not a verb of the context's group."""
    group = context.command
    assert isinstance(group, click.Group)
    if group.name == "dumm-console" and os.path.isfile(word):
        return f"dumm-console <{shlex.quote(word)} runs the commands in a file"
    word = word.removeprefix("dumm-").lower()
    own = {name: group.commands[name] for name in group.commands}
    for wanted in _meanings(word):
        if wanted in own:
            return _question([_call(context.command_path, wanted, own[wanted])])
    if word in _SENTENCES:
        return _SENTENCES[word]
    if elsewhere := list(_shortest(word)):
        return _question(elsewhere)
    if near := closest(word, own):
        return _question([_call(context.command_path, name, own[name]) for name in near])
    return anywhere(word)


def anywhere(word: str) -> str | None:
    """Which verbs of all tools may have been meant."""
    if word in _SENTENCES:
        return _SENTENCES[word]
    for wanted in (word, *_meanings(word)):
        if found := list(_shortest(wanted)):
            return _question(found)
    if word in _PROGRAMS:
        return f"dumm-guest exec NAME -- {word} ..."
    return None


def _meanings(word: str) -> Iterator[str]:
    for verbs, words in _VERBS.items():
        if word in words.split():
            yield from verbs


def _shortest(word: str) -> Iterator[str]:
    """The commands named `word`, of the tools or, if there are none, of the nouns in the tools."""
    found: list[tuple[int, str]] = []
    for tool in TOOLS:
        for path, name, command in _commands(f"dumm-{tool}", named(tool)):
            if name == word:
                found.append((path.count(" "), _call(path, name, command)))
    for depth, call in found:
        if depth == min(found)[0]:
            yield call


def _commands(path: str, group: click.Group) -> Iterator[tuple[str, str, click.Command]]:
    for name, command in group.commands.items():
        yield path, name, command
        if isinstance(command, click.Group):
            yield from _commands(f"{path} {name}", command)


def _call(path: str, name: str, command: click.Command) -> str:
    """A command as the user types it, with its operands."""
    operands = [
        param.metavar or (param.name or "").upper()
        for param in command.params
        if isinstance(param, click.Argument) and not (param.metavar or "").startswith("[--")
    ]
    if isinstance(command, click.Group):
        operands = ["--help"]
    return " ".join([path, name, *operands])


def _question(calls: Sequence[str]) -> str:
    return f"did you mean {' or '.join(repr(call) for call in calls[:4])}?"
