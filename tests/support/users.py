"""Ordinary users for a test, made up by root: they are in no file of this machine except those that
they see. Each has a mount namespace for this, which ends with the test (user-world.sh)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from support import BIN, PATIENCE, TOP
from support.labs import Lab

#: The first of the first user's subordinate ids.
FIRST_ID, IDS = 0x4000_0000, 65536
#: How many user numbers each of pytest-xdist's workers has for itself.
PER_WORKER = 128


class User:
    """User number `number`, with a home, and a cache that contains only the session's kernel packs.

    `ids`: whether /etc/subuid and /etc/subgid grant 65536 of them; `tun`: the mode of /dev/net/tun,
    None if the host has none; `fuse`: that of /dev/fuse; `without`: programs that the host lacks;
    `packs`: False for none.
    """

    def __init__(
        self,
        number: int,
        cache: Path,
        *,
        ids: bool = True,
        tun: str | None = "666",
        fuse: str = "666",
        without: Sequence[str] = (),
        packs: bool = True,
    ) -> None:
        assert number < PER_WORKER
        number += PER_WORKER * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
        self.uid = 64100 + number
        self.name = f"test{number}"
        self.first_id = FIRST_ID + number * IDS
        self.place = Path(tempfile.mkdtemp(prefix=f"dumm-{self.name}-"))
        self.place.chmod(0o755)
        self.home = self.own("home")
        self.cache = self.own("home/cache")
        for part in ("dumm", "dumm/kernels"):
            self.own(f"home/cache/{part}")
        stage = self.place / "stage"
        stage.mkdir()
        env = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "USER_NAME": self.name,
            "USER_ID": str(self.uid),
            "USER_HOME": str(self.home),
            "FIRST_ID": str(self.first_id) if ids else "",
            "TUN": tun or "",
            "FUSE": fuse,
            "WITHOUT": " ".join(p for p in map(shutil.which, without) if p),
            "PACKS": str(cache / "dumm/kernels") if packs else "",
            "CACHE": str(self.cache / "dumm/kernels"),
            "OPEN": f"{TOP} {sys.base_prefix}",
            "STAGE": str(stage),
        }
        private = ("unshare", "--mount", "--propagation", "private")
        self._namespace = subprocess.Popen(
            [*private, TOP / "tests/user-world.sh", "sh", "-c", "echo; exec cat"],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._namespace.stdout
        assert self._namespace.stdout.readline() == b"\n"

    def own(self, part: str) -> Path:
        path = self.place / part
        path.mkdir(mode=0o700)
        os.chown(path, self.uid, self.uid)
        return path

    def take_master(self, cache: Path, name: str) -> None:
        """Give the user the master `name` in `cache`: a mount that shows its files as theirs or,
        where the file system cannot do that, a copy."""
        source = cache / "dumm/masters" / name
        if not (self.cache / "dumm/masters").exists():
            self.own("home/cache/dumm/masters")
        target = self.own(f"home/cache/dumm/masters/{name}")
        inside = ("nsenter", f"--mount=/proc/{self._namespace.pid}/ns/mnt")
        script = TOP / "tests/support/idmapped.py"
        ids = (str(self.uid), str(self.first_id))
        done = subprocess.run([*inside, sys.executable, script, source, target, *ids], check=False)
        if done.returncode == 0:
            return
        target.rmdir()
        with subprocess.Popen(["tar", "-C", source, "-c", "."], stdout=subprocess.PIPE) as tar:
            lab = self.lab(f"taking-{name}")
            command = [*lab.prefix, f"{BIN}/dumm-fs", "master", "import", "-", "--name", name]
            subprocess.run(command, env=lab.env, stdin=tar.stdout, check=True, timeout=PATIENCE)

    def lab(self, name: str, env: Mapping[str, str] | None = None) -> UserLab:
        """A directory of this user, and the commands run as this user."""
        return UserLab(self, self.own(f"home/{name}"), env or {})

    def end(self) -> None:
        """Forget the user and all their files."""
        self._namespace.communicate()
        shutil.rmtree(self.place)

    def prefix(self, directory: Path) -> list[str]:
        """The prefix that makes a command of root run as this user, in their namespace."""
        ids = [f"--reuid={self.uid}", f"--regid={self.uid}", "--clear-groups", "--inh-caps=-all"]
        return [
            *("nsenter", f"--mount=/proc/{self._namespace.pid}/ns/mnt"),
            *("setpriv", *ids, "env", f"--chdir={directory}"),
        ]


class UserLab(Lab):
    """A lab of a made-up user."""

    def __init__(self, user: User, directory: Path, env: Mapping[str, str]) -> None:
        super().__init__(directory, user.cache)
        self.prefix = user.prefix(directory)
        self.env = {
            "PATH": f"{BIN}:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(user.home),
            "USER": user.name,
            "SHELL": "/bin/sh",
            "LC_ALL": "C.UTF-8",
            "XDG_CACHE_HOME": str(user.cache),
            "DUMM_DIR": str(directory),
            **env,
        }
