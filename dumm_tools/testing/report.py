"""The report of a failed test: consoles, changes of files, captures."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence

from dumm_tools.api import Capture, DummError, Lab

#: Lines of a console, and changes of a guest's files, that the report itself shows.
_LINES, _CHANGES = 40, 60


@contextlib.contextmanager
def captured(lab: Lab, expression: Sequence[str]) -> Iterator[Capture | None]:
    """Capture on all interfaces; None if none is plugged in."""
    with contextlib.ExitStack() as stack:
        try:
            capture = stack.enter_context(lab.capture(*expression))
        except DummError:
            yield None
            return
        yield capture


def sections(
    lab: Lab, test: str, directory: str | None, capture: Capture | None, phase: str
) -> list[tuple[str, str]]:
    """The sections of the report, with titles. With a directory, the whole of what they show is in
    files below it."""
    place = None
    if directory is not None:
        place = os.path.join(directory, re.sub(r"[^\w.\[\]-]+", "_", test)[:200])
        os.makedirs(place, exist_ok=True)
    found: list[tuple[str, str]] = []
    try:
        names = [each.name for each in lab.guests()]
    except DummError as e:
        return [("lab", str(e))]
    for name in names:
        for title, text, most in _of_guest(lab, name):
            lines = text.splitlines()
            if place is not None:
                with open(os.path.join(place, f"{name}.{title}"), "w", errors="replace") as file:
                    file.write(text)
            if lines:
                shown = lines[-most:] if title == "console" else lines[:most]
                left = len(lines) - len(shown)
                more = [f"({left} more lines)"] if left else []
                found.append((f"{title} of guest '{name}'", "\n".join(shown + more)))
    if capture is not None and phase == "call":
        found.append(("capture", _kept(capture, place)))
    return found


def _of_guest(lab: Lab, name: str) -> Iterator[tuple[str, str, int]]:
    guest = lab.guest(name)
    for title, most in (("console", _LINES), ("diff", _CHANGES)):
        try:
            if title == "console":
                text = guest.console_log()
            else:
                text = "\n".join(f"{each.kind} {each.path}" for each in guest.diff())
        except DummError as e:  # it was never started, for example
            text = str(e)
        yield title, text, most


def _kept(capture: Capture, place: str | None) -> str:
    """Say where the packets are; without a directory, how many there were."""
    if place is None:
        return f"{len(capture.packets())} packets; --dumm-report DIR keeps them"
    path = os.path.join(place, "capture.pcapng")
    with open(capture.path, "rb") as source, open(path, "wb") as target:
        target.write(source.read())
    return path
