"""Whether a kernel can run guests, determined by reading it."""

from __future__ import annotations

from collections.abc import Mapping

from dumm_tools.errors import DummError
from dumm_tools.images import elf, features, kernel_config


def check(binary: int, path: str, config: Mapping[str, str] | None, modules: bool) -> None:
    """DummError if the kernel, an open file that messages call `path`, lacks what guests need.

    If its configuration is not known, only UML's own options are looked for.
    """
    if config is not None:
        lacking = features.missing(config, modules)
    else:
        end = elf.loaded_end(binary, path)
        lacking = features.missing_from(elf.contained(binary, features.HELP.values(), end))
    if lacking:
        raise DummError(
            f"'{path}' cannot run guests: it lacks {lacking}",
            hint="build it with these options, or use 'dumm-fs kernel build'",
        )


def check_binary(binary: int, path: str, modules: bool) -> None:
    """Likewise for a binary of which nothing else is known."""
    check(binary, path, kernel_config.of_binary(binary, path), modules)
