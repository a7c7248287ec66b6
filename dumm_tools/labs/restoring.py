"""Make a lab from an archive (`lab_archive`), whole or not at all.

Everything is unpacked next to its place, and arrives in the working directory at the end
(`trees.arrival`); there is no lab to enter before, and programs that need threads may be run.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tarfile
from collections.abc import Callable, Mapping

from dumm_tools import statefile as store
from dumm_tools import waiting
from dumm_tools.errors import Conflict, DummError
from dumm_tools.files import given
from dumm_tools.guests import disks, guest
from dumm_tools.labs import lab_archive, lab_images, working_set
from dumm_tools.labs.lab_archive import Contents, Layout
from dumm_tools.linux import inode
from dumm_tools.model import State
from dumm_tools.running import startup_file
from dumm_tools.trees import archive_file, arrival, exposure, layer, staging, untar
from dumm_tools.trees.members import Archive

Report = Callable[[str], None]


def restore(
    labdir: str,
    path: str,
    *,
    isolated: bool,
    chosen: Mapping[tuple[str, str], str],
    progress: Report | None = None,
    warn: Report,
) -> None:
    """Make the lab in an archive, or on stdin (`-`). `chosen` are the masters and packs to use
    instead of those that the lab was saved with, by kind and name (`lab_images`)."""
    with contextlib.ExitStack() as undo, archive_file.source(path) as (stream, label):
        if not os.path.isdir(labdir):
            os.mkdir(labdir, 0o700)
            undo.callback(_remove_empty, labdir)
        arrival.sweep(labdir, working_set.STAGE, store.FILE)
        if os.path.lexists(os.path.join(labdir, store.FILE)):
            raise Conflict(f"'{labdir}' is already a working set")
        arrival.refuse_taken(labdir, [*working_set.DIRECTORIES, startup_file.DIRECTORY])
        stage = undo.enter_context(staging.scratch(labdir, working_set.STAGE))
        guard = _Guard(labdir, label, lab_images.Chosen(chosen, progress))
        marks = layer.USER if isolated else layer.KERNEL
        target = arrival.place(stage)
        unpacked = os.path.join(stage, lab_archive.TOP)
        os.mkdir(unpacked)
        left = untar.extract(stream, label, stage, progress, marks=marks, guard=guard)
        contents = guard.contents
        if contents is None or guard.layout is None:
            raise DummError(f"'{label}' is not an archive of a lab")
        _check_files(label, unpacked, guard.layout)
        with contextlib.ExitStack() as imported:
            images = lab_images.imported(guard.images, unpacked, imported, progress)
            for entry in os.listdir(unpacked):
                os.rename(os.path.join(unpacked, entry), os.path.join(target, entry))
            _complete(labdir, target, contents, images, isolated)
            with waiting.unbroken():
                arrival.finish(stage, labdir, store.FILE)
                imported.pop_all()
        if left:
            warn(f"skipped {left} device nodes: guests make their own")
        _warn(contents.state, warn)


def _warn(state: State, warn: Report) -> None:
    """Report what the lab, which may come from somebody else, shares with the host."""
    for bridge in state.bridges.values():
        if bridge.uplink is not None and bridge.uplink != "nat":
            warn(f"bridge '{bridge.name}' has the uplink '{bridge.uplink.removeprefix('to:')}'")
    for directory in filter(exposure.is_open, lab_archive.overlays(state)):
        warn(
            f"other users can enter '{directory}' and run setuid programs that guests write there; "
            "a parent directory that is closed to them (0700) keeps them out"
        )


def _remove_empty(directory: str) -> None:
    with contextlib.suppress(OSError):
        os.rmdir(directory)


class _Guard:
    """Looks at the members of the archive of a lab before they are unpacked."""

    def __init__(self, labdir: str, label: str, chosen: lab_images.Chosen) -> None:
        self._labdir = labdir
        self._label = label
        self._chosen = chosen
        self.layout: Layout | None = None
        self.contents: Contents | None = None
        self.images: list[lab_images.Use] = []

    def __call__(self, archive: Archive, member: tarfile.TarInfo) -> bool:
        """Whether to unpack it. All that is known from lab.json is checked before anything is."""
        if self.layout is None:
            if member.isdir() and not lab_archive.inside(member.name):
                return False  # packed anew by tar(1)
            if lab_archive.inside(member.name) != (lab_archive.FILE,) or not member.isreg():
                raise DummError(f"'{self._label}' is not an archive of a lab")
            self._begin(self._text(archive, member))
            return False
        self.layout.check(member)
        return True

    def _text(self, archive: Archive, member: tarfile.TarInfo) -> bytes:
        if member.size > lab_archive.FILE_MAX or archive.pieces is not None:
            raise DummError(f"'{self._label}': {lab_archive.FILE} is too large")
        text = b""
        while len(text) < member.size:
            more = archive.read(member.size - len(text))
            if not more:
                raise DummError(f"'{self._label}' ends too early")
            text += more
        return text

    def _begin(self, text: bytes) -> None:
        contents = lab_archive.decode(self._label, text)
        layout = Layout(contents)
        tops = {path[0] for path in layout.overlays | layout.disks | layout.given}
        arrival.refuse_taken(self._labdir, sorted(tops))
        self.images = self._chosen.resolve(contents)
        self.contents, self.layout = contents, layout


def _check_files(label: str, unpacked: str, layout: Layout) -> None:
    """Raise DummError if the archive lacks an overlay, a disk, or files for a guest."""

    def is_given(mode: int) -> bool:
        return stat.S_ISDIR(mode) or stat.S_ISREG(mode)

    wanted = [(path, stat.S_ISDIR, "overlay") for path in sorted(layout.overlays)]
    wanted += [(path, stat.S_ISREG, "disk") for path in sorted(layout.disks)]
    wanted += [(path, is_given, "files") for path in sorted(layout.given)]
    for path, is_right, what in wanted:
        if not is_right(_mode(unpacked, path)):
            raise DummError(f"'{label}' lacks the {what} '{'/'.join(path)}'")


def _mode(unpacked: str, path: lab_archive.Path) -> int:
    """The mode of an unpacked file, or 0 if there is none. A path inside of another tree may lead
    through links, whose targets are not ours."""
    at, mode = unpacked, stat.S_IFDIR
    for part in path:
        if not stat.S_ISDIR(mode):
            return 0
        at = os.path.join(at, part)
        try:
            mode = os.lstat(at).st_mode
        except FileNotFoundError:
            return 0
    return mode


def _complete(
    labdir: str, target: str, contents: Contents, images: lab_images.Found, isolated: bool
) -> None:
    """Make a working set of the unpacked files."""
    state = contents.state
    own = {
        *lab_archive.overlays(state),
        *lab_archive.disk_files(state),
        *lab_archive.given_files(state),
    }
    for each in state.guests.values():
        each.kernel = images.spec("kernels", each.kernel)
        each.master = images.spec("masters", each.master)
        each.overlays = [labdir + path for path in each.overlays]
        files = [disks.parse(text) for text in each.disks]
        each.disks = [disks.written(d._replace(path=labdir + d.path)) for d in files]
        sources = [given.parse(text) for text in each.files]
        each.files = [given.written(g._replace(source=labdir + g.source)) for g in sources]
        guest.check(each)
    for name in working_set.DIRECTORIES:
        os.makedirs(os.path.join(target, name), exist_ok=True)
    for name in os.listdir(target):
        if f"/{name}" not in own:  # that has the mode of its guest's root directory
            os.chmod(os.path.join(target, name), 0o700)
    with contextlib.suppress(OSError):
        inode.spread(os.path.join(target, "run"))
    for link, path in (
        ("linux", images.path("kernels", contents.kernel)),
        ("master", images.path("masters", contents.master)),
    ):
        if path is not None:
            os.symlink(path, os.path.join(target, link))
    lock = os.path.join(labdir, store.LOCK)
    if not os.path.lexists(lock):  # it is kept by `destroy`
        lock = os.path.join(target, store.LOCK)
        os.close(os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    state.id, state.isolated = os.urandom(6).hex(), isolated
    state.lock_inode = os.lstat(lock).st_ino
    store.prepare(target, state)
