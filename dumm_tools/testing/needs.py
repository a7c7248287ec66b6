"""The needs of a test: kernels and programs of its lab's guests, and of the host."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from collections.abc import Sequence

from dumm_tools.api import DummError, Lab, Usage
from dumm_tools.api.views import GuestView

_WHERE = ("kernel", "program", "host")


def lacking(lab: Lab | None, texts: Sequence[str]) -> str | None:
    """Why a test cannot be run, or None. Usage for a text that means nothing."""
    for text in texts:
        where, colon, name = text.partition(":")
        if not (colon and name) or where not in _WHERE:
            raise Usage(f"needs: '{text}' is not one of {', '.join(f'{w}:NAME' for w in _WHERE)}")
        if where == "host":
            if shutil.which(name) is None:
                return f"the host has no program '{name}'"
            continue
        if lab is None:
            raise Usage(f"needs: '{text}' is for tests that use a lab")
        guests = [each for each in lab.guests() if each.state == "running"]
        if where == "program" and not any(_has_program(lab, each, name) for each in guests):
            return f"no guest has a program '{name}'"
        if where == "kernel":
            without = [each.name for each in guests if not _has_feature(lab, each, name)]
            if without or not guests:
                return (
                    f"the kernel of guest '{without[0]}' lacks {name}"
                    if without
                    else ("no guest is running, whose kernel could be asked")
                )
    return None


def _has_program(lab: Lab, guest: GuestView, name: str) -> bool:
    found = lab.guest(guest.name).run(["sh", "-c", 'command -v "$0"', name])
    return not found.returncode


def _has_feature(lab: Lab, guest: GuestView, name: str) -> bool:
    """Whether a kernel has a feature, by its own configuration if it tells, or by that of its pack,
    as `dumm-fs kernel show` does."""
    try:
        text = gzip.decompress(lab.guest(guest.name).read_bytes("/proc/config.gz")).decode()
    except (DummError, OSError, EOFError):
        text = ""
    if re.search(rf"^CONFIG_{re.escape(name)}=[ym]$", text, re.MULTILINE):
        return True
    if guest.kernel is None:
        return False
    try:
        shown = lab.command("fs", "kernel", "show", guest.kernel, "--format", "json").stdout
    except DummError:  # a kernel that is not in the cache
        return False
    features = json.loads(shown)[0]["features"] or []
    return name.lower() in features
