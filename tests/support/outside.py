"""A world outside the session's network namespace: "the Internet", with a web server and a name
server. It is another namespace, at the other end of a veth."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from support import PATIENCE
from support.checks import until

#: An address on the Internet, where HTTP requests are answered; and that of this host.
THERE, HERE = "198.51.100.1", "203.0.113.2"
#: A cloud's metadata address.
METADATA = "169.254.169.254:80"

#: A name server there: every name is that of the web server.
_NAMES = f"""
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("{THERE}", 53))
print(flush=True)
while True:
    query, client = server.recvfrom(512)
    end = query.index(0, 12) + 5
    answers = query[end - 3] == 1  # no IPv6
    head = query[:2] + bytes([0x85, 0x80, 0, 1, 0, answers, 0, 0, 0, 0])
    record = bytes([0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]) + socket.inet_aton("{THERE}")
    server.sendto(head + query[12:end] + record * answers, client)
"""


def call(*argv: str) -> str:
    """Run a program on the host."""
    done = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=PATIENCE)
    return done.stdout


@contextlib.contextmanager
def world(www: Path) -> Iterator[list[str]]:
    """Make it, with a web server of this directory; yield the prefix that runs a command there."""
    with subprocess.Popen(["unshare", "-n", "sleep", "infinity"]) as there:
        inside = ["nsenter", "-t", str(there.pid), "-n"]
        own = Path("/proc/self/ns/net").readlink()
        until(lambda: Path(f"/proc/{there.pid}/ns/net").readlink() != own, "a namespace")
        groups = Path("/proc/sys/net/ipv4/ping_group_range")
        before = groups.read_text()
        call("ip", "link", "add", "wan0", "type", "veth", "peer", "name", "net0")
        call("ip", "link", "set", "wan0", "addrgenmode", "none")
        call("ip", "link", "set", "net0", "netns", str(there.pid))
        call("ip", "address", "add", f"{HERE}/24", "dev", "wan0")
        call("ip", "link", "set", "wan0", "up")
        call("ip", "route", "add", "default", "via", "203.0.113.1")
        for words in (
            "link set lo up",
            "address add 203.0.113.1/24 dev net0",
            f"address add {THERE}/32 dev lo",
            "address add 169.254.169.254/32 dev lo",
            "link set net0 up",
        ):
            call(*inside, "ip", *words.split())
        groups.write_text("0 2147483647\n")  # as on a usual host: pasta pings for its guests
        server = ["busybox", "httpd", "-f", "-h", str(www), "-p", "80"]
        with subprocess.Popen([*inside, *server]) as web:
            yield inside
            web.terminate()
        call("ip", "link", "del", "wan0")
        groups.write_text(before)
        there.kill()


@contextlib.contextmanager
def names(inside: list[str]) -> Iterator[None]:
    """Run a name server there."""
    command = [*inside, sys.executable, "-c", _NAMES]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        assert server.stdout
        assert server.stdout.readline()
        yield
        server.terminate()
