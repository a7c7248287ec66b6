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


def anywhere() -> str:
    """Like `labdir`, for a verb that needs no lab: a directory without one need not be trusted,
    since nothing in it is read."""
    directory = os.path.realpath(named_directory(click.get_current_context()))
    if not os.path.lexists(os.path.join(directory, "state.json")):
        return directory
    return labdir()


def working_directory(context: click.Context | None) -> str:
    """The working directory for a context (None when completing without one)."""
    from dumm_tools import trust

    return trust.resolve(named_directory(context))


def named_directory(context: click.Context | None) -> str:
    """The working directory as the user has named it, for commands that do not use what is in
    it."""
    while context is not None:
        if "dumm.directory" in context.meta:
            return str(context.meta["dumm.directory"])
        context = context.parent
    return os.environ.get("DUMM_DIR") or "."


def is_hosts_root() -> bool:
    """Whether we are the host's root user, whose labs may be on the host's network."""
    from dumm_tools.linux import namespaces

    return os.geteuid() == 0 and namespaces.is_initial()
