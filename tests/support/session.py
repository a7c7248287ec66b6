"""The session: the order and place of tests, what a skip means, and what must not be left.

Tests marked `net` run first, in the host's network. Before the first other test, the pytest
process itself moves to a network and mount namespace of its own, where links and mounts do no harm
and vanish at the end: nothing has to be run under unshare(1), and one pytest runs all tests.
With `-n` several processes (pytest-xdist's workers) share the tests, each in its own namespaces.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import signal
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

from support import PATIENCE, ROOT, STRICT, masters, namespaces
from support.labs import FAILED
from support.world import World

# Hypothesis generates the same cases in every run, so that failures do not come and go;
# `--hypothesis-profile=chance` tries new ones.
hypothesis.settings.register_profile("chance", derandomize=False)
hypothesis.settings.register_profile("same", derandomize=True)
hypothesis.settings.load_profile("same")

_before = pytest.StashKey[World]()
_no_namespace = pytest.StashKey[str]()


def pytest_configure() -> None:
    """Restore Ctrl-C: a shell starts background jobs with SIGINT ignored, and everything that we
    start would inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Report what is tested with which versions."""

    def first_line(*argv: str) -> str:
        try:
            done = subprocess.run(
                argv, capture_output=True, text=True, check=False, timeout=PATIENCE
            )
        except OSError:
            return f"no {argv[0]}"
        return (done.stdout or done.stderr).partition("\n")[0]

    packages = ("click", "pyroute2", "sh", "tabulate")
    return [
        f"host: {platform.platform()}, uid {os.geteuid()}, {os.cpu_count()} cpus",
        "packages: " + ", ".join(f"{p} {importlib.metadata.version(p)}" for p in packages),
        f"compiler: {first_line(os.environ.get('CC', 'gcc'), '--version')}",
        f"tools: {first_line('unshare', '--version')}, {first_line('tcpdump', '--version')}",
        f"strict: {'yes, a skip is a failure' if STRICT else 'no'}; cache: {masters.cache_home()}",
    ]


def pytest_sessionstart(session: pytest.Session) -> None:
    """Leave a chroot, where the kernel makes no user namespaces, before the first lab that needs
    one: tests in the host's network have such labs, too."""
    if ROOT and not session.config.option.collectonly:
        with contextlib.suppress(OSError):  # the tests that need namespaces report this themselves
            namespaces.leave_chroot()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """`-n auto`: as many processes as keep the processors busy, since tests spend much time
    waiting. A single file needs none. There can be none where an ordinary user makes namespaces,
    which a process with threads, as all workers are, may not do."""
    one = len(config.args) == 1 and not Path(config.args[0].partition("::")[0]).is_dir()
    return 0 if one or not ROOT else len(os.sched_getaffinity(0)) + 2


@pytest.hookimpl(tryfirst=True)  # before -m selects by marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put tests that need the host's network first, since there is no way back from the namespace.
    Leave out tests marked `root` unless root runs them. Mark tests that need kernel packs.

    Tests that share a slow fixture of their module go to one worker; the others go to any worker,
    and last, so that the workers end at the same time. Tests of the kernel `built` come after all
    others, because it is built meanwhile.
    """
    for item in items:
        if "packs" in getattr(item, "fixturenames", ()):
            item.add_marker("packs")
    if not ROOT:
        others = [item for item in items if item.get_closest_marker("root")]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]
    for item in items:
        if item.get_closest_marker("net"):
            item.add_marker(pytest.mark.xdist_group("net"))
    items.sort(
        key=lambda item: (
            _turn(item),
            "built" in getattr(item, "fixturenames", ()),
            item.get_closest_marker("xdist_group") is None,
        )
    )


def _turn(item: pytest.Item) -> int:
    if item.get_closest_marker("net"):
        return 0
    # An ordinary user's labs have namespaces of their own. The tests must use these directly, not
    # nested in namespaces where the session is root.
    return 1 if ROOT or not item.get_closest_marker("netns") else 2


def pytest_collection_finish(session: pytest.Session) -> None:
    """Fetch what guests need while there still is a network."""
    needed = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    if not session.config.option.collectonly:
        if "built" in needed:
            masters.start_build()
        for fixture, commands in masters.NEEDED_BY.items():
            if fixture in needed:
                masters.prepare(commands)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Enter the namespace before the first test that runs there."""
    stash = item.config.stash
    if _turn(item) != (1 if ROOT else 2):
        return
    if _before not in stash and _no_namespace not in stash:
        try:
            namespaces.isolate()
            stash[_before] = World.now()
        except OSError as e:
            stash[_no_namespace] = str(e)
    if _no_namespace in stash and any(item.get_closest_marker(m) for m in ("netns", "uml")):
        pytest.skip(f"no namespace of our own here: {stash[_no_namespace]}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make a skip a failure if DUMM_TEST_STRICT=1; remember failures for the lab."""
    report = yield
    if STRICT and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped although DUMM_TEST_STRICT=1: {report.longrepr}"
    if report.failed:
        item.stash[FAILED] = True
    return report


@pytest.fixture(scope="session", autouse=True)
def _nothing_left(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Check that the session has left no links, mounts or processes."""
    pids = World.now().pids
    yield
    now = World.now()
    # Before we have a namespace, others may use the host's own network, too.
    before = pytestconfig.stash.get(_before, now)
    left = now.beyond(World(before.links, before.mounts, pids), tmp_path_factory.getbasetemp())
    assert not left, "the session left things behind: " + "; ".join(left)
