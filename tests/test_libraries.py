"""Modules that our commands import stay complete for other code in the same process."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.labs import Lab

from dumm_tools.linux import on_demand

#: Calls into the domain; `lab` is the working directory.
CALLS = {
    "iface create": "from dumm_tools.net import iface; iface.create(lab, 'alice-eth1')",
    "iface list": "from dumm_tools.cli.iface import cli; verb(cli, 'list')",
    "bridge create": "from dumm_tools.net import bridge; bridge.create(lab, 'lan9')",
    "bridge disconnect": (
        "from dumm_tools.net import connection; connection.disconnect(lab, 'alice-eth0')"
    ),
    "shape": "from dumm_tools.net import shape; shape.set_(lab, 'alice-eth0', {'delay': 5})",
    "route list": "from dumm_tools.net import route; route.list_(lab, 'alice', ask_guest=True)",
    "route add": "from dumm_tools.net import route; route.add(lab, 'alice-eth0', '10.9.0.0/16')",
    "uplink": "from dumm_tools.cli.bridge import cli; verb(cli, 'uplink', 'lan0', '--nat')",
    "check": "from dumm_tools.cli.fs import cli; verb(cli, 'check')",
    "guest list": "from dumm_tools.cli.guest import cli; verb(cli, 'list')",
    "kernel list": "from dumm_tools.cli.fs import cli; verb(cli, 'kernel', 'list')",
    "busybox": "from dumm_tools.foreground import run; run(['busybox', 'true'])",
}
#: Each call comes first in one pair and second in another.
PAIRS = [*zip(CALLS, [*CALLS][5:] + [*CALLS][:5], strict=True)]
BEFORE = """
import os
lab = os.environ["DUMM_DIR"]

def verb(cli, *words):
    cli.main(words, standalone_mode=False)
"""
#: Imports by other code, each with a use.
AFTER = """
import html, importlib.metadata, logging, logging.handlers, multiprocessing
import tabulate
import pyroute2
from pyroute2 import NDB, IPRoute
assert html.escape("<") == "&lt;"
assert importlib.metadata.version("click")
assert issubclass(logging.handlers.QueueHandler, logging.Handler)
assert multiprocessing.get_context("spawn").Queue
assert NDB.__module__ == "pyroute2.ndb.main"
assert tabulate.tabulate([["1"]], ["x"], "html").startswith("<table>")
with IPRoute() as route:
    assert route.link_lookup(ifname="lo") == [1]
"""
#: Prints the names in all modules that are not ours.
NAMES = """
import json, sys
print(json.dumps({
    name: [n for n in dir(module) if not hasattr(sys.modules.get(f"{name}.{n}"), "__path__")]
    for name, module in sys.modules.items()
    if name.partition(".")[0] not in ("__main__", "dumm_tools")
}))
"""


def run(code: str, lab: Lab) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=lab.env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.uml
@pytest.mark.root
def test_imports_after_our_calls_are_complete(lab: Lab) -> None:
    lab("dumm-guest create alice --start")
    lab("dumm-bridge create lan0 --address 10.0.0.254/24")
    lab("dumm-iface create alice-eth0 --bridge lan0 --address 10.0.0.1/24")
    alone = json.loads(run(AFTER + NAMES, lab).splitlines()[-1])
    for first, second in PAIRS:
        code = "\n".join((BEFORE, CALLS[first], CALLS[second], AFTER, NAMES))
        there = json.loads(run(code, lab).splitlines()[-1])
        for module, names in alone.items():
            missing = set(names) - set(there.get(module, ()))
            assert not missing, f"{module} after {first} and {second}"
        lab("dumm-iface delete --if-exists alice-eth1")
        lab("dumm-bridge connect lan0 alice-eth0")
        lab("dumm-iface route del --if-exists alice-eth0 10.9.0.0/16")
        lab("dumm-bridge delete --if-exists lan9")
        lab("dumm-bridge uplink lan0 --none")


# ---- packages on demand ----

PACKAGE = """
import time
import on_demand_log
on_demand_log.runs += 1
time.sleep(0.1)
from on_demand_package import inner
if on_demand_log.fails:
    raise ValueError("not today")
made = inner.value + 1
"""


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A package `on_demand_package`, and the module that counts the runs of its __init__."""
    (tmp_path / "on_demand_log.py").write_text("runs = 0\nfails = False\n")
    (tmp_path / "on_demand_package").mkdir()
    (tmp_path / "on_demand_package/__init__.py").write_text(PACKAGE)
    (tmp_path / "on_demand_package/inner.py").write_text("value = 1\n")
    (tmp_path / "on_demand_package/other.py").write_text("from on_demand_package import inner\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    on_demand.package("on_demand_package")
    yield importlib.import_module("on_demand_log")
    for name in [name for name in sys.modules if name.startswith("on_demand_")]:
        del sys.modules[name]


def test_importing_a_module_does_not_run_the_init(log: Any) -> None:
    other = importlib.import_module("on_demand_package.other")
    package = importlib.import_module("on_demand_package")
    assert other.inner.value == package.inner.value == 1
    assert log.runs == 0
    on_demand.package("on_demand_package")
    assert importlib.import_module("on_demand_package") is package


@pytest.mark.parametrize(
    "ask",
    [
        lambda package: package.made,
        lambda package: "made" in dir(package),
        lambda package: "made" in vars(package),
        lambda package: not hasattr(package, "nonsense"),
    ],
)
def test_using_a_name_runs_the_init_once(log: Any, ask: Callable[[Any], object]) -> None:
    package = importlib.import_module("on_demand_package")
    assert ask(package)
    assert (package.made, log.runs, type(package)) == (2, 1, types.ModuleType)


def test_using_a_name_in_many_threads_runs_the_init_once(log: Any) -> None:
    package = importlib.import_module("on_demand_package")
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: package.made, range(8))) == [2] * 8
    assert log.runs == 1


def test_failing_init_raises_and_runs_again(log: Any) -> None:
    package = importlib.import_module("on_demand_package")
    log.fails = True
    with pytest.raises(ValueError, match="not today"):
        _ = package.made
    log.fails = False
    assert (package.made, log.runs) == (2, 2)


def test_missing_package() -> None:
    with pytest.raises(ModuleNotFoundError, match="on_demand_nothing"):
        on_demand.package("on_demand_nothing")
