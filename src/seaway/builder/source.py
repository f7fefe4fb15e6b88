"""Source folders: which files belong to an app, and packing them into an archive that is the same everywhere.

Used by the CLI (to upload a folder) and by the builder (for the app layer).
"""

from __future__ import annotations

import gzip
import hashlib
import os
import stat
import tarfile
from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from pathspec import GitIgnoreSpec

from seaway.builder.base import BuildError

SEAWAY_IGNORE = ".seawayignore"
GIT_IGNORE = ".gitignore"

LARGEST_ARCHIVE = 512 << 20  # bytes that the API takes of a packed source

ALWAYS_IGNORED = frozenset(
    {
        *(".git", ".hg", ".svn", ".seaway", ".DS_Store"),
        *(".venv", ".tox", ".nox", "node_modules"),
        *("__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache"),
    }
)
IGNORED_SUFFIXES = (".pyc", ".pyo")
BUILT = frozenset({"node_modules"})  # of a source left out, of what a build made not


@dataclass(frozen=True)
class Limits:
    """How big a source may be."""

    bytes: int = 2 * 1024**3
    entries: int = 100_000


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class SourceFile:
    """One file or symbolic link of a source; `name` is its path with / inside the source."""

    name: str
    path: Path
    executable: bool = False
    link: str | None = None  # target, for a symbolic link
    size: int = 0


@dataclass(frozen=True)
class Packed:
    """An archive that was written: its sha256 (hex), size in bytes, number of files, and what was left out and why.

    `tops`: the bytes of each file and folder at its top, before they were packed, the largest first.
    """

    sha256: str
    size: int
    files: int
    skipped: tuple[str, ...] = ()
    tops: tuple[tuple[str, int], ...] = ()


class _Ignores:
    """The ignore rules that hold in one folder; .seawayignore has the last word, deeper .gitignore files win."""

    def __init__(
        self,
        rules: tuple[tuple[str, GitIgnoreSpec], ...] = (),
        final: GitIgnoreSpec | None = None,
        *,
        git: bool = False,
        always: Set[str] = ALWAYS_IGNORED,
    ) -> None:
        self._rules = rules
        self._final = final
        self._git = git
        self._always = always

    @classmethod
    def read(cls, root: Path, git: bool) -> _Ignores:
        """Read the rules above and at `root`."""
        rules: tuple[tuple[str, GitIgnoreSpec], ...] = ()
        if git:
            rules = tuple(_read_outer_rules(root))
        real = os.path.realpath(root / SEAWAY_IGNORE)
        if not real.startswith(os.path.realpath(root) + os.sep):  # an error in it would be quoted
            raise BuildError(f"{SEAWAY_IGNORE}: {_explain_link(real)}")
        return cls(rules, _read_spec(root / SEAWAY_IGNORE), git=git)

    def enter(self, folder: Path, name: str) -> _Ignores:
        """Return the rules inside `folder`, whose path in the source is `name` ("" at the top)."""
        spec = _read_spec(folder / GIT_IGNORE) if self._git else None
        if spec is None:
            return self
        rules = (*self._rules, (name + "/" if name else "", spec))
        return _Ignores(rules, self._final, git=self._git, always=self._always)

    def match(self, name: str, is_folder: bool) -> bool:
        """Tell whether the entry is left out."""
        last = name.rpartition("/")[2]
        if last in self._always or last.endswith(IGNORED_SUFFIXES):
            return True
        subject = name + "/" if is_folder else name
        if self._final is not None:
            verdict = self._final.check_file(subject).include
            if verdict is not None:
                return verdict
        for prefix, spec in reversed(self._rules):
            inner = subject.removeprefix(prefix) if not prefix.startswith("../") else prefix[3:] + subject
            verdict = spec.check_file(inner).include
            if verdict is not None:
                return verdict
        return False


def _read_outer_rules(root: Path) -> Iterator[tuple[str, GitIgnoreSpec]]:
    """Yield the .gitignore files between the repository's root and `root`, outermost first.

    Their prefix is written "../PATH/": the path from that folder down to `root`.
    """
    absolute = root.absolute()
    parents = list(absolute.parents)
    top = next((index for index, parent in enumerate(parents) if (parent / ".git").exists()), None)
    if (absolute / ".git").exists() or top is None:
        return
    for parent in reversed(parents[: top + 1]):
        spec = _read_spec(parent / GIT_IGNORE)
        if spec is not None:
            yield f"../{absolute.relative_to(parent).as_posix()}/", spec


def _read_spec(file: Path) -> GitIgnoreSpec | None:
    try:
        lines = file.read_text(errors="surrogateescape").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except IsADirectoryError:
        return None
    try:
        return GitIgnoreSpec.from_lines(lines)
    except ValueError as error:
        raise BuildError(f"{file.name}: {error}") from None


def list_files(
    root: Path, *, git_ignores: bool = True, limits: Limits = DEFAULT_LIMITS, skipped: list[str] | None = None
) -> list[SourceFile]:
    """Return the files and links of a source, by name; empty folders don't count (as in git).

    Sockets, devices and pipes are left out and named in `skipped`. Raises BuildError for a link that leads out
    of the source, a source over its limits, and a file that cannot be read.
    """
    if not root.is_dir():
        raise BuildError(f"{root}: is not a folder: name the folder that holds the app")
    return _list(root, _Ignores.read(root, git_ignores), limits, skipped if skipped is not None else [])


def list_built(root: Path, limits: Limits = DEFAULT_LIMITS) -> list[SourceFile]:
    """Return what a build made of a source, likewise: nothing is left out for the sake of an ignore file."""
    return _list(root, _Ignores(always=ALWAYS_IGNORED - BUILT), limits, [])


def _list(root: Path, ignores: _Ignores, limits: Limits, skipped: list[str]) -> list[SourceFile]:
    collector = _Collector(root, limits, skipped)
    collector.collect(root, "", ignores)
    found = collector.found
    total = sum(file.size for file in found)
    if total > limits.bytes:
        raise BuildError(
            f"the source has {total // 1024**2} MiB of files, the limit is {limits.bytes // 1024**2} MiB: "
            f"list what the app does not need in {SEAWAY_IGNORE}"
        )
    found.sort(key=lambda file: os.fsencode(file.name))
    return found


class _Collector:
    """Walks a source folder and gathers what belongs to the app in `found`."""

    def __init__(self, root: Path, limits: Limits, skipped: list[str]) -> None:
        self._root = root
        self._real_root = os.path.realpath(root)
        self._limits = limits
        self._skipped = skipped
        self.found: list[SourceFile] = []

    def collect(self, folder: Path, name: str, outer: _Ignores) -> None:
        ignores = outer.enter(folder, name)
        try:
            entries = list(os.scandir(folder))
        except PermissionError:
            raise BuildError(_explain_unreadable(name or str(folder))) from None
        for entry in entries:
            path = f"{name}/{entry.name}" if name else entry.name
            is_folder = entry.is_dir(follow_symlinks=False)
            if ignores.match(path, is_folder) or (is_folder and Path(entry.path, "pyvenv.cfg").exists()):
                continue
            if is_folder:
                self.collect(Path(entry.path), path, ignores)
            else:
                self._add(entry, path)

    def _add(self, entry: os.DirEntry[str], name: str) -> None:
        if len(self.found) >= self._limits.entries:
            raise BuildError(
                f"the source has more than {self._limits.entries} files: "
                f"list what the app does not need in {SEAWAY_IGNORE}"
            )
        if entry.is_symlink():
            target = str(Path(entry.path).readlink())
            check_link(name, target)
            real = os.path.realpath(entry.path)
            if real != self._real_root and not real.startswith(self._real_root + os.sep):
                raise BuildError(f"{name}: {_explain_link(target)}")
            self.found.append(SourceFile(name, Path(entry.path), link=target))
            return
        status = entry.stat(follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode):
            self._skipped.append(f"{name}: is not a file, folder or link")
            return
        executable = bool(status.st_mode & 0o100)
        self.found.append(SourceFile(name, Path(entry.path), executable, size=status.st_size))


def _explain_unreadable(name: str) -> str:
    return f"{name}: may not be read: change its mode or list it in {SEAWAY_IGNORE}"


def check_link(name: str, target: str) -> None:
    """Refuse a symbolic link that is absolute or whose text leads out of the source."""
    joined = os.path.normpath(f"{name}/../{target}")
    if not target or target.startswith("/") or joined == ".." or joined.startswith("../"):
        raise BuildError(f"{name}: {_explain_link(target)}")


def _explain_link(target: str) -> str:
    return (
        f"links to {target}, outside the app's folder: put the file itself there, or list the link in {SEAWAY_IGNORE}"
    )


def digest_files(files: list[SourceFile]) -> str:
    """Return the sha256 (hex) of names, modes and contents."""
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.name}\0{file.executable:d}\0{file.link or ''}\0".encode(errors="surrogateescape"))
        if file.link is None:
            with file.path.open("rb") as opened:
                total.update(hashlib.file_digest(opened, "sha256").digest())
    return total.hexdigest()


class HashingWriter:
    """A file that hashes and counts what is written to it."""

    def __init__(self, target: IO[bytes]) -> None:
        self._target = target
        self.sha256 = hashlib.sha256()
        self.size = 0

    def write(self, data: Any) -> int:
        """Write to the target; return the number of bytes."""
        self.sha256.update(data)
        self.size += len(data)
        self._target.write(data)
        return len(data)

    def tell(self) -> int:
        """Return the number of bytes written."""
        return self.size

    def flush(self) -> None:
        """Flush the target."""
        self._target.flush()


def pack(directory: Path, target: Path, limits: Limits = DEFAULT_LIMITS) -> Packed:
    """Write the app in `directory` as a .tar.gz to `target`; the same files give the same bytes.

    .gitignore (nested, and those above inside the repository) and .seawayignore are honoured; .git, virtual
    environments, caches and node_modules never go in. Raises BuildError.
    """
    skipped: list[str] = []
    files = list_files(directory, limits=limits, skipped=skipped)
    if not files:
        raise BuildError(f"{directory}: holds no files to deploy: name the folder that holds the app")
    with target.open("wb") as opened:
        hashing = HashingWriter(opened)
        with (
            gzip.GzipFile(filename="", mode="wb", fileobj=cast(IO[bytes], hashing), mtime=0, compresslevel=6) as zipped,
            tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for file in files:
                add_file(archive, file.name, file)
    return Packed(hashing.sha256.hexdigest(), hashing.size, len(files), tuple(skipped), _measure_tops(files))


def _measure_tops(files: list[SourceFile]) -> tuple[tuple[str, int], ...]:
    tops = Counter[str]()
    for file in files:
        tops[file.name.partition("/")[0]] += file.size
    return tuple(tops.most_common())


def add_file(archive: tarfile.TarFile, name: str, file: SourceFile) -> None:
    """Add a file or link under `name` with zeroed time and owner and mode 0644 or 0755."""
    info = tarfile.TarInfo(name)
    info.mode = 0o755 if file.executable else 0o644
    if file.link is not None:
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, file.link, 0o777
        archive.addfile(info)
        return
    try:
        with file.path.open("rb") as opened:
            info.size = os.fstat(opened.fileno()).st_size
            archive.addfile(info, opened)
    except PermissionError:
        raise BuildError(_explain_unreadable(file.name)) from None
    except OSError as error:
        raise BuildError(
            f"{file.name}: {error.strerror or error}: it changed while it was read; deploy again"
        ) from None
