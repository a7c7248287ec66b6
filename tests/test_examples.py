"""The examples in examples/, run as a user would run them: as root and as an ordinary user."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import SUITES, TOP, workflow
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
#: test_machine.py runs these.
ELSEWHERE = {"server"}
MASTERS = ("network", "frr")


@pytest.fixture(scope="module")
def somebody(example_masters: Path) -> Iterator[User]:
    """An ordinary user, with root's masters, since there is no network to build them from."""
    user = User(9, example_masters)
    try:
        user.lab("making")("dumm-fs master build busybox")
        for name in MASTERS:
            user.take_master(example_masters, name)
        yield user
    finally:
        user.end()


def test_every_example_is_tested() -> None:
    found = {path.stem for path in (TOP / "examples").glob("*.sh")}
    # selftests.sh needs a kernel source tree: run it by hand (HACKING.md, "Tests").
    assert found == {"demo", "lib", "selftests", *EXAMPLES, *ON_BUILT, *ELSEWHERE}


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


def run_as_a_service_does(lab: Lab, *options: str) -> str:
    """Run examples/frr-topotests in the lab's directory as examples/github-actions.yml says."""
    lab(["cp", "-r", TOP / "examples/frr-topotests", "labs"])
    lab.env = {key: value for key, value in lab.env.items() if not key.startswith("PYTEST")}
    # One of Debian's kernels: `built` may appear meanwhile.
    places = f"--basetemp={lab.directory}/tmp -p no:cacheprovider"
    lab.env["PYTEST_ADDOPTS"] = " ".join(["--dumm-kernel sid", places, *options])
    done = lab(["bash", "-ec", f"cd labs && {workflow.script('Run the tests')}"])
    assert "<testcase " in (lab.directory / "labs/report/junit.xml").read_text()
    return done.out


def test_frr_topotests(example_masters: Path, tmp_path: Path) -> None:
    out = run_as_a_service_does(Lab(tmp_path, example_masters))
    assert re.search(r"= 20 passed in ", out), out


@pytest.mark.root
@pytest.mark.xdist_group("examples")
def test_frr_topotest_without_root(somebody: User) -> None:
    out = run_as_a_service_does(somebody.lab("topotests"), "-k rr_ibgp")
    assert re.search(r"= 5 passed in ", out), out


def test_ansible(lab: Lab) -> None:
    lab.batch("guest create a b off", "bridge create lan.0", "iface create a-eth0 --bridge lan.0")
    lab("dumm-iface address add a-eth0 10.0.0.1/24")
    lab("dumm-guest start a b")
    place = TOP / "examples/ansible"
    lab.env.update(
        HOME=str(lab.directory),
        ANSIBLE_CONFIG=str(place / "ansible.cfg"),
        ANSIBLE_NOCOLOR="1",
        PYTHONDONTWRITEBYTECODE="1",
    )
    found = json.loads(lab("ansible-inventory --list").out)
    assert found["running"]["hosts"] == ["a", "b"]
    assert found["bridge_lan_0"]["hosts"] == ["a"]
    assert found["_meta"]["hostvars"]["a"]["dumm_addresses"] == {"eth0": ["10.0.0.1/24"]}
    played = lab(["ansible-playbook", "-v", place / "playbook.yml"]).out
    for name in ("a", "b"):
        assert re.search(rf"^{name} +: ok=2 +changed=2 +unreachable=0 +failed=0", played, re.M)
        assert f"hello from {name}" in played
        assert lab(f"dumm-guest exec {name} -- cat /etc/motd").out == f"{name}\n"
    # Nothing else may have the name of a group.
    lab.batch("guest create stopped", "bridge create lan-0")
    lab.batch("iface create b-eth0 --bridge lan-0", "iface create b-eth1 --bridge lan-0")
    groups = json.loads(lab("ansible-inventory --list").out)
    assert groups["stopped_2"]["hosts"] == ["off", "stopped"]
    assert groups["bridge_lan_0"]["hosts"] == ["b"]
    assert groups["bridge_lan_0_2"]["hosts"] == ["a"]
    # The status of a command, its user, and a guest that does not answer.
    failed = lab("ansible a -m raw -a 'exit 3'", status=2)
    assert "rc=3" in failed.out
    assert "nobody" in lab("ansible a -m raw -a whoami -e ansible_user=nobody").out
    unreachable = lab("ansible off -m raw -a true", status=4)
    assert "guest 'off' is stopped" in unreachable.out


def run(name: str, lab: Lab, kernel: str = "") -> None:
    """Run an example in the lab's directory, which is empty before and after."""
    lab.env.update(TMPDIR=str(lab.directory), KERNEL=kernel)
    lab([TOP / "examples" / f"{name}.sh"])
    assert list(lab.directory.iterdir()) == []


def test_ring_of_routers_is_made_once(packs: Path, tmp_path: Path) -> None:
    """With make(1): the second time it does nothing, and says nothing."""
    place = tmp_path / "ring"
    shutil.copytree(TOP / "examples/ring", place)
    lab = Lab(place, packs)
    for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):  # of the `make` that runs the tests
        lab.env.pop(name, None)
    try:
        assert "bridge create link12" in lab("make plan").lines
        assert not (place / "lab").exists()
        lab("make try")
        inode = (place / "lab/state.json").stat().st_ino
        done = lab("make")
        assert (done.out, done.err) == ("", "")
        assert (place / "lab/state.json").stat().st_ino == inode
        planned = lab("make plan N=10").lines
        assert planned[:2] == ["guest stop r11 r12", "guest delete r11"]
        lab("make try N=10")
        done = lab("make N=10")
        assert (done.out, done.err) == ("", "")
        assert len(lab(f"dumm-guest -C {place}/lab list -q").lines) == 10
    finally:
        lab("make clean")
    assert sorted(path.name for path in place.iterdir()) == ["Makefile", "ring.sh"]


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
