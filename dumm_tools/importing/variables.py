"""Environment variables in the files of containerlab, in the notation of a shell."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from dumm_tools.errors import Usage

_FOUND = re.compile(r"\$(?:(\$)|([A-Za-z_]\w*)|\{([A-Za-z_]\w*)(?:(:?[-=+])([^{}]*))?\})", re.ASCII)


def expand(
    text: str, values: Mapping[str, str], unset: Callable[[int, str], None], most: int
) -> str:
    """Replace variables. One that is not set and has no default stays as it is; ${NAME} is reported
    to `unset` with its line, $NAME may be meant for a shell in the lab. Usage if there would be
    more than `most` characters."""
    line, seen, length = 1, 0, 0

    def replaced(found: re.Match[str]) -> str:
        nonlocal length
        value = replacement(found)
        length += len(value)
        if length > most:
            raise Usage(f"larger than {most >> 10} KiB with its variables")
        return value

    def line_of(place: int) -> int:
        nonlocal line, seen
        line, seen = line + text.count("\n", seen, place), place
        return line

    def replacement(found: re.Match[str]) -> str:
        escaped, short, long, operator, word = found.groups()
        if escaped:
            return "$"
        name = short or long
        value = values.get(name)
        if operator is None:
            if value is None and long:
                unset(line_of(found.start()), name)
            return found[0] if value is None else value
        has = value is not None and (value != "" or not operator.startswith(":"))
        if operator.endswith("+"):
            return _word(word) if has else ""
        return value if has and value is not None else _word(word)

    def _word(word: str) -> str:
        if word.startswith("$") and (named := values.get(word[1:].strip("{}"))) is not None:
            return named
        return word

    return _FOUND.sub(replaced, text)
