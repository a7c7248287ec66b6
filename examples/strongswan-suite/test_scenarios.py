"""The scenarios of strongSwan's own test suite, one test for each."""

from __future__ import annotations

import lacking
import play
import pytest
import scenario
from hosts import Hosts


def test_scenario(scenario_name: str, hosts: Hosts) -> None:
    read = scenario.read(hosts.testing, scenario_name)
    if reason := lacking.why(hosts, read):
        pytest.skip(reason)
    with hosts.playing(read):
        outcome = play.play(hosts, read)
        if outcome.failures:
            logs = {
                host: hosts.run(host, "tail -n 60 /var/log/daemon.log").stdout
                for host in read.hosts.get("IPSECHOSTS", ())
            }
            print(outcome.transcript)
            for host, log in logs.items():
                print(f"\n{host}:/var/log/daemon.log\n{log}")
            pytest.fail("\n".join(outcome.failures), pytrace=False)
