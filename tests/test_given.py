"""Files that the user gives a guest: `dumm-guest create --files`."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from support import ROOT, SUITES
from support.checks import one_line_error
from support.labs import Lab

from dumm_tools import statefile
from dumm_tools.errors import DummError, NotFound, Usage
from dumm_tools.files import given
from dumm_tools.files.given import Given

KINDS = ("--host-net", "--isolated") if ROOT else ("--isolated",)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A directory of files as in a repository."""
    top = tmp_path / "source"
    (top / "etc/app").mkdir(parents=True)
    (top / "etc/app/conf").write_text("one\n")
    (top / "etc/app/run").write_text("#!/bin/sh\n")
    (top / "etc/app/run").chmod(0o750)
    (top / "etc/link").symlink_to("/etc/passwd")
    return top


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A guest's tree: /bin is a link to another directory, /etc/away leads out of the tree."""
    top = tmp_path / "tree"
    (top / "usr/bin").mkdir(parents=True)
    (top / "bin").symlink_to("usr/bin")
    (top / "etc").mkdir(mode=0o711)
    (top / "etc/away").symlink_to("../../../../../../outside")
    (top / "tmp").mkdir()
    (top / "tmp").chmod(0o1777)
    return top


def put(tree: Path, *texts: object) -> list[str]:
    """Copy to the tree as a start does; return the warnings."""
    said: list[str] = []
    labdir = str(tree.parent / "lab")
    given.put(str(tree), "a", given.checked(labdir, [str(text) for text in texts]), said.append)
    return said


# ---- records ----


@pytest.mark.parametrize(
    ("text", "source", "place"),
    [
        ("d", "d", "/"),
        ("d:/", "d", "/"),
        ("d:/etc/x/", "d", "/etc/x"),
        ("d:///etc/../x", "d", "/x"),
        ("d:x", "d:x", "/"),
        ("d:/x:/", "d:/x", "/"),
        ("d:/x:/y", "d:/x", "/y"),
    ],
)
def test_files_have_a_written_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, source: str, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / source).mkdir(parents=True)
    assert given.parse(text) == Given(source, place)
    (said,) = given.checked("/nowhere", [text])
    assert given.parse(said) == Given(str(tmp_path / source), place)
    assert given.checked("/nowhere", [said]) == [said]


def test_useless_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "lab").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    lab = str(tmp_path / "lab")
    for text, error, message in (
        ("", Usage, "no directory"),
        (":/etc", Usage, "no directory"),
        (tmp_path / "missing", NotFound, "No such file"),
        (tmp_path / "file/below", NotFound, "Not a directory"),
        (tmp_path / "file", Usage, "needs a path in the guest"),
        (f"{tmp_path}/file:/", Usage, "needs a path in the guest"),
        (tmp_path / "fifo", Usage, "neither"),
        (lab, Usage, "contains the working set"),
        ("/", Usage, "contains the working set"),
    ):
        with pytest.raises(error, match=message):
            given.checked(lab, [str(text)])


# ---- copying ----


def test_only_what_differs_is_copied(source: Path, tree: Path) -> None:
    assert put(tree, source) == []
    conf, run, link = (tree / "etc" / n for n in ("app/conf", "app/run", "link"))
    assert conf.read_text() == "one\n"
    assert stat.S_IMODE(run.stat().st_mode) == 0o750
    assert os.readlink(link) == "/etc/passwd"
    before = [p.lstat() for p in sorted(tree.rglob("*"))]
    put(tree, source)
    after = [p.lstat() for p in sorted(tree.rglob("*"))]
    assert [(p.st_ino, p.st_ctime_ns) for p in after] == [(p.st_ino, p.st_ctime_ns) for p in before]

    conf.write_text("two\n")  # as long as the original
    run.chmod(0o777)
    link.unlink()
    link.write_text("a file")
    (tree / "etc/app/own").write_text("the guest's")
    put(tree, source)
    assert conf.read_text() == "one\n"
    assert stat.S_IMODE(run.stat().st_mode) == 0o750
    assert os.readlink(link) == "/etc/passwd"
    assert (tree / "etc/app/own").read_text() == "the guest's"


def test_existing_directories_keep_their_modes(source: Path, tree: Path) -> None:
    (source / "tmp").mkdir(mode=0o755)
    (source / "new").mkdir()
    (source / "new").chmod(0o2700)
    put(tree, source, f"{source}/etc:/var/lib/x")
    modes = [
        stat.S_IMODE((tree / n).stat().st_mode) for n in ("tmp", "etc", "new", "var", "var/lib/x")
    ]
    assert modes == [0o1777, 0o711, 0o2700, 0o755, 0o755]


def test_links_stay_inside_both_trees(source: Path, tree: Path, tmp_path: Path) -> None:
    (source / "bin").mkdir()
    (source / "bin/tool").write_text("tool")
    (source / "etc/away").mkdir()
    (source / "etc/away/file").write_text("inside")
    (tree / "outside").mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key").write_text("key")
    (source / "secret").symlink_to(tmp_path / "secret")
    put(tree, source)
    assert (tree / "usr/bin/tool").read_text() == "tool"
    assert (tree / "bin").is_symlink()
    assert (tree / "outside/file").read_text() == "inside"
    assert (tree / "secret").is_symlink()
    assert not (tmp_path / "outside").exists()


@pytest.mark.root
def test_everything_belongs_to_root(source: Path, tree: Path) -> None:
    os.chown(source / "etc/app/conf", 1234, 1234)
    put(tree, source, f"{source}/etc/app/conf:/srv/conf")
    for name in ("etc/app", "etc/app/conf", "etc/link", "srv", "srv/conf"):
        found = (tree / name).lstat()
        assert (found.st_uid, found.st_gid) == (0, 0), name


def test_later_files_replace_earlier_ones(source: Path, tree: Path) -> None:
    (source / "other").write_text("other\n")
    put(tree, source, f"{source}/other:/etc/app/conf")
    assert (tree / "etc/app/conf").read_text() == "other\n"


def test_files_in_the_way_are_named(source: Path, tree: Path) -> None:
    (tree / "etc/app").write_text("a file")
    with pytest.raises(DummError, match="etc/app': the existing file is not a directory"):
        put(tree, source)
    (tree / "etc/app").unlink()
    (tree / "etc/app/conf").mkdir(parents=True)
    with pytest.raises(DummError, match="etc/app/conf': Is a directory"):
        put(tree, source)


def test_a_source_that_became_a_link_is_refused(source: Path, tree: Path, tmp_path: Path) -> None:
    (text,) = given.checked("/nowhere", [f"{source}/etc/app:/x"])
    (source / "etc").rename(tmp_path / "moved")
    with pytest.raises(NotFound, match="No such file"):
        given.put(str(tree), "a", [text], print)
    (source / "etc").symlink_to(tmp_path / "moved")
    with pytest.raises(DummError, match="replaced with a link") as caught:
        given.put(str(tree), "a", [text], print)
    assert caught.value.exit_code == 4
    assert not (tree / "x").exists()


# ---- commands ----


def test_files_are_recorded(lab: Lab, source: Path) -> None:
    files = f"{source}/etc/app/conf:/etc/conf"
    lab(["dumm-guest", "create", "a", "--files", source, "--files", files])
    assert statefile.load(str(lab.directory)).guests["a"].files == [str(source), files]
    assert json.loads(lab("dumm-guest show a --format json").out)[0]["files"] == [
        str(source),
        files,
    ]
    lab(["dumm-guest", "set", "a", "--files", files])
    assert statefile.load(str(lab.directory)).guests["a"].files == [files]
    lab("dumm-guest set a --no-files")
    assert statefile.load(str(lab.directory)).guests["a"].files == []
    lab(["dumm-guest", "set", "a", "--files", files])
    lab(["dumm-guest", "set", "a", "--files", ""])
    assert statefile.load(str(lab.directory)).guests["a"].files == []
    one_line_error(lab("dumm-guest create b --files /nowhere", status=3).err)
    one_line_error(lab(["dumm-guest", "create", "b", "--files", lab.directory], status=2).err)
    lab(["dumm-guest", "set", "a", "--files", files, "--no-files"], status=2)
    assert lab("dumm-guest list -q").lines == ["a"]


@pytest.mark.uml
@pytest.mark.parametrize("kind", KINDS)
def test_files_are_copied_before_each_start(
    new_lab: Callable[..., Lab], source: Path, kind: str
) -> None:
    lab = new_lab("lab", kind, kernel=SUITES[-1])
    (source / "bin").mkdir()
    (source / "bin/hello").write_text("#!/bin/sh\necho hello\n")
    (source / "bin/hello").chmod(0o755)
    lab(["dumm-guest", "create", "a", "--files", source, "--start"])
    show = "dumm-guest exec a -- stat -c %U:%a /etc/app/conf"
    assert lab(show).out == "root:644\n"
    assert lab("dumm-guest exec a -- hello").out == "hello\n"
    lab("dumm-guest exec a -- sh -c 'echo mine >/etc/app/conf; echo mine >/etc/own'")
    (source / "etc/app/run").write_text("changed\n")
    lab("dumm-guest restart a")
    got = lab("dumm-guest exec a -- cat /etc/app/conf /etc/app/run /etc/own").out
    assert got == "one\nchanged\nmine\n"
    lab("dumm-guest stop a")
    (source / "etc/app").rename(source.parent / "gone")
    (source / "etc/app").write_text("not a directory")
    error = one_line_error(lab("dumm-guest start a", status=1).err)
    assert "is a directory" in error.lower(), error
    assert lab("dumm-guest list -o state").out == "stopped\n"
    lab("dumm-guest set a --no-files")
    lab("dumm-guest start a")
