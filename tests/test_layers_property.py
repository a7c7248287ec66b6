"""Random file operations in a guest's tree, against a plain directory as the model.

The same small program (fileops.c) does them in both places, which must give the same errors and
end up the same; then diff, commit and reset must agree with a comparison of the two trees.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from support import PATIENCE, TOP
from support.host import installed
from support.labs import Lab

from dumm_tools import model
from dumm_tools.files import changes, stack
from dumm_tools.files.overlay import FUSE
from dumm_tools.guests import guest
from dumm_tools.images import master as masters
from dumm_tools.labs import working_set
from dumm_tools.trees import diff

pytestmark = [pytest.mark.uml, pytest.mark.root]

NAMES = (b"a", b"b", b"d", b"new\nline", b"\xff\xfe")
OWNERS = (0, 1, 1000)
KINDS = ["kernel", "fuse"]


# ---- what is done ----


@dataclass(frozen=True)
class Operation:
    """One line of input for fileops."""

    name: str
    arguments: tuple[bytes | int, ...]

    def line(self) -> bytes:
        words = [a.hex().encode() if isinstance(a, bytes) else b"%d" % a for a in self.arguments]
        return b" ".join([self.name.encode(), *words]) + b"\n"


def _path(parts: Sequence[bytes]) -> bytes:
    return b"/".join((b"pool", *parts))


#: Names in the master (`make_pool`), names where the layers meet, and any others.
OLD = ((b"a",), (b"a", b"b"), (b"a", b"b", b"d"), (b"d",), (b"d", b"d"), (b"b",), (b"a", b"a"))
PATHS = st.one_of(
    st.sampled_from(OLD).map(_path),
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map(_path),
)
#: Targets of links: existing and missing names, up and down, and outside.
TARGETS = st.one_of(st.sampled_from(NAMES), PATHS.map(lambda p: b"/" + p), st.just(b"../d"))
SIZES = st.sampled_from((0, 1, 5, 4095, 4097, 70000))
BYTES = st.integers(0, 255)


def _operation(
    name: str, *arguments: st.SearchStrategy[bytes] | st.SearchStrategy[int]
) -> st.SearchStrategy[Operation]:
    return st.tuples(*arguments).map(lambda a: Operation(name, a))


OPERATIONS = st.one_of(
    _operation("create", PATHS, SIZES, BYTES),
    _operation("write", PATHS, SIZES, BYTES, st.sampled_from((0, 3, 5000))),
    _operation("append", PATHS, SIZES, BYTES),
    _operation("truncate", PATHS, SIZES),
    _operation("chmod", PATHS, st.sampled_from((0o700, 0o755, 0o600 | 0o111, 0o777))),
    _operation("chown", PATHS, st.sampled_from(OWNERS), st.sampled_from(OWNERS)),
    _operation("utime", PATHS, st.sampled_from((1, 10**9)), st.sampled_from((0, 123456789))),
    _operation("mkdir", PATHS, st.sampled_from((0o700, 0o755))),
    _operation("mkdir", PATHS, st.sampled_from((0o700, 0o755))),
    _operation("mkfifo", PATHS, st.just(0o644)),
    _operation("unlink", PATHS),
    _operation("rmdir", PATHS),
    _operation("remove", PATHS),
    _operation("rename", PATHS, PATHS),
    _operation("rename", PATHS, PATHS),
    _operation("link", PATHS, PATHS),
    _operation("symlink", PATHS, TARGETS),
)
#: Replace one thing by another: a directory then hides the layers below it.
REPLACEMENTS = PATHS.flatmap(
    lambda path: st.sampled_from(
        (
            (Operation("remove", (path,)), Operation("mkdir", (path, 0o755))),
            (Operation("remove", (path,)), Operation("create", (path, 5, 7))),
            (
                Operation("remove", (path,)),
                Operation("mkdir", (path, 0o755)),
                Operation("mkdir", (path + b"/b", 0o755)),
                Operation("create", (path + b"/b/a", 3, 3)),
            ),
        )
    )
)
#: hostfs has no extended attributes: only the host sets them.
ATTRIBUTES = _operation("setxattr", PATHS, st.sampled_from((b"1", b"22")))


def _on_fuse(operation: Operation) -> Operation:
    """Restrict an operation to what fuse-overlayfs does right. Its mounts use the kernel's
    write-back cache, which keeps the times of files itself: truncating a file to the size it
    already has changes the time in the file system below, but the tree shows the old one until it
    is mounted again."""
    return Operation("resize", operation.arguments) if operation.name == "truncate" else operation


def sequences(
    size: int, *more: st.SearchStrategy[Operation], fuse: bool
) -> st.SearchStrategy[list[Operation]]:
    """Operations one after the other."""
    one = st.one_of(OPERATIONS, *more).map(lambda o: (o,))
    steps = st.lists(st.one_of(one, one, one, REPLACEMENTS), min_size=size // 4, max_size=size)
    fitting = _on_fuse if fuse else lambda o: o
    return steps.map(lambda found: [fitting(o) for step in found for o in step])


def make_pool(root: Path, *, fuse: bool) -> None:
    """The contents of the master: some of the names that operations use.

    None is a FIFO on fuse-overlayfs, which up to 1.16 copies a FIFO up as an empty regular file;
    the kernel then finds another type than before, and fails the operation (a chown, say) with EIO.
    """
    pool = root / "pool"
    (pool / "a" / "b" / "d").mkdir(parents=True)
    (pool / "a" / "a").write_bytes(b"a" * 5000)
    (pool / "a" / "b" / "a").write_bytes(b"deep")
    (pool / "a" / "b" / "d" / "b").write_bytes(b"deeper")
    (pool / "b").write_bytes(b"b")
    (pool / "d").mkdir()
    (pool / "d" / "a").symlink_to("../b")
    (pool / "d" / "b").write_bytes(b"")
    os.chown(pool / "d" / "b", 1, 1)
    (pool / "d" / "d").mkdir(mode=0o700)
    if not fuse:
        os.mkfifo(os.fsencode(pool) + b"/d/\xff\xfe")
    for name in (b"\xff\xfe", b"new\nline"):
        Path(os.fsdecode(os.fsencode(pool) + b"/" + name)).write_bytes(name)


# ---- what is compared ----

#: The seed of the generated sequences.
SEED = 1
Look = dict[bytes, tuple[Any, ...]]


def look(root: Path, *, times: bool) -> Look:
    """Everything below pool/, and which names are the same file."""
    found: Look = {}
    one: dict[tuple[int, int], list[bytes]] = {}
    top = os.fsencode(root)
    stack_ = [b"pool"]
    while stack_:
        name = stack_.pop()
        path = top + b"/" + name
        info = os.lstat(path)
        what: object = None
        if stat.S_ISDIR(info.st_mode):
            stack_ += [name + b"/" + below for below in os.listdir(path)]
        elif stat.S_ISLNK(info.st_mode):
            what = os.readlink(path)
        elif stat.S_ISREG(info.st_mode):
            with open(path, "rb") as file:
                what = file.read()
        if not stat.S_ISDIR(info.st_mode) and info.st_nlink > 1:
            one.setdefault((info.st_dev, info.st_ino), []).append(name)
        attributes = sorted(
            (n, os.getxattr(path, n, follow_symlinks=False))
            for n in os.listxattr(path, follow_symlinks=False)
            if n.startswith("user.test")
        )
        when = info.st_mtime_ns if times and not stat.S_ISDIR(info.st_mode) else None
        found[b"/" + name] = (info.st_mode, info.st_uid, info.st_gid, what, attributes, when)
    groups = sorted(tuple(sorted(names)) for names in one.values())
    return {**found, b"links": tuple(groups)}


def without_owners_of_links(found: Look) -> Look:
    """The tree as far as a guest can change it: on hostfs, changing the owner of a symbolic link
    reports success and does nothing."""
    return {
        name: (about[0], *about[3:]) if name[:1] == b"/" and stat.S_ISLNK(about[0]) else about
        for name, about in found.items()
    }


def reference(before: Look, after: Look) -> list[diff.Change]:
    """The expected output of diff, computed from the two complete trees."""
    found = []
    for path in {*before, *after} - {b"links"}:
        if path not in before:
            found.append(diff.Change("A", path))
        elif path not in after:
            found.append(diff.Change("D", path))
        elif before[path] != after[path]:
            found.append(diff.Change("M", path))
    return sorted(found, key=lambda c: c.path)


# ---- where it is done ----


class Doer:
    """A fileops that runs in some tree."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin
        assert process.stdout
        self._process = process
        self._to: IO[bytes] = process.stdin
        self._from: IO[bytes] = process.stdout

    def __call__(self, operation: Operation) -> int:
        """Do an operation; return its errno."""
        self._to.write(operation.line())
        self._to.flush()
        return int(self._from.readline())

    def end(self) -> None:
        self._to.close()
        self._process.stdin = None  # a second end must not flush it
        assert self._process.wait(PATIENCE) == 0


def doer_in(program: Path, root: Path) -> Doer:
    """A fileops on the host, with `root` as its root."""
    return Doer(subprocess.Popen([program, root], stdin=subprocess.PIPE, stdout=subprocess.PIPE))


def both(operations: Sequence[Operation], real: Doer, model_: Doer) -> None:
    """Do all operations in both places, with the same errors. A directory of the master cannot be
    renamed in an overlay, so it is copied, as mv(1) does."""
    for operation in operations:
        got = real(operation)
        if got == errno.EXDEV and operation.name == "rename":
            continue
        assert got == model_(operation), operation


@pytest.fixture(scope="session")
def fileops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled program."""
    target = tmp_path_factory.mktemp("fileops") / "fileops"
    compiler = os.environ.get("CC", "gcc").split()
    subprocess.run(
        [*compiler, "-O1", "-Wall", "-Wextra", "-Werror", "-static", "-o", target,
         TOP / "tests" / "fileops.c"],
        check=True,
        timeout=PATIENCE,
    )  # fmt: skip
    return target


@dataclass
class World:
    """A lab with a master that contains the pool, and a place for models."""

    lab: Lab
    master: Path
    place: Path
    program: Path
    fuse: bool
    count: int = 0

    @property
    def root(self) -> str:
        return str(self.lab.directory)

    @contextlib.contextmanager
    def model(self) -> Iterator[Path]:
        """A copy of the master's pool."""
        with contextlib.ExitStack() as undo:
            self.count += 1
            place = self.place / f"model{self.count}"
            undo.callback(shutil.rmtree, place)
            place.mkdir()
            subprocess.run(["cp", "-a", self.master / "pool", place], check=True, timeout=PATIENCE)
            yield place

    def remount(self, name: str) -> None:
        """Discard everything that only exists in the driver's memory."""
        working_set.umount(self.root, name)
        working_set.mount(self.root, name)

    def merged(self, name: str) -> Path:
        return self.lab.directory / "mount" / name

    def check(self, name: str, model_: Path, *, in_guest: bool = False) -> None:
        """Check that mount/ equals the model, and that diff agrees with a comparison of the
        trees."""
        after = look(self.merged(name), times=True)
        known = without_owners_of_links if in_guest else dict
        assert known(look(self.merged(name), times=False)) == known(look(model_, times=False))
        said = [c for c in changes.changes(self.root, name) if c.path.startswith(b"/pool")]
        assert said == reference(look(self.master, times=True), after)

    def check_over(self, name: str, before: Look, more: Sequence[Operation]) -> None:
        """Check `more` done over two layers: diff lists the differences from `before`."""
        stack.add(self.root, [name], str(self.place / "over"))
        doer = doer_in(self.program, self.merged(name))
        for operation in more:
            doer(operation)
        doer.end()
        self.remount(name)
        after = look(self.merged(name), times=True)
        said = [c for c in changes.changes(self.root, name) if c.path.startswith(b"/pool")]
        assert said == reference(before, after)

    def check_stopped(self, name: str, more: Sequence[Operation]) -> None:
        """Check that a new guest on the committed layer, and a committed master, equal the guest,
        and that reset drops everything."""
        self.remount(name)
        before = look(self.merged(name), times=True)
        own = changes.changes(self.root, name)
        layer, over = self.place / "layer", self.place / "over"
        master = f"committed{os.getpid()}"  # all workers share the masters
        over.mkdir()
        changes.commit(self.root, name, str(layer), warn=pytest.fail)
        changes.commit(self.root, name, master, warn=pytest.fail)
        try:
            guest.create(self.root, model.Guest("other", master=str(self.master)))
            try:
                stack.add(self.root, ["other"], str(layer))
                assert look(self.merged("other"), times=True) == before
                said = changes.changes(self.root, "other")
                assert said == own  # the layer is on top, and host/other is empty
                self.check_over("other", before, more)
                assert look(Path(masters.resolve(master).path), times=True) == before
            finally:
                guest.delete(self.root, "other")
        finally:
            masters.delete(master, {})
            shutil.rmtree(layer)
            shutil.rmtree(over)
        changes.reset(self.root, name)
        assert look(self.merged(name), times=True) == look(self.master, times=True)
        assert changes.changes(self.root, name) == []


@pytest.fixture(params=KINDS)
def make_world(
    request: pytest.FixtureRequest,
    new_lab: Callable[..., Lab],
    packs: Path,
    tmp_path: Path,
    fileops: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[], World]:
    """Make a lab on either driver; functions called in this process see it as commands do."""
    fuse = request.param == "fuse"
    if fuse:
        if not installed(FUSE):
            pytest.skip("no fuse-overlayfs")
        monkeypatch.setenv("DUMM_OVERLAY", FUSE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(packs))

    def make() -> World:
        place = tmp_path / "place"
        place.mkdir()
        return World(new_lab(), tmp_path / "master", place, fileops, fuse)

    return make


def bounded(examples: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run few examples, the same ones each time whatever the test looks like, and do not shrink
    failures, which takes minutes where each example is a boot."""
    limits = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )
    return lambda test: seed(SEED)(limits(test))


def test_operations_on_the_host(make_world: Callable[[], World], fileops: Path) -> None:
    world = make_world()
    world.master.mkdir()
    make_pool(world.master, fuse=world.fuse)
    guest.create(world.root, model.Guest("alice", master=str(world.master)))

    @bounded(40)
    @given(sequences(50, ATTRIBUTES, fuse=world.fuse))
    def run(operations: list[Operation]) -> None:
        changes.reset(world.root, "alice")  # a failed example did not get to its own reset
        with world.model() as twin:
            for part in (operations[: len(operations) // 2], operations[len(operations) // 2 :]):
                real, model_ = doer_in(fileops, world.merged("alice")), doer_in(fileops, twin)
                try:
                    both(part, real, model_)
                finally:
                    real.end()
                    model_.end()
                world.check("alice", twin)
                world.remount("alice")
            world.check("alice", twin)
            world.check_stopped("alice", operations[::-1])

    try:
        run()
    finally:
        guest.delete(world.root, "alice")


def test_operations_in_a_guest(make_world: Callable[[], World], fileops: Path, packs: Path) -> None:
    world = make_world()
    lab = world.lab
    shutil.copytree(packs / "dumm/masters/busybox", world.master, symlinks=True)
    shutil.copy(fileops, world.master / "fileops")
    make_pool(world.master, fuse=world.fuse)
    lab(["dumm-guest", "create", "alice", "--master", world.master])

    @bounded(8)
    @given(sequences(80, fuse=world.fuse))
    def run(operations: list[Operation]) -> None:
        with world.model() as twin:
            changes.reset(world.root, "alice")
            lab("dumm-guest start alice")
            real = Doer(lab.start("dumm-guest exec -w / alice -- /fileops"))
            model_ = doer_in(fileops, twin)
            try:
                both(operations, real, model_)
                world.check("alice", twin, in_guest=True)
            finally:
                real.end()
                model_.end()
                lab("dumm-guest stop alice")
            world.check("alice", twin, in_guest=True)
            world.check_stopped("alice", operations[::-1])

    run()
