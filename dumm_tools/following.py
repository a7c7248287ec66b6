"""Following state.json: what has changed in it since the last look.

The file has a line for each object (`records.encode`), so only the lines that are new are decoded:
each change of a lab of a thousand guests would take 30 ms otherwise, and 1 ms does. A file that
somebody else has formatted is decoded as a whole.
"""

from __future__ import annotations

import json
import os
from typing import Any

from dumm_tools import records, statefile
from dumm_tools.errors import DummError
from dumm_tools.model import State
from dumm_tools.records import TABLES

#: A table and the name of an object in it.
Key = tuple[str, str]
_OPENING = {f' "{table}": {{': table for table in TABLES}
_EMPTY = {f' "{table}": {{}}' for table in TABLES}


class Following:
    """The state of a working set, kept up to date by `refresh`."""

    def __init__(self, labdir: str) -> None:
        self._labdir = labdir
        self._path = os.path.join(labdir, statefile.FILE)
        #: For each table, the names of the objects by their lines.
        self._known: dict[str, dict[str, str]] | None = None
        self._text = ""
        self.state = State("", 0)
        self.refresh()

    def refresh(self) -> set[Key]:
        """Read the file; return the objects that are new, different or gone. NotFound if there is
        no working set any more, DummError if the file is damaged."""
        text, lock_inode = statefile.read(self._labdir)
        if text == self._text:
            return set()
        known, self._text = self._known, text
        found = _sorted_out(text, known or {table: {} for table in TABLES})
        if found is not None and known is not None:
            try:
                changed = self._patched(*found, known, lock_inode)
            except DummError:  # the whole tells more
                found = None
            else:
                self._known = found[0]
                return changed
        before = records.lines(self.state)
        self.state = records.decode(self._path, text, lock_inode)
        after = records.lines(self.state)
        self._known = found[0] if found is not None else None
        keys = before.keys() | after.keys()
        return {key for key in keys if key[1] and before.get(key) != after.get(key)}

    def _patched(
        self,
        new: dict[str, dict[str, str]],
        fresh: dict[str, list[str]],
        head: list[str],
        known: dict[str, dict[str, str]],
        lock_inode: int,
    ) -> set[Key]:
        """Decode the new lines, and put what they say into the state."""
        changed = [(table, new[table][line]) for table in TABLES for line in fresh[table]]
        tables = [f'"{table}": {{{",".join(fresh[table])}}}' for table in TABLES]
        text = "{" + ",".join([*tables, *head]) + "}"
        part = records.decode(self._path, text, lock_inode, only=changed)
        gone = [
            (table, name)
            for table in TABLES
            for name in set(known[table].values()).difference(new[table].values())
        ]
        tables_of: dict[str, Any] = {table: getattr(self.state, table) for table in TABLES}
        for table, name in changed:
            tables_of[table][name] = getattr(part, table)[name]
        for table, name in gone:
            tables_of[table].pop(name, None)
        self.state = part.but(**tables_of)
        return {*changed, *gone}


_Sorted = tuple[dict[str, dict[str, str]], dict[str, list[str]], list[str]]


def _sorted_out(text: str, known: dict[str, dict[str, str]]) -> _Sorted | None:
    """For each table, the names by lines, and the lines that are not known; and all other lines.
    None if the text is not formatted as `records.encode` does."""
    new: dict[str, dict[str, str]] = {table: {} for table in TABLES}
    fresh: dict[str, list[str]] = {table: [] for table in TABLES}
    head: list[str] = []
    table = ""
    rows = text.split("\n")
    if rows[0] != "{" or rows[-2:] != ["}", ""]:
        return None
    for raw in rows[1:-2]:
        line = raw.rstrip(",")
        if table:
            if line == " }":
                table = ""
                continue
            name = known[table].get(line)
            if name is None:
                name = _name(line)
                if name is None:
                    return None
                fresh[table].append(line)
            new[table][line] = name
        elif line in _OPENING:
            table = _OPENING[line]
        elif line not in _EMPTY:
            head.append(line)
    return (new, fresh, head) if not table else None


def _name(line: str) -> str | None:
    try:
        row = json.loads(f"{{{line}}}")
    except (ValueError, RecursionError):
        return None
    return next(iter(row)) if len(row) == 1 else None
