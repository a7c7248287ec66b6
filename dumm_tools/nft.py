"""nftables of the network namespace that we are in, by nft(8)."""

from __future__ import annotations

import json
import os

from dumm_tools import proc


def run(script: str) -> None:
    """Carry out a script: all of it or, with a DummError, nothing."""
    # No pipe: SIGPIPE would end us where the program ends without reading.
    fd = os.memfd_create("nft", os.MFD_CLOEXEC)
    try:
        os.write(fd, script.encode())
        os.lseek(fd, 0, os.SEEK_SET)
        proc.run([_program(), "-f", "-"], stdin=fd, quiet=True)
    finally:
        os.close(fd)


def dropped(table: str) -> str:
    """The script that takes away a table ("FAMILY NAME"), if it is there."""
    return f"add table {table}\ndelete table {table}\n"


def listed(*what: str) -> list[dict[str, dict[str, str]]]:
    """What `nft list` says, as its JSON has it. DummError."""
    done = proc.run([_program(), "-j", "list", *what], capture=True, quiet=True)
    found: list[dict[str, dict[str, str]]] = json.loads(done.stdout)["nftables"]
    return found


def _program() -> str:
    """It is where ordinary users do not look for programs."""
    from shutil import which

    return which("nft", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or "nft"
