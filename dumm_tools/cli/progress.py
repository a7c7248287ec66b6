"""Progress of long work, on a terminal."""

from __future__ import annotations

from dumm_tools import messages, proc


class Progress:
    """A changing line on stderr if that is a terminal; otherwise nothing."""

    def __init__(self) -> None:
        self._on = messages.on_terminal()
        self._shown = False

    def __call__(self, text: str) -> None:
        if self._on:
            messages.progress(text)
            self._shown = True
        else:
            proc.log(text)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            messages.clear()
