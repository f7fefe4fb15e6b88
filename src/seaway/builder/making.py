"""[build] command: what an app itself makes of its source, with the image's environment, before the image is written.

It works in a folder with a copy of the source. Below `image` are the layers beneath the app's, and what makes a virtual
environment of their packages.
"""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from seaway.builder.base import BuildError
from seaway.builder.commands import CommandFailed
from seaway.builder.dependencies import Runner, squeeze
from seaway.builder.image import PYTHON_ENV, VENV
from seaway.builder.interpreter import Interpreter
from seaway.builder.source import SourceFile, list_built
from seaway.builder.unpack import list_machine_path, unpack_layer
from seaway.builder.venv import add_interpreter
from seaway.model.quoting import drop_tracebacks

FIELD = "seaway.toml: build.command"
SHELL = ("/bin/sh", "-c")


@dataclass(frozen=True)
class Made:
    """The files that are there after the command, and one sentence on what is different."""

    files: list[SourceFile]
    changes: str


def copy_source(files: Iterable[SourceFile], target: Path) -> None:
    """Make the folder `target`, with a copy of the source's files."""
    target.mkdir(parents=True)
    for file in files:
        path = target / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        if file.link is not None:
            path.symlink_to(file.link)
        else:
            shutil.copyfile(file.path, path)
            path.chmod(0o755 if file.executable else 0o644)


def unpack_environment(layers: Iterable[Path], interpreter: Interpreter | None, image: Path) -> Path | None:
    """Unpack layers below `image`; return the virtual environment of their packages, None without Python."""
    for blob in layers:
        unpack_layer(blob, image)
    if interpreter is None:
        return None
    venv = image / VENV.lstrip("/")
    add_interpreter(venv, interpreter.version, interpreter.executable)
    return venv


def make_env(venv: Path | None, source: Path) -> dict[str, str]:
    """Return the image's environment, where its virtual environment is seen at `venv` and the app's files at `source`.

    PATH goes on with this machine's programs.
    """
    path = ":".join([*([f"{venv}/bin"] if venv is not None else []), *list_machine_path()])
    if venv is None:
        return {"PATH": path}
    return {**PYTHON_ENV, "PATH": path, "VIRTUAL_ENV": str(venv), "PYTHONPATH": str(source)}


def run_command(command: str, source: Path, before: Sequence[SourceFile], runner: Runner) -> Made:
    """Run the command in the copy of the source. Raises BuildError."""
    try:
        runner.run([*SHELL, command], source)
    except CommandFailed as failed:
        raise BuildError(explain_failure(failed)) from None
    try:
        files = list_built(source)
    except BuildError as error:
        raise BuildError(f"{FIELD}: what it left cannot be part of the image: {error}") from None
    return Made(files, describe_changes(before, files))


def explain_failure(failed: CommandFailed) -> str:
    """Return the reason: what the command said last."""
    lines = [line.strip() for line in drop_tracebacks(failed.output) if line.strip()]
    said = f": {squeeze(' '.join(lines[-3:]))}" if lines else " and said nothing"
    return f"{FIELD}: exited with {failed.code}{said}; the build's log has it in full"


def describe_changes(before: Sequence[SourceFile], after: Sequence[SourceFile]) -> str:
    """Return how many files there are more, fewer and other than before, by their sizes, modes and contents."""
    old, new = {file.name: file for file in before}, {file.name: file for file in after}
    counts = (
        (len(new.keys() - old.keys()), "new"),
        (sum(_differ(old[name], new[name]) for name in old.keys() & new.keys()), "changed"),
        (len(old.keys() - new.keys()), "removed"),
    )
    told = ", ".join(f"{count} {word}" for count, word in counts if count)
    return f"Files after it: {told}" if told else "Files after it: as before"


def _differ(one: SourceFile, other: SourceFile) -> bool:
    if (one.executable, one.link, one.size) != (other.executable, other.link, other.size):
        return True
    return one.link is None and not filecmp.cmp(one.path, other.path, shallow=False)
