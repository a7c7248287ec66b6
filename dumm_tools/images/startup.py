"""The command of a container image, which guests without an init run at each boot.

It is one of the facts about a master in the cache (`facts.py`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from dumm_tools.images import facts

#: Maximum size of all its words.
_SIZE_MAX = 64 << 10


class Command(NamedTuple):
    """A command with its environment, directory and user, as an image has them."""

    argv: tuple[str, ...]
    env: dict[str, str]
    directory: str
    user: str

    def as_words(self) -> list[str]:
        """The command as one for root in any directory."""
        words = [
            "env",
            "-C",
            self.directory,
            *(f"{n}={v}" for n, v in self.env.items()),
            *self.argv,
        ]
        if self.user in ("root", "0"):
            return words
        import shlex

        return ["su", "-s", "/bin/sh", self.user, "-c", f"exec {shlex.join(words)}"]

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
    if command is not None:
        facts.record(name, command=command._asdict())


def command_of(master: str) -> Command | None:
    """The command of the master at `master`, None if it has none."""
    found = facts.read(master).get("command")
    if found is None:
        return None
    try:
        return _checked(
            Command(
                tuple(_words(found["argv"])),
                {str(name): str(value) for name, value in found["env"].items()},
                str(found["directory"]),
                str(found["user"]),
            )
        )
    except (KeyError, TypeError, AttributeError):
        return None


def _words(found: Any) -> list[str]:
    return [word for word in found if isinstance(word, str)] if isinstance(found, list) else []


def _checked(command: Command) -> Command | None:
    words = [*command.argv, command.directory, command.user]
    words += [f"{name}={value}" for name, value in command.env.items()]
    if not command.argv or not command.argv[0] or any("\0" in word for word in words):
        return None
    try:
        size = sum(len(word.encode()) for word in words)
    except UnicodeEncodeError:  # JSON can say half of a surrogate pair
        return None
    return command if size <= _SIZE_MAX else None
