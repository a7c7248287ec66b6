"""Copies of templates that guests write to until they are unloaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support import ROOT
from support.checks import one_line_error
from support.labs import Lab

pytestmark = pytest.mark.uml

KINDS = ["--isolated", *(["--host-net"] if ROOT else [])]
SEE = "dumm-fs template list -o name,loaded,fresh"


def sh(lab: Lab, script: str, guest: str = "a") -> str:
    """Run a script in a guest; what it prints."""
    return lab(["dumm-guest", "exec", guest, "--", "sh", "-c", script]).out


def copies(lab: Lab) -> list[Path]:
    """The copies that exist."""
    return sorted(path for path in (lab.directory / "templates").glob(".*"))


def template(lab: Lab) -> Path:
    """Make the template T, with a file for the guest a."""
    place = lab.directory / "templates/T/a"
    place.mkdir(parents=True)
    (place / "file").write_text("of T\n")
    return place


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rootfs", ["hostfs", "virtiofs"])
def test_template_stays_as_it_is(new_lab: Callable[..., Lab], kind: str, rootfs: str) -> None:
    lab = new_lab("lab", kind)
    lab(f"dumm-guest create a --rootfs {rootfs} --start")
    sh(lab, "echo own >/file")
    place = template(lab)
    for _ in range(2):  # from an own file, then from another copy
        lab("dumm-fs template load T --fresh")
        assert sh(lab, "cat /file; echo new >/file; echo new >/other; cat /file") == "of T\nnew\n"
        assert [path.name for path in place.iterdir()] == ["file"]
        assert (place / "file").read_text() == "of T\n"
        assert lab(SEE).lines == ["T\tyes\tyes"]
        assert len(copies(lab)) == 1
    lab("dumm-guest restart a")
    assert sh(lab, "cat /file /other") == "new\nnew\n"
    lab("dumm-fs template save kept")
    lab("dumm-fs template unload")
    assert copies(lab) == []
    assert sh(lab, "cat /file; ls /other 2>/dev/null; true") == "own\n"
    assert lab(SEE).lines == ["T\tno\tno", "kept\tno\tno"]
    lab("dumm-fs template load kept")
    assert sh(lab, "cat /other") == "new\n"


def test_copy_is_dropped_with_what_replaces_it(lab: Lab) -> None:
    lab("dumm-guest create a b")
    place = template(lab)
    for words in ("template load T", "template load U --create", "clear", "template unload"):
        lab("dumm-fs template load T --fresh")
        assert len(copies(lab)) == 1
        lab(f"dumm-fs {words}")
        assert copies(lab) == [], words
    assert (place / "file").read_text() == "of T\n"
    # A copy that a killed command has left; a directory of somebody else's with another name.
    (lab.directory / "templates/.fresh-12ab/a").mkdir(parents=True)
    (lab.directory / "templates/.mine").mkdir()
    lab("dumm-fs template load T")
    assert [path.name for path in copies(lab)] == [".mine"]
    lab("dumm-fs template load T --fresh")
    error = one_line_error(lab("dumm-fs template delete T", status=4).err, "dumm-fs")
    assert error == "template 'T' is loaded"
    error = one_line_error(lab("dumm-fs template load no --fresh", status=3).err, "dumm-fs")
    assert error == "no template 'no'"
    assert lab(SEE).lines[0] == "T\tyes\tyes"
    lab("dumm-fs destroy")
    assert [path.name for path in copies(lab)] == [".mine"]


def test_copy_for_the_time_of_a_command(lab: Lab) -> None:
    lab("dumm-guest create a")
    place = template(lab)
    lab("dumm-fs template load U --create")
    path = lab.mounted("a") / "file"
    done = lab(["dumm-fs", "template", "load", "T", "--fresh", "--", *SEE.split()])
    assert done.lines == ["T\tyes\tyes", "U\tno\tno"]
    assert lab(SEE).lines == ["T\tno\tno", "U\tyes\tno"]
    assert copies(lab) == []
    lab("dumm-fs template load T --fresh")
    path.write_text("written\n")
    # It comes back as it is each time it is loaded.
    lab(["dumm-fs", "template", "load", "U", "--", "true"])
    assert lab(SEE).lines == ["T\tyes\tyes", "U\tno\tno"]
    assert path.read_text() == "of T\n"
    assert (place / "file").read_text() == "of T\n"


def test_copy_in_a_lab_file(lab: Lab) -> None:
    lab("dumm-guest create a")
    template(lab)
    plain = lab("dumm-fs dump").stdout
    lab("dumm-fs template load T --fresh")
    text = lab("dumm-fs dump").stdout
    assert b"fs template load T --create --fresh\n" in text
    before = copies(lab)
    lab("dumm-console apply -", stdin=text)
    assert copies(lab) == before
    planned = lab("dumm-console apply - --dry-run", stdin=plain + b"fs template load T\n", status=1)
    assert planned.lines == ["fs template load T"]
    lab("dumm-console apply - --prune", stdin=plain)
    assert copies(lab) == []
    lab("dumm-console apply -", stdin=text)
    assert lab(SEE).lines == ["T\tyes\tyes"]


def test_archive_has_the_template_itself(lab: Lab, tmp_path: Path) -> None:
    lab("dumm-guest create a")
    template(lab)
    lab("dumm-fs template load T --fresh")
    (lab.mounted("a") / "file").write_text("written\n")
    done = lab(f"dumm-fs save {tmp_path}/x.tar")
    assert "template 'T' is loaded with --fresh: saved as it was before" in done.err
    other = tmp_path / "other"
    other.mkdir()
    lab(f"dumm-fs -C {other} restore {tmp_path}/x.tar")
    assert lab(f"dumm-fs -C {other} template list -o name,loaded,fresh").lines == ["T\tyes\tno"]
    assert (other / "templates/T/a/file").read_text() == "of T\n"
    lab(f"dumm-fs -C {other} destroy")


def test_name_of_the_copy_is_checked(lab: Lab) -> None:
    lab("dumm-guest create a")
    template(lab)
    lab("dumm-fs template load T --fresh")
    file = lab.directory / "state.json"
    good = file.read_text()
    for bad in ("../../etc", "T", ".fresh-", 7):
        data = json.loads(good)
        data["fresh"] = bad
        file.write_text(json.dumps(data))
        assert "key 'fresh'" in lab("dumm-guest list", status=1).err
    file.write_text(good)
