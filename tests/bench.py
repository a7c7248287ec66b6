"""`make bench`: the suite measured against its targets, as ratios in one run.

    bench.py [NAME...]      only these measurements; `bench.py --help` lists them

It runs as root, in a network and mount namespace of its own. Do not compare figures of different
runs, since machines are busy. Nothing here is a test, and no test asserts on time.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import select
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from support.labs import Lab
from support.masters import PACKS, cache_home
from support.namespaces import isolate
from support.programs import compiled

from dumm_tools import Lab as Library
from dumm_tools import agent
from dumm_tools import statefile as store
from dumm_tools.agent import protocol
from dumm_tools.agent.program import Program, request
from dumm_tools.guests import arguments
from dumm_tools.guests import start as starting
from dumm_tools.images import kernel, kernel_make
from dumm_tools.linux import fifo
from dumm_tools.net import iface
from dumm_tools.running import contact, liveness

PYTHON = sys.executable


@dataclass(frozen=True)
class Figure:
    """One line of the result: the measurement, its value and its target."""

    what: str
    value: str
    target: str
    good: bool


def at_most(what: str, ours: float, other: float, limit: float, against: str) -> Figure:
    """A time compared with another: the ratio must be at most `limit`."""
    ratio = ours / other
    value = f"{ratio:.2f} x  ({ours * 1e3:.1f} ms : {other * 1e3:.1f} ms)"
    return Figure(what, value, f"<= {limit:g} x {against}", ratio <= limit)


def seconds(action: Callable[[], object]) -> float:
    """The seconds that one call takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def medians(*actions: Callable[[], object], rounds: int = 15) -> list[float]:
    """The median time of each action; they take turns, so that a busy moment affects them all."""
    taken: list[list[float]] = [[] for _ in actions]
    for _ in range(rounds):
        for action, times in zip(actions, taken, strict=True):
            times.append(seconds(action))
    return [statistics.median(times) for times in taken]


# ---- labs ----


@contextlib.contextmanager
def new_lab(pack: str = "sid") -> Iterator[Lab]:
    """Make a working set on this namespace's network, destroyed at the end."""
    with tempfile.TemporaryDirectory(prefix="dumm-bench-") as directory:
        lab = Lab(Path(directory), cache_home())
        lab(["dumm-fs", "init", "--kernel", pack, "--master", "busybox"])
        try:
            yield lab
        finally:
            lab("dumm-fs destroy", timeout=600)


def runs(lab: Lab, *argv: str, **env: str) -> Callable[[], object]:
    """A command as an action."""
    program = shutil.which(argv[0], path=lab.env["PATH"])
    assert program
    whole = [program, *argv[1:]]

    def action() -> None:
        subprocess.run(
            whole,
            env={**lab.env, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            check=True,
        )

    return action


def imports_click(lab: Lab) -> Callable[[], object]:
    """The baseline for the start-up of a command."""
    return runs(lab, PYTHON, "-c", "import click")


def fail(name: str, error: Exception) -> None:
    raise error


# ---- the measurements ----


def start() -> Iterator[Figure]:
    """One guest, from its start until it answers, against the same kernel run bare."""
    with new_lab() as lab:
        root = str(lab.directory)
        lab("dumm-guest create one")

        def ours() -> float:
            taken = seconds(lambda: starting.start(root, ["one"], timeout=30, on_error=fail))
            lab("dumm-guest stop one")
            return taken

        bare = BareKernel(lab)
        try:
            ours()  # imports
            pairs = [(ours(), bare.seconds_to_answer()) for _ in range(15)]
        finally:
            bare.end()
    times = [statistics.median(side) for side in zip(*pairs, strict=True)]
    yield at_most("start of one guest", times[0], times[1], 1.3, "the bare kernel")


class BareKernel:
    """A UML kernel with the agent as its init, in a directory with what it needs; without jail,
    state, lines or taps."""

    def __init__(self, lab: Lab) -> None:
        core = kernel.resolve(os.path.realpath(lab.directory / "linux"))
        assert core.root
        self._root = lab.directory / "bare"
        for place in ("guest", "usr", "run/uml", "tmp", "dev/shm", "proc"):
            (self._root / place).mkdir(parents=True)
        for name in ("lib", "lib64", "bin"):
            (self._root / name).symlink_to(f"usr/{name}")
        shutil.copy(agent.INITRD, self._root / "initrd")
        self._mounts = [self._root / "usr", self._root / "guest", self._root / "dev/shm"]
        _mount("--bind", f"{core.root}/usr", self._mounts[0])
        _mount("--bind", lab.directory / "mount/one", self._mounts[1])
        _mount("-t", "tmpfs", "bare", self._mounts[2])
        (self._root / "dev/null").touch()
        self._mounts.append(self._root / "dev/null")
        _mount("--bind", "/dev/null", self._mounts[-1])
        self._mounts.append(self._root / "proc")
        _mount("-t", "proc", "proc", self._mounts[-1])
        guest = store.load(str(lab.directory)).guests["one"]
        release = kernel.release_number(kernel.release(core) or "")
        args = arguments.of_boot(guest, "bare", release=release, own_user=False)
        self._argv = [core.binary, *(a for a in args if not a.startswith("DUMM_LINES"))]
        self._line = self._root / "line"
        fifo.make(str(self._line))

    def end(self) -> None:
        """Unmount the directory."""
        for place in reversed(self._mounts):
            subprocess.run(["umount", place], check=True)

    def seconds_to_answer(self) -> float:
        """The time from the kernel's exec until the agent has opened its line."""
        fd = fifo.open_both(str(self._line))
        argv = [*self._argv, "DUMM_LINES=1", "con=null", f"ssl0=null,fd:{fd}"]
        begin = time.perf_counter()
        process = subprocess.Popen(
            argv,
            pass_fds=[fd],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"TMPDIR": "/dev/shm"},
            start_new_session=True,
            preexec_fn=lambda: os.chroot(self._root),
        )
        try:
            text = b""
            while protocol.OPENED not in text:
                assert select.select([fd], [], [], 20)[0], "the bare kernel does not answer"
                text += os.read(fd, 4096)
            return time.perf_counter() - begin
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            os.close(fd)


def _mount(*words: str | Path) -> None:
    subprocess.run(["mount", *words], check=True)


def fifty() -> Iterator[Figure]:
    """Fifty guests on one segment, from nothing to an answer from each, against Mininet."""
    count = 50

    def ours() -> float:
        with new_lab() as lab:
            lab("dumm-fs destroy")
            begin = time.perf_counter()
            lab("dumm-fs init --kernel sid --master busybox")
            text = segment_of(count)
            subprocess.run(
                [shutil.which("dumm-console", path=lab.env["PATH"]) or "", "-C", lab.directory],
                input=text,
                env=lab.env,
                check=True,
                text=True,
            )
            wait_for_pings(count)
            return time.perf_counter() - begin

    own = statistics.median(ours() for _ in range(3))
    if shutil.which("mn") is None:
        value = f"{own:.2f} s; there is no Mininet to compare with (apt-get install mininet)"
        yield Figure("50 guests on a segment", value, "<= 1 x Mininet", False)
        return
    argv = ["mn", "--topo", f"single,{count}", "--switch", "lxbr", "--controller", "none"]
    argv += ["--test", "none"]

    def mininet() -> None:
        subprocess.run(argv, check=True, capture_output=True)

    other = statistics.median(seconds(mininet) for _ in range(3))
    yield at_most("50 guests on a segment", own, other, 1.0, "Mininet")


def segment_of(count: int, memory: str = "64M") -> str:
    """A batch that makes guests on one segment, where the host has an address too."""
    names = [f"g{n}" for n in range(count)]
    lines = ["bridge create lan0 --address 10.9.255.254/16"]
    lines.append(f"guest create --memory {memory} {' '.join(names)}")
    lines += [
        f"iface create {name}-eth0 --bridge lan0 --address {address(n)}/16"
        for n, name in enumerate(names)
    ]
    lines.append("guest start --all --timeout 600")
    return "\n".join(lines) + "\n"


def address(number: int) -> str:
    """The address of a guest on the segment."""
    return f"10.9.{number // 200}.{number % 200 + 1}"


def wait_for_pings(count: int) -> None:
    """Send an echo request to each guest until each has answered (RFC 792)."""
    packet = struct.pack("!BBHHH", 8, 0, 0xF7FF - 1, 1, 0)  # its checksum, which is constant
    missing = {address(n) for n in range(count)}
    deadline = time.monotonic() + 120
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        while missing:
            assert time.monotonic() < deadline, f"no answer from {sorted(missing)}"
            for target in missing:
                link.sendto(packet, (target, 0))
            link.settimeout(0.2)
            with contextlib.suppress(TimeoutError):
                while missing:
                    data, (source, _) = link.recvfrom(2048)
                    if data[20] == 0:  # echo reply
                        missing.discard(source)


def thousand() -> Iterator[Figure]:
    """A thousand guests on two cores: ready, answering, and the memory that each takes."""
    count = 1000
    with new_lab() as lab:
        begin = time.perf_counter()
        lab(["dumm-console", "-C", lab.directory], stdin=segment_of(count).encode(), timeout=1200)
        wait_for_pings(count)
        taken = time.perf_counter() - begin
        names = lab("dumm-guest list -o name,state").lines
        running = sum(line.endswith("\trunning") for line in names)
        memory = pss() / count / 2**20
    value = f"{running} running and answering after {taken:.0f} s"
    yield Figure("1000 guests", value, f"{count}", running == count)
    yield Figure("memory of each (PSS)", f"{memory:.1f} MiB", "<= 12 MiB", memory <= 12)


def pss() -> int:
    """The bytes used by all UML kernels, their servers and the keepers of their jails, with shared
    memory divided."""
    total = 0
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{entry}/cmdline").read_bytes()
            if b"DUMM_NONCE=" in command or b"--shared-dir" in command:
                text = Path(f"/proc/{entry}/smaps_rollup").read_text()
                total += int(text.split("\nPss:")[1].split()[0]) * 1024
    return total


def reading() -> Iterator[Figure]:
    """Commands that read, help and a TAB, against a Python that imports click."""
    with new_lab() as lab:
        lab("dumm-guest create alice bob --start")
        lab("dumm-bridge create lan0")
        lab("dumm-iface create alice-eth0 bob-eth0 --bridge lan0")
        tab = {"COMP_WORDS": "dumm-guest exec ", "COMP_CWORD": "2"}
        actions = {
            "dumm-guest list": runs(lab, "dumm-guest", "list"),
            "dumm-guest list -q": runs(lab, "dumm-guest", "list", "-q"),
            "dumm-iface list -o name,state": runs(lab, "dumm-iface", "list", "-o", "name,state"),
            "dumm-guest --help": runs(lab, "dumm-guest", "--help"),
            "a TAB": runs(lab, "dumm-guest", _DUMM_GUEST_COMPLETE="bash_complete", **tab),
        }
        base, *taken = medians(imports_click(lab), *actions.values())
    for what, ours in zip(actions, taken, strict=True):
        # The table for people needs tabulate.
        limit = 1.8 if what == "dumm-guest list" else 1.25
        yield at_most(what, ours, base, limit, "import click")


def changing() -> Iterator[Figure]:
    """Commands that change a running lab, against a Python that imports click."""
    with new_lab() as lab:
        lab("dumm-guest create alice --start")
        lab("dumm-bridge create lan0 lan1")
        lab("dumm-iface create alice-eth0 --bridge lan0")
        names = iter(range(10000))
        turns = iter(range(10000))

        def new_iface() -> None:
            runs(lab, "dumm-iface", "create", f"alice-x{next(names)}", "--bridge", "lan1")()

        def move() -> None:
            runs(lab, "dumm-bridge", "connect", f"lan{next(turns) % 2}", "alice-eth0")()

        def shape() -> None:
            runs(lab, "dumm-iface", "shape", "alice-eth0", "--delay", str(next(turns)))()

        actions = {
            "dumm-iface create (live)": new_iface,
            "dumm-bridge connect (live)": move,
            "dumm-iface shape (live)": shape,
        }
        base, *taken = medians(imports_click(lab), *actions.values())
    for what, ours in zip(actions, taken, strict=True):
        yield at_most(what, ours, base, 2.5, "import click")


def execute() -> Iterator[Figure]:
    """`exec NAME -- true` against a Python that imports click, and the guest's fork and exec."""
    with new_lab() as lab:
        lab("dumm-guest create alice --start")
        root = str(lab.directory)

        def in_guest() -> None:
            with contact.program_line(root, "alice") as line:
                program = Program(["true"])
                line.send(b"X", request(program, 24, 80))
                line.wait_frame(10, (b"x",))

        base, ours, inside = medians(
            imports_click(lab), runs(lab, "dumm-guest", "exec", "alice", "--", "true"), in_guest
        )
    ratio = (ours - inside) / base
    value = (
        f"{ratio:.2f} x  ({ours * 1e3:.1f} ms : {base * 1e3:.1f} ms + {inside * 1e3:.1f} ms inside)"
    )
    yield Figure("dumm-guest exec -- true", value, "<= 1.25 x import click + guest", ratio <= 1.25)


def library() -> Iterator[Figure]:
    """The library's `run(["true"])` against fork and exec in the guest, by a loop in it."""
    os.environ["XDG_CACHE_HOME"] = str(cache_home())
    with tempfile.TemporaryDirectory(prefix="dumm-bench-") as directory:
        program = compiled("forkexec.c", Path(directory) / "forkexec")
        with Library.create(f"{directory}/lab", kernel="sid", master="busybox") as lab:
            alice = lab.guest("alice").create(start=True)
            alice.copy_to(program, path="/forkexec")
            ours, inside = [], []
            for _ in range(10):  # in turns, so that a busy moment affects both
                loop = alice.run(["/forkexec", "100", "/bin/true"], check=True)
                inside.append(float(loop.stdout) / 1e6)
                ours += [seconds(lambda: alice.run(["true"])) for _ in range(100)]
    yield at_most(
        "run(['true'])", statistics.median(ours), statistics.median(inside), 1.3, "fork + exec"
    )


def hotplug() -> Iterator[Figure]:
    """A NIC with an address, plugged into a running guest, without the command's start-up."""
    with new_lab() as lab:
        lab("dumm-guest create alice --start")
        lab("dumm-bridge create lan0")
        root, taken = str(lab.directory), []
        for number in range(16):
            name, place = f"alice-eth{number}", [f"10.8.0.{number + 1}/24"]
            taken.append(
                seconds(lambda: iface.create(root, name, bridge="lan0", addresses=place))  # noqa: B023
            )
    took = statistics.median(taken[1:]) * 1e3
    yield Figure("hot-add of a NIC", f"{took:.1f} ms", "<= 10 ms", took <= 10)


def throughput() -> Iterator[Figure]:
    """TCP between two guests on a bridge, against the legacy tuntap transport (UML 6.1)."""
    with new_lab("bookworm") as lab:
        program = lab.directory / "stream.bin"
        source = Path(__file__).with_name("stream.c")
        subprocess.run(["gcc", "-O2", "-static", "-o", program, source], check=True)
        lab("dumm-bridge create lan0 lan1")
        lab("dumm-guest create a b")
        for number, name in enumerate("ab", 1):
            lab(f"dumm-iface create {name}-eth0 --bridge lan0 --address 10.7.0.{number}/24")
            old = f"old{name}"
            subprocess.run(["ip", "tuntap", "add", old, "mode", "tap"], check=True)
            subprocess.run(["ip", "link", "set", old, "up", "master", "lan1"], check=True)
            lab(["dumm-guest", "set", name, "--arg", f"eth7=tuntap,{old},fe:fd:0:0:7:{number}"])
        lab("dumm-guest start --all")
        for number, name in enumerate("ab", 1):
            inside = f"ip link set eth7 up && ip addr add 10.6.0.{number}/24 dev eth7"
            lab(["dumm-guest", "exec", name, "--", "sh", "-c", inside])
            shutil.copy(program, lab.directory / "mount" / name / "stream")

        def transfer(target: str, size: int = 200 << 20) -> float:
            listener = lab.start("dumm-guest exec b -- /stream 5001")
            assert listener.stdout
            listener.stdout.readline()
            send = f"dumm-guest exec a -- /stream 5001 {target} {size}"
            taken = seconds(lambda: lab(send, timeout=120))
            listener.communicate(timeout=30)
            return size * 8 / taken / 1e9

        pairs = [(transfer("10.7.0.2"), transfer("10.6.0.2")) for _ in range(5)]
        lab("dumm-guest stop --all")
        for name in "ab":
            subprocess.run(["ip", "link", "del", f"old{name}"], check=True)
    ours, other = (statistics.median(side) for side in zip(*pairs, strict=True))
    value = f"{ours / other:.2f} x  ({ours:.2f} : {other:.2f} Gbit/s)"
    yield Figure("TCP over a bridge", value, ">= 2 x legacy tuntap", ours >= 2 * other)


def rebuild() -> Iterator[Figure]:
    """A kernel tree with one edited file, built, booted and asked, against make alone. The tree is
    that of the tests' kernel `built`, whose objects are for its path: a copy, with an overlay on
    the tree."""
    place = cache_home() / "dumm/builds/built"
    if not (place / "wanted").exists():
        raise RuntimeError("no kernel 'built'; make test PYTEST_ARGS=tests/test_built.py")
    tree = (place / "objects/source").resolve()
    edited = tree / "net/ipv4/icmp.c"
    with tempfile.TemporaryDirectory(prefix="dumm-bench-") as directory, new_lab() as lab:
        top = Path(directory)
        for name in ("upper", "work"):
            (top / name).mkdir()
        layers = f"lowerdir={tree},upperdir={top}/upper,workdir={top}/work"
        _mount("-t", "overlay", "-o", layers, "overlay", tree)
        mine = top / "xdg/dumm/builds/mine"
        mine.mkdir(parents=True, mode=0o700)
        subprocess.run(["cp", "-a", place / "objects", place / "wanted", mine], check=True)
        (mine / "origin").write_text(str(tree))
        lab.env["XDG_CACHE_HOME"] = f"{top}/xdg"
        build = runs(lab, "dumm-fs", "kernel", "build", str(tree), "--name", "mine")
        command = kernel_make.command(kernel_make.Tree(str(tree), f"{mine}/objects", ""))
        maker = {"KBUILD_BUILD_USER": "dumm-fs", "KBUILD_BUILD_HOST": "localhost"}
        make = runs(lab, *command, f"-j{os.cpu_count()}", "linux", **maker)
        text, edits = edited.read_text(), itertools.count()

        def edit() -> None:
            number = next(edits)
            function = f"int bench_{number}(void)"
            edited.write_text(f"{text}\n{function};\n{function} {{ return {number}; }}\n")

        def ours() -> None:
            build()
            lab("dumm-guest start a")
            lab("dumm-guest exec a -- true")

        times: list[tuple[float, float]] = []
        build()
        lab(["dumm-guest", "create", "a", "--kernel", top / "xdg/dumm/kernels/mine"])
        for _ in range(5):
            edit()
            alone = seconds(make)
            edit()
            times.append((alone, seconds(ours)))
            lab("dumm-guest stop a")
        subprocess.run(["umount", "-l", tree], check=True)
    alone, whole = (statistics.median(side) for side in zip(*times, strict=True))
    more = whole - alone
    value = f"make {alone:.1f} s, and booted {whole:.1f} s"
    yield Figure("a kernel with one edited file", value, "<= 0.2 s more", more <= 0.2)


def files() -> Iterator[Figure]:
    """How much of its master a guest writes when it starts."""
    with new_lab() as lab:
        lab("dumm-guest create alice --start")
        there = sum(len(found) for _, _, found in os.walk(lab.directory / "host/alice"))
        assert liveness.alive(str(lab.directory), "alice")
    yield Figure("files copied at a start", str(there), "0", there == 0)


def rootfs() -> Iterator[Figure]:
    """hostfs, virtiofs and the host: starts, memory, file operations; 100 guests on virtiofs."""
    kinds = ("hostfs", "virtiofs")
    with new_lab() as lab:
        for kind in kinds:
            lab(f"dumm-guest create {kind} --rootfs {kind} --memory 256M")
        starts = {kind: [] for kind in kinds}  # type: dict[str, list[float]]
        for _ in range(7):
            for kind in kinds:
                starts[kind].append(seconds(runs(lab, "dumm-guest", "start", kind)))
                lab(f"dumm-guest stop {kind}")
        took = {kind: statistics.median(times) * 1e3 for kind, times in starts.items()}
        value = ", ".join(f"{kind} {took[kind]:.0f} ms" for kind in kinds)
        yield Figure("start to ready", value, "", True)
        used = {}
        for kind in kinds:
            others = pss()
            lab(f"dumm-guest start {kind}")
            used[kind] = (pss() - others) / 2**20
            lab(f"dumm-guest stop {kind}")
        value = ", ".join(f"{kind} {used[kind]:.1f} MiB" for kind in kinds)
        yield Figure("memory of one (PSS)", value, "", True)
        yield from file_times(lab, kinds)
    with new_lab() as lab:
        names = [f"g{n}" for n in range(100)]
        lab(["dumm-guest", "create", "--rootfs", "virtiofs", *names])
        others = pss()
        taken = seconds(runs(lab, "dumm-guest", "start", "--all", "--timeout", "300"))
        each = (pss() - others) / len(names) / 2**20
        running = lab("dumm-guest list -o state").lines.count("running")
        value = f"{running} ready after {taken:.1f} s, {each:.1f} MiB each (PSS)"
        yield Figure("100 guests on virtiofs", value, "100", running == 100)
        lab("dumm-guest stop --all --kill")


def file_times(lab: Lab, kinds: Sequence[str]) -> Iterator[Figure]:
    """The times of file operations, on the host and in guests."""
    program, work = lab.directory / "filetimes", lab.directory / "work"
    source = Path(__file__).with_name("filetimes.c")
    subprocess.run(["gcc", "-O2", "-static", "-o", program, source], check=True)
    work.mkdir()
    amount = ["2000", "100"]
    times = {}
    done = subprocess.run([program, work, *amount], check=True, capture_output=True, text=True)
    times["host"] = dict(line.split() for line in done.stdout.splitlines())
    for kind in kinds:
        lab(f"dumm-guest start {kind}")
        lab(["dumm-fs", "cp", program, f"{kind}:/filetimes"])
        lab(f"dumm-guest exec {kind} -- mkdir /work")
        found = lab(["dumm-guest", "exec", kind, "--", "/filetimes", "/work", *amount])
        times[kind] = dict(line.split() for line in found.lines)
        lab(f"dumm-guest stop {kind}")
    for what in times["host"]:
        value = ", ".join(f"{place} {found[what]} ms" for place, found in times.items())
        yield Figure(f"files: {what}", value, "", True)


MEASUREMENTS: dict[str, Callable[[], Iterator[Figure]]] = {
    f.__name__: f
    for f in (
        start,
        fifty,
        thousand,
        reading,
        changing,
        execute,
        library,
        hotplug,
        throughput,
        rebuild,
        files,
        rootfs,
    )
}


def main(argv: Sequence[str]) -> int:
    """Measure, and print a line for each figure; exit with 0 whatever they are."""
    listed = "\n".join(f"  {name:12}{f.__doc__}" for name, f in MEASUREMENTS.items())
    parser = argparse.ArgumentParser(
        description="Measure the suite against its targets.",
        epilog=f"measurements:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*MEASUREMENTS, []])
    wanted = parser.parse_args(argv).names or list(MEASUREMENTS)
    if os.geteuid() != 0:
        parser.error("root is needed: for a network namespace, taps and Mininet")
    cache = {**os.environ, "XDG_CACHE_HOME": str(cache_home()), "DUMM_ALLOW_EXPIRED": "1"}
    for command in PACKS:
        words = command.split()
        words[0] = str(Path(PYTHON).with_name(words[0]))
        subprocess.run(words, env=cache, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    isolate()
    print(f"{os.cpu_count()} cpus, load {os.getloadavg()[0]:.1f}", flush=True)
    for name in wanted:
        for figure in MEASUREMENTS[name]():
            mark = "ok  " if figure.good else "MISS"
            print(f"{mark} {figure.what:32} {figure.value:56} {figure.target}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
