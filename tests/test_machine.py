"""A server as people know it, Debian 13 with systemd, on a root file system served by virtiofs: its
packages, users, services and data are as on a machine of its own. In a lab of root on the host's
network, and in one of an ordinary user; all tests of a lab share two guests."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from support import PATIENCE, TOP, outside
from support.labs import Lab
from support.repository import Package, Repository
from support.users import User

pytestmark = [pytest.mark.uml, pytest.mark.root, pytest.mark.xdist_group("machine")]

ADDRESS = "10.0.0.1"
GUESTS = """\
guest create server --memory 256M --init /sbin/init
guest create client --memory 96M
bridge create lan --address 10.0.0.254/24
iface create server-eth0 --bridge lan --address 10.0.0.1/24
iface create client-eth0 --bridge lan --address 10.0.0.2/24
iface route add server-eth0 default --via 10.0.0.254
bridge uplink lan --nat
"""


class Machine(NamedTuple):
    """A lab with a server and a client on a segment with an uplink; a web server's directory in the
    world outside."""

    lab: Lab
    www: Path

    def sh(self, script: str, *, name: str = "server", status: int | None = 0) -> str:
        """Run a shell script in a guest; return its output and errors."""
        words = ["dumm-guest", "exec", name, "--", "sh", "-ec", f"exec 2>&1\n{script}"]
        return self.lab(words, status=status).out.strip()

    def client(self, script: str, status: int | None = 0) -> str:
        """The same on the client."""
        return self.sh(script, name="client", status=status)

    def by(self, user: str, script: str) -> str:
        """The same as a user of the server, as `su` runs it."""
        return self.sh(f"su - {user} -c {shlex.quote(script)}")

    def put(self, file: Path, path: str) -> None:
        """Copy a file to the server, as on the host."""
        self.lab(["dumm-guest", "exec", "server", "--", "tee", path], stdin=file.read_bytes())

    def add_user(self, name: str) -> None:
        """Make a user of the server, unless there is one."""
        self.sh(f"id {name} || useradd --create-home --shell /bin/bash {name}")


@contextlib.contextmanager
def lab_of(kind: str, packs: Path, place: Path, master: str) -> Iterator[Lab]:
    """An empty directory of root, or of an ordinary user, who has this master."""
    if kind == "root":
        yield Lab(place, packs)
        return
    user = User(51, packs)
    try:
        user.take_master(packs, master)
        yield user.lab("lab")
    finally:
        user.end()


@pytest.fixture(scope="module", params=["root", "user"])
def machine(
    request: pytest.FixtureRequest,
    packs: Path,
    debian_systemd: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Machine]:
    www = tmp_path_factory.mktemp("www")
    with (
        outside.world(www) as inside,
        outside.names(inside),
        lab_of(request.param, packs, tmp_path_factory.mktemp("lab"), debian_systemd) as lab,
    ):
        lab(f"dumm-fs init --kernel sid --master {debian_systemd}")
        try:
            lab("dumm-console", stdin=GUESTS.encode())
            lab("dumm-guest start server client --wait booted --timeout 250")
            assert lab("dumm-guest list -o rootfs").lines == ["virtiofs"] * 2
            yield Machine(lab, www)
        finally:
            lab.end()


def test_boots_without_failures(machine: Machine) -> None:
    assert machine.sh("systemctl is-system-running") == "running"
    assert machine.sh("systemctl --failed --no-legend") == ""
    units = "postgresql@17-main nginx ssh cron systemd-journald systemd-logind dbus"
    assert set(machine.sh(f"systemctl is-active {units}").split()) == {"active"}
    assert machine.sh("hostname; getent hosts localhost | cut -d: -f1-3").startswith("server\n::1")
    assert machine.sh("stat -c %a /dev/shm /tmp /var/tmp /run/lock").split() == ["1777"] * 4


def test_postgresql_keeps_its_data_over_a_restart(machine: Machine) -> None:
    machine.add_user("bob")
    assert machine.by("postgres", "createuser bob && createdb --owner=bob shop") == ""
    rows = "create table items as select n, md5(n::text) from generate_series(1, 2000) n"
    assert machine.by("bob", f"psql -qc {shlex.quote(rows)} shop") == ""
    count = "psql -Atc 'select sum(n), count(*) from items' shop"
    assert machine.by("bob", count) == "2001000|2000"
    machine.sh("echo '@reboot touch rebooted' | crontab -u bob -")
    machine.sh("logger -t before what it was")
    machine.lab("dumm-guest restart server --wait booted", timeout=PATIENCE)
    assert machine.by("bob", count) == "2001000|2000"
    assert machine.by("bob", "psql -c 'vacuum full items' shop && dropdb shop") == "VACUUM"
    assert "what it was" in machine.sh("journalctl --no-pager -b -1 -t before")
    machine.lab("dumm-guest wait server --until -- test -e /home/bob/rebooted")
    owners = machine.sh("stat -c %U:%G /home/bob/rebooted /var/lib/postgresql/17/main/base")
    assert owners.split() == ["bob:bob", "postgres:postgres"]


def test_nginx(machine: Machine) -> None:
    machine.sh("echo 'hello from here' >/var/www/html/index.html")
    assert machine.client(f"curl -sS http://{ADDRESS}/") == "hello from here"
    assert machine.lab.host(f"busybox wget -q -O - http://{ADDRESS}/").out == "hello from here\n"
    machine.sh("chmod 600 /var/www/html/index.html")
    assert "403 Forbidden" in machine.client(f"curl -sS http://{ADDRESS}/")
    machine.sh("chmod 644 /var/www/html/index.html; systemctl reload nginx")
    assert machine.client(f"curl -sS http://{ADDRESS}/") == "hello from here"
    machine.sh("logrotate -f /etc/logrotate.d/nginx")
    logs = machine.sh("cd /var/log/nginx; stat -c %U:%G:%a *.log")
    assert set(logs.split()) == {"www-data:adm:640"}
    assert "GET / " in machine.sh("cat /var/log/nginx/access.log.1")


def test_users_log_in_by_ssh(machine: Machine) -> None:
    machine.add_user("alice")
    machine.client("rm -rf /root/.ssh; ssh-keygen -q -N '' -f /root/.ssh/id_ed25519")
    key = machine.client("cat /root/.ssh/id_ed25519.pub")
    authorize = f"umask 077; mkdir -p .ssh; echo {shlex.quote(key)} >.ssh/authorized_keys"
    machine.by("alice", authorize)
    options = "-o StrictHostKeyChecking=no -o LogLevel=ERROR -o BatchMode=yes"
    ssh = f"ssh {options} alice@{ADDRESS}"
    said = machine.client(f"{ssh} 'id -un; pwd; umask'")
    assert said.split() == ["alice", "/home/alice", "0002"]
    assert re.fullmatch("/dev/pts/[0-9]+", machine.client(f"{ssh} -tt tty"))
    copy = f"alice@{ADDRESS}:copy"
    machine.client(f"head -c 300000 /dev/urandom >/tmp/f; scp {options} /tmp/f {copy}")
    assert machine.by("alice", "sha256sum <copy") == machine.client("sha256sum </tmp/f")
    machine.client(f"scp {options} {copy} /tmp/back && cmp /tmp/f /tmp/back")
    # sshd believes no file that others may write to.
    machine.by("alice", "chmod 666 .ssh/authorized_keys")
    assert "Permission denied" in machine.client(f"{ssh} true", status=255)
    machine.by("alice", "chmod 600 .ssh/authorized_keys")
    machine.client(f"{ssh} true")


def test_apt_installs_and_upgrades_through_the_uplink(machine: Machine, tmp_path: Path) -> None:
    """From a mirror in the world outside, which a name server knows."""
    names = tmp_path / "resolv.conf"
    names.write_text(f"nameserver {outside.THERE}\n")
    names.chmod(0o644)
    machine.put(names, "/etc/resolv.conf")
    mirror = Repository(machine.www / "debian")
    library = Package("libgreeting", "1.0", {"/usr/share/greeting": "hello\n"})
    script = "#!/bin/sh\ncat /usr/share/greeting\n"
    tool = Package("greeter", "1.0", {"/usr/bin/greet": script}, depends="libgreeting")
    mirror.publish(library, tool)
    source = "deb [trusted=yes] http://mirror.example/debian ./"
    machine.sh(f"rm -rf /etc/apt/sources.list*; echo '{source}' >/etc/apt/sources.list")
    apt = "DEBIAN_FRONTEND=noninteractive apt-get -qq"
    machine.sh(f"{apt} update && {apt} -y install greeter")
    assert machine.sh("greet; apt-mark showmanual greeter; apt-mark showauto libgreeting") == (
        "hello\ngreeter\nlibgreeting"
    )
    newer = library._replace(version="1.1", files={"/usr/share/greeting": "welcome\n"})
    mirror.publish(newer, tool)
    assert "libgreeting (1.1)" in machine.sh(f"{apt} update && {apt} -y upgrade")
    assert machine.sh("greet; dpkg-query -W -f '${Version}' libgreeting") == "welcome\n1.1"
    machine.sh(f"{apt} -y remove --purge greeter && {apt} -y autoremove")
    assert machine.sh("dpkg -l | grep -c greet", status=1) == "0"
    # apt fetches as a user of its own.
    assert machine.sh("stat -c %U /var/lib/apt/lists/partial") == "_apt"


SERVICE = """\
[Service]
User=tally
StateDirectory=tally
ExecStart=/bin/sh -c "echo started >>/var/lib/tally/log; exec sleep infinity"
[Install]
WantedBy=multi-user.target
"""
SCRIPTS = {
    "preinst": "echo preinst $* >>/root/calls",
    "postinst": """\
echo postinst $* >>/root/calls
getent passwd tally || useradd --system --shell /usr/sbin/nologin tally
dpkg-statoverride --list /var/spool/tally || \
dpkg-statoverride --update --add root tally 2770 /var/spool/tally
if [ "$1" = configure ]; then systemctl daemon-reload; systemctl enable --now tally; fi""",
    "prerm": "echo prerm $* >>/root/calls; systemctl disable --now tally",
    "postrm": """\
echo postrm $* >>/root/calls
if [ "$1" = purge ]; then
    dpkg-statoverride --remove /var/spool/tally; userdel tally; rm -rf /var/lib/tally
fi""",
}


def test_dpkg_runs_scripts_and_keeps_what_the_administrator_changed(
    machine: Machine, tmp_path: Path
) -> None:
    package = Package(
        "tally",
        "1.0",
        {
            "/lib/systemd/system/tally.service": SERVICE,
            "/etc/tally.conf": "colour = red\n",
            "/usr/bin/tally": "#!/bin/sh\nid -gn\n",
            "/var/spool/tally/.keep": "",
        },
        scripts=SCRIPTS,
        conffiles=("/etc/tally.conf",),
        modes={"/usr/bin/tally": 0o2755},
    )
    for version in ("1.0", "1.1"):
        deb = package._replace(version=version).build(tmp_path)
        machine.put(deb, f"/root/{deb.name}")
    machine.sh("rm -f /root/calls; dpkg -i /root/tally_1.0_all.deb")
    assert machine.sh("systemctl is-active tally") == "active"
    assert machine.sh("ps -o user= -C sleep | sort -u") == "tally"
    owners = machine.sh("stat -c %U:%G:%a /var/spool/tally /usr/bin/tally /var/lib/tally")
    assert owners.split() == [
        "root:tally:2770",
        "root:root:2755",
        "tally:tally:755",
    ]
    machine.sh("echo 'colour = blue' >/etc/tally.conf; touch /var/spool/tally/f")
    assert machine.sh("stat -c %G /var/spool/tally/f") == "tally"
    machine.sh("dpkg --force-confold -i /root/tally_1.1_all.deb")
    assert machine.sh("cat /etc/tally.conf; stat -c %a /var/spool/tally") == "colour = blue\n2770"
    assert machine.sh("dpkg --verify tally", status=None).endswith("c /etc/tally.conf")
    machine.sh("rm /var/spool/tally/f; dpkg --purge tally")
    calls = machine.sh("cat /root/calls").splitlines()
    assert calls == [
        "preinst install",
        "postinst configure",
        "prerm upgrade 1.1",
        "preinst upgrade 1.0 1.1",
        "postrm upgrade 1.1",
        "postinst configure 1.0",
        "prerm remove",
        "postrm remove",
        "postrm purge",
    ]
    left = machine.sh("ls /var/lib/tally /etc/tally.conf || id tally", status=1)
    assert left.count("o such") == 3
    assert machine.sh("dpkg --audit; systemctl --failed --no-legend") == ""


def test_files_of_users(machine: Machine) -> None:
    machine.add_user("bob")
    machine.add_user("eve")
    assert machine.by("bob", "touch f; echo x >>f; cat f; stat -c %U:%G:%a f") == "x\nbob:bob:664"
    machine.sh("cat ~bob/.bashrc >/dev/null; chmod 700 ~bob")
    assert "Permission denied" in machine.sh("su eve -c 'cat /home/bob/f'", status=1)
    # A directory that a group shares: its group is inherited, and an ACL lets one more in.
    machine.sh(
        "rm -rf /srv/team; groupadd -f team; usermod -aG team bob; mkdir /srv/team;"
        " chgrp team /srv/team; chmod 2770 /srv/team; setfacl -d -m u:eve:rw /srv/team;"
        " setfacl -m u:eve:rx /srv/team"
    )
    machine.by("bob", "mkdir /srv/team/d; echo 1 >/srv/team/f; umask 077; touch /srv/team/g")
    assert machine.sh("cd /srv/team; stat -c %U:%G:%a d f g").split() == [
        "bob:team:2770",
        "bob:team:660",
        "bob:team:660",
    ]
    machine.by("eve", "echo 2 >>/srv/team/f")
    assert machine.by("bob", "cat /srv/team/f") == "1\n2"
    assert "Permission denied" in machine.sh("su eve -c 'touch /srv/team/h'", status=1)
    # Sticky directories, setuid programs, and a change that clears the bit.
    machine.by("bob", "touch /var/tmp/of-bob")
    assert "not permitted" in machine.sh("su eve -c 'rm -f /var/tmp/of-bob'", status=1)
    machine.sh("install -m 4755 /usr/bin/id /usr/local/bin/as-root")
    assert machine.by("eve", "/usr/local/bin/as-root -un") == "root"
    machine.sh("chown bob /usr/local/bin/as-root")
    assert machine.sh("stat -c %a /usr/local/bin/as-root") == "755"
    machine.sh("dpkg-statoverride --update --add root team 4750 /usr/bin/wall")
    assert machine.sh("stat -c %U:%G:%a /usr/bin/wall") == "root:team:4750"
    machine.sh("dpkg-statoverride --remove /usr/bin/wall; chmod 755 /usr/bin/wall")
    # Passwords, quotas of processes, and locks.
    machine.sh("echo bob:secret | chpasswd; su eve -c 'passwd -S'")
    lock = "flock lock sh -c 'flock -n lock true && echo free || echo taken'"
    assert machine.by("bob", lock) == "taken"


def test_users_may_ping(machine: Machine) -> None:
    """As Debian's defaults have it, and by a capability of the program."""
    machine.add_user("bob")
    ping = "ping -c1 -W30 10.0.0.2 | grep -o '1 received'"
    assert machine.by("bob", ping) == "1 received"
    machine.sh("sysctl -qw net.ipv4.ping_group_range='1 0'")
    assert "not permitted" in machine.sh(f"su bob -c {shlex.quote(ping)}", status=1)
    machine.sh("setcap cap_net_raw+ep /usr/bin/ping")
    assert machine.sh("getcap /usr/bin/ping") == "/usr/bin/ping cap_net_raw=ep"
    assert machine.by("bob", ping) == "1 received"
    machine.sh("setcap -r /usr/bin/ping; sysctl -qw net.ipv4.ping_group_range='0 2147483647'")


MAKEFILE = "prog: prog.c\n\ttcc -o $@ $<\n"
PROGRAM = '#include <stdio.h>\nint main(void) { puts("made here"); return 0; }\n'


def test_users_clone_and_make(machine: Machine) -> None:
    machine.add_user("bob")
    machine.sh("rm -rf /srv/prog.git ~bob/prog; git init -q --bare /srv/prog.git")
    commit = (
        "rm -rf work; git clone -q /srv/prog.git work; cd work;"
        f" printf %s {shlex.quote(MAKEFILE)} >Makefile; printf %s {shlex.quote(PROGRAM)} >prog.c;"
        " git add -A; git -c user.name=r -c user.email=r@x commit -qm one; git push -q"
    )
    machine.sh(f"cd /root; {commit} 2>/dev/null")
    machine.sh("git config --system --replace-all safe.directory '*'")
    make = "git clone -q /srv/prog.git && cd prog && make -s 2>/dev/null && ./prog && git status -s"
    assert machine.by("bob", make) == "made here\n?? prog"
    assert machine.sh("stat -c %U:%a ~bob/prog/prog") == "bob:775"


def test_services_of_systemd(machine: Machine) -> None:
    machine.add_user("bob")
    run = "systemd-run -q --wait --pipe"
    assert machine.sh(f"{run} -p User=bob id -un") == "bob"
    # A user that exists as long as the service does, with directories of its own.
    dynamic = f"{run} -p DynamicUser=yes -p User=brief -p StateDirectory=brief -p PrivateTmp=yes"
    script = "cd $STATE_DIRECTORY; id -un; echo x >>log; touch /tmp/mine; ls /tmp; cat log | wc -l"
    for count in "12":
        out = machine.sh(f"{dynamic} sh -c {shlex.quote(script)}")
        assert out.split() == ["brief", "mine", count]
    left = machine.sh("stat -c %a /var/lib/private; ls /tmp/mine || id brief", status=1)
    assert left.startswith("700\n")
    # A service that may do little.
    closed = (
        "ProtectSystem=strict ProtectHome=read-only NoNewPrivileges=yes PrivateDevices=yes"
        " CapabilityBoundingSet= SystemCallFilter=@system-service ReadWritePaths=/var/tmp"
        " User=bob"
    )
    properties = " ".join(f"-p {p}" for p in closed.split())
    script = "touch /var/tmp/ok && ! touch /usr/x && ! touch /home/bob/x"
    said = machine.sh(f"{run} {properties} sh -c {shlex.quote(script)}")
    assert said.count("Read-only file system") == 2
    # Its output is in the journal; a timer starts it again.
    machine.sh(
        "systemd-run -q --unit=ticks --on-active=1s -p User=bob sh -c 'echo tick of $(id -un)'"
    )
    machine.lab(["dumm-guest", "wait", "server", "--until", "--", "sh", "-c",
                 "journalctl -u ticks --no-pager | grep 'tick of bob'"])  # fmt: skip
    assert machine.sh("systemctl start logrotate.service; systemctl --failed --no-legend") == ""


#: Stands for the command that the units call: it notes how, and fails while there is a file `fail`.
COMMAND = """\
#!/bin/sh
echo "$*" >>/root/called
sleep 1000000 & # what stays
case $* in *start*) [ ! -e /root/fail ] ;; esac
"""


def test_units_of_labs(machine: Machine, tmp_path: Path) -> None:
    """examples/systemd, with a command that only notes how it is called."""
    command = tmp_path / "dumm-guest"
    command.write_text(COMMAND)
    machine.put(command, "/usr/local/bin/dumm-guest")
    machine.sh("chmod 755 /usr/local/bin/dumm-guest; mkdir -p /srv/my-lab /usr/share/man/man1 /u")
    for kind, place in (("system", "/etc/systemd/system"), ("user", "/u")):
        unit = TOP / "examples/systemd" / kind / "dumm-lab@.service"
        machine.put(unit, f"{place}/dumm-lab@.service")
    verify = "XDG_RUNTIME_DIR=/u SYSTEMD_LOG_LEVEL=warning systemd-analyze --man=no verify"
    assert machine.sh(f"{verify} /etc/systemd/system/dumm-lab@srv-my\\\\x2dlab.service") == ""
    assert machine.sh(f"{verify} --user /u/dumm-lab@labs.service") == ""
    unit_name = machine.sh("systemd-escape --path --template=dumm-lab@.service /srv/my-lab")

    def called(script: str) -> list[str]:
        machine.sh(f"rm -f /root/called; systemctl {script} '{unit_name}' || true")
        return machine.sh("cat /root/called 2>/dev/null || true").splitlines()

    machine.sh("systemctl daemon-reload")
    assert called("start") == []  # there is no working set
    machine.sh("touch /srv/my-lab/state.json")
    start = "-C /srv/my-lab start --all --wait booted --timeout 300"
    stop = "-C /srv/my-lab stop --all"
    assert called("start") == [start]
    assert machine.sh(f"systemctl is-active '{unit_name}'") == "active"
    assert called("stop") == [stop, stop]
    machine.sh("! pgrep -f 'sleep 100000[0]'")  # nothing is left, and nothing was waited for
    machine.sh("touch /root/fail")
    assert called("start") == [start, stop]
    assert machine.sh(f"systemctl is-failed '{unit_name}'") == "failed"
    machine.sh(f"systemctl reset-failed '{unit_name}'; rm -r /srv/my-lab /root/called /root/fail")


def test_limits_and_languages(machine: Machine) -> None:
    machine.add_user("bob")
    assert "C.utf8" in machine.sh("locale -a").splitlines()
    assert machine.by("bob", "ulimit -n") == "1024"
    run = "systemd-run -q --wait --pipe -p LimitNOFILE=65536"
    assert machine.sh(f"{run} sh -c 'ulimit -n'") == "65536"
    assert int(machine.sh("cat /proc/sys/fs/file-max")) > 10_000


@pytest.mark.slow
def test_example_on_a_built_kernel(
    packs: Path, debian_systemd: str, built: str, tmp_path: Path
) -> None:
    """examples/server.sh, by an ordinary user."""
    with lab_of("user", packs, tmp_path, debian_systemd) as lab:
        lab.env.update(TMPDIR=str(lab.directory), KERNEL=built)
        lab([TOP / "examples/server.sh"])
        assert list(lab.directory.iterdir()) == []
