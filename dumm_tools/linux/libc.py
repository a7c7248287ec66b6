"""Calls of the C library, through _ctypes: importing ctypes would cost each command 4 ms."""

from __future__ import annotations

from collections.abc import Callable


def call(name: str, *args: int | bytes | None) -> int:
    """Call a function and return its result. Its errno is not available this way."""
    import _ctypes

    libc = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]  # the program itself, dlopen(3)
    function: Callable[[int, tuple[int | bytes | None, ...]], int] = _ctypes.call_function
    return function(_ctypes.dlsym(libc, name), args)
