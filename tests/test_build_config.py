"""The configuration of kernels that are built: our own, and the user's fragments."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from support import small_tree

from dumm_tools.errors import DummError, NotFound, Usage
from dumm_tools.images import (
    apt,
    build_config,
    debian_source,
    features,
    kernel_make,
    kernel_patches,
)
from dumm_tools.images.kernel_make import Tree


def fragment(directory: Path, text: str, name: str = "fragment") -> str:
    path = directory / name
    path.write_text(text)
    return str(path)


def test_our_configuration_has_what_guests_need_and_names_each_option_once() -> None:
    text = Path(build_config.OWN).read_text()
    names = re.findall(r"^(?:# )?CONFIG_(\w+)(?:=| is not set)", text, re.M)
    assert len(names) > 500
    assert sorted(names) == sorted(set(names))
    for release in ("6.12.9", "7.2.13-dumm"):
        options = build_config.own(release, modules=False)
        assert all(options.get(name, "y") == "y" for name in features.NEEDED)
        assert options["SMP"] == "n"
        assert "m" not in options.values()  # guests load no modules
        assert "NFSD" not in options
        assert build_config.own(release, modules=True)["NFSD"] == "m"


def test_options_of_other_versions_are_left_out() -> None:
    old, new = (build_config.own(release, modules=False) for release in ("6.12.9", "7.2.13-dumm"))
    assert set(old) - set(new) == {"UML_NET"}
    assert {"OVPN", "XFRM_IPTFS", "NETFILTER_XTABLES_LEGACY"} <= set(new) - set(old)
    # The condition ends with its block.
    assert {"UML_RANDOM", "NETFILTER_XTABLES", "IP_NF_IPTABLES", "MACSEC"} <= set(old) & set(new)


def test_the_last_fragment_wins(tmp_path: Path) -> None:
    one = fragment(tmp_path, "# a comment\nCONFIG_A=y\nCONFIG_B=m\n\nCONFIG_NFSD=y\n", "one")
    other = fragment(tmp_path, '# CONFIG_A is not set\nCONFIG_C="x y"\nCONFIG_D=0x10\n', "other")
    theirs = build_config.fragments([one, other], modules=True)
    assert {n: o.value for n, o in theirs.items()} == {
        "B": "m",
        "NFSD": "y",
        "A": "n",
        "C": '"x y"',
        "D": "0x10",
    }
    options = build_config.wanted("7.2.13", theirs, modules=False)
    assert options["A"] == ("n", other)
    assert options["NFSD"] == ("y", one)
    assert options["WIREGUARD"] == ("y", None)
    text = build_config.text(options)
    assert "CONFIG_A=n\n" in text
    assert text.index("CONFIG_WIREGUARD=y") < text.index("CONFIG_NFSD=y")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("CONFIG_SMP=y\n", "CONFIG_SMP=y: a guest's network interfaces do not work with it"),
        ("# CONFIG_HOSTFS is not set\n", "no guest can run without CONFIG_HOSTFS=y"),
        ("CONFIG_UML_NET_VECTOR=n\n", "no guest can run without CONFIG_UML_NET_VECTOR=y"),
        ("CONFIG_BTRFS_FS=m\n", "CONFIG_BTRFS_FS=m: modules are only built with --modules"),
    ],
)
def test_fragments_that_no_guest_survives_are_refused(
    text: str, error: str, tmp_path: Path
) -> None:
    path = fragment(tmp_path, text)
    with pytest.raises(DummError) as raised:
        build_config.fragments([path], modules=False)
    assert str(raised.value) == f"{path}: {error}"


@pytest.mark.parametrize("line", ["WIREGUARD=y", "CONFIG_A=yes", "CONFIG_A", 'CONFIG_A="x', "\0"])
def test_other_files_are_not_fragments(line: str, tmp_path: Path) -> None:
    path = fragment(tmp_path, f"CONFIG_A=y\n{line}\n")
    with pytest.raises(Usage, match=re.escape(f"{path}:2: ")):
        build_config.fragments([path], modules=True)
    with pytest.raises(NotFound):
        build_config.fragments([f"{path}-"], modules=True)


def test_options_that_did_not_take_effect_are_named(tmp_path: Path) -> None:
    tree = small_tree.make(tmp_path / "tree")
    theirs = {
        name: build_config.Option(value, "f")
        for name, value in (("BTRFS_FS", "y"), ("NO_SUCH", "y"), ("WANTED", "n"), ("GOOD", "y"))
    }
    options = {"OURS": build_config.Option("y"), **theirs}
    result = tmp_path / ".config"
    result.write_text("CONFIG_GOOD=y\nCONFIG_WANTED=y\nCONFIG_BTRFS_FS=m\n")
    with pytest.raises(DummError) as raised:
        build_config.check(options, str(result), str(tree))
    assert str(raised.value) == (
        "f: CONFIG_BTRFS_FS=y did not take effect: it depends on BLOCK && MOON"
        " (nor did NO_SUCH, WANTED)"
    )
    del options["BTRFS_FS"]
    with pytest.raises(DummError, match="this kernel has no such option"):
        build_config.check(options, str(result), str(tree))
    del options["NO_SUCH"]
    with pytest.raises(DummError, match="another option selects it"):
        build_config.check(options, str(result), str(tree))
    del options["WANTED"]
    assert build_config.check(options, str(result), str(tree)) == ["OURS"]


@pytest.mark.net
@pytest.mark.slow
def test_all_options_exist_in_6_12(tmp_path: Path) -> None:
    """In 7.x: test_kernel_build.py."""
    for name in ("apt", "work", "source", "objects"):
        (tmp_path / name).mkdir()
    allow = os.environ.get("DUMM_ALLOW_EXPIRED") == "1"
    lists = apt.open_suite(str(tmp_path / "apt"), "trixie", allow_expired=allow)
    package = debian_source.newest(lists)
    assert package.package == "linux-source-6.12"
    source = str(tmp_path / "source")
    debian_source.unpack(lists, package, str(tmp_path / "work"), source)
    refused: list[str] = []
    kernel_patches.apply(source, refused.append)
    assert refused == []
    options = build_config.wanted("6.12", {}, modules=True)
    (tmp_path / "wanted").write_text(build_config.text(options))
    tree = Tree(source, str(tmp_path / "objects"), str(tmp_path / "log"))
    kernel_make.run(
        tree, ["alldefconfig"], environment={"KCONFIG_ALLCONFIG": str(tmp_path / "wanted")}
    )
    assert build_config.check(options, f"{tree.objects}/.config", source) == []
