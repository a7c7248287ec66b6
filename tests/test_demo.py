"""The demo prints the commands that it runs, so that they do the same when pasted into a shell. The
tools are replaced by a script that records its arguments, since no guest is needed for that."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from support import PATIENCE, TOP
from support.labs import Lab
from support.terminal import on_terminal

RECORDER = r"""#!/bin/sh
{ printf '%s\037' "${0##*/}" "$@"; echo; } >>"$RECORD"
case "$*" in
*'ping -c 1 -W 1 10.0.0.2') exit 1 ;;
*ping*) echo ' 0% packet loss' ;;
*tcpdump*) echo listening >&2 ;;
*'sysctl net.ipv4.ip_forward') echo ' = 1' ;;
*'exit 42') exit 42 ;;
*' -- cat') exec cat ;;
*written*) mkdir -p host/alice/root && touch host/alice/root/note ;;
esac
"""


def recording(tmp_path: Path) -> Lab:
    """The environment for a demo of somebody who is not root, with recorders for tools."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("fs", "guest", "iface", "bridge", "console"):
        (tools / f"dumm-{name}").write_text(RECORDER)
    (tools / "id").write_text("#!/bin/sh\necho 1000\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    lab = Lab(tmp_path, tmp_path)
    lab.env |= {"PATH": f"{tools}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    return lab


def test_printed_commands_do_the_same_when_pasted(tmp_path: Path) -> None:
    lab = recording(tmp_path)
    done = lab([TOP / "examples/demo.sh"], env={"RECORD": str(tmp_path / "run")})
    assert "\x1b" not in done.out  # no bold in a pipe
    printed = [line[2:] for line in done.lines if line.startswith("$ ")]
    assert len(printed) > 30
    (tmp_path / "mount/alice/etc").mkdir(parents=True)
    for line in printed:
        if "dumm-" in line:
            pasted = {"RECORD": str(tmp_path / "pasted")}
            lab(["sh", "-c", f"{line}\nwait"], env=pasted, status=None)
    ran, pasted_too = ((tmp_path / name).read_text().splitlines() for name in ("run", "pasted"))
    assert sorted(pasted_too) == sorted(ran)
    assert len(ran) > 30


def test_headings_are_bold_on_terminals_that_can(tmp_path: Path) -> None:
    lab = recording(tmp_path)
    for env, bold in (([], True), (["NO_COLOR=1"], False), (["TERM=dumb"], False)):
        record = f"RECORD={tmp_path}/run"
        with on_terminal(lab, ["env", record, *env, TOP / "examples/demo.sh"]) as terminal:
            assert terminal.wait() == 0
        assert (b"\x1b[1m# " in terminal.seen) == bold


def test_make_demo_and_the_readme_say_how_to_go_on() -> None:
    argv = ["make", "--no-print-directory", "-n", "demo"]
    text = subprocess.run(
        argv, cwd=TOP, capture_output=True, text=True, check=True, timeout=PATIENCE
    ).stdout
    assert text.endswith(f"'export PATH=\"{TOP}/.venv/bin:$PATH\"'\n")
    assert 'export PATH="$PWD/.venv/bin:$PATH"' in (TOP / "README.md").read_text()
