"""A master with a minimal Debian system, made by mmdebstrap."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Sequence

from dumm_tools import foreground, names
from dumm_tools.errors import NotFound, Usage
from dumm_tools.images import apt, cache, existing, facts, master, suites
from dumm_tools.model import RootFS

Report = Callable[[str], None]

#: Packages for a lab that mmdebstrap's smallest variant lacks.
DEBIAN_PACKAGES = (
    "iproute2",
    "iputils-ping",
    "procps",
    "kmod",
    "netcat-openbsd",
    "traceroute",
    "tcpdump",
    "libnss-myhostname",  # the guest's own name resolves, whatever it is
)

#: Files in which mmdebstrap leaves the name and the name servers of the machine that it runs on.
_NOT_OURS = ("etc/hostname", "etc/resolv.conf")
_HOSTS = """\
127.0.0.1\tlocalhost
::1\t\tlocalhost ip6-localhost ip6-loopback
ff02::1\t\tip6-allnodes
ff02::2\t\tip6-allrouters
"""
#: Users may ping, as Debian's packages would have it if all that they recommend were installed.
_SYSCTLS = "etc/sysctl.d/50-ping.conf"
_PING = "net.ipv4.ping_group_range = 0 2147483647\n"

_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_UNKNOWN = re.compile(r"^E: Unable to locate package (\S+)", re.MULTILINE)


def build(
    name: str | None = None,
    *,
    suite: str | None = None,
    include: Sequence[str] = (),
    mirror: str | None = None,
    allow_expired: bool = False,
    rootfs: RootFS | None = None,
    may_exist: bool = False,
    progress: Report | None = None,
) -> str:
    """Build a master from a minimal Debian with the network tools of a lab; needs mmdebstrap.

    This works without root if /etc/subuid gives the user ids, which then own the files as in a lab
    of that user. Return the master's name, by default that of the suite.
    """
    from dumm_tools.running import isolation
    from dumm_tools.trees import untar

    asked, suite = suite, suite or apt.DEFAULT_SUITE
    name = names.pack(name or f"debian-{suite}", "master name")
    with master.build(name, rootfs, may_exist=may_exist, progress=progress) as target:
        if target is None:
            existing.need_debian(name, asked, include)
            return name
        for package in include:
            if not _PACKAGE.fullmatch(package):
                raise Usage(f"bad package name {package!r}")
        source = apt.check_source(suite, mirror)
        line = f"deb [signed-by={apt.keyring()}] {source} {suite} main"
        packages = ",".join((*DEBIAN_PACKAGES, *include))
        options = [f'--aptopt={key} "{value}";' for key, value in apt.settings(allow_expired)]
        with cache.scratch("masters", "debian") as work:
            # Through a tar archive, so that we can skip device nodes and foreign owners.
            tar = os.path.join(work, "root.tar")
            try:
                foreground.run(
                    [
                        "mmdebstrap",
                        "--variant=minbase",
                        "--format=tar",
                        "--architectures=amd64",
                        f"--include={packages}",
                        *options,
                        suite,
                        tar,
                        line,
                    ],
                    env={"TMPDIR": _temporary(work)},
                    error_line=_mmdebstrap_progress(progress),
                )
            except foreground.ProgramFailed as e:
                if "is expired" in e.stderr:
                    raise apt.Expired(
                        f"the release file of '{suite}' has expired", hint=apt.EXPIRED_HINT
                    ) from None
                if "does not have a Release file" in e.stderr:
                    raise NotFound(f"no suite '{suite}' at {source}") from None
                if missing := _UNKNOWN.search(e.stderr):
                    raise NotFound(f"suite '{suite}' has no package '{missing[1]}'") from None
                raise
            foreground.end_threads()
            isolation.become_root()  # not earlier: mmdebstrap creates its own user namespace
            with open(tar, "rb", buffering=0) as stream:
                untar.extract(stream, "mmdebstrap's archive", target, progress)
            os.chmod(target, 0o755)
            _forget_builder(target)
            # Mount point for the kernel's modules, which each start would have to create otherwise.
            os.makedirs(os.path.join(target, "usr/lib/modules"), exist_ok=True)
            facts.record(name, suite=suites.ALIASES.get(suite, suite))
    return name


def _forget_builder(tree: str) -> None:
    """Remove what belongs to the machine that a tree was built on, and let it have the files of a
    machine that nobody has configured."""
    for path in _NOT_OURS:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(tree, path))
    for path, text in (("etc/hosts", _HOSTS), (_SYSCTLS, _PING)):
        place = os.path.join(tree, path)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with contextlib.suppress(FileExistsError), open(place, "x") as file:
            file.write(text)


def _temporary(work: str) -> str:
    """A directory for mmdebstrap's tree, which its other user ids must be able to reach."""
    return work if os.geteuid() == 0 else os.environ.get("TMPDIR", "/tmp")


def _mmdebstrap_progress(progress: Report | None) -> Callable[[str], None]:
    def line(text: str) -> None:
        if progress and text.startswith("I: "):
            progress(f"mmdebstrap: {text[3:]}")

    return line
