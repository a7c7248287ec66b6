"""Reading pcapng files."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dumm_tools.errors import DummError
from dumm_tools.net import pcap_file, pcapng

HEAD = pcapng.section("x") + pcapng.interface("a-eth0", "device d", "icmp") + pcapng.interface("b")


@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, 2**63 - 1), st.binary(max_size=70)), max_size=5
    ),
    st.integers(0, 60),
)
def test_what_is_written_is_read(packets: list[tuple[int, int, bytes]], cut: int) -> None:
    """Also while it is being written: only whole packets count."""
    data = HEAD + b"".join(pcapng.packet(*each) for each in packets) + pcapng.statistics(0, 1, 0)
    found = list(pcap_file.packets(data))
    assert [(p.name, p.time_ns, p.data) for p in found] == [
        (("a-eth0", "b")[number], when, body) for number, when, body in packets
    ]
    partial = list(pcap_file.packets(data[: max(0, len(data) - cut)]))
    assert partial == found[: len(partial)]


def test_other_byte_order_and_resolution() -> None:
    """As other programs write them."""

    def block(kind: int, body: bytes) -> bytes:
        size = 12 + len(body)
        return struct.pack(">II", kind, size) + body + struct.pack(">I", size)

    data = block(0x0A0D0D0A, struct.pack(">IHHq", 0x1A2B3C4D, 1, 0, -1))
    data += block(1, struct.pack(">HHI", 1, 0, 0))  # microseconds
    data += block(1, struct.pack(">HHIHHB3xHH", 1, 0, 0, 9, 1, 0x80 | 10, 0, 0))  # 2 ** -10 s
    data += block(6, struct.pack(">IIIII4s", 0, 0, 1_500_000, 4, 4, b"abcd"))
    data += block(6, struct.pack(">IIIII4s", 1, 0, 3 << 9, 3, 3, b"abc\0"))
    found = list(pcap_file.packets(data))
    assert [(p.time, p.data) for p in found] == [(1.5, b"abcd"), (1.5, b"abc")]


@pytest.mark.parametrize(
    "data",
    [
        b"text that is not a capture",
        HEAD + struct.pack("<II", 6, 0) + bytes(20),
        HEAD + struct.pack("<II", 6, 13) + bytes(20),
        HEAD + struct.pack("<II", 6, 12) + struct.pack("<I", 12),
        HEAD + pcapng.packet(2, 0, b""),
    ],
)
def test_files_that_are_something_else(data: bytes) -> None:
    with pytest.raises(DummError, match="not a pcapng file"):
        list(pcap_file.packets(data))


@given(st.binary(max_size=200))
def test_nothing_else_is_raised(tail: bytes) -> None:
    for start in (b"", HEAD):
        try:
            for packet in pcap_file.packets(start + tail):
                assert len(packet.data) <= len(tail)
        except DummError:
            pass
