"""A lab of three Debian guests from one master, built as a user would, with and without root.

The init differs for each kind of user. The labs are isolated, since the master has to be built in
the host's network.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.labs import Lab
from support.users import User

pytestmark = [pytest.mark.net, pytest.mark.uml, pytest.mark.root]

INIT = {"root": "systemd-sysv", "user": "sysvinit-core"}
PACKAGE, PROGRAM = "dnsmasq", "dnsmasq --version"


@dataclass
class World:
    """A lab that does not exist yet, and its owner."""

    kind: str
    lab: Lab


@pytest.fixture(params=sorted(INIT))
def world(request: pytest.FixtureRequest, packs: Path, tmp_path: Path) -> Iterator[World]:
    """The owner, with a cache of their own."""
    if request.param == "user":
        user = User(50, packs)
        made = World("user", user.lab("lab"))
        yield made
        made.lab.end()
        # The ids of files in the master are valid in the owner's user namespace only.
        made.lab("dumm-fs master delete deb", status=None)
        user.end()
        return
    cache, directory = tmp_path / "cache", tmp_path / "lab"
    (cache / "dumm/kernels").mkdir(parents=True)
    directory.mkdir()
    shutil.copytree(packs / "dumm/kernels/sid", cache / "dumm/kernels/sid", symlinks=True)
    made = World("root", Lab(directory, cache))
    yield made
    made.lab.end()


def used(place: Path) -> int:
    """Bytes on disk, as du(1) reports them."""
    done = subprocess.run(["du", "-sk", place], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[0]) << 10


def test_three_guests_share_one_debian_master(world: World) -> None:
    lab, init = world.lab, INIT[world.kind]
    env = {"DUMM_ALLOW_EXPIRED": "1"}
    build = ["dumm-fs", "master", "build", "debian", "--name", "deb"]
    unknown = lab([*build, "--include", "no-such-package"], status=3, env=env, timeout=600)
    assert unknown.err == "dumm-fs: suite 'stable' has no package 'no-such-package'\n"
    lab([*build, "--include", f"{PACKAGE},{init}"], env=env, timeout=600)
    lab("dumm-fs init --isolated --kernel sid --master deb")
    lab("dumm-guest create a b c --memory 128M")
    lab("dumm-guest start --all --timeout 300", timeout=400)
    for guest in "abc":
        assert lab(f"dumm-guest exec {guest} -- {PROGRAM}").out.startswith("Dnsmasq version")
        assert lab(f"dumm-fs diff {guest}").out == "", "a start alone changes nothing"
    # Nothing was copied.
    master = Path(lab("dumm-fs master list -o path").out.strip())
    assert used(master) > 100 << 20
    assert used(lab.directory / "host") < 1 << 20
    # Owners are as on any Debian system, and setuid programs belong to root.
    for path, owner in (
        ("/var/mail", "root:mail"),
        ("/etc/shadow", "root:shadow"),
        ("/usr/bin/passwd", "root:root"),
    ):
        assert lab(f"dumm-guest exec a -- stat -c %U:%G {path}").out.strip() == owner, path
    assert os.stat(master / "usr/bin/passwd").st_mode & stat.S_ISUID
    # Changes stay in one guest, packages too.
    lab(f"dumm-guest exec a -- dpkg --purge {PACKAGE}")
    lab("dumm-guest exec b -- touch /etc/of-b")
    assert "D /usr/share/doc/dnsmasq" in lab("dumm-fs diff a").lines
    assert lab("dumm-fs diff b").lines == ["A /etc/of-b"]
    assert lab("dumm-fs diff c").out == ""
    assert f"rc  {PACKAGE} " not in lab("dumm-guest exec b -- dpkg -l").out
    assert lab(f"dumm-guest exec b -- {PROGRAM}").out
    # It boots as a system of its own.
    lab("dumm-guest stop c")
    lab("dumm-guest set c --init /sbin/init")
    lab("dumm-guest start c --timeout 300", timeout=400)
    name = {"root": "systemd", "user": "init"}[world.kind]
    # It gives itself that name a little later.
    lab(f"dumm-guest wait c --until -- grep -qx {name} /proc/1/comm")
    up = {
        "root": "until [ -S /run/systemd/private ]; do sleep 0.2; done;"
        " systemctl is-system-running --wait",
        "user": "until [ -p /run/initctl ]; do sleep 0.2; done; telinit q",
    }[world.kind]
    lab(["dumm-guest", "exec", "c", "--", "sh", "-c", up])
    lab("dumm-guest stop --all --timeout 60")
    assert set(lab("dumm-guest list -o state").lines) == {"stopped"}
    # The guests' trees are still mounted on top of it.
    assert "mounted over it" in lab("dumm-fs master delete deb", status=4).err
    assert lab.mounted("a").joinpath("etc").is_dir()
    lab("dumm-fs umount a b c")
    lab("dumm-fs master delete deb")
