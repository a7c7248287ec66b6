"""Masters built from Debian packages: a small one with busybox, and a Debian system
(mmdebstrap)."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Sequence

from dumm_tools import foreground, names
from dumm_tools.errors import DummError, NotFound, Usage
from dumm_tools.images import applets, apt, cache, elf
from dumm_tools.trees import attributes

Report = Callable[[str], None]

DEFAULT_SUITE = "stable"
#: Applets that a guest needs.
NEEDED_APPLETS = (
    "sh init mount umount login getty ip ping nc httpd telnetd telnet udhcpc wget ifconfig route "
    "traceroute vi ps kill cat ls cp mv rm mkdir sed grep awk tar dmesg modprobe insmod"
)
#: Packages for a lab that mmdebstrap's smallest variant lacks.
DEBIAN_PACKAGES = (
    "iproute2",
    "iputils-ping",
    "procps",
    "kmod",
    "netcat-openbsd",
    "traceroute",
    "tcpdump",
)

_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_UNKNOWN = re.compile(r"^E: Unable to locate package (\S+)", re.MULTILINE)
_HOST_BUSYBOX = ("/usr/bin/busybox", "/bin/busybox")
_DIRECTORIES = (
    "dev etc etc/init.d etc/network etc/udhcpc home mnt opt proc run srv sys usr usr/bin usr/lib "
    "usr/lib/modules usr/lib64 usr/sbin usr/share usr/share/udhcpc var var/cache var/lib var/log "
    "var/spool var/www"
)
_LINKS = {
    "bin": "usr/bin",
    "sbin": "usr/sbin",
    "lib": "usr/lib",
    "lib64": "usr/lib64",
    "var/run": "../run",
    "var/lock": "../run/lock",
    "etc/mtab": "../proc/self/mounts",
    # The location used by Debian's udhcpc.
    "etc/udhcpc/default.script": "../../usr/share/udhcpc/default.script",
}
# An empty password, since the network belongs to the lab: telnet and login just work.
_FILES: dict[str, str] = {
    "etc/passwd": (
        "root:x:0:0:root:/root:/bin/sh\n"
        "daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n"
        "www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin\n"
        "user:x:1000:1000:user:/home/user:/bin/sh\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    ),
    "etc/group": (
        "root:x:0:\ndaemon:x:1:\ntty:x:5:\ndisk:x:6:\nkmem:x:15:\ndialout:x:20:\nwww-data:x:33:\n"
        "utmp:x:43:\nusers:x:100:\nuser:x:1000:\nnogroup:x:65534:\n"
    ),
    "etc/shadow": (
        "root::20000:0:99999:7:::\ndaemon:*:20000:0:99999:7:::\nwww-data:*:20000:0:99999:7:::\n"
        "user::20000:0:99999:7:::\nnobody:*:20000:0:99999:7:::\n"
    ),
    "etc/hosts": (
        "127.0.0.1\tlocalhost\n"
        "::1\tlocalhost ip6-localhost ip6-loopback\n"
        "ff02::1\tip6-allnodes\n"
        "ff02::2\tip6-allrouters\n"
    ),
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n",
    "etc/resolv.conf": "",
    "etc/shells": "/bin/sh\n/bin/ash\n",
    "etc/fstab": "",
    "etc/issue": "",
    "etc/profile": (
        "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
        "export PS1='\\u@\\h:\\w\\$ '\n"
        "export PAGER=less EDITOR=vi\n"
    ),
    "etc/inittab": (
        "# Used when the guest starts with --init /sbin/init.\n"
        "::sysinit:/etc/init.d/rcS\n"
        "::ctrlaltdel:/sbin/reboot\n"
        "::shutdown:/bin/umount -a -r\n"
    ),
    "etc/init.d/rcS": (
        "#!/bin/sh\n"
        "# Run once when init starts: runs the executables in /etc/rc.d, in order.\n"
        'for script in /etc/rc.d/*; do\n\t[ -x "$script" ] && "$script" start\ndone\nexit 0\n'
    ),
    "etc/protocols": (
        "ip\t0\tIP\nicmp\t1\tICMP\nigmp\t2\tIGMP\ntcp\t6\tTCP\nudp\t17\tUDP\n"
        "ipv6\t41\tIPv6\ngre\t47\tGRE\nesp\t50\tIPSEC-ESP\nah\t51\tIPSEC-AH\n"
        "ipv6-icmp\t58\tIPv6-ICMP\nospf\t89\tOSPFIGP\nvrrp\t112\tVRRP\nsctp\t132\tSCTP\n"
    ),
    "etc/services": (
        "echo\t7/tcp\necho\t7/udp\ndiscard\t9/tcp\ndaytime\t13/tcp\nftp-data\t20/tcp\nftp\t21/tcp\n"
        "ssh\t22/tcp\ntelnet\t23/tcp\nsmtp\t25/tcp\ntime\t37/tcp\ndomain\t53/tcp\n"
        "domain\t53/udp\nbootps\t67/udp\nbootpc\t68/udp\ntftp\t69/udp\nhttp\t80/tcp\n"
        "pop3\t110/tcp\nntp\t123/udp\nimap2\t143/tcp\nsnmp\t161/udp\nbgp\t179/tcp\n"
        "https\t443/tcp\nsyslog\t514/udp\nrip\t520/udp\n"
    ),
    "var/www/index.html": "<!DOCTYPE html>\n<title>It works</title>\n<p>It works.\n",
    "usr/share/udhcpc/default.script": (
        "#!/bin/sh\n"
        "# Run by udhcpc when a lease changes: sets addresses, routes and name servers.\n"
        'case "$1" in\n'
        "deconfig)\n"
        '\tip -4 addr flush dev "$interface"\n'
        '\tip link set "$interface" up\n'
        "\t;;\n"
        "bound | renew)\n"
        '\tip -4 addr flush dev "$interface"\n'
        '\tip addr add "$ip/${mask:-24}" ${broadcast:+broadcast "$broadcast"} dev "$interface"\n'
        "\tmetric=0\n"
        "\tfor router in $router; do\n"
        '\t\tip route replace default via "$router" dev "$interface" metric "$metric"\n'
        "\t\tmetric=$((metric + 1))\n"
        "\tdone\n"
        '\tif [ -n "$dns" ]; then\n'
        "\t\t{\n"
        '\t\t\t[ -z "$domain" ] || echo "search $domain"\n'
        '\t\t\tfor server in $dns; do echo "nameserver $server"; done\n'
        "\t\t} >/etc/resolv.conf\n"
        "\tfi\n"
        "\t;;\n"
        "esac\n"
        "exit 0\n"
    ),
}
_EXECUTABLE = frozenset({"etc/init.d/rcS", "usr/share/udhcpc/default.script"})


def build_busybox(
    name: str = "busybox",
    *,
    suite: str | None = None,
    mirror: str | None = None,
    allow_expired: bool = False,
    may_exist: bool = False,
    progress: Report | None = None,
) -> str:
    """Build a small master from a static busybox: this host's, or that of `suite`.

    If a suite is named, its busybox is used. Return the name of the master.
    """
    from dumm_tools.running import isolation

    names.pack(name, "master name")
    isolation.become_root()  # for the owners of the files in it
    with cache.build("masters", name, may_exist=may_exist, progress=progress) as target:
        if target is None:
            return name
        host = None if suite or mirror else _host_busybox()
        if host:
            _fill(target, host)
        else:
            with cache.scratch("masters", "busybox") as work:
                lists = os.path.join(work, "apt")
                os.mkdir(lists)
                binary = _fetched_busybox(
                    work,
                    apt.open_suite(
                        lists,
                        suite or DEFAULT_SUITE,
                        mirror=mirror,
                        allow_expired=allow_expired,
                        progress=progress,
                    ),
                    progress,
                )
                _fill(target, binary)
    return name


def build_debian(
    name: str | None = None,
    *,
    suite: str | None = None,
    include: Sequence[str] = (),
    mirror: str | None = None,
    allow_expired: bool = False,
    may_exist: bool = False,
    progress: Report | None = None,
) -> str:
    """Build a master from a minimal Debian with the network tools of a lab; needs mmdebstrap.

    This works without root if /etc/subuid gives the user ids, which then own the files as in a lab
    of that user. Return the master's name, by default that of the suite.
    """
    from dumm_tools.running import isolation
    from dumm_tools.trees import untar

    suite = suite or DEFAULT_SUITE
    name = names.pack(name or f"debian-{suite}", "master name")
    with cache.build("masters", name, may_exist=may_exist, progress=progress) as target:
        if target is None:
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
            # Mount point for the kernel's modules, which each start would have to create otherwise.
            os.makedirs(os.path.join(target, "usr/lib/modules"), exist_ok=True)
    return name


def _temporary(work: str) -> str:
    """A directory for mmdebstrap's tree, which its other user ids must be able to reach."""
    return work if os.geteuid() == 0 else os.environ.get("TMPDIR", "/tmp")


def _mmdebstrap_progress(progress: Report | None) -> Callable[[str], None]:
    def line(text: str) -> None:
        if progress and text.startswith("I: "):
            progress(f"mmdebstrap: {text[3:]}")

    return line


def _host_busybox() -> str | None:
    """This host's busybox, if it is static and has everything needed."""
    for path in _HOST_BUSYBOX:
        try:
            if elf.is_static(path) and not _missing(applets.of(path)):
                return path
        except DummError:
            continue
    return None


def _fetched_busybox(work: str, lists: apt.Tree, progress: Report | None) -> str:
    root = os.path.join(work, "root")
    os.mkdir(root)
    [deb] = apt.download(lists, ["busybox-static"], progress)
    apt.unpack(deb, root)
    for each in _HOST_BUSYBOX:
        path = root + each
        if os.path.isfile(path) and not os.path.islink(path):
            return path
    raise DummError("the package busybox-static contains no busybox")


def _missing(found: dict[str, str]) -> list[str]:
    return sorted(set(NEEDED_APPLETS.split()) - set(found))


def _fill(target: str, binary: str) -> None:
    """Create the tree of a busybox master."""
    found = applets.of(binary)
    if missing := _missing(found):
        raise DummError(f"this busybox lacks {', '.join(missing)}")
    for directory in _DIRECTORIES.split():
        _directory(target, directory, 0o755)
    for directory, mode in (("root", 0o700), ("tmp", 0o1777), ("var/tmp", 0o1777)):
        _directory(target, directory, mode)
    _directory(target, "home/user", 0o755)
    _directory(target, "etc/rc.d", 0o755)
    for link, to in _LINKS.items():
        os.symlink(to, os.path.join(target, link))
    own = os.path.join(target, "usr/bin/busybox")
    shutil.copyfile(binary, own)
    os.chmod(own, 0o755)
    for name, place in found.items():
        to = "busybox" if place == "usr/bin" else "../bin/busybox"
        if name != "busybox":
            os.symlink(to, os.path.join(target, place, name))
    _linuxrc(target)
    for path, text in _FILES.items():
        mode = 0o755 if path in _EXECUTABLE else 0o600 if path == "etc/shadow" else 0o644
        _file(target, path, text, mode)
    attributes.chown(os.path.join(target, "home/user"), 1000, 1000)


def _linuxrc(target: str) -> None:
    """Remove /linuxrc: busybox lists it as an applet, but nothing starts it any more."""
    path = os.path.join(target, "usr/bin/linuxrc")
    if os.path.islink(path):
        os.unlink(path)


def _directory(target: str, path: str, mode: int) -> None:
    place = os.path.join(target, path)
    os.mkdir(place)
    os.chmod(place, mode)  # regardless of the umask


def _file(target: str, path: str, text: str, mode: int) -> None:
    place = os.path.join(target, path)
    with open(place, "x", encoding="utf-8") as file:
        file.write(text)
        os.fchmod(file.fileno(), mode)
