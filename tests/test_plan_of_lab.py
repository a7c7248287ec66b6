"""Lab files as data: what they describe, how a lab is printed, and the plan that leads from one to
another. No kernel is involved (`test_lab_file.py` is about that)."""

from __future__ import annotations

import contextlib
import cProfile
import inspect
import io
import pstats
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, reject, settings
from hypothesis import strategies as st
from support.lab_files import LABDIR, after, described, files, wanted
from support.labs import recorded

from dumm_tools import language
from dumm_tools.cli import bridge as bridge_cli
from dumm_tools.cli import guest_settings, lab_file, tools
from dumm_tools.cli.lab_file import Misplaced
from dumm_tools.labs import description, dump, looking, plan
from dumm_tools.labs.wanted import Wanted
from dumm_tools.model import GuestState

quickly = settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    database=None,
    phases=(Phase.explicit, Phase.generate),
)


def steps(before: bytes, text: bytes, *, prune: bool = True) -> list[str]:
    """The plan that leads from one file to another, as lines."""
    now = described(before)
    target = wanted(text, now, prune=prune)
    found = plan.plan(now, target.description(), lambda _: "stopped", target.starts)
    return [command.text.decode().rstrip("\n") for command in found]


@quickly
@given(files())
def test_a_dump_describes_the_same_lab(text: bytes) -> None:
    once = dump.text(described(text))
    assert dump.text(described(once)) == once
    assert steps(text, once) == steps(once, text) == []


@quickly
@given(files(), files())
def test_a_plan_leads_to_what_is_wanted(before: bytes, text: bytes) -> None:
    now = described(before)
    found = plan.plan(now, wanted(text, now, prune=True).description(), lambda _: "stopped")
    then = after(described(before), found)
    assert list(dump.of(then)) == list(dump.of(described(text)))


@quickly
@given(files(), files())
def test_a_plan_without_prune_keeps_what_the_file_does_not_mention(
    before: bytes, text: bytes
) -> None:
    now = described(before)
    try:
        target = wanted(text, now).description()
    except Misplaced:  # a name is taken
        reject()
    found = list(plan.plan(now, target, lambda _: "stopped"))
    words = {command.words[:2] for command in found}
    assert not words & {("guest", "delete"), ("iface", "delete"), ("bridge", "delete")}
    then = after(described(before), found)
    assert then.state.guests.keys() == now.state.guests.keys() | described(text).state.guests.keys()


def many(count: int, line: str) -> bytes:
    """A file with so many lines of this form about one interface."""
    start = b"fs init\nbridge create l\nguest create a\niface create a-eth0 --address 10.0.0.1/24\n"
    lines = [f"{line.format(f'{n >> 8}.{n & 255}')}\n" for n in range(count)]
    return start + "".join(lines).encode()


@pytest.mark.parametrize(
    "line",
    ["iface route add a-eth0 20.{}.0/24 --via 10.0.0.2", "iface address add a-eth0 20.{}.1/24"],
)
def test_work_grows_with_the_lines(line: str) -> None:
    """Not with their square, when a file is read, compared or undone."""

    def calls(count: int) -> int:
        profile = cProfile.Profile()
        few, all_ = many(1, line), many(count, line)
        profile.runcall(lambda: (steps(few, all_), steps(all_, few), steps(all_, all_)))
        return int(pstats.Stats(profile).total_calls)  # type: ignore[attr-defined]

    assert calls(400) < 8 * calls(100)


@pytest.mark.parametrize(
    ("before", "text", "expected"),
    [
        pytest.param(
            b"",
            b"fs overlay add a one --create\nfs overlay add a two\n"
            b"fs overlay add a one --may-exist",
            [f"fs overlay add a {LABDIR}/one --create", f"fs overlay add a {LABDIR}/two"],
            id="a layer that is created, and stays where it is",
        ),
        pytest.param(
            b"iface create a-eth0 --bridge lan0",
            b"bridge disconnect a-eth1 --if-exists\nbridge uplink lan9 --none --if-exists\n"
            b"iface create a-eth0 --bridge lan0",
            [],
            id="what need not exist",
        ),
        pytest.param(
            b"iface create a-eth0 --bridge lan0",
            b"iface create a-eth0 --bridge lan1",
            ["bridge connect lan1 a-eth0"],
            id="a cable moves",
        ),
        pytest.param(
            b"iface create a-eth0 --address 10.0.0.1/24",
            b"iface create a-eth0 --address 10.0.0.2/24",
            ["iface address add a-eth0 10.0.0.2/24", "iface address del a-eth0 10.0.0.1/24"],
            id="a new address comes first",
        ),
        pytest.param(
            b"iface create a-eth0 --address 10.0.0.1/24\n"
            b"iface route add a-eth0 default --via 10.0.0.2",
            b"iface create a-eth0 --address 10.0.0.1/24\n"
            b"iface route add a-eth0 default --via 10.0.0.3",
            ["iface route add a-eth0 default --via 10.0.0.3 --may-exist"],
            id="a gateway is replaced",
        ),
        pytest.param(
            b"iface create a-eth0 --address 10.0.0.1/24\n"
            b"iface route add a-eth0 default --via 10.0.0.2",
            b"iface create a-eth0 --address 10.1.0.1/24\n"
            b"iface route add a-eth0 default --via 10.1.0.2",
            [
                "iface address add a-eth0 10.1.0.1/24",
                "iface route add a-eth0 default --via 10.1.0.2 --may-exist",
                "iface address del a-eth0 10.0.0.1/24",
            ],
            id="a gateway is replaced before the old address goes",
        ),
        pytest.param(
            b"iface create a-eth0 --address 10.0.0.1/24\niface create a-eth1 --address 10.1.0.1/24"
            b"\niface route add a-eth0 default --via 10.0.0.2",
            b"iface create a-eth0 --address 10.0.0.1/24\niface create a-eth1 --address 10.1.0.1/24"
            b"\niface route add a-eth1 default --via 10.1.0.2",
            ["iface route add a-eth1 default --via 10.1.0.2 --may-exist"],
            id="a gateway is replaced by one on another segment",
        ),
        pytest.param(
            b"iface create a-eth0 --address 10.0.0.1/24\n"
            b"iface route add a-eth0 default --via 10.0.0.2",
            b"iface create a-eth0 --address 10.0.0.1/24\n"
            b"iface route add a-eth0 10.9.0.0/24\n"
            b"iface route add a-eth0 default --via 10.9.0.2",
            [
                "iface route del a-eth0 0.0.0.0/0",
                "iface route add a-eth0 10.9.0.0/24",
                "iface route add a-eth0 default --via 10.9.0.2",
            ],
            id="a gateway that another route leads to comes after that",
        ),
        pytest.param(
            b"iface create a-eth0 --address 10.0.0.1/24\niface create a-eth1",
            b"iface create a-eth0\niface create a-eth1 --address 10.0.0.1/24",
            ["iface address del a-eth0 10.0.0.1/24", "iface address add a-eth1 10.0.0.1/24"],
            id="an address moves",
        ),
        pytest.param(
            b"iface create a-eth0 --address 10.0.0.1/24 --address fd00::1/64",
            b"iface create a-eth0 --address fd00::1/64 --address 10.0.0.1/24",
            [],
            id="the order of address families means nothing",
        ),
        pytest.param(
            b"iface create a-eth0 --address 10.0.0.1/24 --address 10.0.0.2/24",
            b"iface create a-eth0 --address 10.0.0.2/24 --address 10.0.0.1/24",
            [
                "iface address del a-eth0 10.0.0.1/24",
                "iface address add a-eth0 10.0.0.1/24",
            ],
            id="the first address of a network is another one",
        ),
        pytest.param(
            b"iface create a-eth0 --mtu 1400 --address fd00::1/64",
            b"iface create a-eth0 --mtu 600",
            ["iface address del a-eth0 fd00::1/64", "iface set a-eth0 --mtu 600"],
            id="an MTU that is too small for IPv6",
        ),
        pytest.param(
            b"iface create a-eth0 --address 10.0.0.1/24\n"
            b"iface route add a-eth0 default --via 10.0.0.2",
            b"iface create a-eth0 --address 10.0.0.2/24\n"
            b"iface route add a-eth0 default --via 10.0.0.1",
            [
                "iface route del a-eth0 0.0.0.0/0",
                "iface address add a-eth0 10.0.0.2/24",
                "iface address del a-eth0 10.0.0.1/24",
                "iface route add a-eth0 default --via 10.0.0.1",
            ],
            id="an address becomes the gateway",
        ),
        pytest.param(
            b"iface shape a-eth0 --delay 10 --loss 1",
            b"iface shape a-eth0 --delay 20",
            ["iface shape a-eth0 --clear --delay 20"],
            id="a setting of a shape goes",
        ),
        pytest.param(
            b"guest set a --memory 128M --arg x --arg y",
            b"guest set a --arg y",
            ["guest set a --memory '' --arg y"],
            id="settings return to their defaults",
        ),
        pytest.param(
            b"bridge create old\nbridge connect old a-eth0 a-eth1",
            b"bridge create new\nbridge connect new a-eth0 a-eth1",
            [
                "bridge create new",
                "bridge connect new a-eth0",
                "bridge connect new a-eth1",
                "bridge delete old",
            ],
            id="a bridge gets another name",
        ),
        pytest.param(
            b"bridge create b0 --address 10.0.0.1/24\nbridge uplink b0 --nat",
            b"bridge create b0 --address 10.0.1.1/24\nbridge uplink b0 --nat --host-access",
            [
                "bridge address add b0 10.0.1.1/24",
                "bridge address del b0 10.0.0.1/24",
                "bridge uplink b0 --nat --host-access",
            ],
            id="an uplink stays while its address changes",
        ),
        pytest.param(
            b"fs overlay add a x\nfs overlay add a y",
            b"fs overlay add a y\nfs overlay add a x",
            ["fs overlay add a /somewhere/lab/x"],
            id="a layer moves to the top",
        ),
        pytest.param(b"guest create c", b"", ["guest delete c"], id="a guest goes"),
        pytest.param(b"", b"guest start --all", ["guest start a"], id="a guest is started"),
    ],
)
def test_the_plan_disturbs_little(before: bytes, text: bytes, expected: list[str]) -> None:
    base = b"fs init\nguest create a\nbridge create lan0 lan1\n"

    def whole(file: bytes) -> bytes:
        both = b"iface create a-eth0 a-eth1\n"
        return base + (b"" if b"iface create" in file else both) + file + b"\n"

    assert steps(whole(before), whole(text)) == expected


def test_a_running_guest_is_stopped_before_it_is_deleted() -> None:
    now = described(b"fs init\nguest create a b c\n")
    target = wanted(b"guest create b\n", now, prune=True).description()
    states: dict[str, GuestState] = {"a": "running", "b": "running", "c": "crashed"}
    found = [" ".join(c.words) for c in plan.plan(now, target, states.__getitem__)]
    assert found == ["guest stop a", "guest delete a", "guest delete c"]


def test_paths_are_relative_to_the_working_directory() -> None:
    lab = described(
        b"fs init --master ./tree --kernel /somewhere/lab/linux.uml\n"
        b"guest create a --disk disk.img:ro --disk /elsewhere/x\nfs overlay add a ./-x\n"
    )
    assert dump.text(lab).decode().splitlines() == [
        "fs init --kernel ./linux.uml --master ./tree",
        "guest create a --disk disk.img:ro --disk /elsewhere/x",
        "fs overlay add a ./-x --create",
    ]
    assert lab.state.guests["a"].overlays == ["/somewhere/lab/-x"]


@quickly
@given(files(), st.data())
def test_files_with_mistakes_are_errors(text: bytes, data: st.DataObject) -> None:
    """Never an internal one."""
    words = text.split(b" ")
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(words) - 1))
        odd = st.binary(max_size=4) | st.sampled_from([b"'", b"<<x", b"\\", b"--", b"-x", b"1e9"])
        words[at] = data.draw(odd | st.sampled_from(words))
    with contextlib.suppress(Misplaced):
        described(b" ".join(words))


def test_all_options_are_known_to_lab_files() -> None:
    """A new option of a verb that describes a lab must be told, dumped and compared, too."""
    source = Path(lab_file.__file__).read_text()
    passed_on = {
        name
        for function in (guest_settings.given, bridge_cli.chosen_uplink)
        for name in inspect.signature(function).parameters
    }
    missing = [
        f"{verb}: {param.name}"
        for verb in lab_file.TELLERS
        for param in tools.resolve(verb.split())[0].params
        if param.expose_value and verb not in ("iface shape", "iface rule add")
        if f'"{param.name}"' not in source and param.name not in passed_on
    ]
    # A lab has no timeouts, and its guests may run already.
    assert missing == ["guest start: timeout", "guest start: may_run"]


@pytest.mark.parametrize(
    ("text", "status", "place", "message"),
    [
        ("guest create a 'b", 2, "1:16", "no closing quotation"),
        ("guest startup a - <<END\ntrue\n", 2, "1:19", "the here-document has no end: 'END'"),
        ("reboot now", 2, "1:1", "no tool 'reboot'"),
        ("\n  guest", 2, "2:3", "'guest' needs a verb"),
        ("guest sing a", 2, "1:7", "no such command 'sing'"),
        ("guest create a\nguest exec a -- true", 2, "2:1", "'guest exec' does not describe a lab"),
        ("guest create --help", 2, "1:14", "'--help' does not describe a lab"),
        ("guest create -C /x a", 2, "1:14", "'-C' does not belong in a lab file"),
        ("guest create a --colour red", 2, "1:16", "no such option '--colour'"),
        ("guest create a --memory", 2, "1:16", "option '--memory' requires an argument"),
        ("guest create a --memory much", 2, "1:16", "'much' is not a size such as 64M"),
        ("guest create a --memory=9", 2, "1:1", "9 bytes of memory is too little"),
        ("guest create a --kernel nosuch", 3, "1:25", "no kernel"),
        ("guest create a --master ./nosuch", 3, "1:25", "no master"),
        ("guest create a\nguest create b a", 4, "2:16", "guest 'a' is created twice"),
        ("guest create a ../b", 2, "1:16", "bad guest name '../b'"),
        ("guest create a --disk nosuch", 3, "1:23", "no such file"),
        ("guest create a\nguest set a --disk x --no-disks", 2, "2:22", "--disk and --no-disks"),
        ("guest startup a --clear", 3, "1:15", "no guest 'a'"),
        ("fs template load T -- true", 2, "1:20", "'--' with a command does not belong"),
        ("guest create a\nguest startup a -", 2, "2:17", "'-' needs a here-document"),
        ("guest create a <<E\nE", 2, "1:1", "the command does not read its here-document"),
        ("guest create a\nguest startup a nosuch", 3, "2:17", "no such file"),
        ("guest start a", 3, "1:13", "no guest 'a'"),
        ("iface create a-eth0", 3, "1:1", "no guest 'a'"),
        ("guest create a\niface create a-eth0 --bridge lan0", 3, "2:30", "no bridge 'lan0'"),
        ("guest create a\niface create a-eth0 --address 10.0.0.1", 2, "2:31", "has no prefix"),
        ("guest create a\niface create a-eth0 --mtu 9", 2, "2:1", "bad MTU 9"),
        ("guest create a\niface create a-eth0 --mtu x", 2, "2:21", "invalid value for '--mtu'"),
        ("iface shape a-eth0 --delay 5", 3, "1:13", "no interface 'a-eth0'"),
        (
            "guest create a\niface create a-eth0 --address 10.0.0.1/24\n"
            "iface route add a-eth0 default --via 10.1.0.1",
            *(2, "3:38", "the gateway '10.1.0.1' is not in any network"),
        ),
        ("bridge create lan0\nbridge uplink lan0", 4, "2:15", "has no IPv4 address on 'lan0'"),
        ("bridge create lan0 lan1 --hub --switch", 2, "1:31", "mutually exclusive"),
        ("guest create a\nfs overlay add a nosuch", 3, "2:18", "no directory"),
        ("fs template load ../x", 2, "1:18", "bad template name '../x'"),
        ("fs template load x", 3, "1:18", "no template 'x'"),
        ("guest create a\nguest set a --disk=missing", 3, "2:13", "missing'"),
        ("guest create a\niface create a-eth0\niface set a-eth0 --mac ''", 2, "3:24", "bad MAC"),
        ("bridge create 'x\ny'", 2, "1:15", "bad bridge name"),
        ("bridge create x --hub --switch", 2, "1:23", "mutually exclusive"),
        (
            "bridge create x --address 10.0.0.1/24\nbridge uplink x --nat\n"
            "bridge create x --may-exist --address fd00::1/64",
            4,
            "2:15",
            "needs an IPv4 address",
        ),
    ],
)
def test_errors_in_files(
    text: str,
    status: int,
    place: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    labdir = recorded(tmp_path)
    base = Wanted(description.of(labdir), looking.host(labdir))
    with pytest.raises(Misplaced) as error:
        lab_file.read(language.of_lines(io.BytesIO(text.encode())), "file", base)
    assert str(error.value).startswith(f"file:{place}: ")
    assert message in str(error.value)
    assert error.value.exit_code == status
