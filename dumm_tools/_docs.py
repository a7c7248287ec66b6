"""Write the manual pages and the completions: `python -m dumm_tools._docs [--check]`.

man/X.in is written by hand, except for its placeholders: @SYNOPSIS@ @COMMANDS@ @OPTIONS@ @FIELDS@
@EXIT_STATUS@ come from the commands themselves, @VERSION@ and @DATE@ from constants,
@CLASSES@, @TUPLES@ and @ERRORS@ from the docstrings of the library (api/reference.py),
@FEATURES@ and @NEEDED@ from images/features.py, @JAIL_ATTEMPTS@ is man/jail-attempts.inc,
@SERVER_ATTEMPTS@ man/server-attempts.inc, @ATTACKS@ man/attacks.inc. completions/SHELL.in is the
completion of each tool. The results are committed, and a test runs --check.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from dumm_tools import __version__, errors
from dumm_tools.api import reference
from dumm_tools.cli.words import FieldList
from dumm_tools.images import features
from dumm_tools.output import Field

#: Changed together with the version, not taken from the clock.
DATE = "2026-11-22"

TOP = Path(__file__).resolve().parent.parent
#: Options described once per page, not for each verb.
SHARED = {"--directory", "--verbose", "--help", "--version"}
OUTPUT = {"--quiet", "--output", "--nul", "--format"}
#: The name under which each shell looks for the completion of a command.
COMPLETIONS = {"bash": "{}", "zsh": "_{}", "fish": "{}.fish"}


def tools() -> dict[str, click.Group]:
    """The five commands by name."""
    nouns = ("bridge", "console", "fs", "guest", "iface")
    found: dict[str, click.Group] = {}
    for noun in nouns:
        found[f"dumm-{noun}"] = importlib.import_module(f"dumm_tools.cli.{noun}").cli
    return found


def walk(
    command: click.Command, words: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """A command and all of its subcommands, each with the words that call it; verbs before
    nouns."""
    yield words, command
    if isinstance(command, click.Group):
        for name, below in sorted(
            command.commands.items(), key=lambda c: hasattr(c[1], "commands")
        ):
            yield from walk(below, (*words, name))


# ---- roff ----


def escape(text: str) -> str:
    """Text for roff (groff_char(7)); text in `backquotes` becomes bold."""
    for char, name in (("\\", "\\e"), ("-", "\\-"), ("'", "\\(aq"), ("^", "\\(ha"), ("~", "\\(ti")):
        text = text.replace(char, name)
    text = re.sub(r"`([^`]+)`", r"\\fB\1\\fR", text)
    return re.sub(r"(?m)^(?=\.)", r"\\&", text)


def bold(text: str) -> str:
    return f"\\fB{escape(text)}\\fR"


def italic(text: str) -> str:
    return f"\\fI{escape(text)}\\fR"


def paragraphs(text: str) -> str:
    """The paragraphs of a docstring, each on a single line."""
    found = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text.strip())]
    return "\n.IP\n".join(escape(part) for part in found)


def entry(head: str, body: str) -> str:
    """A tagged paragraph."""
    return f".TP\n{head}\n{body}"


# ---- from click to roff ----


def parameters(command: click.Command, kind: type[Any]) -> list[Any]:
    with click.Context(command) as ctx:
        return [p for p in command.get_params(ctx) if isinstance(p, kind)]


def own_options(command: click.Command) -> list[click.Option]:
    found: list[click.Option] = parameters(command, click.Option)
    told = SHARED | OUTPUT if has_shape(command) else SHARED
    return [o for o in found if told.isdisjoint(o.opts)]


def has_shape(command: click.Command) -> bool:
    """Whether a verb has all of the options for output, which are described once."""
    return {o for option in parameters(command, click.Option) for o in option.opts} >= OUTPUT


def value_of(option: click.Option) -> str:
    """The operand of an option: its metavar, or its choices; empty for a flag."""
    if option.is_flag or option.count:
        return ""
    if isinstance(option.type, click.Choice):
        return "|".join(str(choice) for choice in option.type.choices)
    return option.metavar or option.type.name.upper()


def operands(command: click.Command) -> list[str]:
    """The operands as roff, in order."""
    found = []
    for argument in parameters(command, click.Argument):
        text = escape(argument.metavar or argument.human_readable_name.upper())
        text = re.sub(r"[A-Z][A-Z/]*", lambda match: f"\\fI{match[0]}\\fR", text)
        found.append(re.sub(r"\\-\\-[a-z]+", lambda match: f"\\fB{match[0]}\\fR", text))
    return found


def usage(words: tuple[str, ...], command: click.Command) -> str:
    """One verb in the SYNOPSIS."""
    lines = [f'.SY "{escape(" ".join(words))}"']
    if has_shape(command):
        lines.append(
            f"[{bold('-q')}|{bold('-o')}\\~{italic('FIELD')},...|{bold('--format')}\\~json]"
        )
    operand_words = {
        word
        for argument in parameters(command, click.Argument)
        for word in re.split(r"[ |\[\]]", argument.metavar or "")
    }
    for option in own_options(command):
        if not operand_words.isdisjoint(option.opts):
            continue  # shown with the operands
        names = "|".join([max(option.opts, key=len), *option.secondary_opts])
        value = value_of(option)
        more = "...\\&" if option.multiple else ""
        lines.append(f"[{bold(names)}" + (f"\\~{italic(value)}" if value else "") + f"]{more}")
    return "\n".join([*lines, *operands(command), ".YS"])


def option_entry(option: click.Option) -> str:
    names = ", ".join(bold(name) for name in (*option.opts, *option.secondary_opts))
    value = value_of(option)
    text = escape(" ".join((option.help or "").split()))
    if option.show_default and not option.is_flag:
        text += (
            f" Default: {option.default:g}."
            if isinstance(option.default, float)
            else (f" Default: {escape(str(option.default))}.")
        )
    if option.multiple and "epeat" not in text:
        text += " May be repeated."
    return entry(names + (f" {italic(value)}" if value else ""), text)


def verb(words: tuple[str, ...], command: click.Command) -> str:
    """One verb in COMMANDS: its operands, what it does, its own options."""
    head = " ".join([bold(" ".join(words[1:])), *operands(command)])
    parts = [entry(head, paragraphs(command.help or ""))]
    options = own_options(command)
    if options:
        parts += [".RS", *map(option_entry, options), ".RE"]
    return "\n".join(parts)


def shared_options(tool: click.Group) -> str:
    """The options of all verbs, followed by those of all verbs that print records."""
    found = [option_entry(o) for o in parameters(tool, click.Option)]
    shaped = [c for _, c in leaves(tool) if has_shape(c)]
    if shaped:
        found.append(".PP\nVerbs that print records, such as\n.BR list ,\nalso accept these:")
        found += [option_entry(o) for o in map(_plain, parameters(shaped[0], click.Option)) if o]
    return "\n".join(found)


def _plain(option: click.Option) -> Any:
    """An output option in the form that applies to all verbs; None for any other option."""
    if OUTPUT.isdisjoint(option.opts):
        return None
    if not isinstance(option.type, FieldList):
        return option
    general = click.Option(
        ["-o", "--output", "fields"],
        metavar="FIELD,...",
        help="Print only these fields, separated by tabs; see FIELDS.",
    )
    return general


def leaves(tool: click.Group) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """The verbs of a tool: the commands without subcommands."""
    for words, command in walk(tool, (str(tool.name),)):
        if not isinstance(command, click.Group):
            yield words, command


def field_tables(tool: click.Group) -> str:
    """The fields of each verb that prints records; verbs with the same fields are grouped."""
    tables = _tables()
    verbs: dict[tuple[str, ...], list[str]] = {}
    for words, command in leaves(tool):
        for option in parameters(command, click.Option):
            if isinstance(option.type, FieldList):
                verbs.setdefault(tuple(option.type.fields), []).append(" ".join(words[1:]))
    parts = []
    for names, users in verbs.items():
        parts.append(".SS " + " and ".join([", ".join(users[:-1]), users[-1]][len(users) == 1 :]))
        parts += [entry(bold(f.name), escape(f.doc)) for f in tables[names]]
    return "\n".join(parts)


def _tables() -> Mapping[tuple[str, ...], list[Field[Any]]]:
    """All field tables of the command modules, keyed by the names of their fields."""
    return {
        tuple(f.name for f in value): value
        for module in list(sys.modules.values())
        if getattr(module, "__name__", "").startswith("dumm_tools.cli.")
        for value in vars(module).values()
        if isinstance(value, list) and value and isinstance(value[0], Field)
    }


def feature_list() -> str:
    """The names of a kernel's capabilities."""
    return "\n".join(entry(bold(f.name), escape(f"{f.doc}.")) for f in features.FEATURES)


def needed_options() -> str:
    """The options of a kernel's configuration that guests need."""
    options = (*features.NEEDED, *features.NEEDED_SOMEHOW)
    return ",\n".join(f"CONFIG_{escape(option)}" for option in options) + "."


def exit_status(runs_commands: bool) -> str:
    codes = dict(errors.EXIT_CODES)
    if runs_commands:
        codes |= errors.EXEC_EXIT_CODES
    found = [entry(bold(str(code)), escape(text)) for code, text in codes.items()]
    if runs_commands:
        found.append(
            entry(
                bold("128+") + italic("n"), "The command was killed by signal " + italic("n") + "."
            )
        )
    return "\n".join(found)


# ---- from docstrings to roff ----


def described(parts: list[tuple[bool, str]], between: str) -> str:
    """The paragraphs and examples of a docstring."""
    found = []
    for is_example, text in parts:
        if is_example:
            found.append(f".RS\n.PP\n.EX\n{escape(text)}\n.EE\n.RE")
        else:
            found.append(("" if not found else f"{between}\n") + escape(" ".join(text.split())))
    return "\n".join(found)


def library_classes() -> str:
    """The classes of the library and their methods."""
    found = []
    for about, methods in reference.sections():
        found.append(f".SS {about.head}\n{described(about.parts, '.PP')}")
        found += [library_entry(method) for method in methods]
    return "\n".join(found)


def library_entry(each: reference.Entry) -> str:
    """A method, a tuple or an error."""
    return entry(bold(each.head), described(each.parts, ".IP"))


# ---- files ----


def included(name: str) -> str:
    """A part of a page that is also read by something else, without the comments at its top."""
    text = (TOP / "man" / name).read_text()
    return re.sub(r"\A(\.\\\".*\n)*", "", text).rstrip("\n")


def page(template: str, tool: click.Group | None) -> str:
    """A manual page from its template."""
    values = {
        "VERSION": escape(__version__),
        "DATE": DATE,
        "EXIT_STATUS": exit_status(False),
        "CLASSES": library_classes(),
        "TUPLES": "\n".join(map(library_entry, reference.tuples())),
        "ERRORS": "\n".join(map(library_entry, reference.failures())),
        "FEATURES": feature_list(),
        "NEEDED": needed_options(),
        "JAIL_ATTEMPTS": included("jail-attempts.inc"),
        "SERVER_ATTEMPTS": included("server-attempts.inc"),
        "ROOTFS_CHECKS": included("rootfs-checks.inc"),
        "ATTACKS": included("attacks.inc"),
    }
    if tool is not None:
        found = list(leaves(tool))
        values |= {
            "SYNOPSIS": "\n".join(usage(*each) for each in found),
            "COMMANDS": "\n".join(verb(*each) for each in found),
            "OPTIONS": shared_options(tool),
            "FIELDS": field_tables(tool),
            "EXIT_STATUS": exit_status(tool.name in ("dumm-guest", "dumm-console")),
        }
    text = re.sub(r"@([A-Z_]+)@", lambda match: values[match[1]], template)
    return (
        '.\\" Written by dumm_tools/_docs.py from the .in file beside this one: edit that.\n' + text
    )


def completion(tool: str, shell: str) -> str:
    """The completion script of a tool for a shell; click does the rest in the tool."""
    name = tool.replace("-", "_")
    values = {"TOOL": tool, "FUNCTION": f"_{name}_completion"}
    values["VARIABLE"] = f"_{name.upper()}_COMPLETE"
    template = (TOP / "completions" / f"{shell}.in").read_text()
    return re.sub(r"@([A-Z]+)@", lambda match: values[match[1]], template)


def files() -> Iterator[tuple[Path, str]]:
    """All generated files: path and text."""
    found = tools()
    for template in sorted((TOP / "man").glob("*.in")):
        target = template.with_suffix("")
        yield target, page(template.read_text(), found.get(target.stem))
    for tool in found:
        for shell, name in COMPLETIONS.items():
            yield TOP / "completions" / shell / name.format(tool), completion(tool, shell)


def main(arguments: list[str]) -> int:
    """Write files that differ; with --check, only report them and return 1."""
    check = arguments == ["--check"]
    if arguments and not check:
        print("usage: python -m dumm_tools._docs [--check]", file=sys.stderr)
        return 2
    status = 0
    for path, text in files():
        if path.exists() and path.read_text() == text:
            continue
        if check:
            print(f"{path.relative_to(TOP)} is out of date: make docs", file=sys.stderr)
            status = 1
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
