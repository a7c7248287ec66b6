"""The kernel that `dumm-fs kernel build` makes of Debian's source, and one with an edited file."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support import BIN, PATIENCE, SUITES
from support.labs import Lab

from dumm_tools.images import build_config, cache

pytestmark = pytest.mark.uml


@pytest.fixture
def place(packs: Path, built: str) -> Path:
    """Where it was built."""
    return packs / "dumm/builds" / built


@pytest.mark.root  # an ordinary user's cache may have the pack alone (tests/as-user)
def test_all_options_took_effect(place: Path) -> None:
    result = place / "objects/.config"
    options = build_config.wanted("7.2", {}, modules=False)
    assert build_config.check(options, str(result), str(place)) == []
    assert "=m\n" not in result.read_text()
    assert "CONFIG_SMP=y" not in result.read_text()


def test_a_guest_has_what_networks_need(built: str, new_lab: Callable[..., Lab]) -> None:
    lab = new_lab(kernel=built)
    lab("dumm-guest create a --start")
    lab("dumm-iface create a-eth0 --address 10.0.0.1/24")

    def run(command: str, status: int = 0) -> str:
        return lab(f"dumm-guest exec a -- {command}", status=status).out

    # No devices but its own, although their drivers are built in.
    assert re.findall(r"^\d+: (\w+)[:@]", run("ip link"), re.M) == ["lo", "eth0"]
    for kind in ("wireguard", "dummy", "bond", "nlmon"):
        run(f"ip link add my{kind} type {kind}")
    features = lab(f"dumm-fs kernel show -o features {built}").out.strip().split(",")
    assert {"nft", "wireguard", "xfrmi", "srv6", "mptcp", "virtiofs", "espintcp"} <= set(features)
    assert not {"smp", "hwsim", "nfs"} & set(features)
    # modprobe knows the drivers that are built in.
    run("modprobe wireguard")
    run("modprobe nosuch", status=1)
    assert run("cat /proc/modules") == ""
    # Trace events, and the names that nft and others look for.
    run("mount -t tracefs tracefs /sys/kernel/tracing")
    assert run("ls /sys/kernel/tracing/events/skb/kfree_skb/enable")
    assert "CONFIG_WIREGUARD=y" in run("zcat /proc/config.gz")


@pytest.mark.root
def test_an_edited_file_is_built_booted_and_answers(
    place: Path, new_lab: Callable[..., Lab], tmp_path: Path
) -> None:
    """Its tree is the source of the kernel `built`, with another file mounted over one of it, in a
    namespace of its own: what was compiled before is for that path."""
    tree = (place / "objects/source").resolve()
    name = "init/version.c"
    edited = tmp_path / "edited.c"
    text = (tree / name).read_text()
    assert text.count('"%s version %s"') == 1
    edited.write_text(text.replace('"%s version %s"', '"Edited %s version %s"'))
    home = tmp_path / "xdg/dumm"
    mine = home / "builds/mine"
    mine.mkdir(parents=True, mode=0o700)
    shutil.copytree(place / "objects", mine / "objects", symlinks=True)
    shutil.copy2(place / "wanted", mine)
    (mine / "origin").write_text(str(tree))
    os.chmod(home, 0o700)
    lab = new_lab(kernel=SUITES[0])
    cache = {"XDG_CACHE_HOME": str(tmp_path / "xdg")}
    script = 'mount --bind "$1" "$2/$3" && exec "$4/dumm-fs" kernel build "$2" --name mine'
    lab(
        ["unshare", "-m", "sh", "-c", script, "sh", edited, tree, name, BIN],
        env=cache,
        timeout=1200,
    )
    log = (mine / "log").read_text()
    compiled = re.findall(r"^  CC +(\S+)", log, re.M)
    assert "init/version.o" in compiled
    assert len(compiled) < 50
    pack = home / "kernels/mine"
    lab(["dumm-guest", "create", "a", "--kernel", pack, "--start"])
    assert lab("dumm-guest exec a -- cat /proc/version").out.startswith("Edited Linux version 7.")


def test_a_guest_keeps_its_kernel_when_the_pack_is_replaced(
    packs: Path,
    new_lab: Callable[..., Lab],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = tmp_path / "xdg"
    kernels = home / "dumm/kernels"
    kernels.mkdir(parents=True)
    for path in (home, home / "dumm", kernels):
        path.chmod(0o700)
    (home / "dumm/masters").symlink_to(packs / "dumm/masters")
    shutil.copytree(packs / "dumm/kernels" / SUITES[0], kernels / "dev", symlinks=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    lab = new_lab()
    lab.env["XDG_CACHE_HOME"] = str(home)
    lab("dumm-guest create a --kernel dev --start")

    def release() -> str:
        """The kernel that runs, which finds its modules."""
        running = lab("dumm-guest exec a -- uname -r").out.strip()
        assert lab(f"dumm-guest exec a -- find /lib/modules/{running}/modules.dep").out
        return running

    def boot() -> str:
        return lab("dumm-guest exec a -- cat /proc/sys/kernel/random/boot_id").out

    old = release()
    with cache.replacing("kernels", "dev") as new:
        shutil.copytree(packs / "dumm/kernels" / SUITES[1], new, symlinks=True, dirs_exist_ok=True)
    assert release() == old
    first = boot()
    lab("dumm-guest exec a -- reboot -f", status=None)
    lab(f"dumm-guest wait a --timeout {PATIENCE}")
    assert boot() != first
    assert release() == old
    assert len(list(kernels.glob(".dev.tmp-*"))) == 1
    lab("dumm-guest restart a")
    assert release() != old
    assert "is in use" in lab("dumm-fs kernel delete dev", status=4).err
    lab("dumm-guest stop a")
    lab("dumm-fs kernel delete dev")
    assert [path.name for path in kernels.iterdir()] == [".dev.lock"]
