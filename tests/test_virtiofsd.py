"""The virtiofsd that a guest gets: its pack's own, the host's, or that of another pack."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dumm_tools.errors import Conflict, DummError
from dumm_tools.images import kernel, kernel_pack, virtiofsd

UML = "/usr/bin/linux.uml"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(virtiofsd, "HOST_BINARY", str(tmp_path / "host/virtiofsd"))
    return tmp_path / "xdg" / "dumm" / "kernels"


def pack(home: Path, name: str, release: str, *, server: bool) -> Path:
    root = home / name
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/linux.uml").write_text("")
    (root / "pack.json").write_text(json.dumps({"release": release}))
    if server:
        program(root / "virtiofsd/usr/libexec/virtiofsd", b"--shared-dir")
    return root


def program(path: Path, text: bytes) -> None:
    """A copy of a real program that contains `text`."""
    path.parent.mkdir(parents=True)
    path.write_bytes(Path("/bin/true").read_bytes() + text)
    path.chmod(0o755)


def find(name: str) -> virtiofsd.Server | None:
    return virtiofsd.find(kernel.resolve(name))


def test_own_then_the_hosts_then_another_packs(home: Path, tmp_path: Path) -> None:
    pack(home, "plain", "7.3", server=False)
    assert find("plain") is None
    old = pack(home, "old", "6.12.9", server=True)
    new = pack(home, "new", "7.2.1", server=True)
    for name, root in (("plain", new), ("old", old), ("new", new)):
        found = find(name)
        assert found is not None
        assert found.root == str(root / "virtiofsd")
        assert found.path == str(root)
        assert found.lock == str(home / f".{root.name}.lock")
        assert (found.binary, found.binds) == (virtiofsd.BINARY, ())
    here = tmp_path / "host/virtiofsd"
    program(here, b"--shared-dir")
    found = find("plain")
    assert found is not None
    assert (found.root, found.lock, found.binary) == (None, None, virtiofsd.BINARY)
    inside = {jail: outside for outside, jail in found.binds}
    assert inside[virtiofsd.BINARY] == str(here)
    assert any("libc.so" in path for path in inside)
    assert all(os.path.exists(outside) for outside in inside.values())
    own = find("old")
    assert own is not None
    assert own.root == str(old / "virtiofsd")


def test_a_server_of_the_host_that_cannot_be_used_is_ignored(home: Path, tmp_path: Path) -> None:
    pack(home, "plain", "7.3", server=False)
    here = tmp_path / "host/virtiofsd"
    program(here, b"-o source=PATH")  # QEMU's
    assert find("plain") is None
    here.write_bytes(here.read_bytes() + b"--shared-dir")
    assert find("plain") is not None
    here.chmod(0o777)
    assert find("plain") is None
    here.write_text("--shared-dir")
    here.chmod(0o755)
    assert find("plain") is None


def test_a_pack_that_others_can_change_is_refused(home: Path) -> None:
    root = pack(home, "a", "7.2", server=True)
    for each in ("virtiofsd", "virtiofsd/usr"):
        (root / each).chmod(0o777)
        with pytest.raises(Conflict, match=each):
            find("a")
        (root / each).chmod(0o755)
    os.rename(root / "virtiofsd", home / "server")
    (root / "virtiofsd").symlink_to(home / "server")
    with pytest.raises(DummError, match="contains no usr/libexec/virtiofsd"):
        find("a")
    # A guest that has no server of its own makes do without the bad one.
    pack(home, "plain", "7.3", server=False)
    assert find("plain") is None


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists(UML), reason="no user-mode-linux here")
def test_import_takes_the_server_along(home: Path, tmp_path: Path) -> None:
    kernel_pack.import_(UML, "plain")
    source = tmp_path / "source"
    os.rename(home / "plain", source)
    tree = source / "virtiofsd"
    program(tree / "usr/libexec/virtiofsd", b"--shared-dir")
    with pytest.raises(DummError, match="lacks its program's loader"):
        kernel_pack.import_(str(source), "worse")
    for name in ("lib64", "lib"):
        (tree / name).symlink_to(source / "usr" / name)
    with pytest.raises(DummError, match="lacks its program's loader"):  # no link leads out
        kernel_pack.import_(str(source), "worse")
    for name in ("lib64", "lib"):
        (tree / name).unlink()
        (tree / name).symlink_to(f"usr/{name}")
        os.rename(source / "usr" / name, tree / "usr" / name)
        (source / "usr" / name).symlink_to(f"../virtiofsd/usr/{name}")
    assert kernel_pack.import_(str(source), "made") == "made"
    made = home / "made/virtiofsd"
    assert (made / "lib/x86_64-linux-gnu/libc.so.6").is_file()
    assert os.access(made / "usr/libexec/virtiofsd", os.X_OK)
    program(tmp_path / "other/virtiofsd", b"")
    os.replace(tmp_path / "other/virtiofsd", tree / "usr/libexec/virtiofsd")
    with pytest.raises(DummError, match="is not a virtiofsd"):
        kernel_pack.import_(str(source), "worse")
