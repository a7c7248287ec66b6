"""The library: examples, the calls of each object, errors."""

from __future__ import annotations

import doctest
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE, SUITES, TOP
from support.library import KINDS, pair

import dumm_tools
from dumm_tools import (
    Bridge,
    CommandFailed,
    Conflict,
    DummError,
    ExecFailed,
    Guest,
    Lab,
    NotFound,
    SessionEnded,
    StartFailed,
    TimedOut,
    Usage,
    api,
)
from dumm_tools.api import reference, views
from dumm_tools.cli import bridge, fs_files, fs_layers, guest, iface, iface_route

grouped = pytest.mark.xdist_group("library")


@pytest.mark.uml
def test_lab_that_existed_is_not_destroyed(library: None, tmp_path: Path) -> None:
    with Lab.create(tmp_path / "lab", isolated=True) as lab:
        lab.guest("alice").create()
        lab.keep()
    with Lab.create(tmp_path / "lab", isolated=True, may_exist=True) as again:
        assert [each.name for each in again.guests()] == ["alice"]
    with Lab(tmp_path / "lab") as lab:
        assert [each.name for each in lab.guests()] == ["alice"]
        lab.destroy()


@pytest.mark.uml
def test_files_that_are_read_are_those_of_the_guest(library: None, tmp_path: Path) -> None:
    """A guest may leave links and FIFOs, which would lead elsewhere here, or never end."""
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/one").write_text("one")
    with Lab.create(tmp_path / "lab", isolated=True, kernel=SUITES[-1], master="busybox") as lab:
        alice = lab.guest("alice").create()
        own = Path(lab.directory) / "host/alice"
        (own / "link").symlink_to(tmp_path / "secret")
        os.mkfifo(own / "fifo")
        for path in ("/link", "/fifo", "/etc"):
            with pytest.raises(DummError, match=f"'{path}' of guest 'alice' is not a regular file"):
                alice.read_text(path)
        lab.copy(f"{tmp_path}/tree/.", to="alice:/root")
        assert alice.read_text("/root/one") == "one"


@pytest.fixture(scope="module", params=KINDS)
def made(
    packs: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Lab]:
    """A lab with alice and bob on lan0, for tests that leave it as it was."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(packs))
        place = tmp_path_factory.mktemp("library") / "lab"
        how = request.param == "--isolated"
        with Lab.create(place, isolated=how, kernel=SUITES[0], master="busybox") as lab:
            pair(lab)
            yield lab


def isolated(lab: Lab) -> bool:
    return bool(json.loads((Path(lab.directory) / "state.json").read_text())["isolated"])


@pytest.fixture
def alice(made: Lab) -> Guest:
    return made.guest("alice")


# ---- what the documents say ----


@pytest.mark.uml
@grouped
def test_examples_in_docstrings(made: Lab) -> None:
    lan: Bridge = made.bridge("lan0")
    names = {
        **{"lab": made, "Lab": Lab, "lan": lan},
        **{"alice": made.guest("alice"), "bob": made.guest("bob")},
    }
    runner, said = doctest.DocTestRunner(verbose=False), io.StringIO()
    seen: set[type] = set()
    for path in reference.CLASSES:
        module, _, name = path.partition(".")
        kind = getattr(sys.modules[f"dumm_tools.api.{module}"], name)
        for each in kind.__mro__:
            if each in seen or not each.__module__.startswith("dumm_tools."):
                continue
            seen.add(each)
            for test in doctest.DocTestFinder().find(each, each.__name__, globs=dict(names)):
                runner.run(test, out=said.write)
    assert said.getvalue() == ""
    assert runner.summarize(verbose=False).attempted > 30


@pytest.mark.uml
@grouped
def test_example_in_the_readme(
    made: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (TOP / "README.md").read_text()
    (code,) = re.findall(r"(?s)```\n(from dumm_tools import Lab\n.*?)```", text)
    monkeypatch.chdir(Path(made.directory).parent)
    exec(compile(code, "README.md", "exec"), {})
    assert "1 packets received" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (views.GuestView, guest.FIELDS),
        (views.IfaceView, iface.FIELDS),
        (views.BridgeView, bridge.FIELDS),
        (views.RouteView, iface_route.ROUTE_FIELDS),
        (views.TemplateView, fs_layers.TEMPLATE_FIELDS),
        (views.Change, fs_files.FIELDS),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_views_have_the_fields_of_the_commands(kind: Any, fields: list[Any]) -> None:
    assert sorted(kind._fields) == sorted(field.name for field in fields)
    assert {field.name for field in fields if field.asked} == set(kind._field_defaults)


def test_every_public_name_is_documented() -> None:
    for section in reference.sections():
        for each in (section.about, *section.methods):
            assert each.parts[0][1], each.head
    page = (TOP / "man/dumm-library.3").read_text()
    for name in ("Lab", "Guest", "StartFailed", "Completed", "Packet"):
        assert re.search(rf"^(\.SS |\\fB){name}\b", page, re.MULTILINE), name


def test_importing_the_package_is_free() -> None:
    code = (
        "import sys, dumm_tools\n"
        "dumm_tools.__version__\n"
        "print([m for m in sys.modules if m.startswith('dumm_tools.')])\n"
        "from dumm_tools import Lab\n"
        "print(sorted(m for m in sys.modules if m in ('click', 'pyroute2', 'asyncio')))\n"
        "print(hasattr(dumm_tools, 'Nonsense'), hasattr(dumm_tools, 'nonsense'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["[]", "['asyncio']", "False False"]
    with pytest.raises(ImportError):
        exec("from dumm_tools import Nonsense")
    names: dict[str, object] = {}
    exec("from dumm_tools import *", names)
    assert names["Lab"] is Lab
    assert set(dumm_tools.__all__) <= set(vars(api))


# ---- objects ----


@pytest.mark.uml
@grouped
def test_views(made: Lab, alice: Guest) -> None:
    assert [(g.name, g.state, g.memory) for g in made.guests()] == [
        ("alice", "running", 64 << 20),
        ("bob", "running", 64 << 20),
    ]
    assert alice.show().uptime is not None
    assert [i.name for i in made.ifaces()] == ["alice-eth0", "bob-eth0"]
    assert made.iface("alice-eth0").show().live_mtu == 1500
    assert made.bridges()[0].members == ["alice-eth0", "bob-eth0"]
    assert made.bridge("lan0") == made.bridge("lan0") != made.bridge("lan1")
    assert len({made.guest("bob"), made.guest("bob"), alice}) == 2
    assert (str(alice), repr(alice)) == ("alice", "Guest('alice')")


@pytest.mark.uml
@grouped
def test_programs(alice: Guest, tmp_path: Path) -> None:
    done = alice.run(["sh", "-c", "cat; echo err >&2; exit 7"], input="in\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, "in\n", "err\n")
    assert 0 < done.seconds < PATIENCE
    noise = bytes(range(256)) * 4096
    assert alice.run(["cat"], input=noise, text=False).stdout == noise
    assert alice.run(["printf", r"a\377b"]).stdout == r"a\xffb"
    words = ["", "a b", "-x", "$HOME", "ä\n"]
    echoed = alice.run(["sh", "-c", 'printf "%s|" "$@"', "sh", *words]).stdout
    assert echoed == "".join(f"{word}|" for word in words)
    assert alice.run(["sh", "-c", "echo $X; pwd; id -u"], env={"X": "y"}, cwd="/tmp").stdout == (
        "y\n/tmp\n0\n"
    )
    assert alice.run(["id", "-u"], user="1000").stdout == "1000\n"
    assert alice.run(["sh", "-c", "kill -9 $$"]).returncode == 137
    out, given = tmp_path / "out", tmp_path / "in"
    given.write_bytes(noise)
    done = alice.run(["cat"], stdin=given, stdout=out)
    assert (done.stdout, out.read_bytes() == noise) == ("", True)


@pytest.mark.uml
@grouped
def test_large_outputs(alice: Guest, tmp_path: Path) -> None:
    """More than an answer, a pipe and our memory for unread output have room for."""
    size = 40 << 20
    script = ["head", "-c", str(size), "/dev/zero"]
    assert len(alice.run(script, text=False).stdout) == size
    out = tmp_path / "out"
    assert alice.run(script, stdout=out).returncode == 0
    assert out.stat().st_size == size
    with alice.popen(script, text=False) as program:
        assert program.wait() == 0  # nothing has been read yet
        assert len(program.stdout.read(1000)) == 1000
        assert len(program.stdout.read()) == size - 1000
        assert program.stdout.read() == b""


@pytest.mark.uml
@grouped
def test_programs_of_the_host(made: Lab, tmp_path: Path) -> None:
    """Have inputs, outputs and time as those of guests."""
    assert made.run(["cat"], input="x\n").stdout == "x\n"
    assert made.run(["wc", "-c"], input=b"\0" * 1_000_000).stdout.split() == ["1000000"]
    size = 20 << 20
    zeros = ["head", "-c", str(size), "/dev/zero"]
    assert len(made.run(zeros, text=False).stdout) == size
    out = tmp_path / "out"
    assert made.run(zeros, stdout=out, check=True).stdout == ""
    assert out.stat().st_size == size
    done = made.command("guest", "exec", "--host", "--", "wc", "-c", stdin=out)
    assert done.stdout == f"{size}\n"
    with pytest.raises(TimedOut) as late:
        made.run(["sh", "-c", "echo begun; exec sleep 1000"], timeout=1)
    assert late.value.stdout == "begun\n"
    with pytest.raises(CommandFailed, match=r"host: 'sh -c .*' ended with status 3: no"):
        made.run(["sh", "-c", "echo no >&2; exit 3"], check=True)


@pytest.mark.uml
@grouped
def test_errors_of_programs(made: Lab, alice: Guest) -> None:
    with pytest.raises(ExecFailed, match="command not found") as missing:
        alice.run(["no-such-program"])
    assert missing.value.exit_code == 127
    with pytest.raises(
        CommandFailed, match=r"guest 'alice': 'ls /no' ended with status 1: .*No"
    ) as e:
        alice.run(["ls", "/no"], check=True)
    assert (e.value.returncode, e.value.stdout) == (1, "")
    assert "No such file" in str(e.value.stderr)
    with pytest.raises(CommandFailed, match="was killed by signal 15"):
        alice.run(["sh", "-c", "kill $$"], check=True)
    with pytest.raises(TimedOut) as late:
        alice.run(["sh", "-c", "echo early; sleep 10000"], timeout=1)
    assert late.value.stdout == "early\n"
    made.guest("carol").create()
    with pytest.raises(ExecFailed, match="'carol' is stopped"):
        made.guest("carol").run(["true"])
    made.guest("carol").delete()
    with pytest.raises(ExecFailed, match="no guest 'carol'"):
        made.guest("carol").run(["true"])
    wrong: Any
    for wrong in ("ls /", [], b"ls"):
        with pytest.raises(Usage, match="a list of words"):
            alice.run(wrong)
    for key in ("", "A=B"):
        with pytest.raises(Usage, match="bad name of a variable"):
            alice.run(["true"], env={key: "x"})
    with pytest.raises(Usage, match="contains a NUL"):
        alice.run(["echo", "a\0b"])
    with pytest.raises(Usage, match="at most 16 MiB"):
        alice.run(["echo", "x" * (17 << 20)])
    with pytest.raises(DummError, match="cannot write '/nonexistent/x'"):
        alice.run(["true"], stdout="/nonexistent/x")
    with pytest.raises(NotFound, match="no file '/nonexistent/x'"):
        alice.run(["true"], stdin="/nonexistent/x")
    with pytest.raises(ExecFailed):  # of ours: not the status of a program
        alice.run(["true"], cwd="/nonexistent")


@pytest.mark.uml
@grouped
def test_errors_of_commands(made: Lab, alice: Guest, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no guest 'nobody'"):
        made.guest("nobody").show()
    with pytest.raises(Conflict, match="guest 'alice' already exists"):
        alice.create()
    with pytest.raises(Conflict, match="guest 'alice' is running"):
        alice.start()
    with pytest.raises(NotFound, match="no guest 'nobody'"):
        made.start("nobody")
    with pytest.raises(TimedOut, match="did not succeed: status 1"):
        alice.wait_until(["false"], timeout=0.2)
    with pytest.raises(TimedOut, match="'never' is not found"):
        alice.wait_until(["echo", "often"], match="never", timeout=0.2)
    with pytest.raises(Usage, match="'64Q' is not a size"):
        alice.set(memory="64Q")
    with pytest.raises(DummError, match="cannot capture 'no such filter'"):  # noqa: SIM117
        with made.iface("alice-eth0").capture("no such filter"):
            pass
    for bad in ("-rf", "../x", "a b", ""):
        for name in (made.guest, made.bridge, made.iface, made.template):
            with pytest.raises(Usage, match="bad "):
                name(bad)
    with pytest.raises(Conflict, match="already a working set"):
        Lab.create(made.directory)
    with Lab(tmp_path) as nothing, pytest.raises(NotFound) as missing:
        nothing.guests()
    assert "dumm-fs init" in str(missing.value.hint)
    (tmp_path / "file").touch()
    with pytest.raises(DummError, match=f"cannot create '{tmp_path}/file/lab': Not a directory"):
        Lab.create(tmp_path / "file/lab")
    with pytest.raises(NotFound, match="no kernel 'nonsense'"):
        Lab.create(tmp_path / "new", kernel="nonsense")
    with (
        Lab(tmp_path / "file") as nothing,
        pytest.raises(SessionEnded, match="file' is not a directory"),
    ):
        nothing.guests()
    done = made.command("guest", "is-running", "nobody", check=False)
    assert (done.returncode, "no guest 'nobody'" in done.stderr) == (3, True)


@pytest.mark.uml
@grouped
def test_guests_that_do_not_start(made: Lab, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 20))
    good = made.guest("good").create()
    broken = [made.guest(name).create(disks=[f"{disk}:ro"]) for name in ("no1", "no2")]
    disk.unlink()
    try:
        with pytest.raises(StartFailed) as e:
            made.start(good, *broken)
        assert [name for name, _ in e.value.failures] == ["no1", "no2"]
        assert all("disk" in message for _, message in e.value.failures)
        assert good.is_running()
        with pytest.raises((StartFailed, NotFound), match="disk"):
            broken[0].start()
    finally:
        made.stop("good", "no1", "no2", if_running=True, kill=True)
        for each in (good, *broken):
            each.delete()


@pytest.mark.uml
@grouped
def test_files(made: Lab, alice: Guest, tmp_path: Path) -> None:
    alice.write_text("/root/a file", "text\n", mode=0o755)
    assert alice.run(["stat", "-c", "%a %u", "/root/a file"]).stdout == "755 0\n"
    alice.write_bytes("/root/a file", b"\xff")
    assert alice.read_bytes("/root/a file") == b"\xff"
    with pytest.raises(UnicodeDecodeError):
        alice.read_text("/root/a file")
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub/file").write_text("x")
    alice.copy_to(tree, path="/root")
    alice.copy_to(f"{tree}/.", path="/root/sub")
    assert alice.run(["ls", "/root/tree/sub", "/root/sub/sub"]).returncode == 0
    alice.copy_from("/root/tree", to=tmp_path / "back")
    assert (tmp_path / "back/sub/file").read_text() == "x"
    made.copy("alice:/root/tree/sub/file", to="bob:/root/copied")
    assert made.guest("bob").read_text("/root/copied") == "x"
    with pytest.raises(NotFound):
        alice.read_text("/no/such/file")
    assert {c.kind for c in alice.diff() if c.path.startswith("/root/tree")} == {"A"}
    layer = tmp_path / "layer"
    alice.overlay_add(layer, create=True)
    assert alice.overlays() == [str(layer)]
    alice.overlay_del(layer)
    assert alice.overlays() == []
    alice.run(["rm", "-r", "/root/a file", "/root/tree", "/root/sub"], check=True)
    made.guest("bob").run(["rm", "/root/copied"], check=True)


@pytest.mark.uml
@grouped
def test_links(made: Lab, alice: Guest) -> None:
    eth5 = alice.iface("eth5").create(mtu=1400, mac="02:00:00:00:00:55", may_exist=True)
    lan5 = made.bridge("lan5").create(kind="hub", addresses=["10.5.0.254/24"])
    try:
        eth5.connect(lan5)
        eth5.address_add("10.5.0.1/24", "fd05::1/64")
        assert eth5.addresses() == ["10.5.0.1/24", "fd05::1/64"]
        eth5.address_del("fd05::1/64")
        eth5.down()
        assert eth5.show().state == "down"
        eth5.up()
        eth5.set(mtu=1300)
        shown = eth5.show()
        assert (shown.bridge, shown.mtu, shown.mac) == ("lan5", 1300, "02:00:00:00:00:55")
        eth5.route_add("default", via="10.5.0.254", metric=7)
        assert [(r.dest, r.via, r.metric) for r in alice.routes()] == [("default", "10.5.0.254", 7)]
        eth5.route_del("default")
        alice.rule_add(source="10.9.0.0/16", table=9)
        assert [(r["from"], r["table"]) for r in alice.rules()] == [("10.9.0.0/16", "9")]
        alice.rule_del(source="10.9.0.0/16")
        assert lan5.show().kind == "hub"
        lan5.set("auto")
        lan5.down()
        lan5.up()
        lan5.address_add("10.6.0.254/24")
        lan5.address_del("10.6.0.254/24")
        if not isolated(made):  # the session's namespace leads nowhere
            lan5.uplink("nat")
            lan5.uplink(None)
        eth5.disconnect()
        assert lan5.show().members == []
        lan5.connect(eth5)
        assert made.run(["ip", "-o", "link", "show", eth5.name], check=True).returncode == 0
    finally:
        eth5.delete(if_exists=True)
        lan5.delete(if_exists=True)


@pytest.mark.uml
@grouped
def test_settings_and_lives_of_a_guest(made: Lab, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)  # relative paths are the caller's
        (tmp_path / "files").mkdir()
        (tmp_path / "files/hello").write_text("hello\n")
        for nothing in ("", ":ro"):
            with pytest.raises(Usage, match="a path is empty"):
                made.guest("dave").create(disks=[nothing])
        for nothing in ("", ":/opt"):
            with pytest.raises(Usage, match="a path is empty"):
                made.guest("dave").create(files=[nothing])
        files = ["files:/opt", "files:/"]
        dave = made.guest("dave").create(
            memory=72 << 20, files=files, startup="echo ran >/tmp/ran\n", args=["quiet"]
        )
    assert dave.show().files == [f"{tmp_path}/files:/opt", f"{tmp_path}/files"]
    assert dave.startup() == "echo ran >/tmp/ran\n"
    dave.start(wait="booted")
    assert dave.read_text("/opt/hello") == "hello\n"
    dave.wait_until(["cat", "/tmp/ran"], match="^ran$", timeout=PATIENCE)
    dave.set_startup(None)
    assert dave.startup() is None
    dave.pause()
    assert dave.show().state == "paused"
    dave.resume()
    dave.restart()
    assert "uml" in dave.mconsole("version").lower() or dave.mconsole("version")
    dave.set(args=[], files=[])
    assert (dave.show().args, dave.show().files) == ([], [])
    assert dave.console_log(0) == ""
    dave.run(["sh", "-c", "echo said >/dev/kmsg"], check=True)
    assert "said" not in dave.console_log(0)
    dave.send("echo typed >/tmp/typed")
    dave.wait_until(["cat", "/tmp/typed"], match="typed", timeout=PATIENCE)
    dave.stop()
    dave.wait("stopped", timeout=PATIENCE)
    assert not dave.is_running()
    dave.reset()
    dave.delete()
    dave.delete(if_exists=True)


@pytest.mark.uml
@grouped
def test_labs_as_files(made: Lab, tmp_path: Path) -> None:
    text = made.dump()
    planned = made.apply(text + "guest create erin\n", dry_run=True)
    assert planned == ["guest create erin"]
    made.apply(text + "guest create erin\n")
    assert [g.name for g in made.guests()] == ["alice", "bob", "erin"]
    made.apply(text, prune=True)
    made.save(tmp_path / "lab.tar")
    with Lab.restore(tmp_path / "copy", tmp_path / "lab.tar", isolated=True) as copy:
        assert [g.name for g in copy.guests()] == ["alice", "bob"]
        copy.clear()
        assert copy.bridges() == []
    assert not (tmp_path / "copy/state.json").exists()


# ---- types ----

#: Uses all of the library, as a user's program would.
SCRIPT = TOP / "tests/library_user.py"


def test_types_of_a_users_program(tmp_path: Path) -> None:
    script = tmp_path / "user.py"
    shutil.copy(SCRIPT, script)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", tmp_path / "cache", script],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin"},  # the installed package, with its marker
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.stdout.startswith("Success: no issues found"), done.stdout
    used = set(re.findall(r"\.(\w+)\(", script.read_text()))
    for section in reference.sections():
        for method in section.methods:
            name = re.sub(r"^await ", "", method.head).partition("(")[0].rpartition(".")[2]
            assert name in used, f"{SCRIPT.name} does not use {method.head}"


def test_marker_of_types_is_packaged() -> None:
    assert (Path(dumm_tools.__file__).parent / "py.typed").exists()
    assert "dumm_tools = py.typed" in (TOP / "setup.cfg").read_text()
