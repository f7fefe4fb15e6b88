"""What the node agent keeps on disk, so that a killed agent finds it again: intent, and one record per process.

    node/workloads/APP.vN.PROCESS.json    Desired
    node/instances/ID/record.json         Record       (beside it output, exit.RUN, app/, home/, tmp/)
    node/tasks/ID/record.json             TaskRecord   (likewise)
    node/agent                            named pipe that a living agent holds open (process.open_presence)

Files are replaced atomically and have mode 0600: configuration holds secrets. Where the disk is full what is known goes
on in memory; a killed agent's successor then finds what was known before, and the processes themselves.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import structlog
from pydantic import BaseModel, ValidationError

from seaway.engine.base import EngineError
from seaway.model import Frozen, Instance, Task, TaskState, Workload, WorkloadKey
from seaway.sandbox.removing import remove_tree

log = structlog.get_logger(__name__)
M = TypeVar("M", bound=BaseModel)

SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}(\.[A-Za-z0-9_-]+)*")
RECORD = "record.json"


class Desired(Frozen):
    """A workload as last applied; `removed` ones stay until their last instance is gone."""

    workload: Workload
    removed: bool = False


class Launched(Frozen):
    """A process that was started: its wrapper's pid (also its session), its start time, and what was there before."""

    run: int = 0  # counts the starts of one instance
    pid: int | None = None
    birth: int | None = None  # start time in clock ticks since boot: tells a reused pid apart
    marks: dict[str, int] = {}  # stream -> size of its raw file when this run began


class Record(Frozen):
    """An instance as last seen and what a restarted agent must know to go on with it."""

    instance: Instance
    launched: Launched = Launched()
    given: int = 0  # bytes of disk that the files took which it began with
    failures: int = 0  # in a row
    stop_since: datetime | None = None  # told to stop for good
    stop_why: str = ""


class TaskRecord(Frozen):
    """A one-off and what became of it."""

    task: Task
    state: TaskState
    launched: Launched = Launched()
    given: int = 0  # as in Record


class NodeState:
    """Reads and writes the files below `root` (SEAWAY_HOME/node)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._late: dict[Path, BaseModel | None] = {}  # what could not be written yet; None: not removed
        self.workloads = root / "workloads"
        self.instances = root / "instances"
        self.tasks = root / "tasks"
        self.presence = root / "agent"
        for folder in (self.workloads, self.instances, self.tasks):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def read_desired(self) -> list[Desired]:
        """Return every workload on disk."""
        return [found for path in sorted(self.workloads.glob("*.json")) if (found := _read(path, Desired))]

    def write_desired(self, desired: Desired) -> None:
        """Keep a workload; it survives a power cut. Without room the disk holds what was wanted before (`catch_up`)."""
        self._write(self._path(desired.workload.key), desired, durable=True, later=True)

    def delete_desired(self, key: WorkloadKey) -> None:
        """Forget a workload; where its file cannot be removed now, with `catch_up`."""
        path = self._path(key)
        self._late.pop(path, None)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            self._put_off(path, None, error)

    def read_records(self) -> Iterator[Record]:
        """Yield the record of every instance; folders without one (never started) are removed."""
        yield from _read_records(self.instances, Record)

    def read_tasks(self) -> Iterator[TaskRecord]:
        """Yield the record of every task."""
        yield from _read_records(self.tasks, TaskRecord)

    def write_record(self, record: Record, *, later: bool = True) -> None:
        """Keep an instance's record; `later`: where that cannot be now, with `catch_up`, else raise OSError."""
        self._write(self.instance_folder(record.instance.id) / RECORD, record, later=later)

    def write_task(self, record: TaskRecord, *, later: bool = True) -> None:
        """Keep a task's record, as `write_record` does."""
        self._write(self.tasks / check_name(record.task.id) / RECORD, record, later=later)

    def catch_up(self) -> None:
        """Write what could not be written before; raises OSError if something still cannot, which holds up no other."""
        if not self._late:
            return
        fault: OSError | None = None
        for path, value in list(self._late.items()):
            try:
                _write_late(path, value)
                del self._late[path]
            except OSError as error:
                fault = error
        if fault is not None:
            raise fault
        log.info("the node agent's state is on disk again")

    def _write(self, path: Path, value: BaseModel, *, durable: bool = False, later: bool) -> None:
        try:
            write_atomically(path, value, durable=durable)
        except OSError as error:
            if not later:
                raise
            self._put_off(path, value, error)
        else:
            self._late.pop(path, None)

    def _put_off(self, path: Path, value: BaseModel | None, error: OSError) -> None:
        if not self._late:
            log.error("the node agent's state cannot be written now; it goes on without", error=str(error))
        self._late[path] = value

    def instance_folder(self, instance_id: str) -> Path:
        """Return where the folder of an instance is, or is to be."""
        return self.instances / check_name(instance_id)

    def task_folder(self, task_id: str) -> Path:
        """Return the folder of a task, made if needed."""
        return _make_folder(self.tasks, task_id)

    def _path(self, key: WorkloadKey) -> Path:
        return self.workloads / f"{check_name(str(key))}.json"


def check_name(name: str) -> str:
    """Return the name if it is safe as a file name; EngineError otherwise."""
    if not SAFE_NAME.fullmatch(name):
        raise EngineError(f"{name!r} cannot name a workload or task: use letters, digits, dots, hyphens, underscores")
    return name


def write_atomically(path: Path, value: BaseModel, *, durable: bool = False) -> None:
    """Replace the file by the value as JSON, mode 0600; `durable` also waits for the disk."""
    temporary = path.with_name(f".{path.name}.new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(value.model_dump_json().encode())
        if durable:
            file.flush()
            os.fsync(file.fileno())
    temporary.replace(path)


def _write_late(path: Path, value: BaseModel | None) -> None:
    if value is None:
        path.unlink(missing_ok=True)
        return
    with suppress(FileNotFoundError):  # what it was about is gone
        write_atomically(path, value)


def _make_folder(parent: Path, name: str) -> Path:
    folder = parent / check_name(name)
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _read_records(parent: Path, model: type[M]) -> Iterator[M]:
    for folder in sorted(parent.iterdir()):
        found = _read(folder / RECORD, model)
        if found is not None:
            yield found
        elif not (folder / RECORD).exists():
            remove_tree(folder)


def _read(path: Path, model: type[M]) -> M | None:
    try:
        return model.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:  # written by another version or damaged: keep the file for a human to see
        log.error("state unreadable", path=str(path), problems=error.error_count())
        return None
