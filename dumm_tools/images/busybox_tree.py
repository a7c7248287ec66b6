"""The files of a busybox master."""

from __future__ import annotations

import os
import shutil

from dumm_tools.trees import attributes

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


def fill(target: str, binary: str, found: dict[str, str]) -> None:
    """Create the tree of a master from a busybox, whose applets and their places are `found`."""
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
