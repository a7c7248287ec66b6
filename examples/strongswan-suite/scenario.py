"""A scenario of strongSwan's test suite, as read from testing/tests.

The formats are those of testing/do-tests and testing/scripts/load-testconfig in its sources.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

#: Addresses by the placeholders that stand for them in scenarios (testing/testing.conf).
_IPV4 = {
    "ALICE": "10.1.0.10",
    "ALICE1": "192.168.0.50",
    "VENUS": "10.1.0.20",
    "MOON": "192.168.0.1",
    "MOON1": "10.1.0.1",
    "CAROL": "192.168.0.100",
    "CAROL1": "10.3.0.1",
    "WINNETOU": "192.168.0.150",
    "DAVE": "192.168.0.200",
    "DAVE1": "10.3.0.2",
    "SUN": "192.168.0.2",
    "SUN1": "10.2.0.1",
    "BOB": "10.2.0.10",
}
_IPV6 = {
    "ALICE": "fec1::10",
    "ALICE1": "fec0::5",
    "VENUS": "fec1::20",
    "MOON": "fec0::1",
    "MOON1": "fec1::1",
    "CAROL": "fec0::10",
    "CAROL1": "fec3::1",
    "WINNETOU": "fec0::15",
    "DAVE": "fec0::20",
    "DAVE1": "fec3::2",
    "SUN": "fec0::2",
    "SUN1": "fec2::1",
    "BOB": "fec2::10",
}
#: Hosts by their names and addresses.
_HOSTS = {
    word: name.rstrip("1").lower()
    for addresses in (_IPV4, _IPV6)
    for name, address in addresses.items()
    for word in (name.lower(), address)
}
_PLACEHOLDER = re.compile(rb"PH_IP(V?6)?_([A-Z]+1?)")


class Step(NamedTuple):
    """A command for a host; of evaltest.dat also the pattern for grep(1) to look for in its output,
    and how often: YES, NO or a number of lines."""

    host: str
    command: str
    pattern: str = ""
    hit: str = ""


class Scenario(NamedTuple):
    """A scenario: what is done before the evaluation, in it and after it; the hosts that take part
    as test.conf names them; and the directory with their files."""

    name: str
    before: list[Step]
    evaluation: list[Step]
    after: list[Step]
    hosts: dict[str, list[str]]
    files: Path

    def all_hosts(self) -> set[str]:
        """The hosts that must run: all that the scenario mentions, by name or address, and
        winnetou, which serves revocation lists to all. A host that does not run answers less than
        one that refuses."""
        steps = (*self.before, *self.evaluation, *self.after)
        texts = [f"{step.host} {step.command}" for step in steps]
        texts += [filled_in(path.read_bytes()).decode(errors="replace") for path in self._texts()]
        words = set(re.split(r"[^\w:.]|[.](?=[a-z])", " ".join(texts)))
        mentioned = {_HOSTS[word] for word in words & _HOSTS.keys()}
        return {"winnetou"} | mentioned | {host for hosts in self.hosts.values() for host in hosts}

    def _texts(self) -> Iterator[Path]:
        for path in self.files.rglob("*"):
            if path.is_file() and path.suffix not in (".pem", ".der", ".crl"):
                yield path


def names(testing: Path) -> list[str]:
    """All scenarios of a suite, as FOLDER/NAME."""
    return sorted(
        f"{path.parent.parent.name}/{path.parent.name}"
        for path in testing.glob("tests/*/*/test.conf")
    )


def read(testing: Path, name: str) -> Scenario:
    """Read a scenario."""
    place = testing / "tests" / name
    return Scenario(
        name,
        list(_steps(place / "pretest.dat")),
        list(_steps(place / "evaltest.dat", is_evaluation=True)),
        list(_steps(place / "posttest.dat")),
        _hosts((place / "test.conf").read_text()),
        place / "hosts",
    )


def filled_in(data: bytes) -> bytes:
    """A file of a scenario, with addresses in place of the placeholders."""

    def address(match: re.Match[bytes]) -> bytes:
        found = (_IPV6 if match[1] else _IPV4).get(match[2].decode())
        return found.encode() if found else match[0]

    return _PLACEHOLDER.sub(address, data)


def _steps(path: Path, *, is_evaluation: bool = False) -> Iterator[Step]:
    for line in filled_in(path.read_bytes()).decode(errors="surrogateescape").splitlines():
        # The eval of do-tests is given words, so that several blanks become one.
        host, *fields = " ".join(line.split()).split("::")
        if line.startswith("#") or not fields or not fields[0]:
            continue
        # do-tests lets its own shell read these texts: commands before and after the evaluation,
        # and patterns, in double quotes; commands of the evaluation as they are.
        if is_evaluation:
            pattern, hit = (*fields[1:3], "", "")[:2]
            yield Step(host.strip(), read_by_shell(fields[0]), read_by_shell(f'"{pattern}"'), hit)
        else:
            yield Step(host.strip(), read_by_shell(f'"{fields[0]}"'))


def read_by_shell(text: str) -> str:
    """A text after one shell has read its quotes and backslashes. That shell's substitutions and
    operators are left to the next one, in the guest."""
    read = []
    quote = ""
    rest = iter(text)
    for char in rest:
        if char == quote:
            quote = ""
        elif not quote and char in "'\"":
            quote = char
        elif char == "\\" and quote != "'":
            following = next(rest, "")
            # bash(1), QUOTING: in double quotes a backslash means something before these only.
            read.append(following if not quote or following in '$`"\\\n' else char + following)
        else:
            read.append(char)
    return "".join(read).strip()


def _hosts(text: str) -> dict[str, list[str]]:
    """The variables of a test.conf, which are lists of hosts, by their names."""
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^\s*(\w+HOSTS)=(.*)$", text, re.MULTILINE):
        words = shlex.split(value, comments=True)
        given = " ".join(words).split()
        found[key] = [
            host
            for word in given
            for host in (found.get(word[1:], []) if word[0] == "$" else [word])
        ]
    return found
