"""An instance's own file system: a copy of the app's folder, a home and a scratch folder, new at every start.

What an app writes is seen by no other instance and is gone with the next start (docs/decisions/003).
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping
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
