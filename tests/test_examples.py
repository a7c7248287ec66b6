"""The examples in examples/, run as a user would run them: as root and as an ordinary user."""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import PATIENCE, SUITES, TOP
from support.labs import Lab
from support.users import User

pytestmark = pytest.mark.uml

#: Examples that run on any kernel, with the master that each builds if it needs more than busybox.
EXAMPLES = {"web": None, "lossy": None, "strongswan": "network", "ospf": "frr", "vrf": "network"}
#: Examples that run on a kernel of `dumm-fs kernel build` alone, and what Debian's kernels lack.
ON_BUILT = {
    "nat": "nft",
    "firewall": "nft",
    "wireguard": "wireguard",
    "xfrmi": "xfrmi",
    "srv6": "srv6",
    "mptcp": "mptcp",
}
MASTERS = ("network", "frr")


@pytest.fixture(scope="module")
def somebody(example_masters: Path) -> Iterator[User]:
    """An ordinary user, with root's masters, since there is no network to build them from."""
    user = User(9, example_masters)
    try:
        lab = user.lab("making")
        lab("dumm-fs master build busybox")
        for name in MASTERS:
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
    assert found == {"demo", "lib", "selftests", *EXAMPLES, *ON_BUILT}


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs_as_root(name: str, example_masters: Path, tmp_path: Path) -> None:
    run(name, Lab(tmp_path, example_masters))


@pytest.mark.root
@pytest.mark.xdist_group("examples")
@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs_without_root(name: str, somebody: User) -> None:
    run(name, somebody.lab(name))


@pytest.mark.parametrize("name", ON_BUILT)
def test_example_runs_on_a_built_kernel_as_root(
    name: str, example_masters: Path, built: str, tmp_path: Path
) -> None:
    run(name, Lab(tmp_path, example_masters), built)


@pytest.mark.root
@pytest.mark.xdist_group("examples")
@pytest.mark.parametrize("name", ON_BUILT)
def test_example_runs_on_a_built_kernel_without_root(name: str, built: str, somebody: User) -> None:
    run(name, somebody.lab(name), built)


def run(name: str, lab: Lab, kernel: str = "") -> None:
    """Run an example in the lab's directory, which is empty before and after."""
    lab.env.update(TMPDIR=str(lab.directory), KERNEL=kernel)
    lab([TOP / "examples" / f"{name}.sh"])
    assert list(lab.directory.iterdir()) == []


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize(("name", "lacking"), ON_BUILT.items())
def test_example_names_what_the_kernel_lacks(
    name: str, lacking: str, suite: str, packs: Path, tmp_path: Path
) -> None:
    lab = Lab(tmp_path, packs)
    lab.env.update(TMPDIR=str(tmp_path), KERNEL=suite)
    done = lab([TOP / "examples" / f"{name}.sh"], status=77)
    assert done.out == ""
    assert done.err == f"{name}.sh: kernel '{suite}' lacks {lacking}: dumm-fs kernel build\n"
    assert list(tmp_path.iterdir()) == []


def test_example_takes_the_newest_kernel_that_will_do(packs: Path, tmp_path: Path) -> None:
    (tmp_path / "cache/dumm/kernels").mkdir(parents=True)
    for name in SUITES:
        pack = packs / "dumm/kernels" / name
        shutil.copytree(pack, tmp_path / "cache/dumm/kernels" / name, symlinks=True)
    script = tmp_path / "which.sh"
    script.write_text(
        f'prepare() {{ need $NEED; echo "$KERNEL"; exit; }}\n. {TOP}/examples/lib.sh\n'
    )
    script.chmod(0o755)
    lab = Lab(tmp_path, tmp_path / "cache")

    assert lab(["sh", script], env={"NEED": "vrf"}).out == "sid\n"
    assert lab(["sh", script], env={"NEED": "vrf iptables-legacy"}).out == "trixie\n"
    assert lab(["sh", script], env={"NEED": "vrf", "KERNEL": "bookworm"}).out == "bookworm\n"
    lacking = lab(["sh", script], env={"NEED": "vrf nft iptables-legacy"}, status=77).err
    assert lacking == (
        "which.sh: kernel 'sid' lacks nft iptables-legacy, kernel 'trixie' lacks nft,"
        " kernel 'bookworm' lacks nft: dumm-fs kernel build\n"
    )
    for name in SUITES:
        lab(f"dumm-fs kernel delete {name}")
    missing = lab(["sh", script], env={"NEED": "vrf"}, status=77).err
    assert missing == "which.sh: no kernel pack: dumm-fs kernel build\n"
