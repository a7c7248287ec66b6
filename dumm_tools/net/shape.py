"""Shaping: impairments of the traffic that a guest sends on an interface, by netem in the guest's
own kernel. The host needs no support for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dumm_tools import names, statefile
from dumm_tools.errors import DummError, TimedOut, Usage
from dumm_tools.net import cable, guest_links, link_requests, link_views
from dumm_tools.running import blocks

#: The settings, each with its unit and maximum value. Kernels keep a jitter of at most 2^31 - 1
#: nanoseconds, and cap or garble a longer one (sch_netem.c, get_slot and tabledist).
KEYS: dict[str, tuple[str, float]] = {
    "delay": (" ms", 600_000),
    "jitter": (" ms", 2147),
    "loss": (" %", 100),
    "duplicate": (" %", 100),
    "corrupt": (" %", 100),
    "reorder": (" %", 100),
    "rate": (" bit/s", 100e9),
}
RATE_MIN = 1000
_SUFFIXES = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}
#: Units of time, in milliseconds.
_TIMES = {"ms": 1.0, "msec": 1.0, "us": 1e-3, "usec": 1e-3, "s": 1e3, "sec": 1e3, "": 1.0}


def rate(text: str) -> float:
    """Parse 10mbit, 1.5gbit, 500kbit, 64k or 64000 into bits per second; Usage."""
    found = text.lower().removesuffix("/s").removesuffix("bit")
    number = found.rstrip("kmg")
    factor = _SUFFIXES.get(found[len(number) :])
    try:
        if factor is None or not number.replace(".", "", 1).isdecimal() or not number.isascii():
            raise ValueError
        return float(number) * factor
    except ValueError:
        raise Usage(f"bad rate {text!r}", hint="bits per second: 10mbit, 500kbit, 64000") from None


def milliseconds(key: str, text: str) -> float:
    """Parse 20ms, 1.5s, 500us or 20 (milliseconds); Usage."""
    unit = next(u for u in _TIMES if text.lower().endswith(u))
    number = _number(text[: len(text) - len(unit)])
    if number is None:
        hint = "milliseconds, or a time with its unit: 20, 20ms, 500us, 1.5s"
        raise Usage(f"bad {key} {text!r}", hint=hint)
    return number * _TIMES[unit]


def percent(key: str, text: str) -> float:
    """Parse 1% or 1; Usage."""
    number = _number(text.removesuffix("%"))
    if number is None:
        raise Usage(f"bad {key} {text!r}", hint="a percentage: 1, 0.5%")
    return number


def parsed(key: str, text: str) -> float:
    """The value of a setting as users write it, in its unit of `KEYS`; Usage."""
    if key == "rate":
        return rate(text)
    return milliseconds(key, text) if KEYS[key][0] == " ms" else percent(key, text)


def _number(text: str) -> float | None:
    """A number of ASCII digits, perhaps with a sign, a fraction and an exponent. Its range is
    checked with the others'."""
    try:
        return float(text) if text.isascii() and text == text.strip() and "_" not in text else None
    except ValueError:
        return None


def checked(shape: Mapping[str, float]) -> dict[str, float]:
    """A shape that netem supports, without zero values; Usage."""
    for key, value in shape.items():
        unit, most = KEYS[key]
        if not 0 <= value <= most:  # NaN fails both comparisons
            raise Usage(f"bad {key} {short_text(value)}", hint=f"0 to {most:.0f}{unit}")
    found = {
        key: link_requests.short(shape[key])
        for key in sorted(KEYS)
        if link_requests.short(shape.get(key, 0))
    }
    if 0 < found.get("rate", RATE_MIN) < RATE_MIN:
        raise Usage(f"bad rate {short_text(found['rate'])}", hint=f"at least {RATE_MIN} bit/s")
    for key in ("jitter", "reorder"):
        if key in found and "delay" not in found:
            raise Usage(f"{key} needs a delay", hint="--delay MS")
    if found.get("jitter", 0) > found.get("delay", 0):
        raise Usage(
            f"the jitter of {short_text(found['jitter'])} ms is more than the delay"
            f" of {short_text(found['delay'])} ms"
        )
    return found


def short_text(value: float) -> str:
    """A number for display."""
    return f"{value:.6f}".rstrip("0").rstrip(".")


def set_(labdir: str, name: str, values: Mapping[str, float], *, clear: bool = False) -> None:
    """Change the given values, and keep the others; with `clear`, discard those first. 0 removes a
    setting. Usage, NotFound, Conflict."""
    if not values and not clear:
        raise Usage("nothing to set", hint="--delay, --loss, --rate..., or --clear")
    checked({k: v for k, v in values.items() if k not in ("jitter", "reorder")})

    def edit(shape: Mapping[str, float]) -> dict[str, float]:
        return checked({**({} if clear else shape), **values})

    blocks.forget(labdir, [subject(name, key) for key in (KEYS if clear else values)])
    _change(labdir, name, edit)


def _change(
    labdir: str, name: str, edit: Callable[[Mapping[str, float]], dict[str, float]]
) -> None:
    guest, _ = names.interface(name)
    with cable.turn_of(labdir, guest):
        with statefile.transaction(labdir) as change:
            state = change.state
            record = link_views.interface(state, name)
            wanted = edit(record.shape)
            running = cable.reachable(labdir, state, guest)
            before = record.but()
            record.shape = wanted
            change.save()
            if running:
                cable.refresh_boot(labdir, state, guest)
        if running:
            with cable.taking_back(labdir, before, record):
                try:
                    guest_links.change_shape(labdir, record)
                except TimedOut:
                    raise
                except DummError:
                    guest_links.restore_shape(labdir, before)
                    raise


def subject(name: str, key: str) -> tuple[str, ...]:
    """A setting of an interface, among the changes of blocks."""
    return ("shape", name, key)


def block(
    labdir: str, name: str, values: Mapping[str, float], *, clear: bool = False
) -> blocks.Block:
    """Note that settings are about to be changed for the time of a command. Usage, NotFound."""

    def look() -> list[blocks.Change]:
        before = link_views.interface(statefile.load(labdir), name).shape
        after = checked({**({} if clear else before), **values})
        keys = KEYS if clear else values
        return [blocks.Change(subject(name, k), before.get(k, 0), after.get(k, 0)) for k in keys]

    return blocks.begin(labdir, look)


def put_back(labdir: str, name: str, block: blocks.Block) -> None:
    """Restore the settings that a block has changed, except for those that have been changed again,
    if the interface still exists."""
    with blocks.ending(labdir, block) as look:

        def edit(shape: Mapping[str, float]) -> dict[str, float]:
            found = dict(shape)
            for change in look():
                key = change.subject[2]
                if shape.get(key, 0) == change.after:
                    found[key] = float(change.before or 0)
            # Others may have set what depends on the delay.
            if not found.get("delay"):
                found |= {"jitter": 0, "reorder": 0}
            found["jitter"] = min(found.get("jitter", 0), found.get("delay", 0))
            return checked(found)

        record = statefile.load(labdir).ifaces.get(name)
        if record is not None and edit(record.shape) != record.shape:
            _change(labdir, name, edit)
