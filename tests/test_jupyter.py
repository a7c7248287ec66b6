"""Labs in Jupyter: the notebook among the examples, and calls in a live kernel."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager, start_new_kernel
from support import PATIENCE, TOP
from support.checks import until

from dumm_tools import Guest, Lab

NOTEBOOK = TOP / "examples/tcp-loss.ipynb"
#: Bits per second, as the notebook has it.
RATE = 20e6

Picture = np.ndarray[Any, np.dtype[np.float32]]


def code_cells() -> list[dict[str, Any]]:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_notebook_is_kept_without_outputs() -> None:
    assert all(cell["outputs"] == [] for cell in code_cells())
    assert all(cell["execution_count"] is None for cell in code_cells())


@pytest.fixture
def env(packs: Path, tmp_path: Path) -> dict[str, str]:
    """The environment of Jupyter, which must not look at the files of the user who runs the tests,
    nor leave any."""
    others = {key: value for key, value in os.environ.items() if not key.startswith("DUMM_")}
    places = ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
    return {
        **others,
        **{name: str(tmp_path / name.lower()) for name in (*places, "MPLCONFIGDIR")},
        "XDG_CACHE_HOME": str(packs),
        "TMPDIR": str(tmp_path),
    }


# ---- the notebook ----


@pytest.mark.uml
def test_notebook_plots_throughput_against_loss(env: dict[str, str], tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", str(NOTEBOOK)]
    limit = f"--ExecutePreprocessor.startup_timeout={PATIENCE:.0f}"
    done = subprocess.run(
        [*argv, limit, "--output-dir", str(tmp_path / "done")],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout
    printed, picture = outputs(tmp_path / "done" / NOTEBOOK.name)
    found = {
        float(loss): float(rate) * 1e6
        for loss, rate in re.findall(r"^([\d.]+) %: ([\d.]+) Mbit/s$", printed, re.MULTILINE)
    }
    assert len(found) == 7
    # The kernel sends no faster, except for a bucket that was full; and on a busy machine time
    # passes between a look at the clock and one at the counter. With much loss, TCP may pause.
    assert all(0 <= each < RATE * 1.5 for each in found.values()), found
    assert found[0] > 0
    first, second, *_, last = (found[loss] for loss in sorted(found))
    assert last < first + second, found
    # The picture has these values: the dots are where a line through the outer ones puts them.
    dots = red_dots(picture)
    assert len(dots) == len(found)
    heights = [found[loss] for loss in sorted(found)]
    scale = np.polyfit(heights, [height for _, height in dots], 1)
    assert scale[0] > 0
    assert np.allclose(np.polyval(scale, heights), [height for _, height in dots], atol=2)
    assert np.allclose(
        np.interp([x for x, _ in dots], [dots[0][0], dots[-1][0]], [min(found), max(found)]),
        sorted(found),
        atol=0.1,
    )


def outputs(notebook: Path) -> tuple[str, Picture]:
    """The text that its cells print, and its only picture."""
    cells = json.loads(notebook.read_text())["cells"]
    all_ = [each for cell in cells for each in cell.get("outputs", [])]
    texts = ["".join(each["text"]) for each in all_ if each["output_type"] == "stream"]
    data = [each["data"] for each in all_ if each["output_type"] == "display_data"]
    [png] = [base64.b64decode(each["image/png"]) for each in data]
    assert png.startswith(b"\x89PNG")
    return "".join(texts), matplotlib.image.imread(io.BytesIO(png), format="png")


def red_dots(picture: Picture) -> list[tuple[float, float]]:
    """The middles of dots of matplotlib's tab:red, from left to right: column, and height above the
    lower end of the picture."""
    red = (np.abs(picture[:, :, :3] * 255 - (214, 39, 40)) < 8).all(axis=2)
    columns = np.flatnonzero(red.any(axis=0))
    groups = np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1)
    middles = []
    for group in groups:
        rows, inside = np.nonzero(red[:, group])
        middles.append((float(group[inside].mean()), float(len(picture) - rows.mean())))
    return middles


# ---- a live kernel ----


class Kernel:
    """A kernel of Jupyter, which runs cells."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager, self.client = manager, client

    def run(self, code: str) -> str:
        """Run a cell that must succeed; return its value as Jupyter shows it."""
        shown: list[str] = []

        def hook(message: dict[str, Any]) -> None:
            if message["msg_type"] == "execute_result":
                shown.append(message["content"]["data"]["text/plain"])

        reply = self.client.execute_interactive(code, timeout=PATIENCE, output_hook=hook)
        assert reply["content"]["status"] == "ok", reply["content"]
        return "".join(shown)

    def send(self, code: str) -> str:
        """Send a cell, without waiting for its end; return the request's id. Cells that are sent
        later run even if it fails."""
        return str(self.client.execute(code, stop_on_error=False))

    def error(self, request: str) -> str:
        """The name of the error of a cell, whose reply must be the next one."""
        reply = self.client.get_shell_msg(timeout=PATIENCE)
        assert reply["parent_header"]["msg_id"] == request
        return str(reply["content"].get("ename"))


@pytest.fixture
def kernel(env: dict[str, str], tmp_path: Path) -> Iterator[Kernel]:
    """A kernel with the guests `alice` and `bob` of a lab, which is destroyed when it ends."""
    manager, client = start_new_kernel(startup_timeout=PATIENCE, env=env, cwd=str(tmp_path))
    try:
        kernel = Kernel(manager, client)
        kernel.run(
            "import asyncio\n"
            "from dumm_tools import Lab\n"
            "lab = Lab.create('lab', isolated=True, kernel='sid', master='busybox')\n"
            "alice, bob = (lab.guest(name).create(start=True) for name in ('alice', 'bob'))\n"
        )
        yield kernel
    finally:
        client.stop_channels()
        manager.shutdown_kernel()
    until(lambda: not (tmp_path / "lab/state.json").exists(), "the lab is destroyed")


@pytest.fixture
def alice(kernel: Kernel, env: dict[str, str], tmp_path: Path) -> Iterator[Guest]:
    """The guest `alice`, for this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", env["XDG_CACHE_HOME"])
        with Lab(tmp_path / "lab") as lab:
            yield lab.guest("alice")


@pytest.mark.uml
def test_cells_await_coroutines(kernel: Kernel) -> None:
    assert kernel.run("alice.run(['hostname']).stdout") == r"'alice\n'"
    assert kernel.run("(await alice.arun(['hostname'])).stdout") == r"'alice\n'"
    both = "await asyncio.gather(*(each.arun(['hostname']) for each in (alice, bob)))"
    assert kernel.run(f"[done.stdout for done in {both}]") == r"['alice\n', 'bob\n']"
    # A task goes on while other cells run.
    kernel.run("task = asyncio.create_task(alice.await_until(['cat', '/go'], timeout=300))")
    assert kernel.run("await bob.arun(['true']); task.done()") == "False"
    kernel.run("await alice.arun(['touch', '/go'], check=True)")
    assert kernel.run("await task; task.done()") == "True"


@pytest.mark.uml
def test_interrupt_ends_the_program_and_leaves_the_lab_usable(kernel: Kernel, alice: Guest) -> None:
    request = kernel.send("alice.run(['sleep', '1000'])")
    alice.wait_until(["pidof", "sleep"], timeout=PATIENCE)
    kernel.manager.interrupt_kernel()
    assert kernel.error(request) == "KeyboardInterrupt"
    alice.wait_until(["sh", "-c", "! pidof sleep"], timeout=PATIENCE)
    assert kernel.run("alice.run(['hostname']).stdout") == r"'alice\n'"


@pytest.mark.uml
def test_interrupt_of_a_coroutine_cancels_it(kernel: Kernel, alice: Guest) -> None:
    request = kernel.send("await alice.arun(['sleep', '1000'])")
    alice.wait_until(["pidof", "sleep"], timeout=PATIENCE)
    kernel.manager.interrupt_kernel()
    # ipykernel cancels it as soon as its event loop has another event (issue 881 there).
    another = kernel.send("alice.run(['true'])")
    assert kernel.error(request) == "CancelledError"
    assert kernel.error(another) == "None"
    alice.wait_until(["sh", "-c", "! pidof sleep"], timeout=PATIENCE)
    assert kernel.run("(await alice.arun(['hostname'])).stdout") == r"'alice\n'"


@pytest.mark.uml
def test_cells_of_the_notebook_can_be_run_again(kernel: Kernel, tmp_path: Path) -> None:
    """The lab of the first time is destroyed once no variable refers to it."""
    first, second = ("".join(cell["source"]) for cell in code_cells()[:2])
    states = []
    for _ in range(2):
        kernel.run(first)
        kernel.run(second)
        states.append(Path(kernel.run("place").strip("'")) / "lab/state.json")
        assert states[-1].exists()
    assert all(state.is_relative_to(tmp_path) for state in states)
    until(lambda: not states[0].exists(), "the first lab is destroyed")
    assert kernel.run("far.is_running()") == "True"
