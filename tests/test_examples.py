"""The examples in examples/, run as a user would run them: as root and as an ordinary user."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import PATIENCE, TOP
from support.labs import Lab
from support.users import User

pytestmark = pytest.mark.uml

#: Each example, with the master that it builds if it needs more than busybox.
EXAMPLES = {"web": None, "lossy": None, "strongswan": "strongswan", "ospf": "frr"}


@pytest.fixture(scope="module")
def somebody(example_masters: Path) -> Iterator[User]:
    """An ordinary user, with root's masters, since there is no network to build them from."""
    user = User(9, example_masters)
    try:
        lab = user.lab("making")
        lab("dumm-fs master build busybox")
        for name in filter(None, EXAMPLES.values()):
            text = io.BytesIO()
            with tarfile.open(fileobj=text, mode="w") as tar:
                tar.add(example_masters / "dumm" / "masters" / name, ".")
            lab(
                f"dumm-fs master import - --name {name}",
                stdin=text.getvalue(),
                timeout=PATIENCE,
            )
        yield user
    finally:
        user.end()


def test_every_example_is_tested() -> None:
    found = {path.stem for path in (TOP / "examples").glob("*.sh")}
    # selftests.sh needs a kernel source tree: run it by hand (HACKING.md, "Tests").
    assert found == {"demo", "lib", "selftests", *EXAMPLES}


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs_as_root(name: str, example_masters: Path, tmp_path: Path) -> None:
    run(name, Lab(tmp_path, example_masters))


@pytest.mark.root
@pytest.mark.xdist_group("examples")
@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs_without_root(name: str, somebody: User) -> None:
    run(name, somebody.lab(name))


def run(name: str, lab: Lab) -> None:
    """Run an example in the lab's directory, which is empty before and after."""
    lab.env["TMPDIR"] = str(lab.directory)
    lab([TOP / "examples" / f"{name}.sh"])
    assert list(lab.directory.iterdir()) == []
