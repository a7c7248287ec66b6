"""Option values: sizes and times, as people write them."""

from __future__ import annotations

import math

import click

_SHIFTS = {"": 0, "K": 10, "M": 20, "G": 30}


def human_size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Parse 64M, 1G, 65536K, plain bytes or nothing (the default); the callback of --memory."""
    if value is None:
        return None
    if not value:
        from dumm_tools.model import DEFAULT_MEMORY  # slow to import, and rarely needed here

        return DEFAULT_MEMORY
    digits = value.rstrip("KMGIBkmgib")
    unit = value[len(digits) :].upper().removesuffix("B").removesuffix("I")
    # int() would accept digits of other scripts, too, and fail for thousands of digits.
    if unit not in _SHIFTS or not (digits.isascii() and digits.isdecimal() and len(digits) < 30):
        raise click.BadParameter(f"'{value}' is not a size such as 64M", ctx, param)
    return int(digits) << _SHIFTS[unit]


class Seconds(click.FloatRange):
    """A time: 0 or more, or `inf` for no limit."""

    name = "seconds"

    def __init__(self, *, positive: bool = False) -> None:
        super().__init__(min=0, min_open=positive)

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Parse a number of seconds; NaN is rejected, which no comparison would catch."""
        try:
            seconds = float(str(value))
        except ValueError:
            seconds = math.nan
        if math.isnan(seconds):
            self.fail(f"'{value}' is not a number of seconds", param, ctx)
        return float(super().convert(seconds, param, ctx))
