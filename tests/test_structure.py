"""The structure of the code: imports between modules, modules imported at start-up, properties of
the commands."""

from __future__ import annotations

import ast
import graphlib
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from imports import FLOORS, MODULES, PACKAGE, floor, imports, ours, ours_among
from support import PATIENCE

from dumm_tools import _docs, errors
from dumm_tools.cli import commands

#: Each imported by one module only.
CONFINED = {"pyroute2", "sh", "tabulate", "yaml"}
#: Too heavy for a command that only reads.
HEAVY = {"pyroute2", "sh", "tabulate", "yaml", "asyncio", "importlib.metadata", "logging"}


def test_every_folder_has_a_floor() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if list(path.glob("*.py"))}
    assert folders == set(FLOORS) - {".", "_docs"}


def test_imports_lead_downwards() -> None:
    wrong = [
        f"{ours(module)} imports {name}"
        for module, path in MODULES.items()
        for name in ours_among(path)
        if FLOORS.index(floor(name)) > FLOORS.index(floor(ours(module)))
    ]
    assert wrong == []


def test_imports_have_no_cycles() -> None:
    """Not within a floor either, nor inside functions."""
    order = graphlib.TopologicalSorter(
        {ours(module): ours_among(path) for module, path in MODULES.items()}
    )
    order.prepare()  # CycleError names the cycle


def test_only_commands_import_click() -> None:
    users = {
        floor(ours(module))
        for module, path in MODULES.items()
        for name in imports(path)
        if name.split(".")[0] == "click"
    }
    assert users == {"cli", "_docs"}


@pytest.mark.parametrize("package", sorted(CONFINED))
def test_heavy_package_is_imported_by_one_module(package: str) -> None:
    users = {
        module
        for module, path in MODULES.items()
        for name in imports(path)
        if name.split(".")[0] == package
    }
    assert len(users) == 1


def test_programs_are_run_by_two_modules() -> None:
    """By `sh` in `foreground`, and by subprocess in `proc`. Processes that outlive a command are
    spawned; the compiler is run when the package is built, and the library runs its session."""
    users = {
        ours(module)
        for module, path in MODULES.items()
        for name in imports(path)
        if name.split(".")[0] == "subprocess"
    }
    assert users == {"dumm_tools.proc", "dumm_tools.agent.build", "dumm_tools.api.process"}
    spawners = {
        floor(ours(module))
        for module, path in MODULES.items()
        if re.search(r"\bos\.(posix_spawn|exec[lv])", path.read_text())
    }
    assert spawners <= {"linux", "running", "guests"}
    # Besides `linux/child`, for children that do more than report an error.
    forkers = {ours(m) for m, path in MODULES.items() if "os.fork(" in path.read_text()}
    assert forkers == {
        *("dumm_tools.linux.child", "dumm_tools.running.isolation", "dumm_tools.running.usernet"),
        *("dumm_tools.running.family", "dumm_tools.net.capture"),
        *("dumm_tools.cli.apply", "dumm_tools.cli.batch", "dumm_tools.session.child_job"),
    }


def test_programs_that_need_threads_are_not_run_in_labs() -> None:
    """A command that has entered an isolated lab cannot start threads, as `foreground` does."""
    order = {ours(module): ours_among(path) for module, path in MODULES.items()}
    reach = {"dumm_tools.foreground"}
    while more := {module for module, below in order.items() if below & reach} - reach:
        reach |= more
    # Labs are saved without being entered, and restored before that is possible.
    outside = {f"dumm_tools.labs.{name}" for name in ("saving", "restoring", "lab_images")}
    assert outside < reach
    assert {floor(module) for module in reach - outside} == {".", "trees", "images", "cli"}


def test_only_output_and_commands_write_to_stdout() -> None:
    wrong = []
    for module, path in MODULES.items():
        if floor(module) in ("cli", "_docs") or module == "dumm_tools.output":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            text = ast.unparse(node) if isinstance(node, ast.expr) else ""
            is_print = isinstance(node, ast.Call) and text.startswith("print(")
            if (is_print and "file=sys.stderr" not in text) or text == "sys.stdout":
                wrong.append(f"{path}:{getattr(node, 'lineno', 0)}")
    assert wrong == []


def test_only_one_module_writes_to_stderr() -> None:
    """It escapes control characters. The package's build prints its own messages; the stderr of a
    guest's program goes to ours unchanged (agent/sink.py)."""
    others = {"dumm_tools.messages", "dumm_tools._docs", "dumm_tools.agent.build"}
    #: Replaced if missing, and flushed at the end.
    known = {"_fill_standard_streams", "run", "_child", "_act"}
    wrong = []
    for module, path in MODULES.items():
        if module in others:
            continue
        top = ast.parse(path.read_text())
        spared = [
            inner
            for node in ast.walk(top)
            if isinstance(node, ast.FunctionDef)
            and node.name in known
            and module.startswith("dumm_tools.cli.")
            for inner in ast.walk(node)
        ]
        for node in ast.walk(top):
            text = ast.unparse(node) if isinstance(node, ast.expr) else ""
            called = isinstance(node, ast.Call)
            if (
                (text == "sys.stderr" and node not in spared)
                or (called and re.match(r"(traceback|warnings)\.(print|warn)", text))
                or (called and re.match(r"(click\.)?(echo|secho|print)\(.*(err|file)=", text))
                or (called and text.endswith(".show()"))
            ):
                wrong.append(f"{path}:{getattr(node, 'lineno', 0)}")
    assert wrong == []


def test_records_have_two_forms() -> None:
    """model.Record for those that are stored, NamedTuple for values: other forms take longer to
    load."""
    wrong = [
        f"{module}: {name}"
        for module, path in MODULES.items()
        for name in ("dataclasses", "TypedDict")
        if re.search(rf"import.* {name}\b|from {name} ", path.read_text())
    ]
    assert wrong == []


def test_no_module_runs_a_shell() -> None:
    """ruff finds `shell=True`; os.system always runs a shell."""
    for path in MODULES.values():
        assert "os.system(" not in path.read_text()


# ---- help ----

COMMANDS = {
    " ".join(words): command
    for tool in _docs.tools().values()
    for words, command in _docs.walk(tool, (str(tool.name),))
}


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_and_option_has_help(words: str) -> None:
    command = COMMANDS[words]
    assert command.help
    assert command.get_short_help_str(200).strip()
    # A command keeps the help option that it makes first, which must be the one that it uses.
    with click.Context(command, info_name=words, **commands.CONTEXT) as ctx:
        for parameter in command.get_params(ctx):
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{words} {parameter.opts[0]}"
                assert parameter.help.rstrip().endswith("."), f"{words} {parameter.opts[0]}"
        assert words.split()[-1] in command.get_help(ctx)


# ---- imports at start-up ----


def loaded_by(tool: str, *args: str, cwd: Path, **env: str) -> tuple[set[str], int]:
    """The modules that a command has imported when it ends, and its exit status."""
    code = (
        "import os, sys\n"
        "end = os._exit\n"
        "def say(status):\n"
        "    print(*sys.modules, file=sys.stderr, flush=True)\n"
        "    end(status)\n"
        "os._exit = say\n"
        f"from dumm_tools.cli.{tool.removeprefix('dumm-')} import main\n"
        f"sys.argv = {[tool, *args]!r}\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    return set(done.stderr.splitlines()[-1].split()), done.returncode


@pytest.mark.parametrize("tool", sorted(_docs.tools()))
@pytest.mark.parametrize("what", ["help", "list", "complete"])
def test_reading_commands_import_few_modules(tool: str, what: str, tmp_path: Path) -> None:
    _, status = loaded_by("dumm-fs", "init", cwd=tmp_path)
    assert status == 0
    if what == "help":
        loaded, status = loaded_by(tool, "--help", cwd=tmp_path)
    elif what == "list":
        words = ["kernel", "list", "-q"] if tool == "dumm-fs" else ["list", "-q"]
        loaded, status = loaded_by(tool, *words, cwd=tmp_path)
    else:
        variable = f"_{tool.upper().replace('-', '_')}_COMPLETE"
        env = {variable: "bash_complete", "COMP_WORDS": f"{tool} show ", "COMP_CWORD": "2"}
        loaded, status = loaded_by(tool, cwd=tmp_path, **env)
    assert status == 0
    assert "click" in loaded
    assert sorted(loaded & HEAVY) == []


# ---- exit codes ----


def test_exit_code_tables_match_the_error_classes() -> None:
    raised = {
        kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.DummError)
    }
    assert raised == set(errors.EXIT_CODES) - {0}
    assert list(errors.EXEC_EXIT_CODES) == [125, 126, 127]


@pytest.mark.parametrize(
    ("command", "status", "error"),
    [
        ("dumm-fs check -q -o name", 2, "dumm-fs: "),
        ("dumm-fs nonsense", 2, "dumm-fs: "),
        ("dumm-guest list --format xml", 2, "dumm-guest: "),
        ("dumm-guest list -o nosuchfield", 2, "dumm-guest: no field 'nosuchfield'"),
        ("dumm-guest show nobody", 3, "dumm-guest: no guest 'nobody'"),
        ("dumm-guest delete --if-exists nobody", 0, ""),
        ("dumm-fs init", 4, "dumm-fs: "),
        ("dumm-guest -C /nonexistent list", 3, "dumm-guest: "),
        ("dumm-guest create ../x", 2, "dumm-guest: bad guest name '../x'"),
        ("dumm-guest --version", 0, ""),
    ],
)
def test_exit_codes_in_a_working_set_without_guests(
    command: str, status: int, error: str, tmp_path: Path
) -> None:
    tools = Path(sys.executable).parent
    subprocess.run([tools / "dumm-fs", "init"], cwd=tmp_path, check=True, timeout=PATIENCE)
    words = command.split()
    done = subprocess.run(
        [tools / words[0], *words[1:]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
        stdin=subprocess.DEVNULL,
    )
    # Ends the process that an ordinary user's lab has by now.
    subprocess.run([tools / "dumm-fs", "destroy"], cwd=tmp_path, check=True, timeout=PATIENCE)
    assert done.returncode == status
    first, _, rest = done.stderr.partition("\n")
    assert first.startswith(error)
    assert bool(first) == bool(error)
    assert all(line.startswith(f"{words[0]}: hint: ") for line in rest.splitlines())


# ---- the tests ----


@pytest.mark.parametrize("path", sorted(Path(__file__).parent.rglob("*.py")), ids=lambda p: p.stem)
def test_tests_use_public_names_only(path: Path) -> None:
    """No private name of a module, neither as an attribute nor in monkeypatch."""
    tree = ast.parse(path.read_text())
    modules: set[str] = set()
    wrong = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            origin = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            for alias in node.names:
                name = origin + alias.name
                if name in MODULES or f"{name}.__init__" in MODULES:
                    modules.add(alias.asname or alias.name)
                elif re.match(r"dumm_tools\.(.*\.)?_[^_]", name):
                    wrong.append(f"line {node.lineno}: {name}")
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=name), attr=attribute) if name in modules:
                pass
            case ast.Call(args=[ast.Name(id=name), ast.Constant(value=str(attribute)), *_]) if (
                name in modules
            ):
                pass
            case _:
                continue
        if attribute.startswith("_") and not attribute.startswith("__"):
            wrong.append(f"line {node.lineno}: {name}.{attribute}")
    assert wrong == []
