"""`make siege`: one hostile guest among many, and commands on the others all the while.

    siege.py [--guests N] [--workers N] [--commands N] [--isolated] [WAY...]

It runs as root, in a network and mount namespace of its own. A guest's kernel is stopped and its
lines, its mconsole and its files are taken over, or its root user runs wild, in each of the ways
below. No command on another guest may fail or take more than 200 MB. The time of the slowest is
printed.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import random
import select
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from support import PATIENCE, SUITES
from support.labs import Lab
from support.masters import cache_home
from support.namespaces import isolate

#: The hostile guest.
FOE = "foe"
#: Bytes of data memory that a command may use.
DATA_MAX = 200 << 20
LINES = 18


def frame(kind: bytes, payload: bytes = b"", *, size: int | None = None) -> bytes:
    """A frame for the host (protocol.h), which may claim a wrong size."""
    return kind + (len(payload) if size is None else size).to_bytes(3, "little") + payload


def netlink(
    number: int, kind: int, flags: int = 0, body: bytes = b"", *, length: int = -1
) -> bytes:
    """A netlink message (netlink(7))."""
    size = 16 + len(body) if length < 0 else length
    return struct.pack("=IHHII", size, kind, flags, number, 0) + body


class Agent:
    """A process that answers instead of the agent of a guest whose kernel is suspended."""

    def __init__(self, lab: Lab, answer: Answer) -> None:
        state = json.loads((lab.directory / "state.json").read_text())
        self.nonce = state["guests"][FOE]["boot"]["nonce"]
        self._run = lab.directory / "run" / FOE
        self._answer = answer
        self._pid = os.fork()
        if self._pid == 0:
            try:
                self._serve()
            finally:
                os._exit(1)

    def end(self) -> None:
        """End the process."""
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)

    def ready(self, hello: bytes, text: bytes | None = None) -> bytes:
        """The answer to HELLO."""
        return frame(b"r", hello[:16] + (f"{self.nonce} 7.2 0 ".encode() if text is None else text))

    def say(self, line: int, data: bytes) -> None:
        """Write to the host, as far as it reads."""
        try:
            os.write(self._out[line], data)
        except BlockingIOError:
            time.sleep(0.001)

    def _serve(self) -> None:
        flags = os.O_RDWR | os.O_NONBLOCK
        into = [os.open(self._run / f"line{n}.in", flags) for n in range(LINES)]
        self._out = [os.open(self._run / f"line{n}.out", flags) for n in range(LINES)]
        heard = [b""] * LINES
        poll = select.poll()
        for fd in into:
            poll.register(fd, select.POLLIN)
        while True:
            self._answer(self, -1, b"", b"")
            for fd, _ in poll.poll(1):
                n = into.index(fd)
                with contextlib.suppress(BlockingIOError):
                    heard[n] += os.read(fd, 65536)
                *whole, heard[n] = heard[n].split(b"\xc0")
                for raw in filter(None, whole):
                    said = raw.replace(b"\xdb\xdc", b"\xc0").replace(b"\xdb\xdd", b"\xdb")
                    self._answer(self, n, said[:1], said[1:])


#: (agent, line, kind of the frame received, payload); line -1 if there is nothing to answer.
Answer = Callable[[Agent, int, bytes, bytes], object]


def answering(**answers: Callable[[Agent, bytes], bytes]) -> Answer:
    """Answer frames of these kinds as given, and others with a well-behaved READY."""

    def answer(agent: Agent, line: int, kind: bytes, payload: bytes) -> None:
        if line < 0:
            return
        made = answers.get(kind.decode("latin-1"))
        if made:
            agent.say(line, made(agent, payload))
        elif kind == b"R":
            agent.say(line, agent.ready(payload))

    return answer


def flooding(data: bytes, *, greet: bool = False) -> Answer:
    """Write on all lines, whatever is received."""

    def answer(agent: Agent, line: int, kind: bytes, payload: bytes) -> None:
        if greet and kind == b"R":
            agent.say(line, agent.ready(payload))
        for number in range(3):
            agent.say(number, data)

    return answer


def _slowly(agent: Agent, line: int, kind: bytes, payload: bytes) -> None:
    if line >= 0:
        time.sleep(9)
        said = agent.ready(payload) if kind == b"R" else frame(b"n", netlink(1, 2, 0, bytes(4)))
        agent.say(line, said)


def _piecemeal(agent: Agent, line: int, kind: bytes, payload: bytes) -> None:
    if kind == b"R":
        for byte in agent.ready(payload):
            agent.say(line, bytes([byte]))
            time.sleep(0.05)


def _endless(agent: Agent, payload: bytes) -> bytes:
    number = struct.unpack_from("=I", payload, 8)[0] if len(payload) >= 12 else 0
    return frame(b"n", netlink(number, 16, 2) * 3000) * 50


def _answered(body: bytes, kind: int = 2, length: int = -1) -> Callable[[Agent, bytes], bytes]:
    def answer(_agent: Agent, payload: bytes) -> bytes:
        number = struct.unpack_from("=I", payload, 8)[0] if len(payload) >= 12 else 0
        return frame(b"n", netlink(number, kind, 0, body, length=length))

    return answer


def _running(*frames: bytes) -> Answer:
    """Let programs seem to start, and send these frames about them."""
    return answering(X=lambda _agent, _payload: b"".join(frames))


#: Behaviours of an agent.
SPEECH: dict[str, Answer] = {
    "silence": lambda *_: None,
    "noise": flooding(os.urandom(4096)),
    "output-unasked": flooding(frame(b"o", b"z" * 4000)),
    "output-after-ready": flooding(frame(b"o", b"z" * 4000), greet=True),
    "ready-flood": flooding(frame(b"r", b"x" * 16 + b"nonce 7.2 0 ")),
    "length-16M": flooding(frame(b"r", b"y" * 4000, size=0xFFFFFF)),
    "slow": _slowly,
    "piecemeal": _piecemeal,
    "ready-errno-huge": answering(
        R=lambda a, p: a.ready(p, f"{a.nonce} 7.2 0 mount: errno {10**30}".encode())
    ),
    "ready-busy-huge": answering(R=lambda a, p: a.ready(p, f"{a.nonce} 7.2 {'f' * 900} ".encode())),
    "ready-busy-no-number": answering(R=lambda a, p: a.ready(p, f"{a.nonce} 7.2 x ".encode())),
    "ready-other-boot": answering(R=lambda a, p: a.ready(p, b"other 7.2 0 ")),
    "ready-no-text": answering(R=lambda a, p: a.ready(p, b"")),
    "ready-binary": answering(R=lambda a, p: a.ready(p, b"\x1b]0;x\x07 \xff\xfe 0 \x00\x00")),
    "ready-long": answering(R=lambda a, p: a.ready(p, f"{a.nonce} 7.2 0 ".encode() + b"x" * 60000)),
    "netlink-endless": answering(N=_endless),
    "netlink-errno": answering(N=_answered(struct.pack("=i", -(2**31)))),
    "netlink-short": answering(N=_answered(b"", length=3)),
    "netlink-too-long": answering(N=_answered(b"", length=2**31)),
    "netlink-empty": answering(N=lambda _a, _p: frame(b"n")),
    "netlink-odd": answering(N=_answered(os.urandom(200), kind=16)),
    "netlink-no-link": answering(N=_answered(bytes(16) + b"\x05\x00\x01\x00\x00", kind=16)),
    "done-errno-huge": answering(M=lambda _a, _p: frame(b"d", b"\xff" * 8)),
    "done-nothing": answering(M=lambda _a, _p: frame(b"d")),
    "status-huge": _running(frame(b"x", b"\xff" * 60)),
    "status-nothing": _running(frame(b"x")),
    "failed-errno-huge": _running(frame(b"f", b"\xff\xff\xff\x7fexec \x1b[2J")),
    "failed-nothing": _running(frame(b"f")),
    "taken-huge": _running(frame(b"k", (0x60000000).to_bytes(4, "little"))),
    "bulk-never-sent": _running(frame(b"j", b"\x07"), frame(b"j")),
    "line-taken-huge": _running(frame(b"a", b"\xff" * 4)),
    "deaf-and-silent": _running(frame(b"c")),
    "unknown-kinds": _running(*(frame(bytes([n]), b"?") for n in range(256))),
}


@contextlib.contextmanager
def speech(lab: Lab, answer: Answer) -> Iterator[None]:
    """Stop the foe's kernel, and answer in its place."""
    pid = int((lab.directory / f"run/{FOE}/pid").read_text().split()[0])
    os.kill(pid, signal.SIGSTOP)
    agent = Agent(lab, answer)
    try:
        yield
    finally:
        agent.end()


# ---- the mconsole, and files ----


@contextlib.contextmanager
def mconsole(lab: Lab, answer: bytes) -> Iterator[None]:
    """Replace the kernel's mconsole with another socket that repeats one message forever."""
    place = lab.directory / f"run/{FOE}/uml/m"
    (place / "mconsole").unlink()
    pid = os.fork()
    if pid == 0:
        try:
            os.chdir(place)
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
                server.bind("mconsole")
                _, client = server.recvfrom(65536)
                os.chdir("../..")
                while True:
                    server.sendto(answer, client)
        finally:
            os._exit(1)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _replace(lab: Lab, name: str, make: Callable[[Path], object]) -> contextlib.nullcontext[None]:
    path = lab.directory / f"run/{FOE}/uml" / name
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    make(path)
    return contextlib.nullcontext()


def _huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


def _deep(path: Path) -> None:
    here = os.getcwd()
    path.mkdir()
    os.chdir(path)
    for _ in range(1500):
        os.mkdir("d")
        os.chdir("d")
    os.chdir(here)


def _in_guest(lab: Lab, script: str) -> contextlib.nullcontext[None]:
    """Something that the guest's root user leaves running."""
    lab(["dumm-guest", "exec", FOE, "--", "sh", "-c", f"( {script} ) >/dev/null 2>&1 </dev/null &"])
    return contextlib.nullcontext()


Way = Callable[[Lab], contextlib.AbstractContextManager[None]]
WAYS: dict[str, Way] = {
    **{name: functools.partial(speech, answer=answer) for name, answer in SPEECH.items()},
    "mconsole-endless": lambda lab: mconsole(lab, struct.pack("<III", 0, 1, 4) + b"more"),
    "mconsole-nonsense": lambda lab: mconsole(lab, b"?"),
    "mconsole-length": lambda lab: mconsole(lab, struct.pack("<III", 1, 0, 2**32 - 1) + b"x" * 9),
    "mconsole-link": lambda lab: _replace(lab, "m", lambda p: p.symlink_to("/dev")),
    "mconsole-fifo": lambda lab: _replace(lab, "m/mconsole", os.mkfifo),
    "ready-fifo": lambda lab: _replace(lab, "ready", os.mkfifo),
    "ready-link": lambda lab: _replace(lab, "ready", lambda p: p.symlink_to("/dev/zero")),
    "ready-huge": lambda lab: _replace(lab, "ready", _huge),
    "tree-deep": lambda lab: _replace(lab, "deep", _deep),
    "console-flood": lambda lab: _in_guest(lab, "while :; do dmesg; echo x >/dev/kmsg; done"),
    "fork-bomb": lambda lab: _in_guest(lab, "f() { f | f & }; f"),
    "files": lambda lab: _in_guest(lab, "while :; do i=$((i+1)); echo >/tmp/$i; ln -s / l$i; done"),
    "broadcasts": lambda lab: _in_guest(lab, "while :; do arping -c1 -w1 10.0.0.99; done"),
    "device-renamed": lambda lab: _in_guest(lab, "ifconfig eth0 down; ip link set eth0 name z"),
    "reboots": lambda lab: _in_guest(lab, "sleep 0.5; reboot -f"),
}  # fmt: skip


# ---- the other guests ----


class Outcome(NamedTuple):
    """The result of a command on another guest."""

    way: str
    command: str
    status: int
    seconds: float
    error: str


def _verbs(guest: str, bridge: str, rng: random.Random) -> list[tuple[str, ...]]:
    """Some commands on one guest, which leave everything as it was."""
    nic, number = f"{guest}-eth0", rng.randrange(2, 250)
    return rng.choice(
        [
            [("dumm-guest", "exec", guest, "--", "true")],
            [("dumm-guest", "list", "-o", "name,state,ifaces")],
            [("dumm-guest", "show", guest)],
            [("dumm-guest", "mconsole", guest, "--", "version")],
            [("dumm-iface", "list"), ("dumm-bridge", "list")],
            [("dumm-iface", "shape", nic, "--delay", "1"), ("dumm-iface", "shape", nic, "--clear")],
            [
                ("dumm-iface", "address", "add", nic, f"10.9.{number}.1/24"),
                ("dumm-iface", "address", "del", nic, f"10.9.{number}.1/24"),
            ],
            [
                ("dumm-iface", "create", f"{guest}-eth1", "--bridge", bridge),
                ("dumm-iface", "delete", f"{guest}-eth1"),
            ],
            [("dumm-bridge", "connect", bridge, nic), ("dumm-bridge", "connect", "lan0", nic)],
            [
                ("dumm-bridge", "create", f"{bridge}x", "--address", f"10.8.{number}.1/24"),
                ("dumm-bridge", "delete", f"{bridge}x"),
            ],
            [("dumm-iface", "route", "list", guest), ("dumm-console", "list")],
            [
                ("dumm-fs", "diff", guest),
                ("dumm-fs", "cp", f"{guest}:/etc/passwd", f"{guest}.copy"),
            ],
        ]
    )


def _run(lab: Lab, argv: tuple[str, ...], way: str) -> Outcome:
    begin = time.monotonic()
    limited = ("prlimit", f"--data={DATA_MAX}", *argv)
    done = subprocess.run(
        [*lab.prefix, *limited],
        env=lab.env,
        cwd=lab.directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )
    return Outcome(way, " ".join(argv), done.returncode, time.monotonic() - begin, done.stderr)


#: Commands on the foe itself: they may fail, but only with a proper error.
ON_THE_FOE = [
    ("dumm-guest", "exec", "--timeout", "1", FOE, "--", "cat"),
    ("dumm-iface", "address", "add", f"{FOE}-eth0", "10.0.0.77/24", "--may-exist"),
    ("dumm-iface", "route", "list", "--live", FOE),
    ("dumm-guest", "mconsole", FOE, "--", "version"),
]


class Siege:
    """A lab of `guests` besides the foe, and the results of the commands."""

    def __init__(self, lab: Lab, guests: int, workers: int) -> None:
        self.lab = lab
        self.outcomes: list[Outcome] = []
        self.on_the_foe: list[Outcome] = []
        self._names = [f"g{n}" for n in range(guests)]
        self._workers = workers
        lab("dumm-bridge create lan0")
        nics = []
        for worker in range(workers):
            lab(f"dumm-bridge create own{worker}")
        for number, name in enumerate([*self._names, FOE], 1):
            lab(f"dumm-guest create {name}")
            nics.append(f"iface create {name}-eth0 --bridge lan0 --address 10.0.0.{number}/24\n")
        lab("dumm-console", stdin="".join(nics).encode())
        lab(f"dumm-guest start --all --timeout {PATIENCE}")

    def endure(self, way: str, commands: int, rng: random.Random) -> None:
        """Apply one of the ways, while all workers run this many commands on the other guests."""
        if self.lab(f"dumm-guest is-running {FOE}", status=None).code:
            self.lab(f"dumm-guest stop --kill {FOE}", status=None)
            self.lab(f"dumm-guest start {FOE} --timeout {PATIENCE}")
        with WAYS[way](self.lab):
            seeds = [rng.randrange(1 << 30) for _ in range(self._workers)]
            threads = [
                threading.Thread(target=self._work, args=(way, n, commands, seeds[n]))
                for n in range(self._workers)
            ]
            foes = [threading.Thread(target=self._provoke, args=(way, argv)) for argv in ON_THE_FOE]
            for thread in (*foes, *threads):
                thread.start()
            for thread in (*threads, *foes):
                thread.join()
        self.lab(f"dumm-guest stop --kill {FOE}", status=None)

    def _provoke(self, way: str, argv: tuple[str, ...]) -> None:
        self.on_the_foe.append(_run(self.lab, argv, way))

    def _work(self, way: str, number: int, commands: int, seed: int) -> None:
        rng = random.Random(seed)
        mine = self._names[number :: self._workers]
        share = -(-commands // self._workers)
        while share > 0:
            for argv in _verbs(rng.choice(mine), f"own{number}", rng):
                self.outcomes.append(_run(self.lab, argv, way))
                share -= 1

    def failures(self) -> list[str]:
        """Unexpected results."""
        found = [f"{o.way}: {o.command}: {o.status}: {o.error}" for o in self.outcomes if o.status]
        wrong = ("internal error", "Traceback", "MemoryError")
        found += [
            f"{o.way}: {o.command}: {o.error}"
            for o in self.on_the_foe
            if any(w in o.error for w in wrong) or o.status < 0
        ]
        return found


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--guests", type=int, default=23)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--commands", type=int, default=500)
    parser.add_argument("--isolated", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("ways", nargs="*", choices=[[], *WAYS])
    asked = parser.parse_args()
    ways = asked.ways or list(WAYS)
    isolate()
    place = Path(tempfile.mkdtemp(prefix="dumm-siege-"))
    lab = Lab(place, cache_home())
    kind = ["--isolated"] if asked.isolated else []
    lab(["dumm-fs", "init", "--kernel", SUITES[0], "--master", "busybox", *kind])
    rng = random.Random(asked.seed)
    try:
        siege = Siege(lab, asked.guests, asked.workers)
        for way in ways:
            begin, first = time.monotonic(), len(siege.outcomes)
            siege.endure(way, -(-asked.commands // len(ways)), rng)
            done = siege.outcomes[first:]
            slowest = max(done, key=lambda o: o.seconds)
            print(
                f"{way:22} {len(done):3} commands, slowest {slowest.seconds:.2f} s"
                f" ({slowest.command}), {time.monotonic() - begin:.1f} s in all",
                flush=True,
            )
        failures = siege.failures()
        slow = sorted(siege.outcomes, key=lambda o: -o.seconds)
        print(f"{len(slow)} commands on others in {len(ways)} ways; {len(failures)} failures")
        print(f"slowest {slow[0].seconds:.2f} s, median {slow[len(slow) // 2].seconds:.2f} s")
        print("\n".join(failures[:20]))
    finally:
        with contextlib.suppress(OSError):
            lab.end()
        shutil.rmtree(place, ignore_errors=True)
    return bool(failures)


if __name__ == "__main__":
    raise SystemExit(main())
