"""The room that a guest's files take on the host: what the file system of its top layer has."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.labs import Lab

pytestmark = [pytest.mark.uml, pytest.mark.netns, pytest.mark.root]

FULL = "No space left on device"


@pytest.mark.parametrize("rootfs", ["hostfs", "virtiofs"])
def test_guest_gets_no_more_than_its_file_system(new_lab: Callable[..., Lab], rootfs: str) -> None:
    lab = new_lab("lab", "--isolated")
    small = lab.directory / "small"
    small.mkdir(mode=0o700)
    lab(f"dumm-guest create a b --rootfs {rootfs} --start")
    lab.host(["mount", "-t", "tmpfs", "-o", "size=8M,nr_inodes=300,mode=700", "small", small])
    try:
        lab.host(["mkdir", small / "top"])
        lab(["dumm-fs", "overlay", "add", "a", small / "top"])
        fill = "dd if=/dev/zero of=/big bs=64k; ls -s /big >&2; rm /big"
        done = lab(["dumm-guest", "exec", "a", "--", "sh", "-c", fill])
        assert FULL in done.err
        many = "mkdir /many; cd /many; i=0; while echo >$i; do i=$((i+1)); done"
        done = lab(["dumm-guest", "exec", "a", "--", "sh", "-c", many], status=None)
        assert FULL in done.err
        # Neither the other guest nor the lab's commands notice.
        lab("dumm-guest exec b -- dd if=/dev/zero of=/big bs=1M count=16")
        assert lab("dumm-guest list -o name,state").lines == ["a\trunning", "b\trunning"]
        assert len(lab("dumm-fs diff a -q").lines) > 200
        lab("dumm-guest exec a -- rm -r /many")
        lab("dumm-guest exec a -- touch /again")
        lab("dumm-guest restart a")
        lab("dumm-guest exec a -- test -e /again")
        lab("dumm-guest stop a b")
        lab("dumm-fs umount a b")
    finally:
        lab.host(["umount", "-l", small])
