"""The project's patches for Debian's kernel source."""

from __future__ import annotations

from pathlib import Path

import pytest

from dumm_tools.images import kernel_patches

FILES = {
    "uml-vector-small-packets": "arch/um/drivers/vector_kern.c",
    "virtiofs-broken-queues": "fs/fuse/virtio_fs.c",
}


def before(patch: Path) -> str:
    """The lines of the patched file that a patch mentions, as they were."""
    lines = patch.read_text().partition("\n+++ ")[2].splitlines()[1:]
    return "".join(line[1:] + "\n" for line in lines if line[:1] in (" ", "-"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for text in kernel_patches.paths():
        patch = Path(text)
        path = tmp_path / FILES[patch.stem]
        path.parent.mkdir(parents=True)
        path.write_text(before(patch))
    return tmp_path


def test_patches_are_applied(tree: Path) -> None:
    said: list[str] = []
    assert kernel_patches.applied(str(tree)) == []
    kernel_patches.apply(str(tree), said.append)
    assert said == []
    assert kernel_patches.applied(str(tree)) == list(FILES)
    vector, virtiofs = ((tree / name).read_text() for name in FILES.values())
    assert vector.count("= fit_skb(skb);") == 2
    assert virtiofs.count("!virtqueue_is_broken(") == 1


def test_a_patch_for_other_versions_is_left_out(tree: Path) -> None:
    [left_out, other] = FILES
    file = tree / FILES[left_out]
    text = file.read_text().replace("pskb_trim", "trim", 1)
    file.write_text(text)
    warning = f"this kernel is built without the patch '{left_out}', which is for other versions"
    said: list[str] = []
    kernel_patches.apply(str(tree), said.append)
    assert said == [warning]
    assert file.read_text() == text
    assert kernel_patches.applied(str(tree)) == [other]
    assert sorted(p for p in tree.rglob("*") if p.is_file()) == [
        tree / name for name in sorted(FILES.values())
    ]
    file.unlink()
    kernel_patches.apply(str(tree), said.append)
    assert said[1:] == [
        warning,
        "this kernel is built without the patch 'virtiofs-broken-queues', which is for other"
        " versions",
    ]
