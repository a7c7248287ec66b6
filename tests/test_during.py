"""Changes for the time of a command: a template, an overlay, a shape; undone however it ends."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from support import PATIENCE
from support.labs import Lab


@pytest.fixture
def alice(lab: Lab) -> Lab:
    lab.batch("guest create alice", "iface create alice-eth0", "iface shape alice-eth0 --loss 2%")
    return lab


def shape(lab: Lab) -> str:
    return lab("dumm-iface list -o shape").out.strip()


def layers(lab: Lab) -> list[str]:
    return lab("dumm-fs overlay list alice -q").lines


def test_shape_for_the_time_of_a_command(alice: Lab) -> None:
    words = "dumm-iface shape alice-eth0 --delay 5"
    done = alice([*words.split(), "--", "sh", "-c", "dumm-iface list -o shape; exit 7"], status=7)
    assert done.out == "delay=5,loss=2\n"
    assert shape(alice) == "loss=2"
    # Settings that cannot be made, and commands that cannot be run.
    assert alice(f"{words} --jitter 9 -- touch no", status=2).err
    assert not (alice.directory / "no").exists()
    done = alice(f"{words} -- /nonexistent", status=127)
    expected = "dumm-iface: cannot run '/nonexistent': No such file or directory\n"
    assert (done.out, done.err) == ("", expected)
    assert alice(f"{words} --", status=2).err.startswith("dumm-iface: no command to run after '--'")
    assert "a command goes after '--'" in alice(f"{words} true", status=2).err
    assert alice(["dumm-iface", "shape", "bob-eth0", "--delay", "5", "--", "true"], status=3).err
    assert shape(alice) == "loss=2"


def test_template_for_the_time_of_a_command(alice: Lab) -> None:
    alice("dumm-fs template load first --create")
    see = "dumm-fs template list -o name,loaded"
    done = alice(f"dumm-fs template load second --create -- {see}")
    assert done.lines == ["first\tno", "second\tyes"]
    assert alice(see).lines == ["first\tyes", "second\tno"]
    # A change that another command has made meanwhile stays.
    alice("dumm-fs template load second -- dumm-fs template unload")
    assert alice(see).lines == ["first\tno", "second\tno"]


def test_overlay_for_the_time_of_a_command(alice: Lab, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    alice(f"dumm-fs overlay add alice {one} --create")
    alice(f"dumm-fs overlay add --all {two} --create")
    see = "dumm-fs overlay list alice -q"
    assert alice(f"dumm-fs overlay add alice {one} -- {see}").lines == [str(one), str(two)]
    assert layers(alice) == [str(two), str(one)]
    three = tmp_path / "three"
    words = f"dumm-fs overlay add --all {three} --create -- sh -c"
    write = f"dumm-guest exec --host -- sh -c 'echo hello > {alice.directory}/mount/alice/greeting'"
    alice([*words.split(), f"{see}; {write}"])
    assert layers(alice) == [str(two), str(one)]
    assert (three / "greeting").read_text() == "hello\n"
    assert alice("dumm-fs overlay add alice", status=2).err
    assert alice(f"dumm-fs overlay add alice {one} {two}", status=2).err


class Held:
    """A block that lasts until it is told to end."""

    def __init__(self, lab: Lab, words: str) -> None:
        script = "echo; read line"
        self._process = lab.start([*words.split(), "--", "sh", "-c", script])
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def end(self) -> None:
        self._process.communicate(b"\n", PATIENCE)
        assert self._process.returncode == 0

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


def template(lab: Lab) -> str:
    return lab("dumm-fs template list -o name,loaded").out


ONE, TWO = "dumm-fs overlay add alice one", "dumm-fs overlay add alice two"
OVERLAPS = [
    ("dumm-fs template load A", "dumm-fs template load B"),
    ("dumm-fs template load A", "dumm-fs template load A"),
    (ONE, TWO),
    (ONE, ONE),
    ("dumm-iface shape alice-eth0 --delay 5", "dumm-iface shape alice-eth0 --loss 3"),
    ("dumm-iface shape alice-eth0 --delay 5", "dumm-iface shape alice-eth0 --delay 9 --jitter 2"),
    ("dumm-iface shape alice-eth0 --delay 5", "dumm-iface shape alice-eth0 --delay 5"),
    ("dumm-iface shape alice-eth0 --loss 5", "dumm-iface shape alice-eth0 --clear --delay 1"),
]


def everything(lab: Lab) -> tuple[str, list[str], str]:
    return template(lab), layers(lab), shape(lab)


@pytest.fixture
def furnished(alice: Lab) -> Lab:
    for name in ("one", "two", "templates/A", "templates/B"):
        (alice.directory / name).mkdir(parents=True)
    return alice


@pytest.mark.parametrize(("one", "two"), OVERLAPS)
def test_overlapping_commands_leave_nothing(furnished: Lab, one: str, two: str) -> None:
    before = everything(furnished)
    # Inside each other, and across.
    outer, inner = Held(furnished, one), Held(furnished, two)
    during = everything(furnished)
    inner.end()
    outer.end()
    assert everything(furnished) == before
    first, second = Held(furnished, one), Held(furnished, two)
    assert everything(furnished) == during
    third = Held(furnished, one)
    first.end()
    second.end()
    assert everything(furnished) != before
    third.end()
    assert everything(furnished) == before


@pytest.mark.parametrize(
    ("words", "left"),
    [
        ("dumm-fs template load A", "template 'A' is still loaded"),
        ("dumm-fs overlay add alice one", "one' is still a layer of guest 'alice'"),
        ("dumm-iface shape alice-eth0 --delay 5", "the delay of 'alice-eth0' is still 5"),
    ],
)
def test_what_killed_commands_leave_can_be_undone(furnished: Lab, words: str, left: str) -> None:
    before = everything(furnished)
    Held(furnished, words).kill()
    during = everything(furnished)
    assert during != before
    see = "dumm-fs check -o name,found,remedy"
    (line,) = [line for line in furnished(see).lines if line.startswith("left\t")]
    assert left in line
    furnished(line.split("\t")[2])
    assert everything(furnished) == before
    assert "is still" not in furnished(see).out
    # The next one takes it over, even if that is killed, too.
    Held(furnished, words).kill()
    Held(furnished, words).kill()
    Held(furnished, words).end()
    assert everything(furnished) == before
    assert "is still" not in furnished(see).out
    # A change that is asked for again stays.
    Held(furnished, words).kill()
    furnished(words)
    assert "is still" not in furnished(see).out
    Held(furnished, words).end()
    assert everything(furnished) == during


def test_layer_that_a_killed_command_moved_can_be_moved_back(furnished: Lab) -> None:
    for name in ("one", "two", "three"):
        (furnished.directory / name).mkdir(exist_ok=True)
        furnished(f"dumm-fs overlay add alice {name}")
    before = layers(furnished)
    Held(furnished, ONE).kill()
    see = "dumm-fs check -o name,found,remedy"
    (line,) = [line for line in furnished(see).lines if line.startswith("left\t")]
    assert "one' is still the top layer of guest 'alice'" in line
    for command in line.split("\t")[2].split(" && "):
        furnished(command)
    assert layers(furnished) == before
    assert "is still" not in furnished(see).out


def test_settings_that_were_changed_meanwhile_stay(alice: Lab) -> None:
    held = Held(alice, "dumm-iface shape alice-eth0 --delay 20 --rate 1mbit")
    alice("dumm-iface shape alice-eth0 --loss 1 --rate 2mbit --jitter 3 --duplicate 4")
    held.end()
    assert shape(alice) == "duplicate=4,loss=1,rate=2000000"  # there is no jitter without a delay


def test_operands_that_look_like_options(alice: Lab) -> None:
    """As long as operands are lacking, `--` only ends the options."""
    for name in ("-dash", "--", "templates/t"):
        (alice.directory / name).mkdir(parents=True)
    dash, two_dashes = (str(alice.directory / name) for name in ("-dash", "--"))
    see = ["dumm-fs", "overlay", "list", "alice", "-q"]
    add = ["dumm-fs", "overlay", "add"]
    alice([*add, "alice", "--", "-dash"])
    alice([*add, "--", "alice", "--"])
    assert layers(alice) == [two_dashes, dash]
    assert alice([*add, "alice", "--", "-dash", "--", *see]).lines == [dash, two_dashes]
    assert alice([*add, "--all", "--", "-dash", "--", *see]).lines == [dash, two_dashes]
    assert layers(alice) == [two_dashes, dash]
    load = ["dumm-fs", "template", "load", "--", "t"]
    assert alice([*load, "--", "dumm-fs", "template", "list", "-o", "loaded"]).out == "yes\n"
    alice("dumm-iface shape --delay 5 -- alice-eth0 -- true")
    assert shape(alice) == "loss=2"
    for words, message in (
        (["alice", "--", "-dash", "true"], "unexpected 'true': a command goes after '--'"),
        (["alice", "--", "-dash", "--"], "no command to run after '--'"),
        (["alice", "--"], "give one guest or --all, and one directory"),
    ):
        assert alice([*add, *words], status=2).err.startswith(f"dumm-fs: {message}\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_undo_it(alice: Lab, number: signal.Signals) -> None:
    running = alice.start(
        [
            "dumm-iface",
            "shape",
            "alice-eth0",
            "--delay",
            "5",
            "--",
            "sh",
            "-c",
            "echo; exec sleep 600",
        ]
    )
    assert running.stdout is not None
    running.stdout.readline()
    assert shape(alice) == "delay=5,loss=2"
    running.send_signal(number)
    running.wait(PATIENCE)
    assert running.returncode == -number
    assert shape(alice) == "loss=2"


def test_killed_command_undoes_it(alice: Lab) -> None:
    words = ["dumm-iface", "shape", "alice-eth0", "--delay", "5", "--", "sh", "-c", "kill -9 $$"]
    alice(words, status=128 + signal.SIGKILL)
    assert shape(alice) == "loss=2"


def test_in_a_batch(alice: Lab) -> None:
    alice.batch("iface shape alice-eth0 --delay 5 -- dumm-iface show alice-eth0", "guest list")
    assert shape(alice) == "loss=2"


@pytest.mark.uml
def test_isolated_lab_with_a_running_guest(new_lab: object) -> None:
    """The command runs outside the lab's namespaces, and may use other commands."""
    lab = new_lab("lab", "--isolated")  # type: ignore[operator]
    lab("dumm-guest create alice --start")
    lab("dumm-iface create alice-eth0")
    script = "dumm-guest exec alice -- cat /note; readlink /proc/self/ns/net"
    (lab.directory / "templates/T/alice").mkdir(parents=True)
    (lab.directory / "templates/T/alice/note").write_text("hello\n")
    done = lab(["dumm-fs", "template", "load", "T", "--", "sh", "-c", script])
    assert done.lines == ["hello", lab("readlink /proc/self/ns/net").out.strip()]
    assert lab("dumm-guest exec alice -- test -e /note", status=1).err == ""
    see = "dumm-iface list -o actual"
    assert lab(f"dumm-iface shape alice-eth0 --delay 7 -- {see}").out == "delay=7\n"
    assert lab(see).out == "-\n"
