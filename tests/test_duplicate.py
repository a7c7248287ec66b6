"""The same address given twice: refused in one command, a warning on one segment."""

from __future__ import annotations

import pytest
from support.labs import Lab

pytestmark = pytest.mark.netns


@pytest.fixture
def segment(lab: Lab) -> Lab:
    """Two segments, and four guests: a and b on lan0, c on lan1, d on none."""
    lab("dumm-guest create a b c d")
    lab("dumm-bridge create lan0 lan1")
    lab("dumm-iface create a-eth0 --bridge lan0 --address 10.0.0.1/24 --address fd00::1/64")
    lab("dumm-iface create b-eth0 --bridge lan0")
    lab("dumm-iface create c-eth0 --bridge lan1 --address 10.0.0.1/16")
    lab("dumm-iface create d-eth0 --address 10.0.0.1/24")
    return lab


@pytest.mark.parametrize(
    "command",
    [
        "dumm-iface create a-eth0 a-eth1 --address 10.0.0.1/24",
        "dumm-iface create a-eth0 a-eth1 --address 10.0.0.1/24 --may-exist",
        "dumm-bridge create lan0 lan1 --address 10.0.0.254/24",
    ],
)
def test_one_address_for_several_is_refused(lab: Lab, command: str) -> None:
    lab("dumm-guest create a")
    before = (lab.directory / "state.json").read_bytes()
    done = lab(command, status=2)
    assert "--address is for a single one only" in done.err
    assert (lab.directory / "state.json").read_bytes() == before


def warned(lab: Lab, command: str) -> list[str]:
    """The warnings of a command that succeeds."""
    prefix = f"{command.split()[0]}: warning: "
    lines = lab(command).err.splitlines()
    assert all(line.startswith(prefix) for line in lines), lines
    return [line.removeprefix(prefix) for line in lines]


def test_an_address_twice_on_a_segment_is_a_warning(segment: Lab) -> None:
    assert warned(segment, "dumm-iface address add b-eth0 10.0.0.1/16 10.0.0.2/24 fd00::1/48") == [
        "'b-eth0' and 'a-eth0' both have 10.0.0.1 on 'lan0'",
        "'b-eth0' and 'a-eth0' both have fd00::1 on 'lan0'",
    ]
    # Only what is new is reported.
    assert warned(segment, "dumm-iface address add b-eth0 10.0.0.3/24") == []
    assert warned(segment, "dumm-iface address add --may-exist b-eth0 10.0.0.1/16") == []
    twice = "'d-eth0' and '{}' both have 10.0.0.1 on '{}'"
    assert warned(segment, "dumm-bridge connect lan0 d-eth0") == [
        twice.format("a-eth0", "lan0"),
        twice.format("b-eth0", "lan0"),
    ]
    assert warned(segment, "dumm-bridge connect lan1 d-eth0") == [twice.format("c-eth0", "lan1")]
    assert warned(segment, "dumm-iface create b-eth1 --bridge lan1 --address 10.0.0.1/30") == [
        "'b-eth1' and 'c-eth0' both have 10.0.0.1 on 'lan1'",
        "'b-eth1' and 'd-eth0' both have 10.0.0.1 on 'lan1'",
    ]


def test_the_hosts_own_address_twice_is_a_warning(segment: Lab) -> None:
    assert warned(segment, "dumm-bridge address add lan0 10.0.0.1/24") == [
        "the host and 'a-eth0' both have 10.0.0.1 on 'lan0'"
    ]
    assert warned(segment, "dumm-iface address add b-eth0 10.0.0.1/24") == [
        "'b-eth0' and 'a-eth0' both have 10.0.0.1 on 'lan0'",
        "'b-eth0' and the host both have 10.0.0.1 on 'lan0'",
    ]
    assert warned(segment, "dumm-bridge create lan2 --address 10.0.0.1/24") == [
        "the host has 10.0.0.1 on 'lan0', too"
    ]


def test_a_mac_address_twice_on_a_segment_is_a_warning(segment: Lab) -> None:
    segment("dumm-iface set a-eth0 --mac 02:00:00:00:00:01")
    assert warned(segment, "dumm-iface set b-eth0 --mac 02:00:00:00:00:01") == [
        "'b-eth0' and 'a-eth0' both have 02:00:00:00:00:01 on 'lan0'"
    ]
    mac = "--mac 02:00:00:00:00:01"
    assert warned(segment, f"dumm-iface create d-eth1 --bridge lan0 {mac}") == [
        "'d-eth1' and 'a-eth0' both have 02:00:00:00:00:01 on 'lan0'",
        "'d-eth1' and 'b-eth0' both have 02:00:00:00:00:01 on 'lan0'",
    ]
    assert warned(segment, f"dumm-iface create d-eth2 --bridge lan1 {mac}") == []
