"""Hosts whose processor has more registers than a guest's kernel knows (agent/preload/registers.c).

That guests of all kernels run is tested everywhere else, on whatever processor the tests run.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from support import PATIENCE, TOP

from dumm_tools.agent import PRELOAD, build

SAID = """\
set: done
set: done
peek: -1 0
peek at nothing: -1 Input/output error
xmm0 was set
nobody: -1 No such process
"""


def test_some_of_the_registers_can_be_set(tmp_path: Path) -> None:
    build.build()
    program = tmp_path / "registers"
    compiler = os.environ.get("CC", "gcc").split()
    subprocess.run([*compiler, "-O1", "-o", program, TOP / "tests/registers.c"], check=True)
    without, with_ = (
        subprocess.run(
            [program], env=env, capture_output=True, text=True, timeout=PATIENCE, check=True
        ).stdout
        for env in ({}, {"LD_PRELOAD": PRELOAD})
    )
    assert with_ == SAID
    assert "set: Bad address\n" in without
