"""The plan of a start, computed from records alone."""

from __future__ import annotations

from collections.abc import Sequence

from dumm_tools.guests import jail, plan, run_dir
from dumm_tools.guests.plan import Parts, Plan
from dumm_tools.guests.program_files import ProgramFiles
from dumm_tools.images.kernel import Kernel
from dumm_tools.images.master import Master
from dumm_tools.model import Boot, Guest, Iface, State

NONCE = "0123456789abcdef"
PARTS = Parts(Kernel("/pack", "/usr/bin/linux"), (7, 2), Master("/master", None))


def planned(nics: int = 0, args: Sequence[str] = ()) -> Plan:
    """The plan for a guest `a` with this many interfaces."""
    guest = Guest(name="a", args=list(args))
    state = State("0" * 12, 1, guests={"a": guest})
    for slot in reversed(range(nics)):
        device = f"eth{slot}"
        name = f"a-{device}"
        state.ifaces[name] = Iface(name, "a", device, slot, name, "02:00:00:00:00:01")
    return plan.make(state, guest, PARTS, NONCE)


def words_of(made: Plan) -> list[str]:
    """The command line of the guest's jail."""
    files = ProgramFiles(((7, "/usr"), (8, "/lib64")), ("--symlink", "usr/bin", "/bin"))
    return jail.command("/lab", made, files, "", locks=3, first=10)


def test_kernel_is_called_by_the_name_of_what_executes_it_again() -> None:
    words = words_of(planned(3))
    assert words[words.index("--") + 1] == "/boot"
    link = words.index("/usr/bin/linux")
    assert words[link - 1 : link + 2] == ["--symlink", "/usr/bin/linux", "/kernel"]
    # Its NICs may differ from boot to boot.
    assert not [word for word in words if word.startswith("vec")]


def test_arguments_of_the_user_replace_defaults() -> None:
    made = planned(args=["lpj=5", "more"])
    assert [a for a in made.arguments if a.startswith("lpj=")] == ["lpj=5"]
    assert made.arguments[-1] == "more"


def test_descriptors_are_numbered_consecutively() -> None:
    words = words_of(planned())
    trees = 10 + len(run_dir.terminals())
    for number, place in enumerate(("/usr", "/lib64")):
        at = words.index(place)
        assert words[at - 2 : at] == ["--ro-mount", str(trees + number)]
    hold = trees + 2
    at = words.index("--hold")
    assert words[at + 1 : at + 3] == [str(hold), "4"]  # the locks and the log
    assert [words[words.index(f"--{w}") + 1] for w in ("log", "turn", "errors")] == [
        str(hold + 3),
        str(hold + 4),
        str(hold + 5),
    ]
    taken = [w.partition("=")[2] for w in words if w.startswith(("con", "ssl")) and "fd:" in w]
    inputs = [int(w.split(",")[0].removeprefix("fd:")) for w in taken]
    names = run_dir.terminals()
    assert [names[number - 10] for number in inputs] == [n for n in names if n.endswith(".in")]


def test_every_guest_has_a_group_of_its_own() -> None:
    state = State("0" * 12, 1)
    for number in range(50):
        guest = state.guests[f"g{number}"] = Guest(name=f"g{number}")
        made = plan.make(state, guest, PARTS, NONCE)
        guest.boot = Boot(NONCE, "starting", "", group=made.group)
    groups = [g.boot.group for g in state.guests.values() if g.boot]
    assert len(set(groups) - {0}) == len(groups) or set(groups) == {0}
