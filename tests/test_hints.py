"""The hints for newcomers: wrong words and names get a hint that helps. No guest is needed."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from support import BIN
from support.labs import Lab, recorded
from support.terminal import on_terminal

from dumm_tools import _docs, messages, missing
from dumm_tools.agent.program import Program, refusal
from dumm_tools.model import Bridge, Iface, State


def fill(state: State) -> None:
    for slot, name in enumerate(("eth0", "eth1")):
        iface = Iface(
            f"alice-{name}", "alice", name, slot, f"alice-{name}", f"02:00:00:00:00:0{slot}"
        )
        iface.bridge = "lan0" if slot == 0 else None
        state.ifaces[iface.name] = iface
    state.bridges["lan0"] = Bridge("lan0")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A working set with guests that never ran, interfaces, a bridge, a template and a master."""
    (tmp_path / "templates/website").mkdir(parents=True, mode=0o700)
    (tmp_path / "cache/dumm/masters/busybox").mkdir(parents=True)
    for directory in (
        tmp_path / "templates",
        tmp_path / "cache/dumm",
        tmp_path / "cache/dumm/masters",
    ):
        directory.chmod(0o700)
    return Lab(
        Path(recorded(tmp_path, "alice", "router1", "router2", fill=fill)), tmp_path / "cache"
    )


def hint(lab: Lab, command: str, status: int) -> str:
    """The hint of a command that fails."""
    done = lab(command, status=status)
    error, last = done.err.splitlines()
    tool = command.split()[0]
    assert error.startswith(f"{tool}: ")
    assert done.out == ""
    return last.removeprefix(f"{tool}: hint: ")


# ---- names ----


@pytest.mark.parametrize(
    ("command", "status", "expected"),
    [
        ("dumm-guest show alicee", 3, "did you mean 'alice'?"),
        ("dumm-guest start Alice", 3, "did you mean 'alice'?"),
        ("dumm-guest delete alcie", 3, "did you mean 'alice'?"),
        ("dumm-guest exec alicee -- true", 125, "did you mean 'alice'?"),
        ("dumm-console log alicee", 3, "did you mean 'alice'?"),
        ("dumm-fs diff alicee", 3, "did you mean 'alice'?"),
        ("dumm-fs cp alicee:/etc/motd .", 3, "did you mean 'alice'?"),
        ("dumm-guest show ruoter1", 3, "did you mean 'router1'?"),
        (
            "dumm-guest exec alice-eth0 -- true",
            125,
            "'alice-eth0' is an interface of guest 'alice'",
        ),
        ("dumm-guest start lan0", 3, "'lan0' is a bridge"),
        (
            "dumm-fs overlay del ./layer alice",
            3,
            "'./layer' is a path: put the guest first",
        ),
        ("dumm-iface show alcie-eth0", 3, "did you mean 'alice-eth0'?"),
        ("dumm-iface show alice-eth5", 3, "dumm-iface create alice-eth5"),
        ("dumm-iface up alicee-wan", 3, "did you mean 'alice'?"),
        ("dumm-iface create alicee-eth0", 3, "did you mean 'alice'?"),
        ("dumm-iface create alice-eth2 --bridge lna0", 3, "did you mean 'lan0'?"),
        ("dumm-bridge show lann0", 3, "did you mean 'lan0'?"),
        ("dumm-bridge up alice", 3, "'alice' is a guest"),
        ("dumm-bridge capture alice-eth0", 3, "'alice-eth0' is an interface: put the bridge first"),
        ("dumm-fs template load websit", 3, "did you mean 'website'?"),
        ("dumm-fs template load xwebsite", 3, "did you mean 'website'?"),
        ("dumm-guest set alice --master bussybox", 3, "did you mean 'busybox'?"),
        ("dumm-fs master show busybx", 3, "did you mean 'busybox'?"),
        ("dumm-fs master delete busybx", 3, "did you mean 'busybox'?"),
    ],
)
def test_similar_names_and_other_objects_are_hinted_at(
    lab: Lab, command: str, status: int, expected: str
) -> None:
    assert hint(lab, command, status) == expected


def test_names_that_are_not_similar_get_no_hint(lab: Lab) -> None:
    for name in ("bob", "router3", "x" * 32):
        assert lab(f"dumm-guest show {name}", status=3).err == f"dumm-guest: no guest '{name}'\n"


def test_many_names_are_searched_quickly_in_any_order() -> None:
    assert missing.closest("gust77x", (f"guest{n}" for n in range(10**9)))  # looks at some only
    assert missing.closest("a" * 10**6, ["a" * 60]) == ["a" * 60]


@pytest.mark.parametrize("others", ["", " router1-eth0"])
def test_operands_the_wrong_way_round(lab: Lab, others: str) -> None:
    done = lab(f"dumm-bridge connect alice-eth0{others} lan0", status=None)
    assert done.code == (3 if others else 2)
    assert (
        "dumm-bridge: hint: the bridge comes first: dumm-bridge connect lan0 alice-eth0\n"
        in done.err
    )


# ---- verbs ----


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("dumm-guest shell alice", "did you mean 'dumm-console shell NAME'?"),
        ("dumm-guest ssh alice", "did you mean 'dumm-console shell NAME'?"),
        ("dumm-guest rm alice", "did you mean 'dumm-guest delete NAME...'?"),
        ("dumm-guest ls", "did you mean 'dumm-guest list'?"),
        ("dumm-guest ps", "did you mean 'dumm-guest list'?"),
        (
            "dumm-guest console alice",
            "dumm-console shell NAME, or dumm-console attach NAME for its kernel's console",
        ),
        (
            "dumm-guest run alice ls",
            "dumm-guest create NAME --start, then dumm-guest exec NAME -- CMD",
        ),
        ("dumm-guest attach alice", "did you mean 'dumm-console attach NAME'?"),
        ("dumm-guest log alice", "did you mean 'dumm-console log NAME'?"),
        ("dumm-guest logs alice", "did you mean 'dumm-console log NAME'?"),
        ("dumm-guest cp a b", "did you mean 'dumm-fs cp SRC... DST'?"),
        ("dumm-guest help", "--help after any command, or the manual: man dumm"),
        ("dumm-guest deletee alice", "did you mean 'dumm-guest delete NAME...'?"),
        ("dumm-guest ping", "dumm-guest exec NAME -- ping ..."),
        ("dumm-iface connect alice-eth0", "did you mean 'dumm-bridge connect BR IFACE...'?"),
        ("dumm-iface address rm x", "did you mean 'dumm-iface address del IFACE A/P...'?"),
        ("dumm-bridge add lan1", "did you mean 'dumm-bridge create BR...'?"),
        (
            "dumm-fs build",
            "did you mean 'dumm-fs kernel build [SOURCE]' or "
            "'dumm-fs master build busybox|debian'?",
        ),
        (
            "dumm-fs template loa x",
            "did you mean 'dumm-fs template load T' or 'dumm-fs template unload'?",
        ),
        ("dumm-guest nonsense", "see 'dumm-guest --help'"),
    ],
)
def test_words_that_are_not_verbs(lab: Lab, command: str, expected: str) -> None:
    assert hint(lab, command, 2) == expected


def test_words_that_are_not_tools_in_a_batch(lab: Lab) -> None:
    def said(line: str) -> str:
        return lab("dumm-console", stdin=line.encode(), status=2).err.splitlines()[1]

    assert said("gest list") == "dumm-console: hint: did you mean 'guest'?"
    assert said("shell alice") == "dumm-console: hint: did you mean 'dumm-console shell NAME'?"
    assert said("nonsense") == (
        "dumm-console: hint: the first word is one of: guest iface bridge fs console"
    )


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("dumm-fs cp alice:/etc/motd", "usage: dumm-fs cp [OPTIONS] SRC... DST"),
        ("dumm-console log", "usage: dumm-console log [OPTIONS] NAME"),
        ("dumm-guest set alice bob --memory 64M", "usage: dumm-guest set [OPTIONS] NAME"),
        ("dumm-iface shape alice-eth0 delay 20", "did you mean '--delay'?"),
        ("dumm-iface route add alice-eth0 default via 10.0.0.1", "did you mean '--via'?"),
        ("dumm-console lab.dumm", "dumm-console <lab.dumm runs the commands in a file"),
    ],
)
def test_operands_that_are_missing_or_options(lab: Lab, command: str, expected: str) -> None:
    (lab.directory / "lab.dumm").touch()
    assert hint(lab, command, 2) == expected


# ---- exec ----


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ls | wc"], "no shell reads this; to have one: sh -c 'ls | wc'"),
        (["echo $HOME"], "no shell reads this; to have one: sh -c 'echo $HOME'"),
        (["cd /tmp"], "-w DIR runs a command in another directory"),
        (["cd", "/tmp"], "-w DIR runs a command in another directory"),
        (["exit", "3"], "this is a command of shells: sh -c 'exit 3'"),
        (["LC_ALL=C", "ls"], "-e LC_ALL=C sets an environment variable"),
        (["nosuch"], None),
        (["a b", "c"], None),
    ],
)
def test_commands_that_need_a_shell(words: list[str], expected: str | None) -> None:
    error = refusal(Program(words), 2, f"exec {words[0]}".encode())
    assert (error.exit_code, error.hint) == (127, expected)


def test_commands_that_need_a_shell_on_the_host(lab: Lab) -> None:
    assert hint(lab, "dumm-guest exec --host -- 'ls | wc'", 127) == (
        "no shell reads this; to have one: sh -c 'ls | wc'"
    )


# ---- lists ----


def test_list_says_why_an_interface_is_down(lab: Lab) -> None:
    lines = lab("dumm-iface list").lines
    assert " down " in lines[1]
    assert "down (on no bridge)" in lines[2]
    lab("dumm-iface down alice-eth0")
    assert "down (taken down)" in lab("dumm-iface list").lines[1]
    shown = lab("dumm-iface show alice-eth1").out
    assert re.search(r"^state: +down \(on no bridge\)$", shown, re.M)
    # For scripts, a state is a word.
    assert lab("dumm-iface list -o state").lines == ["down", "down"]
    assert "on no bridge" not in lab("dumm-iface list --format json").out


@pytest.mark.parametrize(
    ("env", "words", "coloured"),
    [
        ([], "dumm-iface list", True),
        ([], "dumm-iface show alice-eth1", True),
        ([], "dumm-iface list -o state", False),
        ([], "dumm-iface list -q", False),
        ([], "dumm-iface list --format json", False),
        (["NO_COLOR="], "dumm-iface list", True),
        (["NO_COLOR=1"], "dumm-iface list", False),
        (["TERM=dumb"], "dumm-iface list", False),
        (["-u", "TERM"], "dumm-iface list", False),
    ],
)
def test_states_have_colours_on_terminals_only(
    lab: Lab, env: list[str], words: str, coloured: bool
) -> None:
    with on_terminal(lab, ["env", *env, *words.split()]) as terminal:
        assert terminal.wait() == 0
    assert (b"\x1b[33mdown (on no bridge)\x1b[0m" in terminal.seen) == coloured
    assert (b"\x1b" in terminal.seen) == coloured
    assert "\x1b" not in lab(words).out
    if words == "dumm-iface list":  # and the columns are as wide as without
        shown = terminal.seen.decode().replace("\x1b[33m", "").replace("\x1b[0m", "")
        assert shown.replace("\r\n", "\n") == lab(words).out


@pytest.mark.parametrize(
    ("text", "columns", "shown"),
    [
        ("unpacking /usr/bin/env", 30, "unpacking /usr/bin/env"),
        ("unpacking /usr/bin/env", 22, "unpacking /usr/bin/env"),
        ("unpacking /usr/bin/env", 21, "unpacking /usr/bin..."),
        ("\u6587\u4ef6\u6587\u4ef6", 7, "\u6587\u4ef6..."),
        ("e\u0301" * 5, 5, "e\u0301" * 5),
        ("x" * 100, 2, ".."),
        ("x", 0, ""),
    ],
)
def test_progress_is_cut(text: str, columns: int, shown: str) -> None:
    assert messages.cut(text, columns) == shown


def test_progress_never_wraps(lab: Lab) -> None:
    """Its last column stays free, too: terminals may wrap after it."""
    code = (
        "from dumm_tools import messages\n"
        "messages.progress('building ' + 'x' * 100); messages.progress('done')"
    )
    with on_terminal(lab, [sys.executable, "-c", code], size=(24, 40)) as terminal:
        assert terminal.wait() == 0
    first = terminal.seen.decode().split("\r\x1b[K")[1]
    assert (len(first), first[-3:]) == (39, "...")


# ---- the manual ----


@pytest.mark.parametrize("tool", sorted(_docs.tools()))
def test_synopses_name_each_option_once(tool: str) -> None:
    for words, command in _docs.leaves(_docs.tools()[tool]):
        synopsis = re.sub(r"\\f[BIR]", "", _docs.usage(words, command)).replace("\\-", "-")
        for option in _docs.own_options(command):
            name = max(option.opts, key=len)
            found = re.findall(rf"(?<![\w-]){name}(?![\w-])", synopsis)
            assert len(found) == 1, f"{' '.join(words)}: {name}"


# ---- check ----


@pytest.mark.netns
def test_check_in_a_chroot_blames_the_chroot(tmp_path: Path) -> None:
    """The kernel then refuses user namespaces to everyone; no sysctl changes that."""
    lab = Lab(tmp_path, tmp_path / "cache")
    root = tmp_path / "root"
    root.mkdir()
    enter = 'mount --rbind / "$0" && cd "$0$1" && exec chroot "$0" "$2" check -o name,found,remedy'
    tool = BIN / "dumm-fs"
    done = lab(["unshare", "-rm", "sh", "-c", enter, root, tmp_path, tool], status=1)
    [found] = [line for line in done.lines if line.startswith("namespaces\t")]
    assert found == (
        "namespaces\tOperation not permitted: no user namespace can be made in a chroot\t"
        "run it outside the chroot, or make that a container: systemd-nspawn -D DIR"
    )


def test_check_works_in_a_directory_of_others(lab: Lab, tmp_path: Path) -> None:
    """Such as /tmp: there is no lab in it, so that nothing in it has to be trusted."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    assert "namespaces" in lab(["dumm-fs", "-C", shared, "check", "-q"], status=None).lines
    refused = lab(["dumm-fs", "-C", shared, "init"], status=4).err.splitlines()
    assert refused[1] == "dumm-fs: hint: make a directory of your own in it, and use that"
