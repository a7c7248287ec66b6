"""Messages on a line to the agent (src/protocol.h, which uses the same names), and the only place
that decodes what a guest sends: whatever its kernel sends leaves this module as a valid message of
an agent, or as BadFrame.

A guest's root user can make its kernel send anything. Lengths, numbers and texts are trusted only
after they have been checked here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from dumm_tools.model import Record

# To the guest.
HELLO, RUN, INPUT, BULK, INPUT_END = b"R", b"X", b"I", b"J", b"E"
SIGNAL, RESIZE, NETLINK, NETNS = b"S", b"W", b"N", b"G"
MODULE, STORE, POWER, LAYERS, HOLDERS = b"M", b"F", b"P", b"L", b"H"
STATE = b"B"
# From the guest.
READY, OUTPUT, ERRORS, TAKEN, BULK_TAKEN, DEAF = b"r", b"o", b"e", b"k", b"j", b"c"
STATUS, FAILED, ANSWER, DONE, TAKEN_LINE, UP = b"x", b"f", b"n", b"d", b"a", b"b"
HELD, BOOTED = b"h", b"s"

END, ESC, ESC_END, ESC_ESC = b"\xc0", b"\xdb", b"\xdc", b"\xdd"
#: Written by the agent when it has opened a line: a frame of type UP.
OPENED = b"b\x08\0\0dumm-up\n"
#: A flag of RUN, which counts the words of a command in 16 bits; the requests of POWER.
RUN_TTY, WORDS_MAX = 1, 65535
POWER_OFF, POWER_REBOOT = b"o", b"r"
#: The agent's instructions for the boot: a file of this name in run/NAME, with records of these
#: types.
BOOT_FILE = "xfer/boot"
BOOT_HOSTNAME, BOOT_INIT, BOOT_MODULE, BOOT_NETLINK, BOOT_NIC = b"H", b"I", b"M", b"N", b"V"
BOOT_ROUTE, BOOT_ROOT, BOOT_DISK, BOOT_STARTUP = b"R", b"F", b"U", b"S"
#: How BOOT_STARTUP is meant: its program is in this file of run/NAME, of at most so many bytes; the
#: guest counts as booted while the program runs.
STARTUP_SCRIPT, STARTUP_SERVICE = 1, 2
STARTUP_FILE, STARTUP_MAX = "xfer/startup", 1 << 20
BOOT_KEYS, BOOT_OWN = b"K", b"O"

INPUT_WINDOW = 16384
#: Bytes in flight to the agent; more would block the line forever.
LINE_WINDOW = 3072
IN_MAX, OUT_MAX = 192 << 10, 64 << 10
READY_MAX, FAILED_MAX, HELD_MAX, BOOTED_MAX = 400, 200, 4096, 64
NONCE = 16
#: Type and length of a frame from the guest.
HEAD = 4
#: Bytes in one frame to the guest: with a margin.
FRAME_MAX = IN_MAX - 16
_DATA_MAX = OUT_MAX - HEAD
_ERRNO_MAX = 4095  # linux/err.h
_SIGNAL_MAX = 64  # signal(7)
_COUNT_MAX = (1 << 32) - 1

#: For each type: minimum and maximum length; size and limit of the number that it starts with.
_FORMS: dict[bytes, tuple[int, int, int, int]] = {
    READY: (NONCE + 6, READY_MAX, 0, 0),
    OUTPUT: (0, _DATA_MAX, 0, 0),
    ERRORS: (0, _DATA_MAX, 0, 0),
    TAKEN: (4, 4, 4, INPUT_WINDOW),
    BULK_TAKEN: (1, 1, 1, 1),
    DEAF: (0, 0, 0, 0),
    STATUS: (4, 4, 4, _COUNT_MAX),
    FAILED: (4, FAILED_MAX, 4, _ERRNO_MAX),
    ANSWER: (0, _DATA_MAX, 0, 0),
    DONE: (4, 4, 4, _ERRNO_MAX),
    TAKEN_LINE: (4, 4, 4, _COUNT_MAX),
    HELD: (0, HELD_MAX, 0, 0),
    UP: (8, 8, 0, 0),
    BOOTED: (0, BOOTED_MAX, 0, 0),
}


#: The form of what a guest says of its startup program.
_STARTUP_STATE = r"(none|running|done|failed \d{1,3})"


class LineLost(Exception):
    """The guest's kernel ended while we were waiting for its agent."""


class Rebooted(LineLost):
    """The guest has rebooted while we were waiting for its agent: no answer will come."""


class BadFrame(LineLost):
    """The data is not a valid frame of an agent."""


class Frame(NamedTuple):
    """A frame from the guest: the number that frames of its type start with, and the rest."""

    kind: bytes
    number: int
    data: bytes


class Ready(Record):
    """The agent's report about itself: the boot it belongs to, its kernel, the other lines that run
    a program, and what failed at boot; whether this boot is useless because of that."""

    nonce: str
    release: str
    busy: frozenset[int]
    trouble: str
    useless: bool = False


class Booted(NamedTuple):
    """The agent's report that the guest has booted: the kind of its init (none, systemd, inittab,
    openrc, runit or other), and what became of its startup program (none, running, done or
    failed N)."""

    init: str
    startup: str


def frame(kind: bytes, payload: bytes = b"") -> bytes:
    """Encode a frame to the guest."""
    body = (kind + payload).replace(ESC, ESC + ESC_ESC).replace(END, ESC + ESC_END)
    return END + body + END


def frames(inbox: bytearray) -> Iterator[Frame]:
    """Split off the complete frames in the data; BadFrame at the first invalid one, before waiting
    for the contents that it announces."""
    at = 0
    try:
        while len(inbox) >= at + HEAD:
            kind, size = bytes(inbox[at : at + 1]), _size(inbox, at)
            least, most, width, limit = _FORMS.get(kind, (1, 0, 0, 0))
            if not least <= size <= most:
                raise BadFrame
            if len(inbox) < at + HEAD + size:
                return
            start, at = at + HEAD, at + HEAD + size
            number = int.from_bytes(inbox[start : start + width], "little")
            if number > limit:
                raise BadFrame
            if kind == STATUS:
                exit_status(number)
            yield Frame(kind, number, bytes(inbox[start + width : at]))
    finally:
        del inbox[:at]


def _size(inbox: bytearray, at: int) -> int:
    return int.from_bytes(inbox[at + 1 : at + HEAD], "little")


def find_ready(inbox: bytearray, nonce: bytes) -> int:
    """The position of the READY with this nonce; -1 if it has not arrived.

    A nonce may occur elsewhere: a terminal that is not in raw mode yet echoes our input.
    """
    least, most, _, _ = _FORMS[READY]
    at = inbox.find(nonce)
    while at >= 0:
        if inbox[max(0, at - HEAD) : at][:1] == READY and least <= _size(inbox, at - HEAD) <= most:
            return at - HEAD
        at = inbox.find(nonce, at + 1)
    return -1


def ready(payload: bytes, lines: int) -> Ready:
    """Decode the text of a READY from a guest with this number of lines."""
    form = r"([0-9a-f]{1,64}|-) (\S{1,64}) ([0-9a-f]{16}) (!?)(.*)"
    found = re.fullmatch(form, printable(payload[NONCE:]))
    if found is None:
        raise BadFrame
    boot, release, busy, useless, trouble = found.groups()
    bits = within(int(busy, 16), 0, (1 << lines) - 1)
    return Ready(
        boot,
        release,
        frozenset(n for n in range(lines) if bits >> n & 1),
        explained(trouble),
        bool(useless),
    )


def explained(text: str) -> str:
    """A text of the agent, with errors by name."""
    return re.sub(r"errno (\d{1,4})(?!\d)", lambda m: os.strerror(int(m[1])), text)


class Holder(NamedTuple):
    """A process in a guest that still uses an earlier root file system."""

    pid: int
    command: str
    apart: bool  # whether it has a mount namespace of its own


def holders(payload: bytes) -> list[Holder]:
    """Decode the text of a HELD."""
    found = [
        re.fullmatch(r"(\d{1,10}) ([nf]) (.{1,64})", printable(line))
        for line in payload.splitlines()
    ]
    return [Holder(int(m[1]), m[3], m[2] == "n") for m in found if m]


def booted(payload: bytes) -> Booted:
    """Decode the text of a BOOTED."""
    form = rf"(none|systemd|inittab|openrc|runit|other) {_STARTUP_STATE}"
    found = re.fullmatch(form, printable(payload))
    if found is None:
        raise BadFrame
    return Booted(found[1], found[2])


def startup_state(text: str) -> str | None:
    """Check the state of a startup program as a guest gives it; None if it is not valid."""
    return text if re.fullmatch(_STARTUP_STATE, text) else None


def exit_status(status: int) -> int:
    """The exit status for a wait status (wait(2)): 0 to 255, or 128 + n if signal n killed the
    program."""
    number = status & 0x7F
    if number:
        within(number, 1, _SIGNAL_MAX)
        within(status >> 8, 0, 0)
        return 128 + number
    return within(status >> 8, 0, 255) + within(status & 0x80, 0, 0)


def within(number: int, least: int, most: int) -> int:
    """The number if it is in the range, else BadFrame."""
    if not least <= number <= most:
        raise BadFrame
    return number


def advanced(count: int, before: int, most: int) -> int:
    """How far a 32-bit counter has advanced since it was `before`: at most `most`."""
    return within((count - before) & _COUNT_MAX, 0, most)


def failure(number: int, subject: str) -> OSError:
    """The error for a number that a guest sent."""
    number = within(number, 1, _ERRNO_MAX)
    return OSError(number, os.strerror(number), subject)


def printable(text: bytes, most: int = 1 << 16) -> str:
    """A guest's text for display: truncated to this number of characters, with control characters
    escaped."""
    decoded = text[: 4 * most].decode(errors="replace")[:most]
    if decoded.isprintable():
        return decoded
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in decoded)[:most]
