"""The lab that a command works on: its directory, and its namespaces, once entered."""

from __future__ import annotations

import os

import click


def labdir() -> str:
    """The working directory named by -C or DUMM_DIR: absolute, without links, and trusted
    (`trust.resolve`)."""
    context = click.get_current_context()
    found = context.meta.get("dumm.labdir")
    if found is None:
        found = context.meta["dumm.labdir"] = working_directory(context)
    return str(found)


def entered(*, make: bool = True) -> str:
    """Like `labdir`, but inside the lab's own namespaces if it has any (`entry`): for
    verbs that look at links or mounts or, with `make`, change them."""
    directory = labdir()
    meta = click.get_current_context().meta
    if "dumm.entered" not in meta:
        from dumm_tools.running import entry

        if entry.bring_up(directory) if make else entry.enter(directory):
            meta["dumm.entered"] = True
    return directory


def working_directory(context: click.Context | None) -> str:
    """The working directory for a context (None when completing without one)."""
    from dumm_tools import trust

    while context is not None:
        if "dumm.directory" in context.meta:
            return trust.resolve(str(context.meta["dumm.directory"]))
        context = context.parent
    return trust.resolve(os.environ.get("DUMM_DIR") or ".")
