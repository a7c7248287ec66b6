"""Labs that are the same again after each test."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

from dumm_tools.api import Lab, Usage

#: The template of scenarios that name none: empty, unless somebody fills it.
_PRISTINE = "pristine"
_RESETS = ("template", "reboot")


@contextlib.contextmanager
def running(
    lab: Lab, template: str = _PRISTINE, *, reset: Literal["template", "reboot"] = "template"
) -> Iterator[None]:
    """Run all guests with a copy of a template on top, which is made if it does not exist. At the
    end, the lab becomes what its dump said before, and the copy is dropped; with the reset
    "reboot", the guests are restarted, too, so that nothing goes on running. Usage."""
    if reset not in _RESETS:
        raise Usage(f"the reset of a scenario is one of {', '.join(_RESETS)}, not '{reset}'")
    lab.start(may_run=True)
    before = lab.dump()
    lab.template(template).load(fresh=True, create=True)
    try:
        yield
    finally:
        lab.unload(if_exists=True)
        lab.apply(before, prune=True)
        lab.start(may_run=True)
        if reset == "reboot":
            lab.command("guest", "restart", "--all")
