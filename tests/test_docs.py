"""The manual and the completions agree with the commands, and work."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from support import BIN, PATIENCE, TOP
from support.labs import Lab

from dumm_tools import _docs

PAGES = sorted(path for path in (TOP / "man").iterdir() if path.suffix[1:].isdigit())
#: Documents that show commands to users.
TEXTS = [TOP / "README.md", *sorted((TOP / "man").glob("*.in")), *(TOP / "examples").glob("*.sh")]
#: Others, with a pattern of all that precedes a command on its line.
OTHERS = {
    TOP / "examples/github-actions.yml": r"(?:^ +|run: )",
    TOP / "examples/frr-topotests/pytest.ini": r"^# +",
}


def test_generated_files_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert _docs.main(["--check"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_manual_page_has_no_warnings(path: Path) -> None:
    if not shutil.which("groff"):
        pytest.skip("no groff here")
    argv = ["groff", "-man", "-Tutf8", "-ww", "-z", str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not re.search(r"@[A-Z_]+@", path.read_text())
    names = {page.name for page in PAGES}
    for name, section in re.findall(r"^\.BR (dumm\S*) \((\d)\)", path.read_text(), re.MULTILINE):
        assert f"{name}.{section}".replace("\\-", "-") in names


@pytest.mark.parametrize("path", [*TEXTS, *OTHERS], ids=lambda path: path.name)
def test_commands_in_documents_exist(path: Path) -> None:
    tools = _docs.tools()
    # Everything that looks like a command: after a prompt, `run` or a pipe.
    before = OTHERS.get(path, r"(?:\$ |run |\| )")
    text = re.sub(r"\\f[BIR]", "", path.read_text()).replace("\\-", "-").replace("\\(aq", "'")
    shown = re.findall(rf"(?m){before}(dumm-(?:\w+) .*)$", text)
    assert shown or path not in OTHERS
    for line in shown:
        line = re.sub(r" -C \S+", "", line)
        words = re.split(r"[\s|;]+", line)
        if words[0] not in tools or not re.match(r"[a-z][a-z-]*$", words[1]):
            continue
        command: click.Command = tools[words[0]]
        for word in words[1:]:
            if not isinstance(command, click.Group):
                break
            assert word in command.commands, f"{path.name}: {line}"
            command = command.commands[word]
        known = {o for p in command.params for o in p.opts} | {"--help", "--version"}
        mine = line.partition(" -- ")[0].partition("|")[0].partition(";")[0]
        for option in re.findall(r" (--[a-z-]+)", mine):
            assert option in known, f"{path.name}: {line}: {option}"


@pytest.mark.parametrize("tool", sorted(_docs.tools()))
def test_bash_completion(tool: str, tmp_path: Path) -> None:
    script = TOP / "completions" / "bash" / tool
    function = f"_{tool.replace('-', '_')}_completion"
    code = (
        f"source {shlex.quote(str(script))} && COMP_WORDS=({tool} l) COMP_CWORD=1 && "
        f'{function} {tool} && printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", code],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.stderr == ""
    expected = {"dumm-fs": set(), "dumm-console": {"list", "log"}}.get(tool, {"list"})
    assert set(done.stdout.split()) == expected


#: Input before TAB, and the completions offered: a word, a directory, a path.
TYPED = {
    "dumm-guest start al": ["albert", "alice"],
    "dumm-guest stop --ki": ["--kill"],
    "dumm-guest list --format t": ["table"],
    "dumm-fs overlay add alice ./la": ["./layer,one/"],
    "dumm-fs overlay add alice ./layer,one ": [],
    "dumm-fs overlay del alice ": ["{lab}/layer,one"],
    "dumm-fs overlay del bob ": [],
}
#: zsh's own functions work only inside its line editor; here they print what they are told to
#: offer.
ZSH = """
compdef() { }
compadd() { print -rl -- "${(@P)@[-1]}" }
_describe() { print -rl -- "${(@P)@[-2]%%:*}" }
_path_files() { [[ $1 == -/ ]] && print -rl -- ./layer,*/ }
source $1
words=("${(@s: :)2}") CURRENT=${#words}
$3
"""


@pytest.fixture
def layered(lab: Lab) -> Lab:
    """Guests, one of which has an overlay."""
    lab("dumm-guest create alice albert bob")
    (lab.directory / "layer,one").mkdir()
    lab("dumm-fs overlay add alice ./layer,one")
    return lab


def _offered(lab: Lab, expected: list[str]) -> list[str]:
    return [word.format(lab=lab.directory) for word in expected]


@pytest.mark.uml
def test_fish_completion(layered: Lab) -> None:
    def complete(typed: str) -> list[str]:
        path = shlex.quote(f"{TOP}/completions/fish")
        script = f"set -p fish_complete_path {path}; complete -C {shlex.quote(typed)}"
        return layered(["fish", "--no-config", "-c", script]).lines

    for typed, expected in TYPED.items():
        found = [line.partition("\t")[0] for line in complete(typed)]
        assert found == _offered(layered, expected), typed
    [described] = complete("dumm-guest sto")
    assert "," in described


@pytest.mark.uml
def test_zsh_completion(layered: Lab) -> None:
    for typed, expected in TYPED.items():
        tool = typed.split()[0]
        function = f"_{tool.replace('-', '_')}_completion"
        script = TOP / "completions/zsh" / f"_{tool}"
        done = layered(["zsh", "-f", "-c", ZSH, "zsh", script, typed, function])
        assert done.err == ""
        assert done.lines == _offered(layered, expected), typed


def test_completion_offers_existing_objects(tmp_path: Path) -> None:
    """Without a working set nothing is offered, and there is no error."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "lab").mkdir()
    subprocess.run([BIN / "dumm-fs", "init"], cwd=tmp_path / "lab", check=True, timeout=PATIENCE)
    for directory, line, expected in (
        ("empty", "dumm-guest start ", "\n"),
        ("lab", "dumm-guest start ", "\n"),
        ("lab", "dumm-guest li", "plain,list\n"),
        ("lab", "dumm-guest list -o name,stat", "plain,name,state\n"),
    ):
        words = line.split(" ")
        done = subprocess.run(
            [BIN / words[0]],
            cwd=tmp_path / directory,
            env={
                **os.environ,
                "_DUMM_GUEST_COMPLETE": "bash_complete",
                "COMP_WORDS": line,
                "COMP_CWORD": str(len(words) - 1),
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        assert (done.stdout, done.stderr) == (expected, "")


def test_check_reports_outdated_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(TOP / "man", tmp_path / "man")
    shutil.copytree(TOP / "completions", tmp_path / "completions")
    monkeypatch.setattr(_docs, "TOP", tmp_path)
    assert _docs.main(["--check"]) == 0
    (tmp_path / "man" / "dumm.7").write_text("old")
    assert _docs.main(["--check"]) == 1
    assert _docs.main([]) == 0
    assert _docs.main(["--check"]) == 0


def test_docs_run_as_a_module() -> None:
    argv = [sys.executable, "-m", "dumm_tools._docs", "--nonsense"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 2


def test_every_attack_in_the_manual_is_tested() -> None:
    """And every attack that is made is listed."""
    text = (TOP / "man/attacks.inc").read_text().replace("\\-", "-")
    listed = re.findall(r"^\.TP\n\.B (\S+)$", text, re.MULTILINE)
    made = {
        name
        for path in (TOP / "tests").glob("test_*.py")
        for marks in re.findall(r"\bmark\.attack\(([^)]*)\)", path.read_text())
        for name in re.findall(r'"([^"]+)"', marks)
    }
    assert sorted(made) == sorted(listed)
