"""The kernels and masters that guests of the tests run."""

from __future__ import annotations

import fcntl
import os
import shlex
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from support import BIN, SUITES, TOP


def cache_home() -> Path:
    """Where the session's kernel packs and masters are kept from run to run."""
    return Path(os.environ.get("DUMM_TEST_CACHE") or TOP / ".cache-tests")


PACKS = [
    *(f"dumm-fs kernel fetch --suite {s} --name {s} --may-exist" for s in SUITES),
    "dumm-fs master build busybox --may-exist",
]
#: The commands in examples/*.sh that build missing masters, verbatim.
EXAMPLE_MASTERS = [
    "dumm-fs master build debian --name network --may-exist --include"
    " strongswan-swanctl,strongswan-charon,nftables,wireguard-tools,mptcpize",
    "dumm-fs master build debian --name frr --may-exist --include frr",
]

#: Debian 13 with systemd, for examples/server.sh and others: a server of many services. It takes
#: two minutes to build, and the next one takes one.
SYSTEMD_MASTER = [
    "dumm-fs master build debian --suite trixie --name server --may-exist --include "
    "systemd-sysv,libnss-systemd,dbus,openssh-server,postgresql,nginx-light,"
    "passwd,ppp,pppoe,attr,acl,libcap2-bin,cron,logrotate,curl,git,make,tcc,libc6-dev",
]
#: Options of guests with this master that keep the large services from being started.
WITHOUT_SERVICES = "--arg systemd.mask=postgresql.service --arg systemd.mask=nginx.service"
#: Debian 13 with the System V init.
SYSVINIT_MASTER = [
    "dumm-fs master build debian --suite trixie --name debian-sysvinit --may-exist "
    "--include sysvinit-core,initscripts",
]
#: Commands that prepare the cache for tests that use a fixture, directly or through others.
NEEDED_BY = {
    "packs": PACKS,
    "example_masters": EXAMPLE_MASTERS,
    "debian_systemd": SYSTEMD_MASTER,
    "debian_sysvinit": SYSVINIT_MASTER,
}


def prepare(commands: Sequence[str]) -> None:
    """Make what is missing. One of pytest-xdist's workers does it, and the others find it done."""
    cache_home().mkdir(parents=True, exist_ok=True)
    with (cache_home() / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for command in commands:
            _run(command.split())


def _run(argv: Sequence[str]) -> None:
    # Tests need a kernel, not a recent one: an outdated mirror will do.
    env = {**os.environ, "XDG_CACHE_HOME": str(cache_home()), "DUMM_ALLOW_EXPIRED": "1"}
    done = subprocess.run(
        [BIN / argv[0], *argv[1:]],
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    if done.returncode:
        raise pytest.UsageError(f"{shlex.join(argv)}: {done.stderr.strip()}")


@pytest.fixture(scope="session")
def packs() -> Path:
    """XDG_CACHE_HOME with the kernel packs `sid`, `trixie`, `bookworm` and the master `busybox`."""
    return cache_home()


@pytest.fixture(scope="session")
def example_masters(packs: Path) -> Path:
    """XDG_CACHE_HOME with the masters `network` and `frr` as well."""
    return packs


@pytest.fixture(scope="session")
def debian_systemd(packs: Path) -> str:
    """The name of a master in the cache: Debian 13 with systemd, and services."""
    return "server"


@pytest.fixture(scope="session")
def debian_sysvinit(packs: Path) -> str:
    """The name of a master in the cache: Debian 13 with the System V init."""
    return "debian-sysvinit"


#: The kernel that `dumm-fs kernel build` makes, from sid's source.
BUILT = "built"
_BUILD = f"nice dumm-fs kernel build --suite sid --name {BUILT} --may-exist"


def start_build() -> None:
    """Start to build the kernel `built`, if it is missing, in the host's network. It takes minutes,
    and goes on while other tests run, which mostly wait."""
    cache_home().mkdir(parents=True, exist_ok=True)
    if _is_built():
        return
    with (cache_home() / ".built.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # another of pytest-xdist's workers has started it
        words = _BUILD.split()
        with _build_log().open("w") as log:
            subprocess.Popen(
                [words[0], BIN / words[1], *words[2:]],
                env={**os.environ, "XDG_CACHE_HOME": str(cache_home()), "DUMM_ALLOW_EXPIRED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[lock.fileno()],
                start_new_session=True,
            )


def _build_log() -> Path:
    return cache_home() / ".built.log"


def _is_built() -> bool:
    return (cache_home() / "dumm/kernels" / BUILT).is_dir()


@pytest.fixture(scope="session")
def built(packs: Path) -> str:
    """The name of a kernel in the cache that `dumm-fs kernel build` has made."""
    deadline = time.monotonic() + 3600
    while not _is_built():
        with (cache_home() / ".built.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Its builder has ended.
                assert _is_built(), _build_log().read_text()[-2000:]
            except BlockingIOError:
                assert time.monotonic() < deadline, "the kernel takes too long to build"
                time.sleep(1)
    return BUILT
