"""An instance's own file system: a copy of the app's folder, a home and a scratch folder, new at every start.

What an app writes is seen by no other instance and is gone with the next start (docs/decisions/003), but for its
persistent folders (docs/decisions/019):

SEAWAY_HOME/mounts/APP/NAME     one folder, which all commands of the app see at the mount's path, by a link
They belong to the app's user id. An app of which nothing ran for a while gets another one, and its folders with it.
When an app is destroyed the control plane puts them away (control/mounts.py).
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from seaway.engine.local.base import RunRoot
from seaway.sandbox.removing import remove_tree
from seaway.sandbox.users import give_away

APP = "app"
CACHE = "__pycache__"
OWN = (APP, "home", "tmp")
OWNER_MAY = 0o600  # added to every copied file; layers are read-only
OWNER_MAY_ENTER = 0o700  # likewise for folders
WHOLE = 1 << 30  # bytes asked for at once; the kernel copies as many as it likes
NOT_HERE = frozenset({errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM})


def renew_files(folder: Path, root: RunRoot, owner: int | None = None) -> RunRoot:
    """Make the instance's folders anew; return the root with the app's paths leading to its own copy.

    They belong to the user id `owner` (and the group of that number), None: to us.
    """
    discard_files(folder)
    for name in OWN[1:]:
        (folder / name).mkdir(mode=0o700)
    copy_tree(root.workdir, folder / APP)
    _link_mounts(folder / APP, root.mounts, owner)
    if owner is not None:
        for name in OWN:
            give_away(folder / name, owner)
    return locate_files(folder, root)


def list_own(folder: Path) -> tuple[Path, ...]:
    """Return the folders of an instance that it may write to."""
    return tuple(folder / name for name in OWN)


def locate_files(folder: Path, root: RunRoot, _owner: int | None = None) -> RunRoot:
    """Return the root as the instance in this folder sees it; nothing is made."""
    own = folder / APP
    return replace(root, workdir=own, env=_relocate(root.env, root.workdir, own))


def put_in_place(root: RunRoot) -> RunRoot:
    """Return the root as commands see it to whom its folders are shown where the image has them."""
    env = root.env
    for folder, place in root.places:
        env = _relocate(env, folder, Path(place))
    return replace(root, env=env)


def _link_mounts(workdir: Path, mounts: Iterable[tuple[Path, str]], owner: int | None) -> None:
    """Have an instance's new folder lead to persistent ones, made if they are not there. OSError.

    `mounts` are pairs of a folder and its path below `workdir`; `owner` is the user id of the app, None: ours. A new
    one begins with what the app's own files have at the path.
    """
    for folder, path in mounts:
        place = workdir / path
        _make(folder, place, owner)
        if place.is_dir() and not place.is_symlink():
            remove_tree(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(folder)


def _make(folder: Path, first: Path, owner: int | None) -> None:
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not folder.is_dir():
        scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
        try:
            if first.is_dir():
                copy_tree(first, scratch / "made")
            else:
                (scratch / "made").mkdir()
            (scratch / "made").chmod(0o700)
            _rename(scratch / "made", folder)
        finally:
            remove_tree(scratch)
    if owner is not None and folder.stat().st_uid != owner:
        give_away(folder, owner)


def _rename(made: Path, folder: Path) -> None:
    try:
        made.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another instance was quicker
            raise


def discard_files(folder: Path) -> None:
    """Remove whatever the instance wrote, its output apart."""
    for name in OWN:
        remove_tree(folder / name)


def copy_tree(source: Path, target: Path) -> None:
    """Copy a folder: links as links, times kept (web servers make ETags of them), everything writable for its owner.

    The kernel shares the blocks where the file system can (XFS, Btrfs) until one side is written to.
    """
    target.mkdir(mode=0o755)
    with os.scandir(source) as entries:
        for entry in entries:
            if source.name == CACHE and not entry.name.endswith(".pyc"):
                continue  # a cache that is being written (builder/compiling.py) has a name that is gone in a moment
            own = target / entry.name
            if entry.is_symlink():
                own.symlink_to(os.readlink(entry.path))  # noqa: PTH115 - scandir gives strings
            elif entry.is_dir():
                copy_tree(Path(entry.path), own)
            else:
                _copy_file(entry.path, own)
    stat = source.stat()
    target.chmod(stat.st_mode & 0o777 | OWNER_MAY_ENTER)
    os.utime(target, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def _copy_file(source: str, target: Path) -> None:
    with open(source, "rb") as found, target.open("xb") as made:  # noqa: PTH123 - scandir gives strings
        stat = os.fstat(found.fileno())
        try:
            while os.copy_file_range(found.fileno(), made.fileno(), WHOLE):
                pass
        except OSError as error:
            if error.errno not in NOT_HERE:
                raise
            shutil.copyfileobj(found, made)
        os.fchmod(made.fileno(), stat.st_mode & 0o777 | OWNER_MAY)
        made.flush()
        os.utime(made.fileno(), ns=(stat.st_atime_ns, stat.st_mtime_ns))


def _relocate(env: Mapping[str, str], shared: Path, own: Path) -> dict[str, str]:
    """Replace the shared folder in values like PATH."""

    def move(entry: str) -> str:
        inside = entry == str(shared) or entry.startswith(f"{shared}/")
        return str(own) + entry.removeprefix(str(shared)) if inside else entry

    return {name: ":".join(map(move, value.split(":"))) for name, value in env.items()}
