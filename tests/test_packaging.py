"""Packages: the source archive, the wheel, `make install` and the metadata of the Debian package.

`make test-deb` builds the Debian package in a fresh Debian, and uses it there.
"""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path

import pytest
from support import TOP
from test_build import is_static

from dumm_tools import __version__

TOOLS = ("dumm-bridge", "dumm-console", "dumm-fs", "dumm-guest", "dumm-iface")
#: Builds download setuptools and the libraries.
fetches = pytest.mark.net


def call(*argv: str | Path, cwd: Path = TOP, **env: str) -> str:
    """Run a program independently of the make that runs the tests; return its output."""
    done = subprocess.run(
        argv,
        cwd=cwd,
        env={k: v for k, v in {**os.environ, **env}.items() if k not in ("MAKEFLAGS", "MAKELEVEL")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


# ---- make ----


def test_make_alone_prints_help_and_does_nothing() -> None:
    said = call("make", "-s")
    assert said == call("make", "-s", "help")
    described = re.findall(r"^make (\S+)  +\S", said, re.MULTILINE)
    targets = re.findall(r"^([a-z][a-z -]*):", (TOP / "Makefile").read_text(), re.MULTILINE)
    public = {t for line in targets for t in line.split() if not t.startswith("setup-")}
    assert sorted(described) == sorted(public - {"help", "sdist", "wheel"})
    assert all(len(line) <= 100 for line in said.splitlines())


def test_quick_tests_need_no_network_root_or_guests() -> None:
    """`make check` leaves out tests with the marks of these."""
    chosen = re.search(r'-m "not \((.*)\)"', (TOP / "Makefile").read_text())
    assert chosen
    assert set(chosen[1].split(" or ")) == {"net", "netns", "uml", "root", "packs", "slow"}


def test_all_marks_are_described() -> None:
    """HACKING's table has those of pyproject.toml, and the programs that quick tests need."""
    config = tomllib.loads((TOP / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    known = {re.split(r"\W", line)[0] for line in config["markers"]} - {"xdist_group"}
    _, _, text = (TOP / "HACKING.md").read_text().partition("| mark | tests that | need |")
    table = text.partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)` ", table, re.MULTILINE)) == known
    [needed] = re.findall(r"^\| none .*$", table, re.MULTILINE)
    [installed] = re.findall(
        r"^check \| test \| bench\)\n(.*?);;", (TOP / ".ci/setup").read_text(), re.M | re.S
    )
    assert set(re.findall(r"`(\w+)`", needed)) == {
        line.split()[-1].removeprefix("static_") for line in installed.splitlines() if line.strip()
    }


def test_number_of_test_processes_depends_on_the_user() -> None:
    """pytest_xdist_auto_num_workers decides: an ordinary user's workers cannot make namespaces."""
    for target in ("check", "test"):
        said = call("make", "-n", target, "LINT=")
        assert re.findall(r" -n (\S+)", said) == ["auto"]


@pytest.mark.parametrize(
    ("variables", "error"),
    [
        (["PREFIX=usr"], "PREFIX must be an absolute path without blanks, not 'usr'"),
        (["PREFIX=/a b"], "PREFIX must be an absolute path without blanks, not '/a b'"),
        (["DESTDIR=/a b"], "DESTDIR must be a path without blanks, not '/a b'"),
        (["PREFIX=/nonexistent"], "nothing is installed in '/nonexistent'"),
    ],
)
def test_uninstall_rejects_bad_paths(variables: list[str], error: str) -> None:
    done = subprocess.run(
        ["make", "-s", "uninstall", *variables],
        cwd=TOP,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode
    assert done.stderr.splitlines()[0] == f"dumm-tools: {error}"


@fetches
def test_staged_installation_works_in_its_final_place_and_can_be_removed(tmp_path: Path) -> None:
    stage, prefix = tmp_path / "stage", tmp_path / "final/usr"
    corpus = TOP / "build/fuzz/test"
    corpus.mkdir(parents=True, exist_ok=True)
    call("make", "-s", "install", f"DESTDIR={stage}", f"PREFIX={prefix}")
    corpus.rmdir()  # what the fuzzers found was not deleted
    assert list((TOP / "build").glob("[!fd]*")) == []
    assert not prefix.exists()
    staged = Path(f"{stage}{prefix}")
    for path in stage.rglob("*"):
        if path.is_symlink():
            assert str(stage) not in os.readlink(path)
        elif path.is_file():
            assert str(stage).encode() not in path.read_bytes(), path

    shutil.copytree(staged, prefix, symlinks=True)
    for tool in TOOLS:
        assert call(prefix / "bin" / tool, "--version") == f"{tool} {__version__}\n"
        for file in (
            *("share/man/man1/{}.1", "share/bash-completion/completions/{}"),
            *("share/zsh/site-functions/_{}", "share/fish/vendor_completions.d/{}.fish"),
        ):
            assert (prefix / file.format(tool)).is_file()
    for place in ("bin", "lib/wireshark/extcap"):
        listed = call(prefix / place / "dumm-extcap", "--extcap-interfaces")
        assert listed.startswith("extcap {version=")
    assert (prefix / "share/man/man1/dumm-extcap.1").is_file()
    (tmp_path / "lab").mkdir()
    call(prefix / "bin/dumm-fs", "init", "--host-net", cwd=tmp_path / "lab")
    assert call(prefix / "bin/dumm-guest", "list", "-q", cwd=tmp_path / "lab") == ""

    call("make", "-s", "install", f"PREFIX={prefix}")  # a second time: an upgrade
    assert call(prefix / "bin/dumm-guest", "--version") == f"dumm-guest {__version__}\n"

    mine = prefix / "bin/mine"
    mine.touch()
    call("make", "-s", "uninstall", f"PREFIX={prefix}")
    assert [path for path in prefix.rglob("*") if not path.is_dir()] == [mine]
    call("make", "-s", "uninstall", f"DESTDIR={stage}", f"PREFIX={prefix}")
    assert list(stage.iterdir()) == []


# ---- make install, with other files in the way ----


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    (tmp_path / "usr/bin").mkdir(parents=True)
    return tmp_path / "usr"


def refusal(prefix: Path, *argv: str, **env: str) -> str:
    """Run .ci/install, which must fail without changing anything; return its message."""
    before = contents(prefix)
    done = subprocess.run(
        [TOP / ".ci/install", *argv],
        env={**os.environ, "PREFIX": str(prefix), **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert contents(prefix) == before
    return done.stderr


def uninstall(prefix: Path) -> None:
    assert call(TOP / ".ci/install", "--remove", PREFIX=str(prefix)) == ""


def contents(place: Path) -> dict[str, str]:
    """The paths below a directory, with the targets of links."""
    return {
        str(path.relative_to(place)): os.readlink(path) if path.is_symlink() else ""
        for path in place.rglob("*")
    }


def installed(prefix: Path, record: str | None) -> Path:
    """Make the files of an installation with the command dumm-guest; return the venv."""
    venv = prefix / "lib/dumm-tools"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin/dumm-guest").touch()
    (venv / "pyvenv.cfg").touch()
    (prefix / "bin").mkdir(exist_ok=True)
    if record is not None:
        (venv / "installed").write_text(record)
    (prefix / "bin/dumm-guest").symlink_to(venv / "bin/dumm-guest")
    return venv


@pytest.mark.parametrize("kind", ["file", "link", "dangling link", "directory"])
@pytest.mark.parametrize("path", ["bin/dumm-guest", "share/man/man1/dumm-fs.1"])
def test_install_replaces_nothing_of_others(prefix: Path, path: str, kind: str) -> None:
    target = prefix / path
    target.parent.mkdir(parents=True, exist_ok=True)
    if kind == "file":
        target.touch()
    elif kind == "directory":
        target.mkdir()
    else:
        target.symlink_to("/bin/sh" if kind == "link" else "/nonexistent")
    said = refusal(prefix)
    why = f"it is not a link to '{prefix}/lib/dumm-tools'"
    assert said == f"dumm-tools: '{target}' is in the way: {why}\n"


def test_install_needs_directories(prefix: Path) -> None:
    (prefix / "share").touch()
    assert refusal(prefix) == f"dumm-tools: '{prefix}/share' is not a directory\n"
    fish = prefix / "bin"
    (fish / "dumm-fs.fish").touch()
    (prefix / "share").unlink()
    assert refusal(prefix, FISHDIR=str(fish)).startswith(f"dumm-tools: '{fish}/dumm-fs.fish' is in")
    bad = "FISHDIR must be an absolute path without blanks, not 'fish'"
    assert refusal(prefix, FISHDIR="fish") == f"dumm-tools: {bad}\n"


@pytest.mark.parametrize("kind", ["directory", "link"])
def test_foreign_venv_is_left_alone(prefix: Path, kind: str) -> None:
    venv = prefix / "lib/dumm-tools"
    venv.parent.mkdir()
    if kind == "directory":
        venv.mkdir()
        (venv / "pyvenv.cfg").touch()
    else:
        installed(prefix.parent / "other", "")
        venv.symlink_to(prefix.parent / "other/lib/dumm-tools")
    fault = f"'{venv}' was not created by 'make install'"
    assert refusal(prefix, "--remove") == f"dumm-tools: {fault}\n"
    fault = f"'{venv}' is in the way: it was not created by 'make install'"
    assert refusal(prefix) == f"dumm-tools: {fault}\n"


def test_uninstall_removes_what_was_recorded(prefix: Path) -> None:
    guest, page = prefix / "bin/dumm-guest", prefix / "share/man/man1/dumm-fs.1"
    page.parent.mkdir(parents=True)
    page.touch()
    installed(prefix, f"{guest}\n{page}\n{page.parent}\n{prefix}/lib/dumm-tools\n{prefix}/lib\n")
    uninstall(prefix)
    # The page was replaced by a file, so it and its directory are not ours.
    left = {prefix / name for name in contents(prefix)}
    assert left == {prefix / "bin", page, page.parent, page.parent.parent, prefix / "share"}


def test_uninstall_knows_installations_without_a_record(prefix: Path) -> None:
    """As the first versions of `make install` made it."""
    venv = installed(prefix, None)
    fish = prefix / "share/fish/vendor_completions.d/dumm-fs.fish"
    fish.parent.mkdir(parents=True)
    fish.symlink_to(venv / "share/fish/vendor_completions.d/dumm-fs.fish")
    (prefix / "bin/dumm-fs").touch()
    uninstall(prefix)
    left = {prefix / name for name in contents(prefix)} - set(fish.parents)
    assert left == {prefix / "bin", prefix / "bin/dumm-fs", prefix / "lib"}


# ---- what is published on PyPI ----


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The source archive, unpacked; built from a copy, since building leaves files in the tree."""
    place = tmp_path_factory.mktemp("source")
    kept = shutil.ignore_patterns(".?*cache*", ".git", ".venv", ".hypothesis", "build", "dist")
    shutil.copytree(TOP, place / "copy", symlinks=True, ignore=kept)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    call(*pip, "install", "-q", "--target", place / "tools", "setuptools>=77")
    code = "from setuptools.build_meta import build_sdist; build_sdist('..')"
    call(sys.executable, "-c", code, cwd=place / "copy", PYTHONPATH=str(place / "tools"))
    [archive] = place.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(place, filter="data")
    yield place / f"dumm_tools-{__version__}"
    shutil.rmtree(place)


@fetches
def test_source_archive_holds_every_tracked_file(source: Path) -> None:
    if not (TOP / ".git").exists():
        pytest.skip("no git repository here")
    known = set(call("git", "ls-files").split("\n")) - {""}
    there = {str(p.relative_to(source)) for p in source.rglob("*") if not p.is_dir()}
    assert sorted(known - there) == []
    more = {path for path in there - known if ".egg-info/" not in path}
    assert sorted(more) == ["PKG-INFO"]


@fetches
def test_source_archive_can_be_tested(source: Path) -> None:
    env = {"PYTHONPATH": str(source)}
    pytest_ = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    collected = call(*pytest_, "--collect-only", cwd=source, **env)
    assert re.search(r"^\d+ tests collected", collected, re.MULTILINE), collected
    quick = ("-m", "not (net or netns or uml or root or packs or slow)")
    few = ("tests/test_output.py", "tests/test_docs.py", "tests/test_build.py")
    said = call(*pytest_, *quick, *few, cwd=source, **env)
    assert re.search(r"^\d+ passed", said, re.MULTILINE), said
    call("make", "-s", cwd=source)


@fetches
def test_wheel_runs_on_any_distribution(source: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    call(*pip, "wheel", "-q", "--no-deps", "-w", source.parent, source)
    [path] = source.parent.glob("*.whl")
    machine = os.uname().machine
    tag = f"py3-none-manylinux2014_{machine}.manylinux_2_17_{machine}"
    assert path.name == f"dumm_tools-{__version__}-{tag}.whl"
    with zipfile.ZipFile(path) as wheel:
        jail = wheel.getinfo("dumm_tools/agent/jail.bin")
        assert jail.external_attr >> 16 & 0o111
        assert is_static(wheel.read(jail))
        for name in ("initrd.cpio", "preload.so", "preload/ld.so.preload"):
            assert f"dumm_tools/agent/{name}" in wheel.namelist()
        info = f"dumm_tools-{__version__}.dist-info"
        metadata = message_from_bytes(wheel.read(f"{info}/METADATA"))
        assert metadata["License-Expression"] == "MIT"
        assert not any(key.startswith(("Home-", "Project-URL", "Download-")) for key in metadata)
        data = f"dumm_tools-{__version__}.data/data/share"
        for tool in TOOLS:
            assert f"{data}/man/man1/{tool}.1" in wheel.namelist()


# ---- the Debian package ----


def test_debian_package_agrees_with_setup_cfg() -> None:
    first = (TOP / "debian/changelog").read_text().partition("\n")[0]
    assert first.startswith(f"dumm-tools ({__version__}) ")
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(TOP / "setup.cfg")
    wanted = setup["options"]["install_requires"].split("\n")[1:]
    control = (TOP / "debian/control").read_text()
    for requirement in wanted:
        name, bound, version = requirement.split(" ")
        assert f" python3-{name} ({bound} {version}),\n" in control
    [setuptools] = re.findall(r'"setuptools >= (\d+)"', (TOP / "pyproject.toml").read_text())
    assert f" python3-setuptools (>= {setuptools}),\n" in control


def test_the_smoke_test_needs_no_root() -> None:
    """Unless debian/tests/control says so: a testbed may run it as an ordinary user."""
    control = (TOP / "debian/tests/control").read_text()
    assert "--host-net" not in (TOP / "debian/tests/smoke").read_text() or "needs-root" in control
