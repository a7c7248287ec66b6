"""Take a lab back to its guests: no template, overlays, interfaces, rules and bridges."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from dumm_tools import statefile
from dumm_tools.files import stack, template
from dumm_tools.net import bridge, iface, rule

OnError = Callable[[str, Exception], None]


def clear(labdir: str, *, on_error: OnError, warn: Callable[[str], None]) -> None:
    """Remove everything that commands have added to guests, which keep running, and keep their
    files. Failures are reported, and everything else is removed nevertheless."""

    def each(names: Iterable[str], remove: Callable[[str], object]) -> None:
        for name in names:
            try:
                remove(name)
            except Exception as e:  # one failure must not affect the others
                on_error(name, e)

    each(
        ["template"],
        lambda _: template.unload(labdir, if_exists=True, on_error=on_error, warn=warn),
    )
    each(["overlays"], lambda _: stack.clear(labdir, on_error=on_error, warn=warn))
    state = statefile.load(labdir)
    each(
        (name for name, guest in state.guests.items() if guest.rules),
        lambda name: rule.clear(labdir, name),
    )
    each(state.ifaces, lambda name: iface.delete(labdir, name, if_exists=True, warn=warn))
    each(state.bridges, lambda name: bridge.delete(labdir, name, if_exists=True, warn=warn))
