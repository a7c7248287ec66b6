"""The runner for programs in a lab: nft, tcpdump, fuse-overlayfs, dot. Argument lists only, never
a shell.

This uses `subprocess`, which starts no threads. A command that has entered an isolated lab cannot
have any: its children are in another pid namespace than itself (setns(2)). Programs that `dumm-fs`
runs without entering a lab are for `foreground`. Guests, the holder and the uplink's program, which
outlive the command, are spawned by `guests` and `running`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from dumm_tools import messages
from dumm_tools.errors import DummError

if TYPE_CHECKING:
    import subprocess

#: The Debian package of each program, for the message if it is missing.
PACKAGE_OF = {
    "apt-get": "apt",
    "apt-config": "apt",
    "apt-cache": "apt",
    "dpkg-deb": "dpkg",
    "mmdebstrap": "mmdebstrap",
    "tar": "tar",
    "tcpdump": "tcpdump",
    "busybox": "busybox-static",
    "zstd": "zstd",
    "fuse-overlayfs": "fuse-overlayfs",
    "nft": "nftables",
    "pasta": "passt",
    "dot": "graphviz",
}

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

_level = 0


def set_verbosity(level: int) -> None:
    """Set how much `log` prints: 0 nothing, 1 each step, 2 details as well."""
    global _level
    _level = level


def log(text: str, level: int = 1) -> None:
    """Print a step on stderr if -v (or -vv for level 2) was given."""
    if _level >= level:
        messages.say(f"+ {text}")


def run(
    argv: Sequence[str],
    *,
    stdin: int = -3,  # subprocess.DEVNULL
    capture: bool = False,
    check: bool = True,
    env: Mapping[str, str] | None = None,
    quiet: bool = False,
    text: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `argv` to its end, with `text` (or else `stdin`) as its input. If it fails, DummError
    contains the program and the last line of its output."""
    import shlex
    import subprocess

    log(shlex.join(argv))
    try:
        done = subprocess.run(
            argv,
            **({"stdin": stdin} if text is None else {"input": text}),
            stdout=subprocess.PIPE if capture else subprocess.DEVNULL,
            stderr=subprocess.PIPE if quiet else None,
            env={**os.environ, "LC_ALL": "C", **(env or {})},
            text=True,
            errors="surrogateescape",
            check=False,
        )
    except FileNotFoundError:
        raise not_installed(argv[0]) from None
    if check and done.returncode != 0:
        last = (done.stderr or "").strip().rpartition("\n")[2]
        raise DummError(f"{argv[0]} failed: {last or f'exit status {done.returncode}'}")
    return done


def convert(argv: Sequence[str], data: bytes) -> bytes:
    """Run a filter on `data`, and return its output; DummError as for `run`."""
    import shlex
    import subprocess

    log(shlex.join(argv))
    env = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(argv, input=data, capture_output=True, env=env, check=False)
    except FileNotFoundError:
        raise not_installed(argv[0]) from None
    if done.returncode != 0:
        last = done.stderr.decode(errors="surrogateescape").strip().rpartition("\n")[2]
        raise DummError(f"{argv[0]} failed: {last or f'exit status {done.returncode}'}")
    return done.stdout


def start(argv: Sequence[str], *, stdout: int) -> subprocess.Popen[bytes]:
    """Start a program that runs beside us, with our stdin and stderr and with the descriptor
    `stdout`. Its signals are the default ones, unless they are blocked. DummError."""
    import shlex
    import subprocess

    log(shlex.join(argv))
    try:
        return subprocess.Popen(argv, stdout=stdout)
    except FileNotFoundError:
        raise not_installed(argv[0]) from None
    except OSError as e:
        raise DummError(f"cannot run '{argv[0]}': {e.strerror}") from None


def follow(
    argv: Sequence[str], log_file: str, line: Callable[[str], None], *, env: Mapping[str, str]
) -> int:
    """Run a program to its end with the environment `env`; return its exit status. Its output,
    errors included, is appended to `log_file`, and each line of it is passed to `line`.

    If we are interrupted or `line` fails, it gets SIGTERM, as it does if we are killed, and is
    waited for: make removes what it has half made. With a pipe, SIGPIPE would kill it instead.
    """
    import select
    import shlex
    import signal
    import subprocess

    from dumm_tools.linux import libc

    log(shlex.join(argv))
    with (
        open(log_file, "ab") as output,
        open(log_file, encoding="utf-8", errors="surrogateescape") as reader,
    ):
        reader.seek(0, os.SEEK_END)
        try:
            child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=env,
                preexec_fn=lambda: libc.call("prctl", _PR_SET_PDEATHSIG, int(signal.SIGTERM)),
            )
        except FileNotFoundError:
            raise not_installed(argv[0]) from None
        end = os.pidfd_open(child.pid)
        try:
            rest, ended = "", False
            while not ended:
                ended = bool(select.select([end], [], [], 0.1)[0])
                *lines, rest = (rest + reader.read()).split("\n")
                for text in lines:
                    line(text)
            return child.wait()
        except BaseException:
            child.terminate()
            child.wait()
            raise
        finally:
            os.close(end)


def not_installed(program: str) -> DummError:
    """The error for a program that is not installed on this machine."""
    name = os.path.basename(program)
    package = PACKAGE_OF.get(name)
    return DummError(
        f"cannot find '{name}'", hint=f"apt-get install {package}" if package else None
    )
