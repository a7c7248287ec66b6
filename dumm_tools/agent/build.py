"""Compile the agent into an initial RAM disk, the jail, and preload.so;
`python -m dumm_tools.agent.build`.

The sources are part of the package, so this works both in a checkout and in an installed package.
Files that are newer than their sources are left alone. The package's build calls `build` through
`packaging.py`; this module needs only Python and a C compiler.
"""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence

from dumm_tools.agent import HERE, INITRD, JAIL, PRELOAD

NO_COMPILER = (
    "dumm-tools: a C compiler is needed to build the guest agent (apt-get install gcc libc6-dev)"
)

# The agent runs before anything else in the guest, so it uses no C library; its system calls
# are in src/sys.h. Position independence, unwind tables and alignment would only make it
# larger.
# fmt: off
AGENT_FLAGS = [
    "-O2", "-Wall", "-Wextra",
    "-ffreestanding", "-fno-stack-protector", "-fno-builtin",
    "-fno-pic", "-no-pie", "-fno-asynchronous-unwind-tables",
    "-falign-functions=1", "-falign-loops=1",
    "-ffunction-sections", "-Wl,--gc-sections,--build-id=none,-z,noseparate-code",
    "-static", "-nostdlib", "-s",
]
# fmt: on
# The jail is linked statically because it also runs on hosts other than the one that built it.
JAIL_FLAGS = ["-O2", "-Wall", "-Wextra", "-static", "-s"]
# The library that guests' kernels load must not depend on the C library that was used here: each
# pack has its own.
# fmt: off
PRELOAD_FLAGS = [
    "-O2", "-Wall", "-Wextra",
    "-ffreestanding", "-fno-stack-protector", "-fno-builtin", "-fno-tree-loop-distribute-patterns",
    "-fno-asynchronous-unwind-tables",
    "-fPIC", "-fvisibility=hidden", "-shared", "-nostdlib", "-s",
    "-Wl,--build-id=none,-z,noseparate-code,-z,now,-z,noexecstack",
]
# fmt: on

_TRAILER = "TRAILER!!!"


class BuildError(Exception):
    """The compiler is missing or failed; the message is meant for the user."""


def build(target: str = HERE) -> None:
    """Bring initrd.cpio, jail.bin and preload.so in the directory `target` up to date;
    BuildError."""
    initrd = os.path.join(target, os.path.basename(INITRD))
    agent_sources = _sources(os.path.join(HERE, "src"))
    if _is_older(initrd, agent_sources):
        with tempfile.TemporaryDirectory() as scratch:
            agent = os.path.join(scratch, "agent")
            _compile(AGENT_FLAGS, agent_sources, agent)
            with open(agent, "rb") as file:
                _replace(initrd, archive(file.read()), 0o644)
    sources = _sources(os.path.join(HERE, "jail"))
    _build_file(JAIL_FLAGS, sources, os.path.join(target, os.path.basename(JAIL)), 0o755)
    sources = [*_sources(os.path.join(HERE, "preload")), os.path.join(HERE, "src", "sys.h")]
    _build_file(PRELOAD_FLAGS, sources, os.path.join(target, os.path.basename(PRELOAD)), 0o644)


def _build_file(flags: Sequence[str], sources: Sequence[str], target: str, mode: int) -> None:
    if _is_older(target, sources):
        with tempfile.TemporaryDirectory() as scratch:
            binary = os.path.join(scratch, "binary")
            _compile(flags, sources, binary)
            with open(binary, "rb") as file:
                _replace(target, file.read(), mode)


def archive(agent: bytes) -> bytes:
    """Build the initial RAM disk: /dev/console and the agent as /init, byte-for-byte reproducible.

    This does not use cpio(1), which would need root to create the device node.
    """
    entries = (
        ("dev", stat.S_IFDIR | 0o755, (0, 0), b""),
        ("dev/console", stat.S_IFCHR | 0o600, (5, 1), b""),
        ("init", stat.S_IFREG | 0o755, (0, 0), agent),
    )
    parts = [_entry(n, *entry) for n, entry in enumerate(entries, start=1)]
    return b"".join([*parts, _entry(0, _TRAILER, 0, (0, 0), b"")])


def _entry(inode: int, name: str, mode: int, device: tuple[int, int], data: bytes) -> bytes:
    """One member in the `newc` format (Documentation/driver-api/early-userspace/buffer-format)."""
    links = 2 if stat.S_ISDIR(mode) else 1
    path = name.encode() + b"\0"
    numbers = (inode, mode, 0, 0, links, 0, len(data), 0, 0, *device, len(path), 0)
    header = b"070701" + b"".join(b"%08X" % n for n in numbers) + path
    return _padded(header) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)


def _sources(directory: str) -> list[str]:
    return sorted(e.path for e in os.scandir(directory) if e.name.endswith((".c", ".h")))


def _is_older(target: str, sources: Sequence[str]) -> bool:
    """Whether `target` is missing, or older than a source or than this file with its flags."""
    try:
        made = os.stat(target).st_mtime_ns
    except FileNotFoundError:
        return True
    return any(os.stat(source).st_mtime_ns >= made for source in (*sources, __file__))


def _compile(flags: Sequence[str], sources: Sequence[str], output: str) -> None:
    files = [source for source in sources if source.endswith(".c")]
    for compiler in _compilers():
        try:
            done = subprocess.run([*compiler, *flags, "-o", output, *files], check=False)
        except (FileNotFoundError, PermissionError):
            continue
        if done.returncode != 0:
            where = os.path.relpath(os.path.dirname(files[0]), os.path.dirname(HERE))
            raise BuildError(f"dumm-tools: cannot compile {where}: {compiler[0]} failed")
        return
    raise BuildError(NO_COMPILER)


def _compilers() -> Iterator[list[str]]:
    """CC alone if it is set, otherwise the usual names."""
    chosen = shlex.split(os.environ.get("CC", ""))
    if chosen:
        yield chosen
    else:
        yield from (["gcc"], ["cc"], ["clang"])


def _replace(path: str, data: bytes, mode: int) -> None:
    """Write a file atomically: a guest may be starting from the old one."""
    fd, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".build-")
    try:
        with open(fd, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), mode)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def main() -> int:
    """Build in place; return 0, or 1 after one line on stderr."""
    try:
        build()
    except BuildError as e:
        print(e, file=sys.stderr)
        return 1
    except OSError as e:
        print(f"dumm-tools: cannot build the guest agent: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
