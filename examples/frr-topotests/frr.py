"""FRR in the guests of a lab: start it, and wait for what it should know."""

from __future__ import annotations

import re

from dumm_tools import Guest, Lab

#: Seconds. Nothing takes that long unless it fails, except on a busy machine.
TIMEOUT = 120


def start(lab: Lab, *daemons: str, **configs: str) -> None:
    """Start zebra and these daemons in each guest, with the configuration that has its name."""
    for name, config in configs.items():
        router = lab.guest(name)
        router.write_text("/etc/frr/frr.conf", config)
        router.run(["sysctl", "-w", "net.ipv4.ip_forward=1"], check=True)
        for daemon in ("zebra", *daemons):
            router.run([f"/usr/lib/frr/{daemon}", "-d"], check=True)
        router.run(["vtysh", "-b"], check=True)


def shows(router: Guest, command: str, expected: str) -> None:
    """Wait until `show COMMAND json` prints what a regular expression describes."""
    show = ["vtysh", "-c", f"show {command} json"]
    router.wait_until(show, match=f"(?s){expected}", timeout=TIMEOUT)


def learns(router: Guest, prefix: str, via: str) -> None:
    """Wait until a route is in the kernel."""
    shows(router, f"ip route {prefix}", rf'"fib":true[^}}]*"ip":"{re.escape(via)}"')


def forgets(router: Guest, prefix: str) -> None:
    """Wait until there is no such route."""
    shows(router, f"ip route {prefix}", r"\A\{\s*\}\s*\Z")
