"""Copies of templates that guests write to until something else is loaded: templates/.fresh-*.

A copy belongs to the state that names it. One that no state names was left by a command that was
killed, or is about to be dropped.
"""

from __future__ import annotations

import contextlib
import os

from dumm_tools.errors import DummError
from dumm_tools.files import changes, mounts
from dumm_tools.running import liveness
from dumm_tools.statefile import load
from dumm_tools.trees import copying, tree

_PREFIX = ".fresh-"


def make(labdir: str, template: str) -> str:
    """Copy a template as it is now; return the name of the copy in templates/."""
    state = load(labdir)
    place = os.path.join(labdir, "templates")
    name = _PREFIX + os.urandom(4).hex()
    os.mkdir(os.path.join(place, name), 0o700)
    for guest in sorted(os.listdir(os.path.join(place, template))):
        source = mounts.template_layer(labdir, template, guest)
        if os.path.isdir(source) and not os.path.islink(source):
            os.mkdir(mounts.template_layer(labdir, name, guest))
            marks = changes.marks(labdir, state, guest)
            target = mounts.template_layer(labdir, name, guest)
            copying.copy_tree(source, target, marks=marks, live=True)
    return name


def drop(labdir: str) -> None:
    """Remove the copies that are not loaded, unless a guest may still use one: then the next
    change of the template does."""
    state = load(labdir)
    for guest in state.guests:
        if mounts.is_unsettled(labdir, guest) and liveness.alive(labdir, guest):
            return
    remove(labdir, keep=state.fresh)


def remove(labdir: str, *, keep: str | None = None) -> None:
    """Remove all copies but one."""
    place = os.path.join(labdir, "templates")
    for name in os.listdir(place) if os.path.isdir(place) else ():
        if name.startswith(_PREFIX) and name != keep:
            with contextlib.suppress(OSError, DummError):  # the next one tries again
                tree.refuse_mounts(os.path.join(place, name))
                tree.remove(os.path.join(place, name))
