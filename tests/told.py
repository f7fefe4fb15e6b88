"""What Seaway's parts and the servers beside them wrote to their logs during a test: shown when it fails."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

LINES = 25  # of each log
MOST = 24  # logs; the latest ones
TAIL = 64 * 1024  # bytes that are looked at


@dataclass
class Logs:
    """The folders that hold logs now, and when the running test began."""

    folders: dict[Path, int] = field(default_factory=dict)  # with how many lines of each log
    began: float = 0.0
    kept: str = ""  # of folders that went before anybody looked, as their fixture failed

    def begin(self) -> None:
        """A test begins."""
        self.began, self.kept = time.time(), ""

    def read(self) -> str:
        """Return the ends of all logs that were written to since the test began."""
        found = [(path, lines) for folder, lines in self.folders.items() for path in find_logs(folder, self.began)]
        found.sort(key=lambda entry: entry[0].stat().st_mtime)
        return self.kept + "".join(show(path, lines) for path, lines in found[-MOST:])

    @contextmanager
    def shown(self, folder: Path, lines: int = LINES) -> Iterator[None]:
        """Show what is below `folder`, also when what runs in this block fails and then removes it."""
        self.folders[folder] = lines
        try:
            yield
        except BaseException:
            self.kept = self.read()
            raise
        finally:
            del self.folders[folder]


LOGS = Logs()


def find_logs(folder: Path, since: float) -> list[Path]:
    """Return the logs below a folder with something in them that is newer than `since`."""
    found = []
    for path in chain(folder.rglob("*.log"), folder.rglob("*.jsonl")):  # the latter are apps' own words
        try:
            stat = path.stat()
        except OSError:  # it went meanwhile
            continue
        if path.is_file() and stat.st_size and stat.st_mtime >= since:
            found.append(path)
    return found


def show(path: Path, lines: int) -> str:
    """Return the last lines of a log under its path."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL))
            text = file.read().decode(errors="replace")
    except OSError as error:
        text = str(error)
    return f"--- {path}\n" + "".join(f"{line[:1000]}\n" for line in text.splitlines()[-lines:])
