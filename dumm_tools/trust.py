"""Which files are trusted: those that belong to the caller and cannot be written by anybody else.

Commands act on everything in a working directory: records, links, pid files, namespaces. In a
directory that another user owns or can write to, any of these may be a trap. Such a directory is
refused, as by git (safe.directory in git-config(1)), and so is one that another user could replace
through a parent directory. The same applies to the cache of kernel packs and masters, where files
of root are accepted, too.
"""

from __future__ import annotations

import os
import stat

from dumm_tools.errors import Conflict
from dumm_tools.linux import namespaces

#: Working directories of others that the caller trusts, in the format of PATH.
NAMED = "DUMM_SAFE_DIRECTORY"

#: The entries of a working directory, and the types that they must have.
_FILES = ("state.json", ".lock")
_DIRECTORIES = ("host", "mount", "run", "startup", "templates")
_LINKS = ("linux", "master")

_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def resolve(path: str) -> str:
    """The absolute path without links of a working directory, which need not exist. Conflict if its
    contents cannot be trusted."""
    root = os.path.realpath(path)
    try:
        found = os.lstat(root)
    except OSError:
        found = None  # a missing directory is reported by the code that needs it
    owners = {os.geteuid()}
    if found is not None and root in _named():
        owners.add(found.st_uid)
    else:
        _check_parents(root)
    if found is None or not stat.S_ISDIR(found.st_mode):
        return root
    _check(root, found, owners)
    for name in (*_FILES, *_DIRECTORIES, *_LINKS):
        _check_entry(os.path.join(root, name), owners)
    _check_guests(os.path.join(root, "run"), owners)
    return root


def check_file(labdir: str, path: str, fd: int) -> None:
    """Raise Conflict unless a file of a working directory, which has been opened, is a regular file
    that belongs to the caller, and nobody else can write to it."""
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise Conflict(f"'{path}' is not a file", hint="move it away")
    owners = {os.geteuid()}
    if labdir in _named():
        owners.add(os.stat(labdir).st_uid)
    _check(path, found, owners)


def check_cache(path: str) -> None:
    """Raise Conflict unless a directory of the cache, if it exists, belongs to the caller or to
    root, and nobody else can write to it or replace it."""
    root = os.path.realpath(path)
    _check_parents(root)
    _check_if_there(root, _trusted())


def check_pack(path: str) -> None:
    """Raise Conflict unless a kernel pack, and the parts of it that a jail uses, belong to the
    caller or to root: its links are followed after they were checked."""
    check_cache(path)
    for name in ("usr", "lib", "lib64", "bin", "linux"):
        _check_if_there(os.path.join(path, name), _trusted())


def check_source(path: str) -> None:
    """Raise Conflict unless a source tree, whose makefiles are about to run, belongs to the caller,
    to root or to the user who called sudo(8), and nobody else can write to it or replace it."""
    root = os.path.realpath(path)
    if root in _named():
        return
    owners = _trusted()
    if os.geteuid() == 0 and (caller := os.environ.get("SUDO_UID", "")).isdecimal():
        owners.add(int(caller))
    found = os.stat(root)
    if found.st_uid == os.geteuid():
        _check_parents(root)
    for each in (root, os.path.join(root, "Makefile")):
        found = os.stat(each)
        if found.st_uid not in owners:
            raise _of_another(each, found, f"build as its owner, or set {NAMED}={root}")
        _check_mode(each, found)


def check_name(path: str) -> None:
    """Raise Conflict if another user could replace the existing file at a path without links."""
    _check_parents(path)
    place, found = os.stat(os.path.dirname(path)), os.stat(path)
    if place.st_mode & stat.S_ISVTX and place.st_mode & _OTHERS and found.st_uid not in _trusted():
        raise _of_another(path, found, "its owner could replace it; see SECURITY in dumm(7)")


def _named() -> set[str]:
    return {os.path.realpath(p) for p in os.environ.get(NAMED, "").split(":") if p.startswith("/")}


def _trusted() -> set[int]:
    """The caller, root, and the owner of the root directory, which is how the host's root appears
    in a user namespace that does not map it (user_namespaces(7), overflowuid)."""
    return {os.geteuid(), 0, os.stat("/").st_uid}


def _check_parents(path: str) -> None:
    """Raise Conflict if another user could replace `path`."""
    trusted = _trusted()
    place = os.path.dirname(path)
    while True:
        try:
            found = os.stat(place)
        except OSError:
            found = None  # we are about to create it
        if found is not None:
            if found.st_uid not in trusted:
                raise _of_another(
                    place,
                    found,
                    f"its owner could replace '{path}'; see SECURITY in dumm(7)",
                )
            # With the sticky bit, users can rename only their own files (inode(7)).
            if not found.st_mode & stat.S_ISVTX:
                _check_mode(place, found)
        if place == "/":
            return
        place = os.path.dirname(place)


def _check_entry(path: str, owners: set[int]) -> None:
    """Check an entry of a working directory and, if it is a link, its target."""
    found = _check_if_there(path, owners)
    name = os.path.basename(path)
    if name in _LINKS:
        return  # its target is checked by the code that uses it
    if found is not None and stat.S_ISLNK(found.st_mode):
        path = os.path.realpath(path)
        _check_parents(path)
        found = _check_if_there(path, owners)
    if found is None:
        return
    right = stat.S_ISREG if name in _FILES else stat.S_ISDIR
    if not right(found.st_mode):
        kind = "a file" if name in _FILES else "a directory"
        raise Conflict(f"'{path}' is not {kind}", hint="move it away")


def _check_guests(run: str, owners: set[int]) -> None:
    """Check the run-time files: the directory of each guest, and the other files in `run`."""
    try:
        with os.scandir(run) as entries:
            found = [(entry.path, entry.stat(follow_symlinks=False)) for entry in entries]
    except OSError:
        return
    for path, each in found:
        _check(path, each, owners)


def _check_if_there(path: str, owners: set[int]) -> os.stat_result | None:
    """Check a file if it exists; None if it does not."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    _check(path, found, owners)
    return found


def _check(path: str, found: os.stat_result, owners: set[int]) -> None:
    if found.st_uid not in owners:
        raise _of_another(path, found)
    if not stat.S_ISLNK(found.st_mode):  # the mode of a link has no meaning
        _check_mode(path, found)


def _check_mode(path: str, found: os.stat_result) -> None:
    others = found.st_mode & _OTHERS
    if others == stat.S_IWGRP and _is_private(found):
        return
    if others:
        from shlex import quote

        shared = found.st_mode & stat.S_ISVTX and stat.S_ISDIR(found.st_mode)  # such as /tmp
        raise Conflict(
            f"'{path}', which belongs to {_name(found.st_uid)}, is writable by others",
            hint="make a directory of your own in it, and use that"
            if shared
            else f"chmod go-w {quote(path)}, unless this is intended",
        )


def _is_private(found: os.stat_result) -> bool:
    """Whether the group with write access is the owner's private group, with nobody else in it, as
    distributions create one for each user. Never for root's group: its members have fewer rights
    than root."""
    import grp
    import pwd

    # In a lab's namespaces, an ordinary user appears as root.
    uid, gid = namespaces.outside("uid", found.st_uid), namespaces.outside("gid", found.st_gid)
    if uid <= 0 or found.st_uid != os.geteuid():
        return False
    try:
        user, group = pwd.getpwuid(uid), grp.getgrgid(gid)
    except KeyError:
        return False
    return (
        user.pw_gid == group.gr_gid
        and group.gr_name == user.pw_name
        and set(group.gr_mem) <= {user.pw_name}
    )


def _of_another(
    path: str,
    found: os.stat_result,
    hint: str = "its contents may be a trap: use a directory of your own",
) -> Conflict:
    return Conflict(
        f"'{path}' belongs to {_name(found.st_uid)}, not to {_name(os.geteuid())}", hint=hint
    )


def _name(uid: int) -> str:
    import pwd

    known = namespaces.outside("uid", uid)
    try:
        return f"'{pwd.getpwuid(known if known >= 0 else uid).pw_name}'"
    except KeyError:
        return f"user {uid}"
