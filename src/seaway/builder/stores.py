"""Where sources and build logs are kept: here in this machine's home; registry_stores.py is for several replicas."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Set
from pathlib import Path
from typing import Protocol

SUFFIX = ".tar.gz"


class SourceStore(Protocol):
    """Uploaded source archives, each under its sha256 (hex)."""

    async def put(self, archive: Path, digest: str) -> None:
        """Keep the archive; its file is taken over. Putting it again is a use."""
        ...

    async def use(self, digest: str) -> bool:
        """Tell whether the archive is there, and note that it is used: it stays for a while."""
        ...

    async def fetch(self, digest: str, target: Path) -> bool:
        """Write the archive to the file, in full or not at all; False: it is not there."""
        ...

    async def delete_old(self, keep: Set[str], spare_after: float) -> int:
        """Delete archives not in `keep` and not used since `spare_after` (Unix time); return how many."""
        ...


class LogStore(Protocol):
    """Output of builds that are over, or under way on another replica, by the build's name."""

    async def put(self, name: str, log: Path) -> None:
        """Keep a copy of the log as it is now."""
        ...

    async def fetch(self, name: str, target: Path, newer_than: float = 0.0) -> bool:
        """Write what is kept to the file, in full or not at all, with its time; False: nothing newer is (Unix time)."""
        ...


class FolderSources:
    """SourceStore in one folder: home.sources."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def put(self, archive: Path, digest: str) -> None:
        """See SourceStore."""
        archive.replace(self._folder / f"{digest}{SUFFIX}")

    async def use(self, digest: str) -> bool:
        """See SourceStore."""
        try:
            os.utime(self._folder / f"{digest}{SUFFIX}")
        except FileNotFoundError:
            return False
        return True

    async def fetch(self, digest: str, target: Path) -> bool:
        """See SourceStore."""
        source = self._folder / f"{digest}{SUFFIX}"
        if source == target:
            return target.exists()
        return await asyncio.to_thread(_copy, source, target)

    async def delete_old(self, keep: Set[str], spare_after: float) -> int:
        """See SourceStore."""
        deleted = 0
        for file in self._folder.glob(f"*{SUFFIX}"):
            if file.name.removesuffix(SUFFIX) not in keep and file.stat().st_mtime < spare_after:
                file.unlink(missing_ok=True)
                deleted += 1
        return deleted


class NoLogs:
    """LogStore that keeps nothing."""

    async def put(self, name: str, log: Path) -> None:
        """See LogStore."""

    async def fetch(self, name: str, target: Path, newer_than: float = 0.0) -> bool:  # noqa: ARG002
        """See LogStore."""
        return False


def _copy(source: Path, target: Path) -> bool:
    handle, temporary = tempfile.mkstemp(prefix=".new-", dir=target.parent)
    os.close(handle)
    try:
        shutil.copyfile(source, temporary)
        Path(temporary).replace(target)
    except FileNotFoundError:
        return False
    finally:
        Path(temporary).unlink(missing_ok=True)
    return True
