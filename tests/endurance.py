"""`make endurance`: the library used for long.

    endurance.py [--runs N] [--threads N] [--mebibytes N] [--isolated]

It runs as root, in a network and mount namespace of its own. Many programs are run in a row, then
in several threads at once, then one prints much to a file. Descriptors and memory of this process
and of the session must not grow.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from support import SUITES
from support.library import descriptors, pair, sessions
from support.masters import cache_home
from support.namespaces import isolate

from dumm_tools import Lab

#: Growth that is not held against anybody: allocators keep some (KiB).
SLACK = 4096


class Use(NamedTuple):
    """Descriptors and memory (KiB, RssAnon) of this process and of the session."""

    own_files: int
    own_memory: int
    session_files: int
    session_memory: int


def use(session: int) -> Use:
    """The use at this moment, once the session has given back lines to guests."""
    gc.collect()
    time.sleep(3)
    return Use(descriptors(), memory("self"), descriptors(session), memory(session))


def memory(pid: int | str) -> int:
    """The memory of a process that is its own (KiB)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("RssAnon:")]
    return int(line.split()[1])


def measured(what: str, session: int, work: Callable[[], object]) -> bool:
    """Do something twice, the first time for caches to fill; whether the second leaves nothing."""
    work()
    before, start = use(session), time.monotonic()
    work()
    took, after = time.monotonic() - start, use(session)
    grown = [b - a for a, b in zip(before, after, strict=True)]
    good = grown[0] <= 0 and grown[2] <= 0 and max(grown[1], grown[3]) <= SLACK
    print(
        f"{'ok  ' if good else 'MISS'} {what:28} {took:7.1f} s;"
        f" here {after.own_files} files ({grown[0]:+d}), {after.own_memory} KiB ({grown[1]:+d});"
        f" session {after.session_files} files ({grown[2]:+d}),"
        f" {after.session_memory} KiB ({grown[3]:+d})",
        flush=True,
    )
    return good


def main(argv: Sequence[str]) -> int:
    """Do all of it; exit with 1 if something has grown."""
    parser = argparse.ArgumentParser(description="Use the library for long.")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--mebibytes", type=int, default=1024)
    parser.add_argument("--isolated", action="store_true")
    wanted = parser.parse_args(argv)
    if os.geteuid() != 0:
        parser.error("root is needed: for a network namespace and taps")
    os.environ["XDG_CACHE_HOME"] = str(cache_home())
    isolate()
    with tempfile.TemporaryDirectory(prefix="dumm-endurance-") as place:
        lab = Lab.create(
            f"{place}/lab", isolated=wanted.isolated, kernel=SUITES[0], master="busybox"
        )
        with lab:
            alice, bob, _ = pair(lab)
            (session,) = sessions()

            def some(number: int) -> None:
                guest = (alice, bob)[number % 2]
                for turn in range(wanted.runs // wanted.threads):
                    assert guest.run(["echo", f"{number}.{turn}"]).stdout == f"{number}.{turn}\n"

            def row() -> None:
                for _ in range(wanted.runs):
                    assert alice.run(["true"]).returncode == 0

            def threads() -> None:
                with ThreadPoolExecutor(wanted.threads) as pool:
                    list(pool.map(some, range(wanted.threads)))

            def flood() -> None:
                out, size = f"{place}/out", wanted.mebibytes << 20
                alice.run(["head", "-c", str(size), "/dev/zero"], stdout=out, check=True)
                assert os.path.getsize(out) == size
                os.unlink(out)

            works = {
                f"{wanted.runs} in a row": row,
                f"{wanted.runs} in {wanted.threads} threads": threads,
                f"{wanted.mebibytes} MiB to a file": flood,
            }
            return 0 if all([measured(what, session, work) for what, work in works.items()]) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
