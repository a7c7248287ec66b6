"""Packages of any Debian suite, downloaded and verified by apt, as any user.

apt works on a tree in a directory of ours: the host's package lists, locks and hooks are not used.
The only settings of the host that apply are Acquire::* (proxies and the like), except those that
would let an unsigned archive pass.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from dumm_tools.errors import DummError, NotFound, Usage
from dumm_tools.foreground import ProgramFailed, run

Progress = Callable[[str], None]

#: The suite of masters.
DEFAULT_SUITE = "stable"
DEFAULT_MIRROR = "http://deb.debian.org/debian"
EXPIRED_HINT = "use --allow-expired to accept it"

_SUITE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_MIRROR = re.compile(r"[a-z][a-z0-9+.-]*:[^\s\[\]\"]+")
#: Settings of the host that must not or need not apply to our tree.
_NOT_TAKEN = re.compile(
    r"Acquire::(Allow\w*|IndexTargets|Languages|Changelogs|cdrom|GzipIndexes|CompressionTypes)\b"
)
KEYRINGS = (
    "/usr/share/keyrings/debian-archive-keyring.pgp",
    "/usr/share/keyrings/debian-archive-keyring.gpg",
)
_TRUSTED_KEYS = "/etc/apt/trusted.gpg.d/debian-archive-*.[agp][spg][cgp]"


class Expired(DummError):
    """The archive's Release file is too old to be trusted."""


class Tree(NamedTuple):
    """An apt tree with the package lists of one suite. `date` is that of its Release file."""

    directory: str
    suite: str
    codename: str
    date: str
    mirror: str


def open_suite(
    directory: str,
    suite: str,
    *,
    mirror: str | None = None,
    allow_expired: bool = False,
    progress: Progress | None = None,
) -> Tree:
    """Make an apt tree in the empty `directory` and download the package lists of `suite`.

    NotFound if the mirror has no such suite, Expired if its Release file is too old.
    """
    mirror = check_source(suite, mirror)
    _write_tree(directory, suite, mirror, allow_expired)
    try:
        _apt(directory, ["apt-get", "-q", "update"], progress, f"lists of '{suite}'")
    except ProgramFailed as e:
        if "is expired" in e.stderr:
            raise Expired(f"the release file of '{suite}' has expired", hint=EXPIRED_HINT) from None
        if "does not have a Release file" in e.stderr:
            raise NotFound(f"no suite '{suite}' at {mirror}") from None
        if "NO_PUBKEY" in e.stderr or "not signed" in e.stderr:
            raise DummError(
                f"cannot verify the suite '{suite}' at {mirror}",
                hint="a newer debian-archive-keyring may contain its keys",
            ) from None
        raise
    facts = _release_facts(directory)
    return Tree(directory, suite, facts.get("Codename", suite), _iso(facts.get("Date")), mirror)


def download(tree: Tree, packages: Sequence[str], progress: Progress | None = None) -> list[str]:
    """Download packages, without dependencies; return the paths of the .deb files, in that
    order."""
    into = os.path.join(tree.directory, "debs")
    os.makedirs(into, exist_ok=True)
    wanted = [f"{p}:amd64" for p in packages]
    try:
        what = " and ".join(packages)
        _apt(tree.directory, ["apt-get", "-q", "download", *wanted], progress, what, cwd=into)
    except ProgramFailed as e:
        if "Unable to locate package" in e.stderr or "no installation candidate" in e.stderr:
            raise NotFound(f"suite '{tree.suite}' has no {' or no '.join(packages)}") from None
        raise
    found = []
    for package in packages:
        paths = glob.glob(os.path.join(glob.escape(into), f"{package}_*.deb"))
        if len(paths) != 1:
            raise DummError(f"apt-get did not download '{package}'")
        found += paths
    return found


def has(tree: Tree, package: str) -> bool:
    """Whether the suite has a package, for this architecture."""
    try:
        _apt(tree.directory, ["apt-get", "download", "--print-uris", f"{package}:amd64"])
    except ProgramFailed:
        return False
    return True


def dependency(tree: Tree, package: str, pattern: str) -> str:
    """The package matching `pattern` that `package` depends on. NotFound if there is none."""
    try:
        shown = _ask(tree, ["apt-cache", "show", "--no-all-versions", f"{package}:amd64"])
    except ProgramFailed:
        shown = ""
    for line in shown.splitlines():
        if line.startswith("Depends:"):
            for found in re.finditer(rf"(?:^|[ ,|])({pattern})(?=[ ,|]|$)", line[8:]):
                return found[1]
    raise NotFound(f"suite '{tree.suite}' has no {package}")


def candidate(tree: Tree, package: str) -> str:
    """The version of a package in the suite. NotFound if it has none."""
    shown = _ask(tree, ["apt-cache", "show", "--no-all-versions", f"{package}:amd64"])
    for line in shown.splitlines():
        if line.startswith("Version: "):
            return line.removeprefix("Version: ")
    raise NotFound(f"suite '{tree.suite}' has no {package}")


def version(deb: str) -> str:
    """The version of a package file."""
    return run(["dpkg-deb", "--field", deb, "Version"]).strip()


def unpack(deb: str, into: str) -> None:
    """Unpack the contents of a package file into a directory, without running any of it."""
    run(["dpkg-deb", "--extract", deb, into])


def check_source(suite: str, mirror: str | None) -> str:
    """Validate the suite and mirror passed to apt; return the mirror to use."""
    if not _SUITE.fullmatch(suite):
        raise Usage(f"bad suite {suite!r}", hint="a suite is a word such as sid or trixie")
    if mirror is None:
        return host_mirror()
    if not _MIRROR.fullmatch(mirror):
        raise Usage(f"bad mirror {mirror!r}", hint=f"a mirror is a URL such as {DEFAULT_MIRROR}")
    return mirror.rstrip("/")


def host_mirror() -> str:
    """The Debian mirror that this machine itself uses, or the default one."""
    fields = "$(REPO_URI)\t$(ORIGIN)\t$(RELEASE)\t$(COMPONENT)"
    try:
        targets = run(["apt-get", "indextargets", "--format", fields])
    except ProgramFailed:
        return DEFAULT_MIRROR
    for target in targets.splitlines():
        uri, origin, release, component = (target.split("\t") + [""] * 4)[:4]
        # The origin is unknown until the machine's first `apt-get update`.
        if (
            origin in ("Debian", "$(ORIGIN)", "")
            and component == "main"
            and uri.rstrip("/").endswith("/debian")
            and re.fullmatch(r"[a-z]+", release)
            and _MIRROR.fullmatch(uri)
        ):
            return uri.rstrip("/")
    return DEFAULT_MIRROR


def keyring() -> str:
    """Debian's archive keys on this machine, in the form used for apt's Signed-By."""
    for path in KEYRINGS:
        if os.access(path, os.R_OK):
            return path
    single = sorted(p for p in glob.glob(_TRUSTED_KEYS) if os.access(p, os.R_OK))
    if not single:
        raise DummError(
            "cannot find the keyring of the Debian archive",
            hint="apt-get install debian-archive-keyring",
        )
    return ",".join(single)


def host_settings() -> list[tuple[str, str]]:
    """The host's own Acquire::* settings that apply: proxies, Check-Valid-Until, timeouts."""
    found = []
    for text in run(["apt-config", "dump"]).splitlines():
        setting = re.fullmatch(r'(Acquire::\S+) "([^"]+)";', text)
        if setting and not _NOT_TAKEN.match(setting[1]):
            found.append((setting[1], setting[2]))
    return found


def settings(allow_expired: bool) -> list[tuple[str, str]]:
    """The settings for downloads: those of the host, then ours."""
    ours = [("Acquire::Languages", "none"), ("Acquire::Retries", "2")]
    if allow_expired:
        ours.append(("Acquire::Check-Valid-Until", "false"))
    return host_settings() + ours


def _write_tree(directory: str, suite: str, mirror: str, allow_expired: bool) -> None:
    below = ("lists/partial", "cache/archives/partial", "etc/preferences.d", "etc/trusted.gpg.d")
    for each in below:
        os.makedirs(os.path.join(directory, each))
    options = [
        ("Dir::State", directory),
        ("Dir::State::lists", f"{directory}/lists"),
        ("Dir::State::status", f"{directory}/status"),
        ("Dir::State::extended_states", f"{directory}/extended_states"),
        ("Dir::Cache", f"{directory}/cache"),
        ("Dir::Log", directory),
        ("Dir::Etc", f"{directory}/etc"),
        ("Dir::Etc::main", "/dev/null"),
        ("Dir::Etc::parts", "/dev/null"),
        ("Dir::Etc::sourceparts", "/dev/null"),
        # The host's passwords for a proxy or mirror.
        ("Dir::Etc::netrc", "/etc/apt/auth.conf"),
        ("Dir::Etc::netrcparts", "/etc/apt/auth.conf.d"),
        ("APT::Architecture", "amd64"),
        ("APT::Architectures::", "amd64"),
        # A partial update is a failure.
        ("APT::Update::Error-Mode", "any"),
        # The user _apt could not write here, and does not exist in a user namespace.
        ("APT::Sandbox::User", "root"),
        *settings(allow_expired),
    ]
    if not os.access("/etc/apt/auth.conf.d", os.R_OK | os.X_OK):
        options.append(("Dir::Etc::netrcparts", "/dev/null"))
    with open(f"{directory}/status", "x", encoding="utf-8"):
        pass
    with open(f"{directory}/apt.conf", "x", encoding="utf-8", errors="surrogateescape") as file:
        file.writelines(f'{key} "{value}";\n' for key, value in options)
    with open(f"{directory}/etc/sources.list", "x", encoding="utf-8") as file:
        file.write(f"deb [arch=amd64 signed-by={keyring()}] {mirror} {suite} main\n")


def _apt(
    directory: str,
    argv: list[str],
    progress: Progress | None = None,
    what: str = "",
    cwd: str | None = None,
) -> None:
    """Run apt on our tree; its status lines (README.progress-reporting of apt) are shown as
    progress."""

    shown = ""

    def line(text: str) -> None:
        nonlocal shown
        status = text.split(":")
        if progress and status[0] == "dlstatus" and len(status) > 2:
            percent = status[2].partition(".")[0]
            if percent != shown:
                shown = percent
                progress(f"{what}: {percent} %")

    if progress:
        progress(what)
    env = {"APT_CONFIG": f"{directory}/apt.conf"}
    run([*argv, "-o", "APT::Status-Fd=1"], env=env, line=line, cwd=cwd)


def _ask(tree: Tree, argv: list[str]) -> str:
    return run(argv, env={"APT_CONFIG": f"{tree.directory}/apt.conf"})


def _release_facts(directory: str) -> dict[str, str]:
    """The first fields of the Release file that apt has verified."""
    names = [n for n in os.listdir(f"{directory}/lists") if n.endswith("Release")]
    if not names:
        raise DummError("apt-get did not get a Release file")
    facts: dict[str, str] = {}
    path = f"{directory}/lists/{names[0]}"
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        for text in file:
            key, colon, value = text.partition(": ")
            if colon and not text.startswith(" "):
                facts.setdefault(key, value.strip())
            if text.startswith(("MD5Sum:", "SHA256:")):
                break
    return facts


def _iso(date: str | None) -> str:
    """`Fri, 30 Oct 2026 08:08:01 UTC` as UTC ISO 8601, empty if unknown."""
    from email.utils import parsedate

    parts = parsedate(date) if date else None
    return "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z".format(*parts[:6]) if parts else ""
