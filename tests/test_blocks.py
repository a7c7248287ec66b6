"""Notes of changes for the time of a command."""

from __future__ import annotations

import contextlib
import os
import tempfile

from hypothesis import given
from hypothesis import strategies as st

from dumm_tools.running import blocks
from dumm_tools.running.blocks import Change

SUBJECT = ("value",)


class Setting:
    """A value, and the commands that change it for their time."""

    def __init__(self, labdir: str) -> None:
        self.labdir, self.value = labdir, 0
        self.held: list[tuple[blocks.Block, int]] = []

    def begin(self, value: int) -> None:
        """Start one."""
        block = blocks.begin(self.labdir, lambda: [Change(SUBJECT, self.value, value)])
        self.held.append((block, value))
        self.value = value

    def end(self, number: int, meanwhile: contextlib.AbstractContextManager[object]) -> None:
        """End one of them; something happens while it looks."""
        block, _ = self.held.pop(number % len(self.held))
        with blocks.ending(self.labdir, block) as look:
            look()
            with meanwhile:
                pass
            for change in look():
                if self.value == change.after:
                    assert isinstance(change.before, int)
                    self.value = change.before
        os.close(block.fd)


steps = st.lists(st.tuples(st.sampled_from(["begin", "end", "both"]), st.integers(0, 3)))


@given(steps)
def test_commands_that_end_in_any_order_leave_nothing(order: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as labdir:
        setting = Setting(labdir)
        for step, number in order:
            if step == "begin" or not setting.held:
                setting.begin(number)
            elif step == "end":
                setting.end(number, contextlib.nullcontext())
            else:
                later = contextlib.ExitStack()
                later.callback(setting.begin, number)
                setting.end(number, later)
            if setting.held:
                assert setting.value in {value for _, value in setting.held}, order
        while setting.held:
            setting.end(0, contextlib.nullcontext())
        assert setting.value == 0
        assert os.listdir(f"{labdir}/run/blocks.d" if order else labdir) == []
