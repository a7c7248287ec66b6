"""The plugin: its settings, fixtures and hooks.

pytest imports this in each run, so it imports nothing of ours until a test uses a lab.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from dumm_tools.api import Lab
    from dumm_tools.testing.guests import MakeGuest

_MARKERS = (
    "needs(text, ...): skip unless all of these exist: kernel:NAME (a feature or a CONFIG symbol "
    "of the lab's kernels), program:NAME (in a guest), host:NAME (a program of the host)",
    "scenario(template, reset=...): the template that the fixture `scenario` works in a copy of, "
    "and how it resets the lab: 'template' (the default) or 'reboot'",
    "capture(expression, ...): capture the packets on all interfaces, and keep them if it fails",
)
_SCOPES = ("module", "session")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Settings, on the command line and in the configuration."""
    group = parser.getgroup("dumm", "labs of dumm-tools")
    group.addoption("--dumm-kernel", metavar="KERNEL", help="default kernel of labs")
    group.addoption("--dumm-master", metavar="MASTER", help="default master of labs")
    group.addoption("--dumm-report", metavar="DIR", help="directory for what failed tests leave")
    parser.addini("dumm_kernel", "default kernel of labs")
    parser.addini("dumm_master", "default master of labs")
    parser.addini("dumm_lab", "lab file of labs whose module has none", type="paths")
    parser.addini("dumm_scope", "how long a lab is used: module (default) or session")


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers."""
    for text in _MARKERS:
        config.addinivalue_line("markers", text)


def _scope(fixture_name: str, config: pytest.Config) -> Any:
    scope = config.getini("dumm_scope") or "module"
    if scope not in _SCOPES:
        raise pytest.UsageError(f"dumm_scope is one of {', '.join(_SCOPES)}, not '{scope}'")
    return scope


@pytest.fixture(scope=_scope)
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab in its own namespaces, destroyed at the end. For a module NAME.py it is what NAME.dumm
    says, or else the lab file of the setting dumm_lab, with all guests started; or else empty."""
    from dumm_tools.api import Lab

    config = request.config
    file = _lab_file(request)
    options: dict[str, Any] = {
        key: config.getoption(f"dumm_{key}") or config.getini(f"dumm_{key}") or None
        for key in ("kernel", "master")
    }
    with Lab.create(tmp_path_factory.mktemp("lab"), isolated=True, **options) as made:
        if file is not None:
            made.apply(file.read_text())
            made.start()
        yield made


def _lab_file(request: pytest.FixtureRequest) -> Path | None:
    if request.scope == "module" and (own := request.path.with_suffix(".dumm")).exists():
        return own
    paths: list[Path] = request.config.getini("dumm_lab")
    return paths[0] if paths else None


@pytest.fixture
def guest(lab: Lab) -> Iterator[MakeGuest]:
    """A function that makes and starts a guest for the time of the test: `guest("alice",
    memory="64M")`, with the options of Guest.create."""
    from dumm_tools.testing import guests

    with guests.making(lab) as make:
        yield make


@pytest.fixture
def scenario(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """The lab with all guests running, for tests that change it: afterwards its links are what they
    were, and so are the files of its guests, which have worked in a copy of a template."""
    from dumm_tools.testing import scenarios

    mark = request.node.get_closest_marker("scenario")
    args, options = (mark.args, mark.kwargs) if mark else ((), {})
    with scenarios.running(lab, *args, **options):
        yield lab


def _lab_of(item: pytest.Item) -> Lab | None:
    """The lab that a test uses, if it uses one of ours."""
    used = getattr(item, "funcargs", {})
    if not {"lab", "guest", "scenario"} & used.keys():
        return None
    from dumm_tools.api import Lab

    found = used.get("lab") or used.get("scenario")
    return found if isinstance(found, Lab) else None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Skip a test that needs something else."""
    marks = list(item.iter_markers("needs"))
    if marks:
        from dumm_tools.testing import needs

        lacking = needs.lacking(_lab_of(item), [text for mark in marks for text in mark.args])
        if lacking:
            pytest.skip(lacking)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Capture packets while a test runs that is marked so."""
    mark = pyfuncitem.get_closest_marker("capture")
    lab = _lab_of(pyfuncitem) if mark else None
    if mark is None or lab is None:
        return (yield)
    from dumm_tools.testing import report

    with report.captured(lab, mark.args) as capture:
        pyfuncitem.stash[_CAPTURE] = capture
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add what a lab has to say to the report of a failure."""
    made = yield
    lab = _lab_of(item) if made.failed else None
    if lab is not None:
        from dumm_tools.testing import report

        directory = item.config.getoption("dumm_report")
        made.sections += report.sections(
            lab, item.nodeid, directory, item.stash.get(_CAPTURE, None), made.when
        )
    return made


_CAPTURE = pytest.StashKey[Any]()
