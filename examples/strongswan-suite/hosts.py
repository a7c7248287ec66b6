"""The hosts of the suite, as guests of a lab."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import idle
import layer
from scenario import Scenario

from dumm_tools import Lab
from dumm_tools.api import Completed

#: The startup script of each host. Files come from testing/hosts and the master.
BOOT = """\
mkdir -p /run/network /run/sshd
sysctl -q -p /etc/sysctl.d/99-strongswan.conf
rsyslogd
/usr/sbin/sshd
"""
#: Of winnetou, the host of certificates, revocation lists and names. Scenarios that use its
#: directory start that themselves.
SERVERS = """\
mkdir -p /run/named
chown bind:bind /run/named
apachectl start
named -u bind
"""
#: Prepares hosts that have such files, as testing/scripts/build-guestimages does.
PREPARE = """\
set -e
if [ -e /etc/ca/generate-crl ]; then
	mkdir -p /var/log/apache2/ocsp /var/www/certs/research /var/www/certs/sales
	/etc/ca/generate-crl
fi
if [ -e /etc/ldap/ldif.txt ]; then
	rm -rf /var/lib/ldap/*
	slapadd -l /etc/ldap/ldif.txt -f /etc/ldap/slapd.conf
	chown -R openldap:openldap /var/lib/ldap
fi
if [ -e /etc/bind/db.root ] && [ -e /etc/bind/db.org ]; then
	cd /etc/bind
	dnssec-signzone -K . -o strongswan.org. db.strongswan.org
	dnssec-signzone -K . -o org. db.org
	dnssec-signzone -K . -o . db.root
fi
if [ -d /etc/freeradius ]; then
	mkdir -p /etc/pts
	chgrp www-data /etc/pts
	chmod g+w /etc/pts
fi
"""
#: As ssh gives it to root.
_ENVIRONMENT = {
    "HOME": "/root",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "TERM": "dumb",
}
_SETTLE_SECONDS = 10.0
LEAKS = "/var/log/leak-detective.log"


def environment(*, leaks: bool) -> dict[str, str]:
    """The environment of commands. Leaks in code that has no names are not strongSwan's: ssh and
    systemd say so, too (testing/hosts/default/etc)."""
    if leaks:
        more = {"LEAK_DETECTIVE_LOG": LEAKS, "LEAK_DETECTIVE_IGNORE_UNKNOWN": "1"}
    else:
        more = {"LEAK_DETECTIVE_DISABLE": "1", "LEAK_DETECTIVE_DISABLE_DAEMON": "1"}
    return _ENVIRONMENT | more


class Hosts:
    """The eight hosts. Between scenarios none of them runs."""

    def __init__(self, lab: Lab, testing: Path, *, leaks: bool = False) -> None:
        self.lab = lab
        self.testing = testing
        self.names = sorted(guest.name for guest in lab.guests())
        self._environment = environment(leaks=leaks)
        self._has: dict[str, bool] = {}
        self._prepare()

    def _prepare(self) -> None:
        """Give each host its files, which are below those of all scenarios."""
        for name in self.names:
            self.lab.copy(f"{self.testing}/hosts/default/.", to=f"{name}:/")
            self.lab.copy(f"{self.testing}/hosts/{name}/etc/.", to=f"{name}:/etc")
        for done in self.run_in_all(self.names, PREPARE).values():
            if done.returncode:
                raise RuntimeError(f"a host cannot be prepared:\n{done.stdout}{done.stderr}")
        self._links = layer.links(self.run("alice", layer.FIND_LINKS, check=True).stdout)
        for name in self.names:
            self.lab.guest(name).set_startup(BOOT + (SERVERS if name == "winnetou" else ""))
        self.lab.stop(kill=True, if_running=True)

    def run(
        self, host: str, command: str, *, timeout: float = 120, check: bool = False
    ) -> Completed[str]:
        """Run a command in a host as ssh does, by a shell; a host that does not exist (a scenario
        has a typing error) is as one that ssh does not reach."""
        if host not in self.names:
            return Completed(255, "", f"no host '{host}'\n", 0.0)
        return self.lab.guest(host).run(
            ["bash", "-c", command],
            env=self._environment,
            cwd="/root",
            timeout=timeout,
            check=check,
        )

    def run_in_all(self, hosts: Iterable[str], command: str) -> dict[str, Completed[str]]:
        """Run a command in several hosts at a time."""
        given = list(hosts)
        with ThreadPoolExecutor(len(given) or 1) as pool:
            return dict(
                zip(given, pool.map(lambda host: self.run(host, command), given), strict=True)
            )

    def has(self, test: str) -> bool:
        """Whether a command succeeds in a host, any of them since they have the same master."""
        if test not in self._has:
            self.lab.start("winnetou", may_run=True)
            self._has[test] = not self.run("winnetou", test).returncode
        return self._has[test]

    def settle(self) -> None:
        """Wait until no host has anything to do. Real hosts have processors of their own; here a
        packet that is sent at once may come before its receiver had the time to install what it
        had agreed to."""
        idle.settle((guest.pid for guest in self.lab.guests() if guest.pid), _SETTLE_SECONDS)

    @contextmanager
    def playing(self, scenario: Scenario) -> Iterator[None]:
        """Run the hosts that a scenario needs, with its files on top of theirs. At the end all are
        stopped, and whatever they wrote is dropped."""
        template = scenario.name.replace("/", ".")
        layers = Path(self.lab.directory) / "templates" / template
        layers.mkdir(parents=True)
        try:
            self.lab.stop(kill=True, if_running=True)
            for name in self.names:
                if (scenario.files / name).is_dir():
                    layer.write(scenario.files / name, layers / name, self._links)
            self.lab.template(template).load()
            self.lab.start(
                *sorted(scenario.all_hosts() & set(self.names)), wait="booted", timeout=120
            )
            yield
        finally:
            self.lab.stop(kill=True, if_running=True)
            self.lab.unload(if_exists=True)
            self.lab.template(template).delete(if_exists=True)
