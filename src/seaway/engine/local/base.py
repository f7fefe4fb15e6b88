"""What the node agent is given by the composition root, and the times it keeps."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class RunRoot:
    """An image made ready to run here: where commands start, and the image's environment.

    `workdir` is shared and never written to: each instance gets a copy of it (files.py). `env` holds PATH and the
    like with the image's own paths already mapped to this machine. `folders` is all that the image needs to run but
    `workdir`, for commands that see nothing else of Seaway's. `places` are pairs of a folder of these and where the
    image has it, for commands that can be shown it there. `mounts` are pairs of a persistent folder and its path below
    `workdir`.
    """

    workdir: Path
    env: Mapping[str, str]
    folders: tuple[Path, ...] = ()
    places: tuple[tuple[Path, str], ...] = ()
    mounts: tuple[tuple[Path, str], ...] = ()


class Unpacker(Protocol):
    """Turns images into folders to run in."""

    async def prepare(self, image: str) -> RunRoot:
        """Return the root of the image (unpacking it if needed); EngineError says why it cannot run here."""
        ...

    def release(self, images_in_use: Set[str]) -> None:
        """Remove the unpacked roots of all other images. May block; called in a thread, never beside `prepare`."""
        ...


class OutputCollector(Protocol):
    """Copies what instances write to where logs are read; each line once, whatever is killed in between."""

    def follow(
        self, instance: str, folder: Path, *, app: str, team: str, release: int, process: str, node: str
    ) -> None:
        """Make the named pipes stdout.pipe and stderr.pipe in `folder`; copy what comes from them, until `finish`.

        It goes on where an earlier collector stopped; nothing new happens if the instance is followed already. Call
        it before `run` for what is adopted. What was taken and not yet copied is in `folder`/stdout and stderr, whose
        front may be gone. OSError if the pipes cannot be made.
        """
        ...

    async def run(self) -> None:
        """Copy until cancelled; before that every call only takes notes."""
        ...

    async def drain(self, instance: str) -> None:
        """Take all that was written so far: the raw files end with it."""
        ...

    async def flush(self, instance: str) -> None:
        """The process has ended: copy all it wrote, an unfinished last line too."""
        ...

    async def finish(self, instance: str) -> None:
        """Copy all that is left and stop following. The folder may go afterwards."""
        ...

    def forget(self, instance: str) -> None:
        """The folder is gone: drop what is remembered of the instance."""
        ...

    def give_way(self, *, tight: bool) -> None:
        """The disk is almost full, or is not any more: keep less of what was copied meanwhile."""
        ...

    async def close(self) -> None:
        """Copy what there is and record how far it got; instances may go on writing."""
        ...


@dataclass(frozen=True)
class Timings:
    """Times of the local engine, in seconds, and counts."""

    first_delay: float = 0.5  # before the first restart; doubles with each failure
    longest_delay: float = 60.0
    reset_after: float = 30.0  # healthy for this long: earlier failures are forgotten
    crashing_after: int = 3  # failures in a row
    settle: float = 0.5  # a process without any check counts as ready after running this long
    first_probe: float = 0.05  # between checks while starting; grows by a fifth each time
    slowest_start_probe: float = 0.5
    first_word: float = 2.0  # of a first start, until it says what it still lacks; each next word takes twice as long
    sample_interval: float = 2.0  # CPU and memory
    disk_interval: float = 10.0  # what instances wrote; longer if looking takes too much of a processor
    show_stopped: float = 30.0  # how long a stopped instance stays visible
    port_rest: float = 60.0  # a released port is not given out again for this long
    kept_tasks: int = 500  # ended tasks that are remembered at most

    def delay(self, failures: int) -> float:
        """Return the wait before the next start after this many failures in a row (at least 1)."""
        return min(self.longest_delay, self.first_delay * 2.0 ** min(failures - 1, 30))
