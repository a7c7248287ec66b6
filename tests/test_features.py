"""Capabilities of kernels, found from their configuration; kernels that cannot run guests."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support import BIN

from dumm_tools.errors import DummError
from dumm_tools.images import features, kernel, kernel_config, kernel_pack

BINARY = "usr/bin/linux.uml"
#: All that guests need.
ENOUGH = "".join(f"CONFIG_{o}=y\n" for o in (*features.NEEDED, *features.NEEDED_SOMEHOW))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return tmp_path / "xdg" / "dumm" / "kernels"


@pytest.fixture
def source(packs: Path, tmp_path: Path) -> Path:
    """A copy of a pack, without its modules: its configuration is not known."""
    copy = tmp_path / "source"
    shutil.copytree(
        packs / "dumm/kernels/sid",
        copy,
        symlinks=True,
        ignore=lambda place, names: names if place.endswith("uml/modules") else [],
    )
    (copy / "pack.json").unlink()
    return copy


def configured(source: Path, text: str) -> Path:
    """Give the binary of a pack a configuration, as CONFIG_IKCONFIG does."""
    with (source / BINARY).open("ab") as file:
        file.write(b"IKCFG_ST" + gzip.compress(text.encode()) + b"IKCFG_ED")
    return source


def imported(source: Path) -> tuple[str, ...] | None:
    return kernel.features(kernel.resolve(kernel_pack.import_(str(source))))


def fs(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BIN / "dumm-fs", *args], capture_output=True, text=True, check=False)


def test_names_are_unique_and_documented() -> None:
    names = [f.name for f in features.FEATURES]
    assert len(set(names)) == len(names)
    manual = (Path(__file__).parent.parent / "man/dumm-fs.1").read_text()
    for feature in features.FEATURES:
        assert f"\\fB{feature.name}\\fR".replace("-", "\\-") in manual
    assert [f.name for f in features.FEATURES if f.wanted]


def test_a_feature_needs_all_of_its_options() -> None:
    nft = next(f for f in features.FEATURES if f.name == "nft").options.split()
    config = dict.fromkeys(nft, "y")
    assert features.of(config, modules=False) == ["nft"]
    config[nft[0]] = "m"
    assert features.of(config, modules=False) == []
    assert features.of(config, modules=True) == ["nft"]
    del config[nft[1]]
    assert features.of(config, modules=True) == []
    either = {"CGROUPS": "y", "CGROUP_PIDS": "y"}
    assert features.of(either, modules=False) == ["cgroups"]
    assert "nft" in features.remark([])
    assert features.remark([f.name for f in features.FEATURES]) == ""


def test_parse() -> None:
    text = b'CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=m\nCONFIG_D="y"\nCONFIG_E=3\n\xff\n'
    assert kernel_config.parse(text) == {"A": "y", "C": "m"}
    assert kernel_config.parse(b"something else\n") is None


def test_configuration_in_the_binary(source: Path) -> None:
    found = imported(configured(source, ENOUGH + "CONFIG_WIREGUARD=y\nCONFIG_SMP=m\n"))
    assert found == ("wireguard",)


@pytest.mark.parametrize("pack", [lambda b: b, lzma.compress, gzip.compress])
def test_configuration_in_a_module(source: Path, pack: Callable[[bytes], bytes]) -> None:
    release = kernel.facts(str(kernel_pack_of(source)))["release"]
    modules = source / "usr/lib/uml/modules" / release / "kernel/kernel"
    modules.mkdir(parents=True)
    text = (ENOUGH + "CONFIG_SMP=m\n").encode()
    data = b"ELF" + bytes(500) + b"IKCFG_ST" + gzip.compress(text) + b"IKCFG_ED"
    suffix = {lzma.compress: ".xz", gzip.compress: ".gz"}.get(pack, "")
    (modules / f"configs.ko{suffix}").write_bytes(pack(data))
    assert imported(source) == ("smp",)


def kernel_pack_of(source: Path) -> Path:
    """A pack made from the source as it is."""
    name = kernel_pack.import_(str(source), "as-it-is")
    return Path(kernel.resolve(name).path)


def test_configuration_of_debians_package(source: Path) -> None:
    place = source / "usr/share/doc/user-mode-linux/config.gz"
    place.write_bytes(gzip.compress((ENOUGH + "CONFIG_VXLAN=y\n").encode()))
    assert imported(source) == ("vxlan",)


def test_unknown_or_damaged_configuration(source: Path, home: Path) -> None:
    made = kernel_pack_of(source)
    assert kernel.features(kernel.resolve(str(made))) is None
    assert "features" not in json.loads((made / "pack.json").read_text())
    assert fs("kernel", "list", "-o", "name,features").stdout == "as-it-is\t-\n"
    whole = (source / BINARY).read_bytes()
    bomb = gzip.compress(bytes(64 << 20))
    for rest in (b"", b"\0", gzip.compress(b"CONFIG_A=y\n")[:-30], b"\x1f\x8b" + bytes(99), bomb):
        (source / BINARY).write_bytes(whole + b"IKCFG_ST" + rest)
        assert imported(source) is None
        kernel.delete("source")
    # Features that a pack of somebody else claims are not repeated.
    (source / BINARY).write_bytes(whole)
    (source / "pack.json").write_text(json.dumps({"features": "nft", "suite": "x"}))
    assert imported(source) is None
    assert kernel.facts(str(home / "source"))["suite"] == "x"


@pytest.mark.parametrize("option", [*features.NEEDED, *features.NEEDED_SOMEHOW])
def test_kernel_that_cannot_run_guests_is_not_imported(source: Path, option: str) -> None:
    configured(source, ENOUGH.replace(f"CONFIG_{option}=y\n", f"# CONFIG_{option} is not set\n"))
    done = fs("kernel", "import", str(source))
    assert done.returncode == 1
    first, hint = done.stderr.splitlines()
    assert first.startswith(f"dumm-fs: '{source}' cannot run guests: it lacks CONFIG_{option} (")
    assert "CONFIG" not in first.split(f"CONFIG_{option}", 1)[1]
    assert "kernel build" in hint
    assert fs("kernel", "list", "-q").stdout == ""


def test_kernel_that_lacks_more_is_refused_in_one_line(source: Path) -> None:
    text = ENOUGH.replace("CONFIG_HOSTFS=y", "CONFIG_HOSTFS=m").replace("CONFIG_SSL=y\n", "")
    configured(source, text)
    with pytest.raises(DummError, match=r"CONFIG_HOSTFS \(.*\), CONFIG_SSL \(.*\)$"):
        imported(source)


def test_show(home: Path) -> None:
    for name in ("a", "b"):
        (home / name / "usr/bin").mkdir(parents=True)
        (home / name / BINARY).write_text("")
    (home / "a/pack.json").write_text(json.dumps({"release": "7.2", "features": "nft smp"}))
    [record] = json.loads(fs("kernel", "show", "a", "--format", "json").stdout)
    assert record["features"] == ["nft", "smp"]
    [other] = json.loads(fs("kernel", "show", "b", "--format", "json").stdout)
    assert other["features"] is None
    assert fs("kernel", "show", "b", "a", "-o", "name,features").stdout == "b\t-\na\tnft,smp\n"
    sheet = fs("kernel", "show", "a").stdout
    assert "features:  nft,smp\n" in sheet
    missing = fs("kernel", "show", "x", "a", "-q")
    assert (missing.returncode, missing.stdout) == (3, "a\n")
    assert missing.stderr == "dumm-fs: no kernel 'x'\ndumm-fs: hint: there is a, b\n"
    assert fs("kernel", "show").returncode == 2
    assert os.listdir(home) != []


def test_packs_of_debian(packs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(packs))
    found = {p.name: p.features for p in kernel.list_()}
    for suite in ("bookworm", "trixie", "sid"):
        has = found[suite]
        assert has is not None
        assert {"netem", "vrf", "virtiofs", "ipv6"} <= set(has)
        assert not {"nft", "wireguard", "smp"} & set(has)
        assert ("iptables-legacy" in has) == (suite != "sid")
