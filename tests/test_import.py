"""Labs of other tools as lab files: `dumm-console import`."""

from __future__ import annotations

import ast
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.checks import one_line_error
from support.labs import Lab

from dumm_tools import language
from dumm_tools.errors import DummError, NotFound, Usage
from dumm_tools.importing import (
    containerlab,
    kathara,
    mininet,
    naming,
    printing,
    variables,
    yamltree,
)
from dumm_tools.importing.topology import Topology

CHOICE = printing.Choice()


def work(function: Callable[[], object]) -> int:
    """The number of lines of Python that are run."""
    count = 0

    def trace(_frame: object, event: str, _argument: object) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return count


def check_linear(read: Callable[[int], object]) -> None:
    """Twice as much takes twice as long, and not four times."""
    assert work(lambda: read(400)) < 3 * work(lambda: read(200))


def make(directory: Path, files: dict[str, str]) -> Path:
    """Write files below a directory; a text that begins with '->' is the target of a link."""
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text.startswith("->"):
            path.symlink_to(text[2:])
        else:
            path.write_text(text)
    return directory


def lines(lab: Topology, choice: printing.Choice = CHOICE) -> list[str]:
    """The statements of the lab file, without scripts."""
    reader = language.of_lines(printing.text(lab, choice).splitlines(keepends=True))
    found = []
    while (statement := reader.next()) is not None:
        found.append(" ".join(statement.texts))
    return found


def script(lab: Topology, name: str) -> str:
    """The startup script of a guest."""
    reader = language.of_lines(printing.text(lab, CHOICE).splitlines(keepends=True))
    while (statement := reader.next()) is not None:
        if statement.texts[:3] == ["guest", "startup", name]:
            return os.fsdecode(statement.document or b"")
    return ""


# ---- Kathara ----

KATHARA = {
    "lab.conf": (
        'LAB_NAME="two nets"\nLAB_WEB=http://example.org/\n\n# a comment\n'
        'r1[0]="A"\nr1[1]=B/02:00:00:00:00:b1\nr1[image]="kathara/frr:9"\nr1[mem]=256m # enough\n'
        'r1[sysctl]="net.ipv4.conf.eth0.forwarding=0"\nr1[env]="KEY=a b"\n'
        'r1[exec]="echo done"\nr1[num_terms]=2\n'
        'pc1[0]="A"\npc1[ipv6]=true\npc1[bridged]=True\n'
        "pc2[0]=B\npc2[mem]=16\npc2[cpus]=0.5\n"
        'pc2[port]="3000:80"\npc2[volume]="data|/data|rw"\npc2[volume]="/etc|/x"\n'
    ),
    "r1.startup": "ip link set dev eth0 address 02:00:00:00:00:a1\nip a add 10.0.0.1/24 dev eth0",
    "shared.startup": "exit 3\n",
    "pc1.shutdown": "true\n",
    "pc9.startup": "true\n",
    "lab.dep": "# order\npc1: r1\n",
    "lab.ext": "A enp0s3\n",
    "r1/etc/frr/frr.conf": "hostname r1\n",
    "shared/file": "shared",
    "data/file": "data",
}


def test_kathara(tmp_path: Path) -> None:
    top = make(tmp_path / "lab", KATHARA)
    lab = kathara.read(str(top))
    found = lines(lab, printing.Choice([("kathara/*", "frr")], base=str(top)))
    assert found == [
        "fs init",
        "bridge create A",
        "bridge create B",
        "bridge create nat --address 100.64.0.1/16",
        "bridge uplink nat --nat",
        "guest create pc1 --master frr --memory 128M --files shared:/shared",
        "guest create pc2 --master frr --memory 64M --files data:/data --files shared:/shared",
        "guest create r1 --master frr --memory 256M --files r1 --files shared:/shared",
        "guest startup pc1 -",
        "guest startup pc2 -",
        "guest startup r1 -",
        "iface create pc1-eth0 --bridge A",
        "iface create pc1-eth1 --bridge nat --address 100.64.0.2/16",
        "iface route add pc1-eth1 default --via 100.64.0.1",
        "iface create pc2-eth0 --bridge B",
        "iface create r1-eth0 --bridge A --mac 02:00:00:00:00:a1",
        "iface create r1-eth1 --bridge B --mac 02:00:00:00:00:b1",
    ]
    assert lab.title[1:] == ["Name: two nets"]
    assert [note.partition(": ")[0] for note in lab.notes] == [
        *("lab.conf:17", "lab.conf:18", "lab.conf:19", "lab.conf:20", "lab.conf:21", "shared"),
        *("lab.dep:2", "lab.ext:1", "pc1.shutdown", "pc9.startup"),
    ]
    assert "uplink A --to enp0s3" in lab.notes[-3]
    text = script(lab, "r1")
    assert text.startswith("#!/bin/sh\n")
    order = ["put net/ipv4/ip_forward 1", "put net/ipv4/conf/eth0/forwarding 0", "'KEY=a b'"]
    order += ["chown -R frr:frr", "(\nexit 3\n)", "(\n# ip link set dev eth0", "ip a add"]
    order += ["echo done\n"]
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    assert "cat >/usr/local/bin/systemctl" in text
    assert "put net/ipv6/conf/all/forwarding 1" in script(lab, "pc1")
    assert "put net/ipv6/conf/all/disable_ipv6 1" in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pc1[0]=A\npc1(1)=B\n", "lab.conf:2: not a line of Kathara"),
        ("pc1[0]=A-B\n", "lab.conf:1: bad collision domain"),
        ("shared[0]=A\n", "lab.conf:1: 'shared' cannot"),
        ("pc1[ipv6]=perhaps\n", "lab.conf:1: 'perhaps' is neither"),
        ("pc1[sysctl]=x\n", "lab.conf:1: 'sysctl' without"),
        ("pc1[volume]=x\n", "lab.conf:1: bad volume"),
        ("pc1[0]=A" + " " * 300_000 + "'#\n", "lab.conf:1: not a line of Kathara"),
        ("->/etc/hostname", "leads out of the lab's directory"),
    ],
)
def test_bad_labs_of_kathara_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(Usage, match=message.replace("(", r"\(")):
        kathara.read(str(make(tmp_path, {"lab.conf": text})))


def test_values_and_comments_of_kathara(tmp_path: Path) -> None:
    text = "a[mem]=64m   # x 'y'\na[image]='b#c'\t#d\na[0]=A # b\nLAB_NAME=\033[31m\a\n"
    lab = kathara.read(str(make(tmp_path, {"lab.conf": text})))
    assert (lab.machines["a"].memory, lab.machines["a"].image) == (64 << 20, "b#c")
    first, second = printing.text(lab, CHOICE).split(b"\n")[:2]
    assert first.startswith(b"# Imported from")
    assert second == b"# Name: \\x1b[31m\\x07"


def check_printable(lab: Topology) -> None:
    """There is nothing in statements and comments that would control a terminal, and it is said of
    two paths that they would."""
    assert "".join(lines(lab)).isprintable()
    comments = printing.text(lab, CHOICE).decode().partition("\nfs init\n")[0].split("\n")
    assert len(comments) == len(lab.title)
    assert "".join(comments).isprintable()
    assert len([note for note in lab.notes if "contains control characters: not" in note]) == 2


@pytest.mark.parametrize("char", ["\033", "\r", "\x7f", "\x9b", "\n"])
def test_control_characters_stay_out_of_statements(tmp_path: Path, char: str) -> None:
    name = f"b{char}c"
    make(tmp_path, {f"{name}/file": "", "a/f": ""})
    said = json.dumps(name)[1:-1]
    binds = f'["{said}:/x", "r.conf:/{said}"]'
    check_printable(
        clab(tmp_path, f'name: "{said}"\ntopology: {{nodes: {{a: {{binds: {binds}}}}}}}')
    )
    if char != "\n":
        conf = f"LAB_NAME=x{char}y\na[0]=A\na[volume]={name}|/x\na[volume]=a|/{name}\n"
        check_printable(kathara.read(str(make(tmp_path, {"lab.conf": conf}))))


def test_options_of_kathara_that_are_lost(tmp_path: Path) -> None:
    text = "a[0]=A/zz\na[bridged]=true\na[bridged_iface]=5\na[entrypoint]=x\na[shell]=/bin/sh\n"
    lab = kathara.read(str(make(tmp_path, {"lab.conf": text})))
    assert [note.rpartition(": ")[2] for note in lab.notes] == [
        *("not carried over", "a[bridged_iface]=5 is not carried over"),
        "a[entrypoint]=x is not carried over",
    ]


def test_scripts_that_many_devices_share_are_bounded(tmp_path: Path) -> None:
    devices = "".join(f"a{n}[0]=A\n" for n in range(100))
    make(tmp_path, {"lab.conf": devices, "shared.startup": "# x\n" * 100_000})
    with pytest.raises(Usage, match=r"shared\.startup: the lab file would be larger than 32 MiB"):
        kathara.read(str(tmp_path))


def test_places_that_cannot_be_said_are_left_out(tmp_path: Path) -> None:
    """The place of files begins after the last `:/`."""
    files = {"lab.conf": "a[0]=A\na[volume]=data|/x:/y\na[volume]=data|/z/\n", "data/f": ""}
    lab = kathara.read(str(make(tmp_path / "od:/d", files)))
    assert lab.machines["a"].files == [f"{tmp_path}/od:/d/data:/z"]
    assert lab.notes[0] == "lab.conf:2: '/x:/y' contains ':/': not carried over"


def test_files_outside_the_lab_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/pc1.startup").write_text("secret\n")
    files = {"lab.conf": "pc1[0]=A\npc1[volume]=../outside|/x\n", "pc1": "->../outside"}
    files |= {"pc1.startup": "->../outside/pc1.startup", "shared": "->../outside"}
    lab = kathara.read(str(make(tmp_path / "lab", files)))
    text = printing.text(lab, CHOICE)
    assert b"--files" not in text
    assert b"secret" not in text
    assert len([note for note in lab.notes if "leads out" in note]) == 4


# ---- containerlab ----

CONTAINERLAB = """
name: demo
topology:
  defaults: {kind: linux, env: {A: "1", B: "2"}, binds: ["__clabNodeName__.conf:/etc/conf"]}
  kinds:
    linux: &linux
      image: alpine:${RELEASE:=3}
      exec: ["echo $$HOME"]
  groups:
    routers: {image: frr, memory: 1Gb, env: {B: 3}, binds: ["r.conf:/etc/conf:ro"]}
  nodes:
    r1: {group: routers, exec: ["sh -c 'echo >x'", "ip a"], mgmt-ipv4: 172.20.20.3}
    pc.1:
      cpu: 2
      cmd: sleep infinity
      binds: ["missing:/x", "/dev/null:/y", "dir:/dir", "broken"]
      sysctls: {net.ipv4.ip_forward: 1}
      env-files: [vars]
    lan: {kind: bridge}
    nokia: {kind: nokia_srlinux, image: srlinux}
  links:
    - endpoints: ["r1:eth1", "pc.1:eth1"]
      mtu: 9000
      ipv4: [10.0.0.1/24, ""]
    - endpoints: ["r1:e1-2", "lan:p1"]
    - type: veth
      endpoints:
        - {node: pc.1, interface: eth2, mac: "02:00:00:00:00:02", ipv6: "fd00::2/64"}
        - {node: nokia, interface: e1-1}
    - {type: host, endpoint: {node: r1, interface: eth5}, host-interface: veth0}
    - endpoints: ["r1:eth6", "macvlan:eno1"]
    - endpoints: ["mgmt-net:x", "r1:eth7"]
    - {type: dummy, endpoint: {node: r1, interface: eth8}}
    - {type: vxlan, endpoint: {node: r1, interface: eth9}, vni: 1}
"""


FORWARD = """\
put() { [ ! -e "/proc/sys/$1" ] || echo "$2" >"/proc/sys/$1"; }
put net/ipv4/ip_forward 1
"""


def clab(tmp_path: Path, text: str, **environment: str) -> Topology:
    """Read a topology of containerlab."""
    files = {"demo.clab.yml": text, "r.conf": "", "vars": "C=4\n#D=5\n", "dir/file": ""}
    return containerlab.read(str(make(tmp_path, files) / "demo.clab.yml"), environment)


def test_containerlab(tmp_path: Path) -> None:
    lab = clab(tmp_path, CONTAINERLAB)
    assert lines(
        lab, printing.Choice([("frr", "frr"), ("alpine", "busybox")], base=str(tmp_path))
    ) == [
        "fs init",
        "bridge create lan",
        "bridge create mgmt-net",
        "bridge create pc_1-nokia",
        "bridge create r1-dummy",
        "bridge create r1-host",
        "bridge create r1-pc_1",
        "bridge create r1-vxlan",
        "bridge create to-eno1",
        "guest create pc_1 --master busybox --memory 128M --files dir:/dir",
        "guest create r1 --master frr --memory 1024M --files r.conf:/etc/conf",
        "guest startup pc_1 -",
        "guest startup r1 -",
        "iface create pc_1-eth1 --bridge r1-pc_1 --mtu 9000",
        "iface create pc_1-eth2 --bridge pc_1-nokia --address fd00::2/64 --mac 02:00:00:00:00:02",
        "iface create r1-e1_2 --bridge lan",
        "iface create r1-eth1 --bridge r1-pc_1 --address 10.0.0.1/24 --mtu 9000",
        "iface create r1-eth5 --bridge r1-host",
        "iface create r1-eth6 --bridge to-eno1",
        "iface create r1-eth7 --bridge mgmt-net",
        "iface create r1-eth8 --bridge r1-dummy",
        "iface create r1-eth9 --bridge r1-vxlan",
    ]
    assert script(lab, "r1") == (
        "#!/bin/sh\n" + FORWARD + "export A=1\nexport B=3\necho '$HOME'\nsh -c 'echo >x'\nip a\n"
    )
    end = "export C=4\nexport A=1\nexport B=2\nsleep infinity </dev/null &\necho '$HOME'\n"
    assert script(lab, "pc_1").endswith(f"put net/ipv4/ip_forward 1\n{end}")
    said = "\n".join(lab.notes)
    for part in (
        *("14: 'pc.1' is named 'pc_1'", "4: no file 'pc.1.conf'", "16: no file 'missing'"),
        *("16: '/dev/null' leads out", "16: 'dir' is copied", "16: bad bind 'broken'"),
        *("14: 'cpu'", "20: node 'nokia' is of kind", "25: interface 'e1-2'", "30: the host's end"),
        *("uplink to-eno1 --to eno1", "32: the management network", "34: link of type 'vxlan'"),
    ):
        assert part in said, (part, said)


CLAB = """\
foo: 1
topology:
  bar: 1
  nodes:
    a:
%s
    b: {kind: linux, env-files: [more]}
    br: {kind: bridge, exec: [ip a]}
    h: {kind: host, binds: ["a:/b"], labels: {x: y}}
  links:
%s
"""


@pytest.mark.parametrize(
    ("node", "link", "notes"),
    [
        ("cmd: [a, b]", "", ["6: 'cmd' is not a text"]),
        ("exec: {a: b}", "", ["6: 'exec' is not a list of texts"]),
        ("exec: [[a]]", "", ["6: 'exec' is not a list of texts"]),
        ("binds: [{a: b}]", "", ["6: 'binds' is not a list of texts"]),
        ("env: [A=1]", "", ["6: 'env' is not a list of keys with values"]),
        ("sysctls: {a: [1]}", "", ["6: 'sysctls' is not a list of keys"]),
        ("image: {a: 1}", "", ["6: 'image' is not a text"]),
        (f"cmd: {'x' * (129 << 10)}", "", ["it is too long: not carried over"]),
        ("", "endpoints: [a:x, b:y]\n    foo: 1", ["foo' of a link"]),
        ("", "endpoints: [{node: a, interface: x, foo: 1}, b:y]", ["foo' of a link"]),
        ("", "endpoints: [a:x, b:y]\n    mtu: [1]", ["MTU '': not carried over"]),
        ("", "endpoints: [a:x, b:y]\n    ipv4: [1.1.1.1, '', 2.2.2.2]", ["is not two addresses"]),
        ("", "endpoints: [{node: a, interface: x, mac: z, ipv4: 10.0.0.1/8, ipv6: z}, b:y]",
         ["bad MAC address", "bad address 'z'"]),
        ("", "endpoints: [a:x, {node: br, interface: y, ipv4: 10.0.0.1/8}]", ["addresses of 'br'"]),
    ],
)  # fmt: skip
def test_nothing_of_containerlab_is_lost_in_silence(
    tmp_path: Path, node: str, link: str, notes: list[str]
) -> None:
    (tmp_path / "more").write_text("# x\n\nA=1\nB\n")
    lab = clab(tmp_path, CLAB % (f"      {node}" if node else "", f"  - {link}" if link else ""))
    always = [
        "yml:1: 'foo'",
        "yml:3: 'bar'",
        "more:4: 'B' has no value",
        "'exec': not",
        "'binds': not",
    ]
    for part in (*always, *notes):
        assert len([note for note in lab.notes if part in note]) == 1, (part, lab.notes)
    assert len(lab.notes) == len(always) + len(notes), lab.notes
    if "10.0.0.1/8, ipv6" in link:  # what is right is kept
        assert lab.machines["a"].nics["x"].addresses == ["10.0.0.1/8"]


def test_work_for_containerlab_is_bounded(tmp_path: Path) -> None:
    nodes = " nodes:\n" + "".join(f"  n{n}:\n" for n in range(3900))
    keys = "".join(f"  k{n}: 1\n" for n in range(9000))
    for defaults in (f"{{exec: ['{'x' * 90000}']}}", f"\n{keys}", f"{{binds: [{'a:/a,' * 9000}]}}"):
        with pytest.raises(Usage, match="the lab file would be larger"):
            clab(tmp_path, f"topology:\n defaults: {defaults}\n{nodes}")
    with pytest.raises(Usage, match="too much text"):
        clab(tmp_path, f"a: &a {'x' * 500_000}\nb: [{'*a,' * 9000}]\n")
    with pytest.raises(Usage, match="larger than 1024 KiB with its variables"):
        clab(tmp_path, "${A}" * 9000, A="x" * 1000)

    class Text(str):
        counted = 0

        def count(self, *args: Any) -> int:
            Text.counted += args[2] - args[1]
            return super().count(*args)

    places: list[int] = []
    text = Text("${X}\n" * 100)
    variables.expand(text, {}, lambda line, _: places.append(line), 1000)
    assert places == list(range(1, 101))
    assert Text.counted <= len(text)


def test_merging_many_keys_of_yaml() -> None:
    def read(count: int) -> None:
        keys = "".join(f"k{n}: 1, " for n in range(count))
        text = f"a: &a {{{keys}}}\nc: &c {{}}\nb:\n  <<: [*a, {'*c, ' * count}]\n"
        assert len(yamltree.parse(text, "x").get("b").keys) == count

    check_linear(read)


def test_command_of_an_image_is_run_before_those_of_the_topology(tmp_path: Path) -> None:
    def command_of(master: str) -> list[str] | None:
        if master == "gone":
            raise NotFound(f"no master '{master}'")
        return ["/start", "a b"]

    lab = clab(tmp_path, CONTAINERLAB)
    choice = printing.Choice([("frr", "frr"), ("alpine", "gone")])
    text = printing.text(lab, choice, command_of).decode()
    assert "export B=3\n/start 'a b' </dev/null &\necho '$HOME'\n" in text
    assert not [note for note in lab.notes if "no master" in note]  # it has a command of its own
    lab = clab(tmp_path, "topology: {nodes: {a: {kind: linux, image: alpine}}}")
    printing.text(lab, choice, command_of)
    assert lab.notes[-1].endswith("no master 'gone': the command of image 'alpine' is not run")


def test_image_of_another_kind_can_be_mapped(tmp_path: Path) -> None:
    make(tmp_path, {"t.yml": CONTAINERLAB})
    lab = containerlab.read(str(tmp_path / "t.yml"), {}, lambda image: image == "srlinux")
    assert "iface create nokia-e1_1 --bridge pc_1-nokia" in lines(lab)


def test_variables_of_the_environment(tmp_path: Path) -> None:
    text = "topology: {nodes: {a: {kind: linux, image: '%s'}}}"

    def image(value: str) -> str:
        lab = clab(tmp_path, text % value, SET="x", EMPTY="")
        return lab.machines["a"].image

    assert image("$SET ${SET} ${SET:-y} ${SET:+y} ${SET-y}") == "x x x y x"
    assert image("${NOT:=y} ${NOT-y} ${EMPTY:-y} ${EMPTY-y} ${NOT+y}") == "y y y  "
    assert image("${NOT} $NOT $$SET ${NOT:-$SET}") == "${NOT} $NOT $SET x"
    lab = clab(tmp_path, text % "${NOT}")
    assert lab.notes == ["demo.clab.yml:1: variable 'NOT' is not set: left as it is"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "demo.clab.yml:1: no topology.nodes"),
        ("topology: [", "demo.clab.yml:2: "),
        ("topology:\n  nodes:\n    a: {}\n    b: [", "demo.clab.yml:5: "),
        ("topology:\n  nodes: {{ range . }}", "demo.clab.yml:2: this is a template"),
        ("topology: {nodes: {a: }, links: [{endpoints: ['a:x', 'b:y']}]}", "no node 'b'"),
        ("a: &a [1, 2]\nb: &b [*a, *a]\n" + "".join(
            f"{chr(c + 1)}: &{chr(c + 1)} [{', '.join(['*' + chr(c)] * 9)}]\n"
            for c in range(ord("b"), ord("k"))
        ), "too many values"),
        ("a: &a {b: *a}", "nested too deeply"),
        ("[" * 5000, "demo.clab.yml"),
        ('topology:\n  "\\0": a', "demo.clab.yml:2: characters"),
        ('topology: "\\uD800"', "demo.clab.yml:1: "),
        ("? [a]\n: b", "a key that is not text"),
        ("topology:\n  nodes:\n    a:\n    a:\n", "demo.clab.yml:4: there are two keys 'a'"),
        ("!!python/object/apply:os.system ['touch x']", "no topology.nodes"),
        ("x" * ((1 << 20) + 1), "larger than"),
        ("a\0b", "not a text file"),
    ],
)  # fmt: skip
def test_bad_topologies_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(Usage, match=message):
        clab(tmp_path, text)


def test_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "yaml", None)
    with pytest.raises(DummError, match="needs PyYAML") as caught:
        yamltree.parse("a: b", "x")
    assert "python3-yaml" in str(caught.value.hint)


def test_merged_keys_of_yaml() -> None:
    value = yamltree.parse("a: &a {x: 1, y: no}\nb:\n  <<: *a\n  x: 2\nc: ~\nd: '~'\n", "x")
    assert {k: v.data for k, v in value.get("b").keys.items()} == {"x": "2", "y": "no"}
    assert (value.get("c").data, value.get("d").data, value.get("b").line) == (None, "~", 3)


# ---- Mininet ----

SCRIPT = """
from mininet.topo import Topo
class Router(Node):
    def config(self, **params):
        self.cmd('sysctl net.ipv4.ip_forward=1')
class Mine(Topo):
    def __init__(self, n=2, **opts):
        Topo.__init__(self, **opts)
        self.n = n
        s1, s2 = [self.addSwitch(f's{i}') for i in range(1, n + 1)]
        r0 = self.addNode('r0', cls=Router, ip='10.0.0.254/24')
        self.addLink(r0, s1, intfName1='r0-eth1', params1={'ip': '10.0.0.254/24'})
        self.addLink(r0, s2, port1=2, params1=dict(ip='10.0.1.254/24'))
        for i, switch in enumerate((s1, s2)):
            host = self.addHost('h%d' % (i + 1), ip='10.0.%s.1/24' % i,
                                defaultRoute='via 10.0.{}.254'.format(i))
            self.addLink(host, switch, bw=10, delay='5ms', loss=2)
def run():
    net = Mininet(topo=Mine(), autoSetMacs=True)
    net.start()
    h1 = net['h1']
    h1.cmd('ping -c1', net.get('h2').IP())
if __name__ == '__main__':
    run()
"""


def mn(tmp_path: Path, text: str) -> Topology:
    """Read a script of Mininet."""
    return mininet.read(str(make(tmp_path, {"net.py": text}) / "net.py"))


def test_mininet(tmp_path: Path) -> None:
    lab = mn(tmp_path, SCRIPT)
    assert lines(lab) == [
        *("fs init", "bridge create s1", "bridge create s2"),
        *(f"guest create {name} --memory 128M" for name in ("h1", "h2", "r0")),
        "guest startup r0 -",
        "iface create h1-eth0 --bridge s1 --address 10.0.0.1/24 --mac 00:00:00:00:00:01",
        "iface shape h1-eth0 --delay 5ms --loss 2 --rate 10mbit",
        "iface route add h1-eth0 default --via 10.0.0.254",
        "iface create h2-eth0 --bridge s2 --address 10.0.1.1/24 --mac 00:00:00:00:00:02",
        "iface shape h2-eth0 --delay 5ms --loss 2 --rate 10mbit",
        "iface route add h2-eth0 default --via 10.0.1.254",
        "iface create r0-eth1 --bridge s1 --address 10.0.0.254/24 --mac 00:00:00:00:00:03",
        "iface create r0-eth2 --bridge s2 --address 10.0.1.254/24",
    ]
    assert [note for note in lab.notes if "not carried over" in note] == [
        "net.py:22: not carried over: h1.cmd('ping -c1', net.get('h2').IP())"
    ]
    assert "ip_forward" in script(lab, "r0")


def test_switches_that_are_linked_are_one_segment(tmp_path: Path) -> None:
    lab = mn(
        tmp_path,
        "net = Mininet(ipBase='192.168.7.0/24')\n"
        "a, b = net.addSwitch('s10'), net.addSwitch('s2')\n"
        "net.addLink(a, b, bw=5)\n"
        "for n in range(1, 3):\n"
        "    net.addLink(net.addHost('h' + str(n)), (a, b)[n - 1])\n"
        "net.addController('c0')\n",
    )
    assert [line for line in lines(lab) if line.startswith(("bridge", "iface"))] == [
        "bridge create s2",
        "iface create h1-eth0 --bridge s2 --address 192.168.7.1/24",
        "iface create h2-eth0 --bridge s2 --address 192.168.7.2/24",
    ]
    assert lab.notes == [
        "net.py:3: switches 's10' and 's2' are one segment without the link's properties",
        "net.py:6: controllers: switches learn by themselves",
    ]


@pytest.mark.parametrize(
    ("text", "guests", "segments"),
    [
        ("topos = {'x': (lambda: LinearTopo(k=3, n=2))}", 6, 1),
        ("net = TreeNet(depth=2, fanout=3)", 9, 1),
        ("net = Mininet(SingleSwitchTopo(4))", 4, 1),
        ("net = Mininet()\nnet.addLink(net.addHost('a'), net.addHost('b'))", 2, 1),
    ],
)
def test_topologies_of_mininet(tmp_path: Path, text: str, guests: int, segments: int) -> None:
    found = lines(mn(tmp_path, text))
    assert len([line for line in found if line.startswith("guest create")]) == guests
    assert len([line for line in found if line.startswith("bridge create")]) == segments


def test_what_is_not_known_is_said(tmp_path: Path) -> None:
    lab = mn(
        tmp_path,
        "import sys\nnet = Mininet()\nfor n in range(int(sys.argv[1])):\n    net.addHost('x')\n"
        "a = net.addHost('a', ip=sys.argv[2])\nnet.addLink(a, sys.argv)\n"
        "if sys.argv:\n    net.addHost('b')\nwhile sys.stdin:\n    print()\n",
    )
    assert sorted(lab.machines) == ["a", "b"]
    assert [note.partition(": ")[0] for note in lab.notes] == [
        *("net.py:3", "net.py:5", "net.py:6", "net.py:7")
    ]


MANY = "".join(f"a{n}=1\n" for n in range(20000))
UNDERSTOOD = "not understood: "
LOSSES = [
    # Arguments and options.
    ("h = net.addHost('h', **f())", ["not understood: net.addHost('h', **f())"]),
    ("o = {'ip': '10.0.0.7/8', **f()}\nh = net.addHost('h', **o)", ["not understood: net.add"]),
    ("h = net.addHost(*f(), ip='10.0.0.7/8')", ["not understood: net.addHost(*f()"]),
    ("h = net.addHost('h', cpu=.5, x=None)", ["'cpu' of 'h' is not carried over"]),
    ("h = net.addHost('h', mac=f())", ["not understood: 'mac' of 'h'"]),
    ("h = net.addHost('h', ip=5)", ["not understood: 'ip' of 'h'"]),
    ("class N(Node): pass\nnet.addHost('h', N)", ["the class of 'h' is not carried over"]),
    ("net.addLink('h', s, cls=f(), bw=f())", ["not understood: 'bw' of a link"]),
    ("net.addLink('h', s, loss='much', bw=-1)", ["loss 'much': not", "bw '-1': not carried over"]),
    ("net.addLink('h', s, enable_ecn=True)", ["'enable_ecn' of a link is not carried over"]),
    ("net.addLink('h', s, params1={'ip': f()})", ["not understood: 'ip' of params1 of a link"]),
    ("net.addLink('h', s, addr1='02:00:00:00:00:09', delay='2ms')", []),
    ("net.addLink('h', s, port2=4096)", ["port '4096' of 's': not carried over"]),
    ("net.addLink(net.addSwitch('w', ip='::1', dpid=f()), 'h')", ["'ip' of 'w' is not carried"]),
    ("net.addLink('h', net.addSwitch('w'), params2={'ip': '10.0.0.9'})", ["the address of switch"]),
    ("net = Mininet(ipBase=f(), foo=1, topo=None)\nnet.addHost('h')", ["not understood: 'ipBase'",
     "'foo' of the network", "it builds 2"]),
    ("net = Mininet(None, f(), lambda: 1)\nnet.addHost('h')", ["'host' of the", "it builds 2"]),
    ("net = Mininet(host=custom(H, c=1))\nnet.addHost('h')", ["'host' of the", "it builds 2"]),
    ("a = partial(TCLink, bw=1)", [UNDERSTOOD + "partial(TCLink"]),
    # Calls that are understood, and have no equivalent.
    ("Link(s, net['h'])", ["not carried over: Link(s, net['h'])"]),
    ("net.configLinkStatus('s', 'h', 'down')", ["not carried over: net.config"]),
    ("s.setHostRoute('10.0.0.1', 's-eth0')\ns.IP()", ["not carried over: s.setHostRoute("]),
    # Parts that are skipped, and calls of what is not known.
    ("[net.addHost(n) for n in f()]", [UNDERSTOOD + "[net.addHost(n)"]),
    ("[net.addHost(n) for n in 'ab' if f()]", [UNDERSTOOD + "[net.addHost(n)"]),
    ("f() and net.addHost('a')", [UNDERSTOOD + "net.addHost('a')"]),
    ("net.addHost('a') if f() else 0", [UNDERSTOOD + "net.addHost('a') if f()"]),
    ("def more(n):\n    net.addHost(n)\nfor n in f():\n    more(n)", [UNDERSTOOD + "for n in f()"]),
    ("class A:\n    def more(self): net.addHost('a')\nA().more()", [UNDERSTOOD + "A()",
     UNDERSTOOD + "A().more()"]),
    ("for n in f():\n    s.cmd(n)", [UNDERSTOOD + "for n in f():"]),
    ("f().addHost('a')", [UNDERSTOOD + "f().addHost('a')"]),
    ("map(net.addHost, 'ab')", [UNDERSTOOD + "map(net.addHost, 'ab')"]),
    ("run(target=lambda: net.addHost('a'))", [UNDERSTOOD + "run(target="]),
    ("if net.name:\n    net.stop()", []),
    ("n = 2\nif f():\n    n = 3", [UNDERSTOOD + "if f(): (left out)"]),
    ("n = []\nif f(): n.append(1)", [UNDERSTOOD + "if f(): n.append(1) (left out)"]),
    ("net.n = 1\nif f():\n    net.n = 2", [UNDERSTOOD + "if f(): (left out)"]),
    ("for i in range(2):\n    if f(): continue", [UNDERSTOOD + "if f(): continue (left out)"]),
    ("def a():\n    if f(): return 1\na()", [UNDERSTOOD + "if f(): return 1 (left out)"]),
    ("for i in range(2): pass\nfor i in f():\n    break", []),
    ("a = list(range(10000))\na.append(1)\na.insert(0, 1)", [UNDERSTOOD + "a.append(1)",
     UNDERSTOOD + "a.insert(0, 1)"]),
    ("d = {}\nd[f()] = 1\nd[1] = 2", [UNDERSTOOD + "d[f()]"]),
    ("print(*f(), **f())\nunknown(**f())", []),
]  # fmt: skip


@pytest.mark.parametrize(("text", "notes"), LOSSES)
def test_nothing_is_lost_in_silence(tmp_path: Path, text: str, notes: list[str]) -> None:
    first = "net = Mininet()\ns = net.addHost('s')\n"
    host = "" if "addHost('h'" in text or "(*f(), ip" in text else "net.addHost('h')\n"
    lab = mn(tmp_path, f"{first}{host}{text}")
    said = [note.partition(": ")[2] for note in lab.notes]
    said = [note for note in said if not note.startswith(("it builds 1", "the link's properties"))]
    assert len(said) == len(notes), said
    assert [
        text for text, wanted in zip(said, notes, strict=True) if text.startswith(wanted)
    ] == said
    assert ("addr1" in text) == ("--mac 02:00:00:00:00:09" in "".join(lines(lab)))


@pytest.mark.parametrize(
    ("text", "guests"),
    [
        ("[net.addHost(f'{i}{j}') for i in 'ab' for j in 'xy' if i + j != 'by']", "ax ay bx"),
        ("a = {n: net.addHost(n) for n in ('a', 'b')}\na['a'].setIP('10.0.0.9')", "a b"),
        ("try:\n    pass\nexcept E:\n    pass\nelse:\n    net.addHost('a')", "a"),
        ("def f():\n    try:\n        return\n    finally:\n        net.addHost('a')\nf()", "a"),
        ("with f(net.addHost('a')) as b:\n    net.addHost('b')", "a b"),
        ("assert net.addHost('a')\n(x := net.addHost('b'))\nx.setIP('10.0.0.9')", "a b"),
        ("n = 1\ndef f():\n    global n\n    n = 'a'\nf()\nnet.addHost(n)", "a"),
        ("if 1 < 2 < 3 and 'x' not in ['y'] and net is not None:\n    net.addHost('a')", "a"),
        ("a, b = [net.addHost(n) for n in 'ab']\nx, y = net.get('a', 'b')\nx.setIP('10.0.0.9')",
         "a b"),
        ("for h in [*'ab']:\n    net.addHost(h)\nwhile 0: pass\nelse: net.addHost('c')", "a b c"),
        ("n = 'b'\nif net.flag: net.addHost('a')", "a"),
        ("class A(Topo):\n    def build(self, n): self.addHost(n)\n"
         "class B(A):\n    def build(self):\n        super().build('b')\n"
         "        self.addHost('c')\nnet.stop()\nnet = Mininet(topo=B())", "b c"),
        ("class A(Topo):\n    def __init__(self):\n        super(A, self).__init__()\n"
         "        self.addHost('a')\n    def build(self): super().build(); self.addHost('b')\n"
         "net = Mininet(A())", "a b"),
    ],
)  # fmt: skip
def test_what_is_understood(tmp_path: Path, text: str, guests: str) -> None:
    lab = mn(tmp_path, f"net = Mininet()\n{text}\n")
    assert " ".join(sorted(lab.machines)) == guests
    assert all("taken as true" in note for note in lab.notes), lab.notes


def test_long_statements_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often a loop comes to them."""
    walked: list[ast.AST] = []
    walk = ast.walk

    def counted(node: ast.AST) -> Iterator[ast.AST]:
        walked.append(node)
        return walk(node)

    monkeypatch.setattr(ast, "walk", counted)
    numbers = ", ".join(["1"] * 1000)
    with pytest.raises(Usage, match="too many steps"):
        mn(tmp_path, f"while True:\n    if foo():\n        x = [{numbers}]\n")
    assert len(walked) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = (", "net.py:1: not Python"),
        (f"{MANY}def f(): pass\nwhile 1: f()", "too many steps"),
        (f"{MANY}while 1: [1 for b in (1,)]", "too many steps"),
        ("def f(): pass\nx = 'a' * 9000\nwhile 1: x in x", "too many steps"),
        ("x = range(10000)\nwhile 1: sum(x)", "too many steps"),
        ("x = {" + "1: 1, " * 9000 + "}\nwhile 1: x.items()", "too many steps"),
        ("x = list(range(10000))\nwhile 1: x.index(9999)", "too many steps"),
        (f"def f({', '.join(f'a{n}' for n in range(9000))}): pass\nwhile 1: f()", "too many"),
        ("while 1:\n class A:\n  " + "0;" * 50000, "too many steps"),
        ("while 1: import " + ",".join("a" * 50000), "too many steps"),
        ("while 1: " + "a=" * 50000 + "1", "too many steps"),
        ("while 1: LinearTopo(k=1000, n=3)", "too many steps"),
        (
            "".join(f"class a{n}: 0\n" for n in range(3000))
            + f"class Z({', '.join(f'a{n}' for n in range(3000))}): 0\nwhile 1: Z()",
            "too many",
        ),
        (
            "net = Mininet()\nfor n in range(9000): net.addSwitch('s%d' % n)\n"
            "while 1: net.get('x')",
            "too many steps",
        ),
        (f"net = Mininet()\nwhile 1: net.addHost(lambda: [{'1, ' * 50000}])", "too many steps"),
        ("x = 1", "no network was found"),
        ("while True:\n    x = 1\n", "too many steps"),
        ("def f(): f()\nf()", "nested too deeply"),
        ("x = [1]\nwhile 1:\n    x = [x, x]\n", "too many steps"),
        ("x = 'a'\nfor i in range(99999999): x += x\nnet = 1", "no network was found"),
        ("x = 9\nwhile 1: x = x * x + 10 ** 10 ** 10", "too many steps"),
        ("x = '%999999999d' % 1 + '{:999999999}'.format(1) + f'{1:999999999}'", "no network"),
        ("x = " + "-" * 3000 + "1", "no network|not Python|nested"),
        ("net = Mininet()\nnet.addHost('a')\nnet.addHost('a')", "net.py:3: there are two nodes"),
        ("net = Mininet()\nnet.addLink('a', 'b')", "net.py:2: there is no node 'a'"),
        ("import os\nos.system('touch x')\nopen('x', 'w')\neval('1')", "no network was found"),
        ("().__class__.__bases__[0].__subclasses__()", "no network was found"),
        ("import sys\nx = []\nx.extend(sys.argv)\nx.extend(1)", "no network was found"),
        (
            "class A0(object): pass\n"
            + "".join(f"class A{n}(A{n - 1}, A{n - 1}): pass\n" for n in range(1, 41))
            + "x = A40()",
            "no network was found",
        ),
    ],
)
def test_bad_scripts_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(Usage, match=message):
        mn(tmp_path, text)
    assert os.listdir(tmp_path) == ["net.py"]


MINIEDIT = {
    "application": {"ipBase": "10.1.0.0/16"},
    "version": "2",
    "controllers": [{"opts": {"hostname": "c0"}, "x": "1", "y": "2"}],
    "hosts": [
        {"number": "1", "opts": {"hostname": "h1", "nodeNum": 1, "startCommand": "date"}},
        {"number": "2", "opts": {"hostname": "h2", "ip": "10.1.0.9", "defaultRoute": "10.1.0.1"}},
    ],
    "switches": [
        {"number": "1", "opts": {"hostname": "s1", "switchType": "legacySwitch"}},
        {"number": "2", "opts": {"hostname": "r2", "switchType": "legacyRouter"}},
    ],
    "links": [
        {"src": "h1", "dest": "s1", "opts": {"bw": 10, "delay": "20", "loss": 1}},
        {"src": "h2", "dest": "s1", "opts": {}},
        {"src": "h2", "dest": "r2", "opts": {"delay": "3ms"}},
    ],
}


def test_what_miniedit_has_and_we_have_not(tmp_path: Path) -> None:
    network = {
        "application": {"ipBase": 5, "startCLI": "1"},
        "extra": [1],
        "hosts": [
            {"number": "1", "opts": {"hostname": "a", "ip": 5, "defaultRoute": ["x"], "cpu": 0.5}},
            {"number": "2", "opts": {"hostname": "b", "foo": "x", "sched": "host"}},
        ],
        "switches": [{"number": "1", "opts": {"hostname": "s", "switchIP": "10.0.0.9"}}],
        "links": [{"src": "a", "dest": "b", "opts": {"speedup": 1, "bw": "x"}}],
    }
    lab = mn(tmp_path, json.dumps(network))
    assert [note.partition(": ")[2] for note in lab.notes] == [
        *("'extra' is not carried over", "'ipBase' is not a text: not carried over"),
        *("'ip' of 'a' is not a text: not carried over", "'defaultRoute' of 'a' is not a text: "
          "not carried over"),
        *("'cpu' of 'a' is not carried over", "'foo' of 'b' is not carried over"),
        *("'switchIP' of 's' is not carried over", "link 1: 'speedup' is not carried over"),
        "link 1: bw 'x': not carried over",
    ]  # fmt: skip


def test_miniedit(tmp_path: Path) -> None:
    lab = mn(tmp_path, json.dumps(MINIEDIT))
    assert lines(lab) == [
        *("fs init", "bridge create h2-r2", "bridge create s1"),
        *(f"guest create {name} --memory 128M" for name in ("h1", "h2", "r2")),
        "guest startup r2 -",
        "iface create h1-eth0 --bridge s1 --address 10.1.0.1/16",
        "iface shape h1-eth0 --delay 20us --loss 1 --rate 10mbit",
        "iface create h2-eth0 --bridge s1 --address 10.1.0.9/8",
        "iface route add h2-eth0 default --via 10.1.0.1",
        "iface create h2-eth1 --bridge h2-r2",
        "iface shape h2-eth1 --delay 3ms",
        "iface create r2-eth0 --bridge h2-r2",
        "iface shape r2-eth0 --delay 3ms",
    ]
    said = "\n".join(lab.notes)
    assert "'startCommand' of 'h1'" in said
    assert "link 1: the link's properties apply to what 'h1' sends" in said
    for text in ("{", "{}", '{"hosts": 1}', '{"hosts": [{"opts": {"hostname": 1}}]}'):
        with pytest.raises(Usage):
            mn(tmp_path, text)
    with pytest.raises(Usage, match="link 1 lacks"):
        mn(tmp_path, json.dumps({**MINIEDIT, "links": [{"src": "h1"}]}))


# ---- names and masters ----


@given(st.lists(st.text(min_size=1, max_size=50), max_size=20))
def test_names_are_valid_and_stable(said: list[str]) -> None:
    for kind in ("guest", "bridge"):
        found = naming.Names(kind, lambda where, text: None)
        made = [found.of(each, "x") for each in said]
        again = naming.Names(kind, lambda where, text: None)
        assert made == [again.of(each, "x") for each in said]
        assert len(set(made)) == len(made)
    for each in said:
        assert naming.device(each) == naming.device(naming.device(each))


@settings(max_examples=50)
@given(st.text(st.sampled_from("topologynodes:{}[]&*a!-'\"|>\n #,<$"), max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        yamltree.parse(text, "x")
    except Usage as e:
        message = str(e)
        assert "\n" not in message


def test_names_that_are_kept() -> None:
    notes: list[str] = []
    found = naming.Names("bridge", lambda where, text: notes.append(text))
    assert [found.of(name, "x") for name in ("A", "lan0", "lo", "a_much_longer_name", "é")] == [
        *("A", "lan0", "lo-2", "a_much_lo-62892", "b_")
    ]
    assert notes[0] == "'lo' is named 'lo-2'"
    assert len(notes) == 3


def test_many_things_of_the_same_name() -> None:
    def name(count: int) -> None:
        found = naming.Names("bridge", lambda where, text: None)
        made = [found.of(chr(0x4E00 + n), "x") for n in range(count)]
        assert made[:3] == ["b_", "b_-2", "b_-3"]

    def connect(count: int) -> None:
        lab = Topology()
        names = {lab.between(("a", "b"), "x").name for _ in range(count)}
        assert len(names) == len(lab.segments) == count

    def settle(count: int) -> None:
        lab = Topology()
        for n in range(count):
            nic = lab.nic(lab.machine("a", "x"), f"eth{n}", "x")
            assert nic is not None
            nic.segment = lab.segment(f"a-eth{n}", "x").name
        lab.settle()
        nics = lab.machines["a"].nics.values()
        assert [nic.segment for nic in nics] == [f"a-eth{n}-2" for n in range(count)]

    for each in (name, connect, settle):
        check_linear(each)


def test_segments_do_not_have_the_names_of_interfaces(tmp_path: Path) -> None:
    text = "net = Mininet()\nnet.addLink(net.addHost('a'), net.addHost('eth0'))"
    found = lines(mn(tmp_path, text))
    assert found[1] == "bridge create a-eth0-2"
    assert "iface create a-eth0 --bridge a-eth0-2 --address 10.0.0.1/8" in found


def test_masters_of_images() -> None:
    choice = printing.Choice([("a/*", "any"), ("a/frr", "frr"), ("a/frr:9", "nine")])
    images = ("a/frr:9", "a/frr:8", "a/frr@sha256:00", "a/x:1", "frr", "host:5000/frr")
    assert [choice.master(image) for image in images] == ["nine", "frr", "frr", "any", None, None]
    assert printing.untagged("host:5000/frr") == "host:5000/frr"


# ---- commands ----


def test_import_prints_a_lab_file_and_what_it_lacks(lab: Lab, tmp_path: Path) -> None:
    make(lab.directory, {"lab.conf": "pc1[0]=A\npc1[cpus]=1\n", "pc1/file": "x"})
    done = lab("dumm-console import kathara . --memory 64M --map kathara/base=busybox")
    assert "guest create pc1 --master busybox --memory 64M --files pc1\n" in done.out
    assert done.err == (
        "dumm-console: lab.conf:2: pc1[cpus]=1: guests have kernels of their own, "
        "without such limits\n"
    )
    lab("dumm-console import kathara . --strict", status=1)
    done = lab("dumm-console import kathara . --strict --map x=busybox", status=1)
    assert "image 'kathara/base': no --map" in done.err
    one_line_error(lab(f"dumm-console import kathara {tmp_path}/x", status=3).err, "dumm-console")
    one_line_error(lab("dumm-console import containerlab nowhere", status=3).err, "dumm-console")
    one_line_error(lab("dumm-console import mininet lab.conf", status=2).err, "dumm-console")
    lab("dumm-console import kathara . --map busybox", status=2)
    done = lab(["dumm-console", "-C", tmp_path / "other", "import", "kathara", "."])
    assert f"--files {lab.directory}/pc1\n" in done.out


@pytest.mark.uml
def test_imported_lab_runs(new_lab: Callable[..., Lab], tmp_path: Path) -> None:
    files = {
        "lab.conf": "r[0]=A\nr[1]=B\npc1[0]=A\npc2[0]=B\npc1[ipv6]=true\n",
        "r.startup": "ip a add 10.0.1.1/24 dev eth0\nip a add 10.0.2.1/24 dev eth1\n",
        "pc1.startup": "ip a add 10.0.1.2/24 dev eth0\nip route add default via 10.0.1.1\n",
        "pc2.startup": "ip a add 10.0.2.2/24 dev eth0\nsh /root/more\n",
        "pc2/root/more": "ip route add default via 10.0.2.1\n",
    }
    source = make(tmp_path / "source", files)
    lab = new_lab()
    text = lab(["dumm-console", "import", "kathara", source, "--memory", "64M"]).stdout
    lab("dumm-console apply -", stdin=text)
    dump = lab("dumm-fs dump").stdout
    assert lab("dumm-console apply - --dry-run --prune", stdin=dump).stdout == b""
    assert lab("dumm-guest start --all --wait booted").err == ""
    lab("dumm-guest exec pc1 -- ping -c 1 -w 10 10.0.2.2")
    assert lab("dumm-guest exec r -- cat /proc/sys/net/ipv6/conf/all/disable_ipv6").out == "1\n"
    lab("dumm-console apply - --dry-run", stdin=text)


def test_topology_in_a_directory_is_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="has 0 files"):
        containerlab.read(str(tmp_path), {})
    make(tmp_path, {"a.clab.yml": "topology: {nodes: {a: }}"})
    assert "guest create a --memory 128M" in lines(containerlab.read(str(tmp_path), {}))
