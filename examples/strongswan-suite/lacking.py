"""Things that a scenario needs and the hosts do not have."""

from __future__ import annotations

import re
import shlex

from hosts import Hosts
from scenario import Scenario

#: For texts in the name of a scenario or in a step, a command that tells whether a host has what is
#: needed there.
_NEEDS = {
    "taskset -c 1": ("[ $(nproc) -ge 2 ]", "a kernel with several CPUs"),
    "taskset -c 3": ("[ $(nproc) -ge 4 ]", "a kernel with several CPUs"),
    "ha/": (
        "[ -e /proc/net/ipt_CLUSTERIP ]",
        "a kernel with strongSwan's patch for high availability",
    ),
    "/usr/local/bin/init_tnc": ("[ -e /var/www/tnc/manage.py ]", "strongTNC"),
}


def why(hosts: Hosts, scenario: Scenario) -> str | None:
    """Why a scenario cannot be played, or None."""
    commands = [step.command for step in (*scenario.before, *scenario.evaluation)]
    for text, (test, what) in _NEEDS.items():
        if any(text in each for each in (scenario.name, *commands)) and not hosts.has(test):
            return f"needs {what}"
    programs = {match[0] for command in commands if (match := re.match(r"[\w./+-]+", command))}
    for program in sorted(programs - {"tcpdump"}):
        if not hosts.has(f"command -v {shlex.quote(program)} >/dev/null"):
            return f"needs the program {program}"
    return None
