"""The memory ceiling of guests: a control group, where the host lets us make one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Lab

from dumm_tools import launch
from dumm_tools.linux import cgroup


def can_make() -> bool:
    """Can a group be made here? As the product finds out: by trying."""
    try:
        cgroup.remove(cgroup.make(f"dumm-try-{os.getpid()}", 1 << 30))
    except OSError:
        return False
    return True


def test_a_group_bounds_what_is_in_it() -> None:
    """Where none can be made that is an OSError, and nothing is left."""
    name = f"dumm-test-{os.getpid()}"
    if not can_make():
        with pytest.raises(OSError, match=r"\w"):
            cgroup.make(name, 1 << 24)
        return
    path = cgroup.make(name, 32 << 20)
    try:
        script = (
            "import sys; open(sys.argv[1] + '/cgroup.procs', 'w').write('0'); "
            "x = bytearray(int(sys.argv[2])); print(len(x))"
        )
        run = [sys.executable, "-c", script, path]
        fits = subprocess.run([*run, str(1 << 20)], capture_output=True, check=False)
        assert fits.returncode == 0, fits.stderr
        large = subprocess.run([*run, str(256 << 20)], capture_output=True, check=False)
        assert large.returncode == -9
    finally:
        assert cgroup.remove(path)


@pytest.mark.uml
def test_a_guest_has_a_ceiling(lab: Lab) -> None:
    lab("dumm-guest create a --memory 64M --start")
    state = json.loads((lab.directory / "state.json").read_text())
    path = state["guests"]["a"]["boot"]["cgroup"]
    assert bool(path) == (can_make() and os.geteuid() == 0)
    if path:
        limit = next(
            p
            for p in map(Path(path).joinpath, ("memory.max", "memory.limit_in_bytes"))
            if p.exists()
        )
        assert int(limit.read_text()) == (64 << 20) + launch.CEILING_OVERHEAD
        assert not cgroup.is_empty(path)
        # All of its own memory is the guest's to use.
        fill = "head -c 30000000 /dev/urandom >/dev/shm/x && sleep 0.1 && echo filled"
        assert lab(["dumm-guest", "exec", "a", "--", "sh", "-c", fill], status=None).code in (0, 1)
        assert lab("dumm-guest list -o state").out == "running\n"
    lab("dumm-guest stop a")
    assert not path or not Path(path).exists()
