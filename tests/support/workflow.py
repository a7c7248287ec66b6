"""The steps of examples/github-actions.yml."""

from __future__ import annotations

from typing import Any

import yaml

from support import TOP

FILE = TOP / "examples/github-actions.yml"


def steps() -> list[dict[str, Any]]:
    """The steps of its job, in order."""
    found: list[dict[str, Any]] = yaml.safe_load(FILE.read_text())["jobs"]["labs"]["steps"]
    return found


def script(name: str) -> str:
    """The script of the step of that name."""
    [found] = [step["run"] for step in steps() if step.get("name") == name]
    return str(found)
