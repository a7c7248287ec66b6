"""A tick of the timer while a guest's kernel is about to execute itself anew; and preload.so, which
puts it off (agent/preload/tick.c)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support import PATIENCE, PLACES, TOP
from support.guests import pid_of
from support.labs import Lab

from dumm_tools.agent import PRELOAD, build

SAID = """\
handler: ours
mask: 1 0
invalid: -1
once: 0 on the first stack
once: on another
repeated: 0 on the first stack
repeated: on another
repeats: 1
ignored: 0 0
"""


@pytest.fixture(scope="module")
def tick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program tick.c."""
    target = tmp_path_factory.mktemp("tick") / "tick"
    compiler = os.environ.get("CC", "gcc").split()
    subprocess.run([*compiler, "-O1", "-o", target, TOP / "tests/tick.c"], check=True)
    return target


def test_tick_waits_for_the_end_of_the_first_stack(tick: Path) -> None:
    build.build()
    done = subprocess.run(
        [tick],
        env={"LD_PRELOAD": PRELOAD},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert (done.stdout, done.stderr) == (SAID, "")


@pytest.mark.uml
@pytest.mark.parametrize(("suite", "kind"), PLACES)
def test_tick_does_not_end_a_reboot(
    new_lab: Callable[..., Lab], tick: Path, suite: str, kind: str
) -> None:
    lab = new_lab("lab", kind, kernel=suite)
    lab("dumm-guest create a")
    lab("dumm-guest start a")
    kernel = str(pid_of(lab, "a"))
    disturbing = lab.start([tick, kernel])
    assert disturbing.stdout
    assert disturbing.stdout.readline() == b"ready\n"
    lab("dumm-guest exec a -- reboot", status=None)
    lab("dumm-guest wait a")
    assert disturbing.communicate(timeout=PATIENCE) == (b"raised\n", b"")
    lab("dumm-guest exec a -- true")
