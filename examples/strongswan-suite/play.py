"""Plays a scenario, as testing/do-tests does."""

from __future__ import annotations

import subprocess
from typing import NamedTuple

from hosts import LEAKS, Hosts
from scenario import Scenario, Step

from dumm_tools.api import Completed, TimedOut

#: Of do-tests: wait until tcpdump has seen all packets that were captured, then end it.
_END_TCPDUMP = r"""
i=100
while [ $i -gt 0 ]; do
	pkill -USR1 tcpdump
	tail -1 /tmp/tcpdump.err.log | perl -n -e '/(\d+).*?(\d+)/; exit ($1 == $2)' || break
	sleep 0.01
	i=$((i-1))
done
pkill -x tcpdump
while pkill -0 -x tcpdump; do sleep 0.01; done
"""
_WAIT_FOR_TCPDUMP = "until grep -q '^listening' /tmp/tcpdump.err.log; do sleep 0.02; done"


class Outcome(NamedTuple):
    """The result of a scenario: its failures, and all that was typed and printed."""

    failures: list[str]
    transcript: str


def play(hosts: Hosts, scenario: Scenario) -> Outcome:
    """Play a scenario on hosts that have its files."""
    failures: list[str] = []
    lines: list[str] = []
    capturing = set(scenario.hosts.get("TCPDUMPHOSTS", ()))
    _init(hosts, scenario)
    for step in scenario.before:
        _do(hosts, step, lines)
    hosts.settle()
    for step in scenario.evaluation:
        if step.command == "tcpdump":
            if step.host in capturing:
                hosts.run(step.host, _END_TCPDUMP)
                capturing.discard(step.host)
            command = "cat /tmp/tcpdump.log"
        else:
            command = step.command
        done = _run(hosts, step.host, command)
        found = _grep(step.pattern, done.stdout)
        shown = f"{step.host}# {command} | grep '{step.pattern}'  [{step.hit}]"
        if not _is_as_expected(step.hit, found):
            failures.append(shown)
            lines += ["~~~~~~~ FAIL ~~~~~~~", shown, done.stdout, done.stderr, "~" * 20]
        else:
            lines += [shown, found, done.stderr]
    for step in scenario.after:
        _do(hosts, step, lines)
    failures += _left_over(hosts, scenario)
    return Outcome(failures, "\n".join(line.rstrip("\n") for line in lines if line))


def _init(hosts: Hosts, scenario: Scenario) -> None:
    """Start captures and mount databases. Hosts have booted, so that there is nothing to flush."""
    for host in scenario.all_hosts():
        options = ""
        if host in scenario.hosts.get("TCPDUMPHOSTS", ()):
            options += " -i eth0"
        if host in scenario.hosts.get("DBHOSTS", ()):
            options += " -d /etc/db.d"
        if options:
            hosts.run(host, f"init-test{options}")
        if "-i" in options:
            hosts.run(host, _WAIT_FOR_TCPDUMP)


def _run(hosts: Hosts, host: str, command: str) -> Completed[str]:
    """Run a step; one that takes too long counts as failed, and the next one follows."""
    try:
        return hosts.run(host, command)
    except TimedOut as e:
        return Completed(255, str(e.stdout), f"{e.stderr!s}{e}\n", 0.0)


def _do(hosts: Hosts, step: Step, lines: list[str]) -> None:
    done = _run(hosts, step.host, step.command)
    lines += [f"{step.host}# {step.command}", done.stdout, done.stderr]
    if done.returncode:
        lines.append(f"(status {done.returncode})")


def _grep(pattern: str, text: str) -> str:
    done = subprocess.run(
        ["grep", "-e", pattern],
        input=text,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    return done.stdout


def _is_as_expected(hit: str, found: str) -> bool:
    if hit.isdecimal():
        return max(found.count("\n"), 1) == int(hit)  # echo "" | wc -l
    return {"YES": bool(found), "NO": not found}.get(hit, True)


def _left_over(hosts: Hosts, scenario: Scenario) -> list[str]:
    """IPsec state and leaks that a scenario has left."""
    failures = []
    ipsec = scenario.hosts.get("IPSECHOSTS", [])
    states = hosts.run_in_all(ipsec, "ip xfrm state | grep 'proto.*spi' | grep -v 'proto 4'")
    policies = hosts.run_in_all(ipsec, "ip xfrm policy")
    leaks = hosts.run_in_all(
        scenario.all_hosts() & set(hosts.names),
        f"[ ! -e {LEAKS} ] || grep -v 'No leaks detected' {LEAKS}",
    )
    for what, found in (("xfrm state", states), ("xfrm policy", policies), ("leaks", leaks)):
        failures += [
            f"{host}: {what}:\n{each.stdout}" for host, each in found.items() if each.stdout
        ]
    return failures
