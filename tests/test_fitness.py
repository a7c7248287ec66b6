"""Kernels that cannot run guests are refused when they are imported, named or started."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support import SUITES
from support.checks import one_line_error
from support.labs import Lab

from dumm_tools.images import features

UML = Path("/usr/bin/linux.uml")
BINARY = "usr/bin/linux.uml"
#: Part of a text of each option's help, which a kernel without the option does not contain.
HELP = {
    "UML_NET_VECTOR": b"vec[0-9]",
    "HOSTFS": b"hostfs=<",
    "BLK_DEV_INITRD": b"initrd=<",
    "SSL": b"ssl[0-9]",
    "MCONSOLE": b"mconsole=n",
}


def without(binary: bytes, option: str) -> bytes:
    """A kernel that looks as if it had been built without an option."""
    assert HELP[option] in binary
    return binary.replace(HELP[option], b"x" * len(HELP[option]))


def says(option: str) -> str:
    return f"cannot run guests: it lacks CONFIG_{option} ({features.NEEDED[option]})"


@pytest.fixture
def directory(packs: Path, tmp_path: Path) -> Path:
    """A directory with a kernel, as a pack outside the cache that says nothing of its features."""
    copy = tmp_path / "kernel"
    for part in ("usr/bin", "usr/lib64", "usr/lib/x86_64-linux-gnu"):
        shutil.copytree(packs / "dumm/kernels/sid" / part, copy / part)
    for name in ("bin", "lib", "lib64"):
        (copy / name).symlink_to(f"usr/{name}")
    return copy


@pytest.mark.parametrize("option", HELP)
def test_directory_with_an_unknown_configuration(lab: Lab, directory: Path, option: str) -> None:
    whole = (directory / BINARY).read_bytes()
    (directory / BINARY).write_bytes(without(whole, option))
    refused = lab(f"dumm-fs kernel import {directory} --name other", status=1).err
    assert one_line_error(refused, "dumm-fs") == f"'{directory}' {says(option)}"
    lab(f"dumm-guest create alice --kernel {directory}")
    refused = lab("dumm-guest start alice", status=1).err
    assert one_line_error(refused) == f"'{directory}' {says(option)}"
    assert lab("dumm-guest list -o name,state").out == "alice\tstopped\n"
    (directory / BINARY).write_bytes(whole)
    lab("dumm-guest start alice")


@pytest.mark.skipif(not UML.exists(), reason="no UML kernel on the host")
@pytest.mark.parametrize("isolated", [False, True])
def test_file_is_refused_before_anything_is_recorded(
    new_lab: Callable[..., Lab], tmp_path: Path, isolated: bool
) -> None:
    lab = new_lab("lab", *(["--isolated"] if isolated else []))
    file = tmp_path / "linux"
    file.write_bytes(without(UML.read_bytes(), "UML_NET_VECTOR"))
    file.chmod(0o755)
    for command in (
        f"dumm-guest create alice --kernel {file} --start",
        f"dumm-guest create alice --kernel {file}",
    ):
        error = one_line_error(lab(command, status=1).err)
        assert error == f"'{file}' {says('UML_NET_VECTOR')}"
        assert lab("dumm-guest list -q").out == ""
    # A configuration in the binary says more than the help does.
    text = "".join(f"CONFIG_{o}=y\n" for o in (*features.NEEDED, "UNIX") if o != "DEVTMPFS")
    data = b"IKCFG_ST" + gzip.compress(text.encode()) + b"IKCFG_ED"
    binary = UML.read_bytes()
    # Somewhere in what is loaded, since it is not run.
    at = binary.index(b"vec[0-9]") & ~0xFFF
    file.write_bytes(binary[:at] + data + binary[at + len(data) :])
    error = one_line_error(lab(f"dumm-guest create alice --kernel {file}", status=1).err)
    assert error == f"'{file}' {says('DEVTMPFS')}"
    file.write_bytes(binary)
    lab(f"dumm-guest create alice --kernel {file} --start")


@pytest.mark.parametrize(
    ("argument", "reason", "option"),
    [
        ("initcall_blacklist=populate_rootfs", "VFS: Unable to mount root fs", "BLK_DEV_INITRD"),
        ("initcall_blacklist=ssl_init", "/dev/ttyS0: No such file or directory", "SSL"),
        ("initcall_blacklist=init_hostfs", "hostfs: No such device", "HOSTFS"),
    ],
)
@pytest.mark.parametrize("suite", SUITES)
def test_kernel_that_does_not_do_its_part(
    new_lab: Callable[..., Lab], suite: str, argument: str, reason: str, option: str
) -> None:
    """A part of the kernel is not initialized, as if it had been built without it."""
    lab = new_lab(kernel=suite)
    lab(f"dumm-guest create alice --arg {argument}")
    said = lab("dumm-guest start alice", status=1).err
    assert reason in one_line_error(said)
    assert f"hint: the kernel may lack CONFIG_{option}" in said
    assert lab("dumm-guest list -o state").out == "stopped\n"
