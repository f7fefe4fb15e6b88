"""ImageUnpacker: an image's layers as folders of this machine, so that its processes run without containers.

home.node/rootfs/layers/HEX    one layer, shared by every image that has it
home.node/rootfs/python/3.11   an empty virtual environment around this machine's interpreter
home.node/rootfs/venvs/HEX     that of one image: the empty one and what its layers have for theirs, joined by links
A layer's folder never changes once it has its name, so sharing it is safe: it is read-only (which does not hold off
root) but for the __pycache__ folders, which the node itself fills (compiling.py). Every user may read all of it: who
gets that far is up to the folders above.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seaway.builder.archive import clean_name, make_folder, write_member
from seaway.builder.base import TO_CONTAINERS, BuildError
from seaway.builder.compiling import CacheCompiler
from seaway.builder.image import APP_FOLDER, LABEL_LOCAL, LABEL_RUNTIME, SYSTEM_PATH, VENV, this_architecture
from seaway.builder.interpreter import NoInterpreter, find_interpreter, this_version
from seaway.builder.layout import LAYER_TYPE, ImageError, ImageLayout, lock_file
from seaway.builder.venv import CACHE, add_interpreter, join_trees
from seaway.home import Home

REMOVING_LIMIT = 10.0  # seconds in which a layer must have gone, though another process still compiles it


class CannotRun(Exception):
    """This machine cannot run the image; the message says why and what can."""


@dataclass(frozen=True)
class Prepared:
    """An unpacked image: the folder its commands start in, and the environment they need (PATH, PYTHONPATH, ...).

    `folders` is all that they need to see but that folder: layers, environment, interpreter. `places` are pairs of a
    folder of these and where the image has it.
    """

    workdir: Path
    env: Mapping[str, str]
    folders: tuple[Path, ...]
    places: tuple[tuple[Path, str], ...] = ()


@dataclass(frozen=True)
class _Image:
    config: Mapping[str, Any]
    layers: tuple[Mapping[str, Any], ...]

    @property
    def labels(self) -> Mapping[str, str]:
        return self.config.get("config", {}).get("Labels") or {}


class ImageUnpacker:
    """Unpacks images of home.images below home.node/rootfs; any number of processes may do so at once."""

    def __init__(self, home: Home) -> None:
        self._layout = ImageLayout(home.images.absolute())
        self._root = home.node.absolute() / "rootfs"
        self._compiler = CacheCompiler(self._root)

    async def prepare(self, image: str) -> Prepared:
        """Unpack what is not there yet; raise CannotRun (not for this machine) or ImageError (missing, damaged).

        Python's caches come later, in the background; what does not get done is begun again by the next call.
        """
        return await asyncio.to_thread(self._prepare, image)

    async def release(self, images_in_use: Set[str]) -> None:
        """Remove unpacked layers that none of these images has; count those about to be prepared among them."""
        await asyncio.to_thread(self._release, images_in_use)

    def _prepare(self, image: str) -> Prepared:
        found = self._read(image)
        _check_runnable(image, found)
        (self._root / "layers").mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._sharing():
            folders = [self._unpack(layer) for layer in found.layers]
            python = self._make_python(found.labels[LABEL_RUNTIME])
            self._compiler.compile(folders, python.parent.name, python / "python")
            venv = self._join_environment(image, folders, python.parent)
        needed = (*dict.fromkeys((*folders, python.parent, venv, find_prefix(python / "python"))),)
        env = _map_env(found.config, folders, python, venv, found.labels)
        places = ((venv, VENV),) if "VIRTUAL_ENV" in env else ()
        return Prepared(_locate(APP_FOLDER, folders), env, needed, places)

    def _read(self, image: str) -> _Image:
        manifest = self._layout.read_json(image)
        if not isinstance(manifest, dict) or "config" not in manifest or "layers" not in manifest:
            raise CannotRun(f"{image} is not a single image (an index of several?): {TO_CONTAINERS}")
        return _Image(self._layout.read_json(manifest["config"]["digest"]), tuple(manifest["layers"]))

    def _unpack(self, layer: Mapping[str, Any]) -> Path:
        target = self._root / "layers" / str(layer["digest"]).removeprefix("sha256:")
        if target.is_dir():
            return target
        blob = self._layout.path(layer["digest"])
        if not blob.is_file():
            raise ImageError(f"layer {layer['digest']} is not in the store: build or deploy the app again")
        scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=target.parent))
        try:
            unpack_layer(blob, scratch)
            _lock_down(scratch)
            self._compiler.forget(lambda layer: layer == target.name)  # somebody removed the folder by hand
            scratch.rename(target)
        except OSError:
            _remove(scratch)
            if target.is_dir():  # another one was faster
                return target
            raise
        except BaseException:
            _remove(scratch)
            raise
        return target

    def _make_python(self, runtime: str) -> Path:
        """Return the bin folder of an environment with this machine's interpreter and no packages of its own."""
        version = this_version() if runtime == "none" else runtime.removeprefix("python")
        target = self._root / "python" / version
        if not (target / "bin" / "python").exists():
            executable = _find_python(version)
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with lock_file(target.parent / f"{version}.lock"):
                _write_environment(target, version, executable)
        _lock_down(target)  # also one that an older Seaway made, for itself alone
        return target / "bin"

    def _join_environment(self, image: str, folders: list[Path], empty: Path) -> Path:
        """Return the image's virtual environment: the empty one if its layers have nothing for it."""
        trees = [tree for folder in folders if (tree := folder / VENV.lstrip("/")).is_dir()]
        target = self._root / "venvs" / image.removeprefix("sha256:")
        if not trees or target.is_dir():
            return target if trees else empty
        target.parent.mkdir(mode=0o700, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=target.parent))
        try:
            join_trees(scratch / "joined", [empty, *trees])
            for parent, _, _ in os.walk(scratch / "joined"):
                Path(parent).chmod(0o555)
            try:
                (scratch / "joined").rename(target)
            except OSError:
                if not target.is_dir():  # else another one was faster
                    raise
        finally:
            _remove(scratch)
        return target

    def _release(self, images_in_use: Set[str]) -> None:
        if not self._root.is_dir():
            return
        with self._alone():
            kept: set[str] = set()
            for image in images_in_use:
                if self._layout.has(image):
                    kept |= {str(layer["digest"]).removeprefix("sha256:") for layer in self._read(image).layers}
            self._compiler.forget(lambda layer: layer not in kept)
            kept |= {image.removeprefix("sha256:") for image in images_in_use}
            held = (self._root / "venvs", self._root / "layers")  # no environment leads to layers that are gone
            for folder in [entry for place in held if place.is_dir() for entry in place.iterdir()]:
                if folder.name not in kept:
                    # Under another name first: half a layer must never stand under the name of a whole one.
                    doomed = folder if folder.name.startswith(".") else folder.with_name(f".old-{folder.name}")
                    folder.rename(doomed)
                    _remove(doomed)

    @contextmanager
    def _sharing(self) -> Iterator[None]:
        with self._flock(fcntl.LOCK_SH):
            yield

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._flock(fcntl.LOCK_EX):
            yield

    @contextmanager
    def _flock(self, kind: int) -> Iterator[None]:
        handle = os.open(self._root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, kind)
            yield
        finally:
            os.close(handle)


def _check_runnable(image: str, found: _Image) -> None:
    short = image[:19]
    architecture = found.config.get("architecture")
    if found.labels.get(LABEL_LOCAL) != "true" or LABEL_RUNTIME not in found.labels:
        raise CannotRun(f"image {short} was not built by Seaway's builder and expects its own base: {TO_CONTAINERS}")
    if architecture != this_architecture() or found.config.get("os") != "linux":
        raise CannotRun(f"image {short} is for {architecture}, this machine is {this_architecture()}: {TO_CONTAINERS}")
    if any(layer["mediaType"] != LAYER_TYPE for layer in found.layers):
        raise CannotRun(f"image {short} has layers of a kind Seaway does not write: {TO_CONTAINERS}")


def _find_python(version: str) -> Path:
    try:
        return find_interpreter(version).executable
    except NoInterpreter as error:
        raise CannotRun(f"{error}; or {TO_CONTAINERS}") from None


def find_prefix(python: Path) -> Path:
    """Return the folder that an interpreter and its standard library are in."""
    return python.resolve().parents[1]


def unpack_layer(blob: Path, target: Path) -> None:
    """Unpack one layer that Seaway wrote. Times are left as now: web servers make ETags of them."""
    links: list[tuple[Path, str]] = []
    try:
        with tarfile.open(blob, mode="r:") as opened:
            for member in opened:
                name = clean_name(member.name)
                if CACHE in name.split("/"):  # made here or not at all
                    continue
                if member.issym():
                    links.append((target / name, member.linkname))
                elif member.isdir():
                    make_folder(target / name, name)
                elif member.isreg():
                    write_member(opened, member, target / name, name)
                else:
                    raise ImageError(f"layer {blob.name[:12]} holds {name!r}, which is no file, folder or link")
    except (tarfile.TarError, EOFError, BuildError) as error:
        raise ImageError(
            f"layer {blob.name[:12]} is damaged ({error}): delete {blob} and deploy the app again"
        ) from None
    for path, linked in links:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(linked)


def _lock_down(folder: Path) -> None:
    """Let every user read all (and run what its owner may run) and nobody write, whatever the modes were.

    Each folder with Python files gets a __pycache__, where the owner may.
    """
    for parent, _, files in os.walk(folder, topdown=False):
        if Path(parent).name == CACHE:
            continue
        for name in files:
            path = Path(parent, name)
            if not path.is_symlink():
                path.chmod(0o555 if path.stat().st_mode & 0o100 else 0o444)
        if any(name.endswith(".py") for name in files):
            cache = Path(parent, CACHE)
            cache.mkdir(exist_ok=True)
            cache.chmod(0o755)
        Path(parent).chmod(0o555)


def _remove(layer: Path) -> None:
    """Remove a layer, whole or half, read-only or not; OSError if that fails."""
    deadline = time.monotonic() + REMOVING_LIMIT
    while True:
        for parent, _, _ in os.walk(layer):
            Path(parent).chmod(0o700)
        try:
            shutil.rmtree(layer)
            return
        except OSError as error:  # another process's compile may still write; it ends when it misses a source
            if error.errno not in {errno.ENOTEMPTY, errno.ENOENT} or time.monotonic() > deadline:
                raise
            if not layer.exists():
                return


def _write_environment(target: Path, version: str, executable: Path) -> None:
    """Write a virtual environment by hand (no pip, no packages of the system); atomic, and fine if it is there."""
    if (target / "bin" / "python").exists():
        return
    if target.is_dir():
        _remove(target)
    scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=target.parent))
    add_interpreter(scratch, version, executable)
    _lock_down(scratch)
    scratch.rename(target)


def _locate(path: str, folders: list[Path]) -> Path:
    """Return where an absolute path of the image is on this machine: in the topmost layer that has it."""
    for folder in reversed(folders):
        mapped = folder / path.lstrip("/")
        if mapped.exists():
            return mapped
    raise ImageError(f"the image has no {path}: deploy the app again")


def _map_env(
    config: Mapping[str, Any], folders: list[Path], python: Path, venv: Path, labels: Mapping[str, str]
) -> dict[str, str]:
    env = dict(entry.split("=", 1) for entry in config["config"].get("Env", ()))
    own = [entry for entry in env.get("PATH", "").split(":") if entry not in SYSTEM_PATH.split(":")]
    machine = [str(entry) for entry in list_machine_path()]
    first, last = ([str(python)], []) if labels[LABEL_RUNTIME] != "none" else ([], [str(python)])
    env["PATH"] = ":".join(dict.fromkeys([*_map_all(own, folders, venv), *first, *machine, *last]))
    for name in ("PYTHONPATH", "VIRTUAL_ENV"):
        if name in env:
            env[name] = ":".join(_map_all(env[name].split(":"), folders, venv))
    return env


def _map_all(paths: list[str], folders: list[Path], venv: Path) -> Iterator[str]:
    for path in paths:
        if path == VENV or path.startswith(f"{VENV}/"):
            yield str(venv) + path.removeprefix(VENV)
            continue
        for folder in reversed(folders):
            if (folder / path.lstrip("/")).exists():
                yield str(folder / path.lstrip("/"))
                break


def list_machine_path() -> list[str]:
    """Return this machine's PATH without the environment Seaway itself runs in, and with the system's folders."""
    own = {str(Path(sys.prefix) / "bin"), str(Path(sys.executable).parent)} if sys.prefix != sys.base_prefix else set()
    entries = [*os.environ.get("PATH", "").split(os.pathsep), *SYSTEM_PATH.split(":")]
    return [entry for entry in dict.fromkeys(entries) if entry and entry not in own]
