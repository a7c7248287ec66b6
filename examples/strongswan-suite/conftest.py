"""Options and fixtures of strongSwan's test suite; the fixture `lab` is that of dumm-pytest(7)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import scenario
import tap
from hosts import Hosts

from dumm_tools import Lab

_DEFAULT = "STRONGSWAN_TESTING"
#: A file of the suite that build.sh makes.
_MADE = "hosts/winnetou/etc/ca/strongswanCert.pem"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("strongSwan's test suite")
    group.addoption(
        "--testing",
        metavar="DIR",
        default=os.environ.get(_DEFAULT),
        help=f"the suite with its certificates, as build.sh writes it (default: ${_DEFAULT})",
    )
    group.addoption(
        "--leaks", action="store_true", help="let strongSwan look for memory leaks; takes longer"
    )
    group.addoption(
        "--tap",
        metavar="FILE",
        help="write results as TAP; - is standard output, which is all TAP with -p no:terminal",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("numprocesses", None):
        # Workers are started before they know these options.
        for name in {"--tap", "--testing"} & set(map(str, config.invocation_params.args)):
            raise pytest.UsageError(f"with -n, the value of {name} must follow a '=': {name}=...")
    tap.register(config, config.getoption("tap"))


def pytest_sessionstart(session: pytest.Session) -> None:
    """Say early, and once, that there is no suite. The one in a checkout has no certificates."""
    given = session.config.getoption("testing")
    if not given or not all((Path(given) / name).exists() for name in ("do-tests", _MADE)):
        raise pytest.UsageError(f"--testing: a directory made by build.sh is needed, not {given!r}")


def _testing(config: pytest.Config) -> Path:
    return Path(config.getoption("testing"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "scenario_name" in metafunc.fixturenames:
        metafunc.parametrize("scenario_name", scenario.names(_testing(metafunc.config)))


@pytest.fixture(scope="session")
def hosts(lab: Lab, request: pytest.FixtureRequest) -> Hosts:
    """The hosts of the suite."""
    return Hosts(lab, _testing(request.config), leaks=request.config.getoption("leaks"))
