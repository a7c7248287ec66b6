"""Ordinary users for a test, made up by root: they are in no file of this machine, but in those
that they see. Each has a mount namespace, where /etc/passwd names them, /etc/subuid may grant
them ids, and /dev/net/tun is as on an ordinary host; it ends with the test."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from conftest import BIN, TOP, Lab

#: The ids that the n-th user is granted begin at n times this, from the first on.
FIRST_ID, IDS = 0x4000_0000, 65536

SCRIPT = r"""
n=0
for path; do
	n=$((n + 1))
	mkdir "$STAGE/$n"
	mount --rbind "$path" "$STAGE/$n"
done
for directory in $HIDDEN; do
	mount -t tmpfs -o mode=755,size=1M none "$directory"
done
n=0
for path; do
	n=$((n + 1))
	mkdir -p "$path"
	mount --move "$STAGE/$n" "$path"
done
for file in passwd group subuid subgid; do
	[ -e "/etc/$file" ] || : >"/etc/$file"
	mount --bind "$STAGE/$file" "/etc/$file"
done
mount -t tmpfs -o mode=755,size=1M none /dev/net
[ -z "$TUN" ] || mknod -m "$TUN" /dev/net/tun c 10 200
for program in $WITHOUT; do
	mount --bind /dev/null "$program"
done
for pack in "$PACKS"/dumm/kernels/*; do
	mkdir "$CACHE/dumm/kernels/${pack##*/}"
	mount --bind "$pack" "$CACHE/dumm/kernels/${pack##*/}"
done
echo made
exec cat
"""


class User:
    """User number `number`, with a home and an empty cache but for the session's kernel packs.

    `ids`: /etc/subuid and /etc/subgid grant 65536 of them; `tun`: the mode of /dev/net/tun, None
    for a host without; `without`: programs that this host is to lack; `packs`: False for none.
    """

    def __init__(
        self,
        number: int,
        cache: Path,
        *,
        ids: bool = True,
        tun: str | None = "666",
        without: Sequence[str] = (),
        packs: bool = True,
    ) -> None:
        self.uid = 64100 + number
        self.name = f"test{number}"
        self.first_id = FIRST_ID + number * IDS
        self.place = Path(tempfile.mkdtemp(prefix=f"dumm-{self.name}-"))
        self.place.chmod(0o755)
        self.home = self._own("home")
        self.cache = self._own("home/cache")
        for part in ("dumm", "dumm/kernels"):
            self._own(f"home/cache/{part}")
        stage = self.place / "stage"
        stage.mkdir()
        hidden = {path: _hidden(path) for path in (TOP, Path(sys.base_prefix)) if _hidden(path)}
        account = f"{self.name}:x:{self.uid}:"
        (stage / "passwd").write_text(
            f"{_text('/etc/passwd')}{account}{self.uid}::{self.home}:/bin/sh\n"
        )
        (stage / "group").write_text(f"{_text('/etc/group')}{account}\n")
        for kind in ("subuid", "subgid"):
            (stage / kind).write_text(f"{self.name}:{self.first_id}:{IDS}\n" if ids else "")
        sh = ("sh", "-eu", "-c", SCRIPT, "sh")
        self._namespace = subprocess.Popen(
            [*("unshare", "--mount", "--propagation", "private"), *sh, *map(str, hidden)],
            env={
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "HIDDEN": " ".join(sorted(set(hidden.values()))),
                "STAGE": str(stage),
                "TUN": tun or "",
                "WITHOUT": " ".join(p for p in map(shutil.which, without) if p),
                "PACKS": str(cache) if packs else "/nonexistent",
                "CACHE": str(self.cache),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._namespace.stdout
        assert self._namespace.stdout.readline() == b"made\n"

    def _own(self, part: str) -> Path:
        path = self.place / part
        path.mkdir(mode=0o700)
        os.chown(path, self.uid, self.uid)
        return path

    def lab(self, name: str, env: Mapping[str, str] | None = None) -> UserLab:
        """A directory of this user's, and the commands run by them."""
        return UserLab(self, self._own(f"home/{name}"), env or {})

    def end(self) -> None:
        """Forget the user and all their files."""
        self._namespace.communicate()
        shutil.rmtree(self.place)

    def prefix(self, directory: Path) -> list[str]:
        """What makes a command of root's one of this user's, in their namespace."""
        ids = [f"--reuid={self.uid}", f"--regid={self.uid}", "--clear-groups", "--inh-caps=-all"]
        return [
            *("nsenter", f"--mount=/proc/{self._namespace.pid}/ns/mnt"),
            *("setpriv", *ids, "env", f"--chdir={directory}"),
        ]


class UserLab(Lab):
    """A lab of a made up user's."""

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


def _text(path: str) -> str:
    return Path(path).read_text(encoding="utf-8", errors="surrogateescape")


def _hidden(path: Path) -> str:
    """The first directory above `path` that others may not enter; empty where all may."""
    for directory in reversed(path.parents):
        if not directory.stat().st_mode & 0o001:
            return str(directory)
    return ""
