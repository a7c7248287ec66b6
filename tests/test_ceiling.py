"""The memory ceiling of guests: a control group, where the host lets us make one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from support import PATIENCE
from support.checks import until
from support.labs import Lab
from support.world import mounts

from dumm_tools.agent import JAIL
from dumm_tools.guests import limits
from dumm_tools.linux import cgroup


def can_make() -> bool:
    """Whether a group can be made here, found out as dumm-guest does: by trying."""
    try:
        cgroup.remove(cgroup.make(f"dumm-try-{os.getpid()}", 1 << 30))
    except OSError:
        return False
    return True


def test_group_limits_the_memory_of_its_processes() -> None:
    """Where no group can be made, that is an OSError, and nothing is left."""
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


def tops() -> list[str]:
    """Places for a group: in the version 2 hierarchy, and in one of version 1."""
    kinds = {m.kind: m.target for m in mounts() if "rw" in m.options}
    return [kinds[kind] for kind in ("cgroup2", "cgroup") if kind in kinds]


def _is_not_the_jail(words: Path) -> bool:
    return "jail" not in words.read_text()


@pytest.mark.root
def test_jail_runs_in_its_group(tmp_path: Path) -> None:
    for top in tops():
        group = Path(top) / f"dumm-test-{os.getpid()}"
        group.mkdir()
        pid_file = tmp_path / "pid"
        # fmt: off
        jail = [
            JAIL, "jail", "--errors", "2", "--pid-file", str(pid_file), "--cgroup", str(group),
            "--ro-bind", "/usr", "/usr", "--symlink", "usr/lib", "/lib",
            "--symlink", "usr/lib64", "/lib64", "--dev", "/dev/null", "/dev/null",
            "--", "/usr/bin/sleep", "1000",
        ]
        # fmt: on
        try:
            # Not through a pipe: the jail would inherit it and hold it open.
            with (tmp_path / "errors").open("w+b") as errors:
                done = subprocess.run(
                    jail, stdout=errors, stderr=errors, check=False, timeout=PATIENCE
                )
            assert (done.returncode, (tmp_path / "errors").read_text()) == (0, "")
            pid = int(pid_file.read_text().split()[0])
            assert str(pid) in (group / "cgroup.procs").read_text().split()
            words = Path(f"/proc/{pid}/cmdline")
            until(partial(_is_not_the_jail, words), "the program is there")
            os.kill(pid, signal.SIGKILL)
        finally:
            until(partial(cgroup.remove, str(group)), "the group is empty")


@pytest.mark.uml
def test_guest_has_a_memory_ceiling(lab: Lab) -> None:
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
        assert int(limit.read_text()) == (64 << 20) + limits.CEILING_OVERHEAD
        assert not cgroup.is_empty(path)
        # The guest can use all of its memory.
        fill = "head -c 30000000 /dev/urandom >/dev/shm/x && sleep 0.1 && echo filled"
        assert lab(["dumm-guest", "exec", "a", "--", "sh", "-c", fill], status=None).code in (0, 1)
        assert lab("dumm-guest list -o state").out == "running\n"
    lab("dumm-guest stop a")
    assert not path or not Path(path).exists()
