"""Texts are idiomatic English: a list of phrases that crept in by translation is banned.

This applies to the texts that users read (the manual, the Markdown files, the examples, help,
messages), and to comments, docstrings and the names of tests.
"""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import TOP

from dumm_tools import _docs

#: Patterns that no sentence may contain, each with a replacement.
BANNED = {
    r"(?<!\b[Tt]here )\b(?:is|are|was|were) no (?!longer\b|more than\b)": "is not a",
    r"\b(?:be|it's|they're) no \b": "is not a",
    r"\bbe it (?:that|one)\b": "unless, even if",
    r"\b(?:has|have) not the\b": "does not have the",
    r"\bthose that there are\b": "existing",
    r"\b[Bb]ut for\b": "except for",
    r"\bof (?:the |an? |its )?[\w-]+'s(?: own)?(?=[,.;:)]|$)|\bof root's\b": "of root, the user's",
    r"\b[Bb]ehind (?:it|its|them|the|an?|each|that|which|this|what)\b|\bBehind\b": "after",
    r"\b(?:that|which|what) (?:is|are|was|were) there\b(?! (?:to|for)\b)": "existing",
    r"\b(?:is|are|was|were) to be\b": "must be, will be",
    r"^(?:Who|What|Whoever) [^?]*$": "a noun as the subject",
    r"^Of (?:the|an?|its|their|each|several|other|these|those|root)\b": "subject first",
    r"\b(?:shall|whoever|whosoever|hitherto|thereof|therein|whereof|lest)\b": "plain words",
    r"\b(?:it|they|one) (?:has|have) not(?=[,.;:)]| is| are|$)": "does not have",
    r"\bcannot [^.;]* nor\b": "neither ... nor",
    r"\bexists? already\b": "already exists",
    r"\b(?:one|bits|bytes|names?) a (?:line|second)\b": "per",
    r"\bso long(?=[,.;:)]|$)": "for that time",
    r"\bto be had\b": "available",
    r", for one\b": "for example",
    r"\b(?:that|which) (?:is|are) none\b|\bnone is one\b": "is not a",
    r"\bleft aside\b": "skipped",
    r"\bto suffer\b|\bspoil": "impairments",
    r"\b[Oo]ctets\b": "bytes",
    r"\bgoes? on behind\b|\bin the place of\b": "continues after, instead of",
    r"\boutside of (?:the|an?|this|its)\b": "outside",
}
PATTERNS = [(re.compile(pattern), instead) for pattern, instead in BANNED.items()]

BAD = (
    "'x' is no directory",
    "'x' is on lan0, be it that nobody asked",
    "Everything is mounted nodev, but for three devices.",
    "A lab of root's is on the host's own network.",
    "It is a pseudo-terminal of the guest's, which follows the window.",
    "These are taken before and behind the verb.",
    "One that is there is left as it is.",
    "Whether the device is to be up.",
    "Who may read it sees the lab.",
    "What the traffic that it sends is to suffer",
    "Of the host itself they reach nothing.",
    "One that it has not is not an error.",
    "cannot find 'pasta' nor 'slirp4netns'",
    "guest 'alice' exists already",
    "Only names, one a line.",
    "End it after so long.",
    "Octets in a packet at most.",
)
GOOD = (
    "There is no daemon: each command does its work and exits.",
    "The device is no longer there.",
    "Leave routes behind when labs end.",
    "What is the kernel?",
    "This is what scripts may rely on.",
    "It runs outside the jail.",
)


def faults(text: str) -> list[str]:
    """The banned phrases in a paragraph, and what to write instead."""
    return [
        f"'{found[0][:40]}' in '{said[:120]}': {instead}"
        for said in re.split(r"(?<=[.;:!?]) +", " ".join(text.split()))
        for pattern, instead in PATTERNS
        for found in [pattern.search(said)]
        if found
    ]


def all_faults(texts: Iterator[tuple[str, str]]) -> list[str]:
    return [f"{where}: {fault}" for where, text in texts for fault in faults(text)]


# ---- where texts come from ----


def of_page(path: Path) -> Iterator[tuple[str, str]]:
    """The paragraphs of a manual page, without its headings and examples."""
    said: list[str] = []
    shown = after_tag = False
    for number, line in enumerate([*path.read_text().splitlines(), ".PP"], 1):
        macro, _, rest = line.partition(" ")
        if line.startswith('.\\"'):
            continue
        if macro in (".EX", ".EE"):
            shown = macro == ".EX"
        if shown:
            continue
        if not line.startswith("."):
            said.append(line)
        elif macro in (".B", ".I", ".BR", ".RB", ".IR", ".RI", ".BI"):
            words = re.findall(r'"[^"]*"|\S+', rest)
            joined = "" if len(macro) == 3 else " "
            if not after_tag:
                said.append(joined.join(word.strip('"') for word in words))
        else:
            text = " ".join(said)
            for escaped, plain in ((r"\\f[BIRP]", ""), (r"\\-", "-"), (r"\\\(aq", "'")):
                text = re.sub(escaped, plain, text)
            yield f"{path.name}:{number}", text
            said = []
        after_tag = macro == ".TP"


def of_markdown(path: Path) -> Iterator[tuple[str, str]]:
    """The paragraphs of a Markdown file, without its code."""
    text = re.sub(r"(?ms)^```.*?^```", "", path.read_text())
    for part in re.split(r"\n\s*\n|\n(?=[-*|] )", text):
        yield path.name, part


def of_shell(path: Path) -> Iterator[tuple[str, str]]:
    """The comments and messages of a shell script."""
    text = path.read_text()
    for block in re.findall(r"(?m)(?:^\s*#.*\n)+", text):
        yield path.name, re.sub(r"(?m)^\s*# ?", "", block)
    for message in re.findall(r'\b(?:say|fail) "([^"]*)"', text):
        yield path.name, message


def of_notebook(path: Path) -> Iterator[tuple[str, str]]:
    """The paragraphs of a notebook, and the comments in its code."""
    for cell in json.loads(path.read_text())["cells"]:
        text = "".join(cell["source"])
        prose = (
            text if cell["cell_type"] == "markdown" else "\n\n".join(re.findall(r"# (.*)", text))
        )
        for part in re.split(r"\n\s*\n", prose):
            yield path.name, part


def of_help() -> Iterator[tuple[str, str]]:
    """The texts of --help, and of COMMANDS in the manual."""
    for tool in _docs.tools().values():
        for words, command in _docs.walk(tool, (str(tool.name),)):
            for part in re.split(r"\n\s*\n", command.help or ""):
                yield " ".join(words), part
            for option in command.params:
                yield " ".join(words), getattr(option, "help", None) or ""


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def docstrings(tree: ast.Module) -> list[ast.Constant]:
    """The constants that are docstrings."""
    return [
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
        and isinstance(node.body[0].value, ast.Constant)
    ]


def of_strings(path: Path) -> Iterator[tuple[str, str]]:
    """The strings of a module that may reach a user: all but docstrings."""
    tree = parsed(path)
    skipped = {id(node) for node in docstrings(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for part in node.values}
            parts = [p.value if isinstance(p, ast.Constant) else "X" for p in node.values]
            yield f"{path.name}:{node.lineno}", "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and id(node) not in skipped:
            yield f"{path.name}:{node.lineno}", str(node.value)


def of_c_strings(path: Path) -> Iterator[tuple[str, str]]:
    """The string literals of a C file."""
    code = re.sub(r"(?s)/\*.*?\*/", "", path.read_text())
    for literal in re.findall(r'"((?:[^"\\\n]|\\.)* (?:[^"\\\n]|\\.)*)"', code):
        yield path.name, literal


def of_comments(path: Path) -> Iterator[tuple[str, str]]:
    """The comments and docstrings of a file, and the names of its tests."""
    if path.suffix == ".py":
        for node in docstrings(parsed(path)):
            for part in re.split(r"\n\s*\n", str(node.value)):
                yield f"{path.name}:{node.lineno}", part
        yield from of_python_comments(path)
        for name in re.findall(r"(?m)^(?:async )?def (test_\w+)", path.read_text()):
            yield path.name, name.removeprefix("test_").replace("_", " ")
    elif path.suffix in (".c", ".h"):
        for comment in re.findall(r"(?s)/\*(.*?)\*/|//([^\n]*)", path.read_text()):
            yield path.name, re.sub(r"(?m)^\s*\*", "", "".join(comment))
    else:
        yield from of_shell(path)


def of_python_comments(path: Path) -> Iterator[tuple[str, str]]:
    """The comments, with the lines of one block joined."""
    block: list[str] = []
    last = 0
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type != tokenize.COMMENT:
            continue
        alone = not token.line[: token.start[1]].strip()
        if block and not (alone and token.start[0] == last + 1):
            yield f"{path.name}:{last}", " ".join(block)
            block = []
        block.append(token.string.lstrip("#: "))
        last = token.start[0]
    yield f"{path.name}:{last}", " ".join(block)


SOURCES = sorted(
    path
    for folder in ("dumm_tools", "examples", "tests")
    for path in (TOP / folder).rglob("*")
    if path.suffix in (".c", ".dict", ".dumm", ".h", ".ini", ".py", ".sh", ".yml")
)
SOURCES += [TOP / name for name in ("Makefile", "pyproject.toml", "setup.cfg", "tests/as-user")]
SOURCES += [path for path in sorted((TOP / ".ci").iterdir()) if path.is_file()]


# ---- the tests ----


@pytest.mark.parametrize("text", BAD)
def test_patterns_match_bad_phrases(text: str) -> None:
    assert faults(text)


@pytest.mark.parametrize("text", GOOD)
def test_patterns_ignore_good_phrases(text: str) -> None:
    assert faults(text) == []


@pytest.mark.parametrize("path", sorted((TOP / "man").glob("*.in*")), ids=lambda p: p.name)
def test_manual_is_idiomatic(path: Path) -> None:
    assert all_faults(of_page(path)) == []


@pytest.mark.parametrize("path", sorted(TOP.glob("*.md")), ids=lambda p: p.name)
def test_markdown_is_idiomatic(path: Path) -> None:
    assert all_faults(of_markdown(path)) == []


@pytest.mark.parametrize("path", sorted((TOP / "examples").glob("*.sh")), ids=lambda p: p.name)
def test_examples_are_idiomatic(path: Path) -> None:
    assert all_faults(of_shell(path)) == []


@pytest.mark.parametrize("path", sorted((TOP / "examples").glob("*.ipynb")), ids=lambda p: p.name)
def test_notebooks_are_idiomatic(path: Path) -> None:
    assert all_faults(of_notebook(path)) == []


def test_help_is_idiomatic() -> None:
    assert all_faults(of_help()) == []


def test_messages_are_idiomatic() -> None:
    package = [path for path in SOURCES if path.is_relative_to(TOP / "dumm_tools")]
    texts = (of_strings(p) if p.suffix == ".py" else of_c_strings(p) for p in package)
    assert all_faults(text for each in texts for text in each) == []


def test_comments_and_test_names_are_idiomatic() -> None:
    assert all_faults(text for path in SOURCES for text in of_comments(path)) == []
