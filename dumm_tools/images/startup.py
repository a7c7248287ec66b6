"""The command of a container image, which guests without an init run at each boot.

It is kept beside a master in the cache, in `.NAME.json`; a directory that is used as a master has
none.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from dumm_tools.images import cache

#: Maximum size of all its words.
_SIZE_MAX = 64 << 10
_FILE_MAX = 1 << 20


class Command(NamedTuple):
    """A command with its environment, directory and user, as an image has them."""

    argv: tuple[str, ...]
    env: dict[str, str]
    directory: str
    user: str

    @classmethod
    def of_image(cls, config: dict[str, Any]) -> Command | None:
        """The command in the configuration of an image; None if it has none that can be run."""
        argv = [*_words(config.get("Entrypoint")), *_words(config.get("Cmd"))]
        pairs = (word.partition("=") for word in _words(config.get("Env")))
        env = {name: value for name, equals, value in pairs if name and equals}
        directory, user = config.get("WorkingDir"), config.get("User")
        # A guest's group is that of its user.
        user = user.partition(":")[0] if isinstance(user, str) else ""
        directory = directory if isinstance(directory, str) and directory[:1] == "/" else "/"
        return _checked(cls(tuple(argv), env, directory, user or "root"))


def record(name: str, command: Command | None) -> None:
    """Keep the command of the master that is being made as `name` in the cache."""
    import json

    path = cache.facts_path("masters", os.path.join(cache.directory("masters"), name))
    if command is None or path is None:
        return
    with open(f"{path}.new", "w", encoding="utf-8", errors="surrogateescape") as file:
        json.dump({"command": command._asdict()}, file, indent=1)
        file.write("\n")
    os.replace(f"{path}.new", path)


def command_of(master: str) -> Command | None:
    """The command of the master at `master`, None if it has none."""
    path = cache.facts_path("masters", master)
    if path is None:
        return None
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    import json

    with open(fd, encoding="utf-8", errors="surrogateescape") as file:
        try:
            found = json.loads(file.read(_FILE_MAX))["command"]
            return _checked(
                Command(
                    tuple(_words(found["argv"])),
                    {str(name): str(value) for name, value in found["env"].items()},
                    str(found["directory"]),
                    str(found["user"]),
                )
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None


def _words(found: Any) -> list[str]:
    return [word for word in found if isinstance(word, str)] if isinstance(found, list) else []


def _checked(command: Command) -> Command | None:
    words = [*command.argv, command.directory, command.user]
    words += [f"{name}={value}" for name, value in command.env.items()]
    if not command.argv or not command.argv[0] or any("\0" in word for word in words):
        return None
    return command if sum(map(len, words)) <= _SIZE_MAX else None
