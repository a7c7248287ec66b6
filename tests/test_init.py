"""Guests that boot an init of their master, systemd or that of System V, and those with the agent
alone: a machine of their own, its ends, and how it comes back."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support import PATIENCE, ROOT, SUITES
from support.checks import is_waiting, until
from support.guests import inside, state_of
from support.labs import Lab
from support.masters import WITHOUT_SERVICES

pytestmark = pytest.mark.uml

KINDS = ["--host-net", "--isolated"] if ROOT else ["--isolated"]
SYSTEMD, SYSVINIT, AGENT = "systemd", "sysvinit", "agent"
#: How to create a guest of each kind.
OPTIONS = {
    SYSTEMD: f"--master server --memory 192M --init /sbin/init {WITHOUT_SERVICES}",
    SYSVINIT: "--master debian-sysvinit --memory 128M --init /sbin/init",
    AGENT: "--master busybox",
}
#: A kernel's last words; 6.1 cannot tell the two.
POWER_OFF = "reboot: (Power down|System halted)"


def says(lab: Lab, command: str, name: str = "a") -> str:
    """The output of a command in a guest, whatever its status."""
    return lab(["dumm-guest", "exec", name, "--", "sh", "-c", command], status=None).out.strip()


def is_up(lab: Lab, kind: str, name: str = "a") -> bool:
    if kind == SYSTEMD:
        return says(lab, "systemctl is-system-running", name) in ("running", "degraded")
    return kind == AGENT or says(lab, "runlevel", name) == "N 2"


def boot_id(lab: Lab, status: int | None = 0) -> str:
    return lab("dumm-guest exec a -- cat /proc/sys/kernel/random/boot_id", status=status).out


# ---- each way to end, and to come back ----

#: Units that guests do without, except with the newest of Debian's kernels: a fork takes long in
#: the others.
UNITS = (
    "ssh sshd-keygen systemd-journal-catalog-update systemd-update-done ldconfig systemd-sysusers "
    "kmod-static-nodes systemd-modules-load systemd-sysctl systemd-random-seed systemd-remount-fs "
    "modprobe@configfs modprobe@drm modprobe@efi_pstore modprobe@fuse modprobe@dm_mod modprobe@loop"
)
MASKED = " ".join(f"--arg systemd.mask={name}.service" for name in UNITS.split())
#: Likewise: the commands of Debian's inittab for the end of a guest, and hardly more.
TABLE = """\
id:2:initdefault:
si::sysinit:/bin/true
l0:0:wait:/etc/init.d/rc 0
l2:2:wait:/etc/init.d/rc 2
l6:6:wait:/etc/init.d/rc 6
ca:12345:ctrlaltdel:/sbin/shutdown -t1 -a -r now
"""
HOST, APART = KINDS[0], KINDS[-1]
REBOOT, CAD, BY_SCRIPT = "exec a -- reboot", "mconsole a -- cad", "exec a -- sh -c 'reboot; true'"
FORCED, SHUTDOWN = "exec a -- reboot -f", "shutdown -h now"
#: Each kind of guest with each kernel, both in each kind of lab: how it reboots, and how it ends.
CELLS = [
    (SYSTEMD, HOST, "sid", [REBOOT], ["poweroff"]),
    (SYSTEMD, APART, "trixie", [REBOOT], ["stop"]),
    (SYSTEMD, HOST, "bookworm", [REBOOT], ["halt"]),
    (SYSVINIT, APART, "sid", [REBOOT], ["halt"]),
    (SYSVINIT, HOST, "trixie", [BY_SCRIPT], ["poweroff"]),
    (SYSVINIT, APART, "bookworm", [REBOOT], ["stop"]),
    *((AGENT, HOST, suite, [REBOOT, CAD], ["poweroff", "stop"]) for suite in SUITES),
    *((AGENT, APART, suite, [REBOOT, FORCED], ["halt"]) for suite in SUITES),
]
#: The same with a kernel that `dumm-fs kernel build` made.
BUILT_CELLS = [
    (SYSTEMD, APART, [BY_SCRIPT, CAD], [SHUTDOWN]),
    (SYSVINIT, HOST, [CAD], [SHUTDOWN]),
    (AGENT, APART, [REBOOT, FORCED, CAD], ["poweroff"]),
]


@pytest.mark.parametrize(("kind", "where", "suite", "reboots", "ends"), CELLS)
def test_ends_and_reboots(
    new_lab: Callable[..., Lab],
    debian_systemd: str,
    debian_sysvinit: str,
    kind: str,
    where: str,
    suite: str,
    reboots: list[str],
    ends: list[str],
) -> None:
    lab = new_lab("lab", where, kernel=suite)
    ends_and_reboots(lab, kind, reboots, ends, whole=suite == SUITES[0])


@pytest.mark.parametrize(("kind", "where", "reboots", "ends"), BUILT_CELLS)
def test_ends_and_reboots_with_a_built_kernel(
    new_lab: Callable[..., Lab],
    debian_systemd: str,
    debian_sysvinit: str,
    built: str,
    kind: str,
    where: str,
    reboots: list[str],
    ends: list[str],
) -> None:
    ends_and_reboots(new_lab("lab", where, kernel=built), kind, reboots, ends, whole=False)


def ends_and_reboots(
    lab: Lab, kind: str, reboots: list[str], ends: list[str], *, whole: bool
) -> None:
    """Whatever happens to a guest, its network, its state and its log are as they should be."""
    light = not whole and kind != AGENT
    lab("dumm-bridge create lan --address 10.0.0.254/24")
    lab(f"dumm-guest create a {OPTIONS[kind]} {MASKED if light and kind == SYSTEMD else ''}")
    lab("dumm-iface create a-eth0 --bridge lan --address 10.0.0.1/24")
    if light and kind == SYSVINIT:
        write(lab, "/etc/inittab", TABLE)

    def answers() -> None:
        lab("dumm-guest exec a -- ping -c1 -W30 10.0.0.254")

    def comes_back(how: str) -> None:
        first = boot_id(lab)
        lab(f"dumm-guest {how}", status=None)
        if how == CAD or (
            how == BY_SCRIPT and kind == SYSTEMD
        ):  # ready until its services have ended
            until(lambda: boot_id(lab, status=None) not in ("", first), "it has rebooted")
        lab("dumm-guest wait a")
        assert boot_id(lab) != first
        lab("dumm-guest wait a --for booted")
        answers()

    lab("dumm-guest start a")
    lab("dumm-guest wait a --for booted")
    assert light or is_up(lab, kind)
    answers()
    if kind != AGENT:
        # The kernel spares the agent, but not its programs.
        pid = "/proc/$(cat /run/sendsigs.omit.d/dumm-agent)/oom_score_adj"
        assert says(lab, f"cat {pid} /proc/self/oom_score_adj") == "-1000\n0"

    # Memory runs out: what takes it is killed, and nothing else.
    lab("dumm-guest exec a -- tail /dev/zero", status=137)
    assert re.search(r"Out of memory: Killed process \d+ \(tail\)", lab("dumm-console log a").out)
    assert state_of(lab, "a") == "running"
    answers()
    if kind == SYSTEMD:
        # To systemd, neither the agent nor its programs are a part of PID 1 that has failed.
        assert says(lab, "cat /proc/self/cgroup") == "0::/dumm-agent"
        assert says(lab, "systemctl show -p ActiveState init.scope") == "ActiveState=active"

    # Reboots, which a script waits for at once.
    for how in reboots:
        comes_back(how)

    # A panic.
    lab(["dumm-guest", "exec", "a", "--", "sh", "-c", "echo c >/proc/sysrq-trigger"], status=125)
    until(lambda: state_of(lab, "a") == "crashed", "it has crashed")
    assert "Kernel panic - not syncing: sysrq triggered crash" in lab("dumm-console log a").out

    # It ends.
    for how in ends:
        lab("dumm-guest start a")
        answers()
        lab("dumm-guest wait a --for booted")
        if how == "stop":
            lab(f"dumm-guest stop a --timeout {PATIENCE}")
        else:
            lab(f"dumm-guest exec a -- {how}", status=None)
            lab("dumm-guest wait a --for stopped")
        assert state_of(lab, "a") == "stopped"
        log = lab("dumm-console log a").out
        assert re.search(POWER_OFF, log)
        assert "failed" not in log.partition("Asking all remaining processes")[2].partition("\n")[0]
    assert lab("dumm-iface list -o state").out == "down\n"


def write(lab: Lab, path: str, text: str) -> None:
    """Write a file of the guest `a`."""
    tree = inside(lab.mounted("a"))
    lab.host(["sh", "-c", 'printf %s "$1" >"$0"', f"{tree}{path}", text])


@pytest.mark.parametrize("suite", SUITES)
def test_panic_reboots_where_the_kernel_is_told_to(new_lab: Callable[..., Lab], suite: str) -> None:
    lab = new_lab(kernel=suite)
    lab("dumm-bridge create lan --address 10.0.0.254/24")
    lab("dumm-guest create a --arg panic=1")
    lab("dumm-iface create a-eth0 --bridge lan --address 10.0.0.1/24")
    lab("dumm-guest start a")
    pid = lab("dumm-guest list -o pid").out
    for how in ("echo c >/proc/sysrq-trigger", "reboot -f", "echo c >/proc/sysrq-trigger"):
        first = boot_id(lab)
        lab(["dumm-guest", "exec", "a", "--", "sh", "-c", how], status=None)
        lab("dumm-guest wait a")
        assert boot_id(lab) != first
        lab("dumm-guest exec a -- ping -c1 -W30 10.0.0.254")
        assert lab("dumm-guest list -o pid").out == pid
    assert lab("dumm-console log a").out.count("dumm: the kernel has panicked") == 2
    # It can be killed while it waits.
    lab("dumm-guest stop a")
    lab("dumm-guest set a --arg panic=1000")
    lab("dumm-guest start a")
    lab.start(["dumm-guest", "exec", "a", "--", "sh", "-c", "echo c >/proc/sysrq-trigger"])
    until(lambda: state_of(lab, "a") == "starting", "it is about to reboot")
    lab("dumm-guest stop a")
    assert state_of(lab, "a") == "stopped"


# ---- stop ----


STUBBORN = """\
[Service]
ExecStart=/bin/sleep infinity
ExecStop=/bin/sh -c "touch /stopping; while ! test -e /enough; do sleep 0.1; done; touch /stopped"
TimeoutStopSec=infinity
"""
INHIBIT = "systemd-inhibit --what=shutdown --mode=block sleep infinity"
INHIBITED = "systemd-inhibit --list --no-legend | grep shutdown"


def test_stop_waits_for_services_of_systemd(lab: Lab, debian_systemd: str) -> None:
    lab(f"dumm-guest create a {OPTIONS[SYSTEMD]}")
    tree = lab.mounted("a")
    (tree / "etc/systemd/system/stubborn.service").write_text(STUBBORN)
    lab("dumm-guest start a")
    lab("dumm-guest wait a --until -- systemctl start stubborn")
    # Nor does an inhibitor keep systemd from ending them.
    lab(f"dumm-guest exec a -- systemd-run -q {INHIBIT}")
    lab(["dumm-guest", "wait", "a", "--until", "--", "sh", "-c", INHIBITED])
    stop = lab.start(["dumm-guest", "stop", "a", "--timeout", str(PATIENCE)])
    until(lambda: (tree / "stopping").exists(), "the service is told to stop")
    assert state_of(lab, "a") == "stopping"
    until(lambda: is_waiting(stop.pid), "it waits")
    (tree / "enough").touch()
    assert stop.wait(PATIENCE) == 0
    assert (tree / "stopped").exists()
    assert state_of(lab, "a") == "stopped"
    # A limit holds.
    for name in ("stopping", "stopped", "enough"):
        (tree / name).unlink()
    lab("dumm-guest start a")
    lab("dumm-guest wait a --until -- systemctl start stubborn")
    lab("dumm-guest stop a --timeout 2")
    assert state_of(lab, "a") == "stopped"
    assert not (tree / "stopped").exists()


# ---- a machine of its own ----

KEYS = ("ssh_host_ed25519_key", "ssh_host_rsa_key")
#: In place of ssh-keygen -A, which makes those keys that are missing.
KEYGEN = """\
#!/bin/sh
[ "$*" = -A ] || exit 1
for key in ed25519 rsa dsa; do
    key=/etc/ssh/ssh_host_${key}_key
    [ -e $key ] || { echo new $(cat /proc/sys/kernel/random/uuid) >$key; echo new >$key.pub; }
done
"""
LATEST = "cat /etc/hostname /etc/machine-id /etc/ssh/*_key; hostname"


@pytest.fixture
def used(packs: Path, tmp_path: Path) -> Path:
    """A master that was copied from a machine in use."""
    master = tmp_path / "used"
    shutil.copytree(packs / "dumm/masters/busybox", master, symlinks=True)
    (master / "etc/ssh").mkdir()
    (master / "etc/hostname").write_text("vm.example.org\n")
    (master / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    for key in KEYS:
        (master / "etc/ssh" / key).write_text(f"old {key}\n")
        (master / "etc/ssh" / f"{key}.pub").write_text("old\n")
    (master / "usr/bin").mkdir(parents=True, exist_ok=True)
    (master / "usr/bin/ssh-keygen").write_text(KEYGEN)
    (master / "usr/bin/ssh-keygen").chmod(0o755)
    return master


@pytest.mark.parametrize("where", KINDS)
def test_guest_has_an_identity_of_its_own(
    new_lab: Callable[..., Lab], used: Path, where: str
) -> None:
    lab = new_lab("lab", where)
    lab(f"dumm-guest create a b --master {used} --init /sbin/init")
    lab("dumm-guest start a b")
    found = {name: says(lab, LATEST, name).splitlines() for name in "ab"}
    for name, (etc, machine, *keys, hostname) in found.items():
        assert etc == hostname == name
        assert re.fullmatch("[0-9a-f]{32}", machine)
        assert [key.split()[0] for key in keys] == ["new"] * 3
    assert not set(found["a"]) & set(found["b"])
    changed = {f"{p}{end}" for p in KEYS for end in ("", ".pub")}
    listed = set(lab("dumm-fs diff a -o kind,path").lines)
    assert listed >= {f"M\t/etc/ssh/{name}" for name in changed} | {"M\t/etc/hostname"}
    assert "old" in (used / "etc/ssh" / KEYS[0]).read_text()
    # It keeps that, and what it is given later.
    lab("dumm-guest exec a -- reboot -f", status=None)
    lab("dumm-guest wait a")
    assert says(lab, LATEST).splitlines() == found["a"]
    lab("dumm-guest restart a")
    assert says(lab, LATEST).splitlines() == found["a"]
    says(lab, "echo other >/etc/hostname; rm /etc/ssh/ssh_host_rsa_key")
    for command in ("exec a -- reboot -f", "restart a"):
        lab(f"dumm-guest {command}", status=None)
        lab("dumm-guest wait a")
        assert says(lab, "cat /etc/hostname; ls /etc/ssh/*_key | wc -l") == "other\n2"
    # The next boot does the rest of one that was interrupted.
    lab("dumm-guest stop b")
    for key in lab.mounted("b").glob("etc/ssh/ssh_host*"):
        key.unlink()
    lab("dumm-guest start b")
    assert says(lab, "ls /etc/ssh/*_key | wc -l", "b") == "3"


def test_identity_of_a_layer_stays(lab: Lab, used: Path) -> None:
    (lab.directory / "layer/etc/ssh").mkdir(parents=True)
    (lab.directory / "layer/etc/hostname").write_text("www\n")
    (lab.directory / "layer/etc/ssh" / KEYS[1]).write_text("known\n")
    lab(f"dumm-guest create a --master {used} --init /sbin/init")
    lab("dumm-fs overlay add a layer")
    lab("dumm-guest start a")
    assert says(lab, "cat /etc/hostname /etc/ssh/*_key") == f"www\nold {KEYS[0]}\nknown"
    # Without an init, nothing is done at all.
    lab(f"dumm-guest create plain --master {used} --start")
    assert lab("dumm-fs diff plain").out == ""
    assert says(lab, "hostname", "plain") == "plain"


HOSTILE = {
    "a link to itself": "ln -s hostname etc/hostname",
    "a pipe": "mkfifo etc/hostname",
    "a directory": "mkdir etc/hostname",
    "much": "tr '\\0' x </dev/zero | head -c 70000 >etc/hostname",
    "no directory": "rm -r etc/ssh; ln -s /dev/zero etc/ssh",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_identity_in_a_strange_tree(lab: Lab, used: Path, what: str) -> None:
    """Whatever master and guest have in these places, the guest starts."""
    for place in ("master", "guest"):
        master = shutil.copytree(used, lab.directory / f"{place}-master", symlinks=True)
        lab(f"dumm-guest create {place} --master {master} --init /sbin/init")
        tree = master if place == "master" else lab.mounted(place)
        lab.host(["sh", "-c", f"cd {inside(tree)} && rm -rf etc/hostname && {HOSTILE[what]}"])
        lab(f"dumm-guest start {place}")
        assert says(lab, "hostname", place) == place


def test_name_of_a_debian_guest(
    lab: Lab, debian_systemd: str, debian_sysvinit: str, packs: Path
) -> None:
    """The master has none, nor the build host's name servers; each guest has its own."""
    for kind, master in ((SYSTEMD, debian_systemd), (SYSVINIT, debian_sysvinit)):
        for name in ("hostname", "resolv.conf"):
            assert not (packs / "dumm/masters" / master / "etc" / name).exists()
        lab(f"dumm-guest create {kind} {OPTIONS[kind]}")
    lab("dumm-guest start --all")
    for kind in (SYSTEMD, SYSVINIT):
        lab(f"dumm-guest wait {kind} --for booted")
        assert says(lab, "hostname", kind) == kind
        assert says(lab, "getent hosts localhost", kind).startswith("::1 ")
        assert says(lab, f"getent hosts {kind} >/dev/null && echo yes", kind) == "yes"
        assert "hostname" not in lab(f"dumm-fs diff {kind}").out
    # Its host keys are not the master's; sshd has started with them.
    kept = packs / "dumm/masters" / debian_systemd / "etc/ssh/ssh_host_ed25519_key.pub"
    key = says(lab, "cat /etc/ssh/ssh_host_ed25519_key.pub", SYSTEMD)
    assert key.startswith("ssh-ed25519 ")
    assert key != kept.read_text().strip()
    assert says(lab, "systemctl is-active ssh", SYSTEMD) == "active"
    assert re.fullmatch("[0-9a-f]{32}", says(lab, "cat /etc/machine-id", SYSTEMD))


# ---- devices ----


@pytest.mark.parametrize("modprobe", [True, False])
@pytest.mark.parametrize("suite", SUITES)
def test_devices_load_their_modules(
    new_lab: Callable[..., Lab], suite: str, modprobe: bool
) -> None:
    """Those of the pack's modules.devname, with the guest's modprobe or without any."""
    lab = new_lab(kernel=suite)
    lab("dumm-guest create a")
    if not modprobe:
        (lab.mounted("a") / "sbin/modprobe").unlink()
    lab("dumm-guest start a")
    assert says(lab, "stat -c %a /run/lock") == "1777"
    modes = {"ppp": "600", "net/tun": "666", "fuse": "666", "cuse": "600", "loop-control": "600"}
    for name, mode in modes.items():
        assert says(lab, f"stat -c '%F %a' /dev/{name}") == f"character special file {mode}"
    assert says(lab, "cut -d' ' -f1 /proc/modules | grep -e ppp -e tun -e fuse") == ""
    for name in ("ppp", "net/tun", "fuse", "cuse"):
        lab(["dumm-guest", "exec", "a", "--", "sh", "-c", f": <>/dev/{name}"])
    # Others by their aliases.
    lab("dumm-guest exec a -- ip link add v type vrf table 7")
    lab("dumm-guest exec a -- ip link add b type bond")
    loaded = says(lab, "cut -d' ' -f1 /proc/modules").split()
    assert {"ppp_generic", "tun", "fuse", "cuse", "vrf", "bonding"} <= set(loaded)
    done = lab("dumm-guest exec a -- ip link add x type nonsense", status=None)
    assert done.code
    assert lab("dumm-fs diff a").lines == ([] if modprobe else ["D /usr/sbin/modprobe"])


@pytest.mark.parametrize("suite", SUITES)
def test_pppoe(new_lab: Callable[..., Lab], suite: str, debian_systemd: str) -> None:
    lab = new_lab(kernel=suite)
    lab("dumm-bridge create lan")
    lab(f"dumm-guest create server client --memory 96M --master {debian_systemd}")
    lab("dumm-iface create server-eth0 client-eth0 --bridge lan")
    lab("dumm-guest start server client")
    options = "printf 'noauth\\nnoccp\\n' >/etc/ppp/pppoe-server-options"
    says(lab, f"{options}; pppoe-server -I eth0 -L 10.9.0.1 -R 10.9.0.2", "server")
    dial = "pppd plugin pppoe.so eth0 noauth noccp updetach"
    lab(f"dumm-guest exec client -- {dial}")
    lab("dumm-guest exec client -- ping -c1 -W30 10.9.0.1")
