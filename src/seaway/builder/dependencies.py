"""Installing with uv into folders, and turning those into layer files that name no folder of this machine."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import re
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Protocol

from uv import find_uv_bin

from seaway.builder.base import BuildError
from seaway.builder.commands import CommandFailed
from seaway.builder.facts import imports_pkg_resources
from seaway.builder.image import TextFile
from seaway.builder.interpreter import Interpreter, NoInterpreter, find_interpreter
from seaway.builder.plan import BuildPlan, Recipe, SourceFacts
from seaway.builder.poetry import find_dependencies, list_locked, write_project
from seaway.builder.source import SourceFile
from seaway.model.quoting import drop_tracebacks

DROPPED = frozenset({"REQUESTED", "uv_cache.json", "uv_build.json"})  # of *.dist-info: differ from machine to machine
HEAD, TAIL = 300, 600  # characters that are left of a long reason
SHEBANG = b"#!/usr/bin/env python3\n"
SEED, LAST_SEEDED = "setuptools>=78.1.1,<80.9", (3, 11)
"""What a virtual environment of Python's own holds from the start, up to this version: much that is old needs its
pkg_resources, and mostly does not say so. The newest versions without known faults that have it, and say nothing when
it is imported; 82 has it no more. Installed only where it is wanted, for not every index has it."""
OF_VENV = re.compile(
    r"pyvenv\.cfg|CACHEDIR\.TAG|\.gitignore|\.lock|lib64(?:/.*)?|bin/(?:(?:de)?activate.*|pydoc\.bat|python[\d.]*)"
    r"|lib/python[\d.]+/site-packages/_virtualenv\.(?:py|pth)"
)
"""What uv writes into an empty one."""

_UV_SHEBANG = re.compile(rb"\A(?:#![^\n]*python[^\n]*\n|#!/bin/sh\n'''exec' [^\n]*\n' '''\n)")
_NOISE = (
    "Using CPython",
    "Using Python",
    "warning: Failed to hardlink",
    "         If the cache and target",
    "Resolved ",
    "Audited ",
)


class Runner(Protocol):
    """Runs commands, such as `Commands`."""

    def run(self, argv: Sequence[str], cwd: Path, *, quiet: bool = False) -> list[str]:
        """See `Commands.run`."""
        ...


class DependencyInstaller:
    """Carries out the install steps of one plan; `source` is the app's folder, `scratch` a private one."""

    def __init__(self, plan: BuildPlan, facts: SourceFacts, source: Path, scratch: Path, commands: Runner) -> None:
        assert plan.python is not None
        self._plan = plan
        self._facts = facts
        self._source = source
        self._scratch = scratch
        self._commands = commands
        self._interpreter = find(plan.python)

    def install_dependencies(self) -> Path:
        """Install what the plan's recipe names into a virtual environment; return its folder."""
        arguments = self._write_arguments()  # all files first: when commands begin, the folder becomes another user's
        old = tuple(map(int, self._interpreter.version.split("."))) <= LAST_SEEDED
        if old and self._plan.recipe in {Recipe.REQUIREMENTS, Recipe.PROJECT} and not self._facts.asks_for_setuptools:
            arguments += ["--constraints", str(self._write("seed.txt", f"{SEED}\n"))]
        target = self._make_environment("deps")
        self._install(target, arguments)
        if old and self._plan.recipe is not Recipe.LOCK:
            self._seed(target)
        return target

    def _seed(self, target: Path) -> None:
        """Install setuptools if something imports its pkg_resources and it is not there."""
        packages = next(target.glob("lib/python*/site-packages"))
        if (packages / "pkg_resources").exists():
            return
        if self._facts.imports_pkg_resources or any(imports_pkg_resources(path) for path in packages.rglob("*.py")):
            self._install(target, [SEED])

    def _write_arguments(self) -> list[str]:
        """Write what is to be installed into files; return what names them to `uv pip install`."""
        if self._plan.recipe is Recipe.LOCK:
            return ["--no-deps", "-r", str(self._export_lock())]
        if self._plan.recipe is Recipe.REQUIREMENTS:
            for name, text in (self._facts.requirements or {}).items():
                self._write(f"requirements/{name}", text)
            return ["-r", str(self._scratch / "requirements" / "requirements.txt")]
        if self._plan.recipe is Recipe.POETRY:
            return ["--no-deps", "-r", str(self._write("poetry.txt", self._list_locked()))]
        if (dependencies := find_dependencies(self._facts.pyproject)) is not None:
            text = write_project(dependencies, str(self._source))
            return ["-r", str(self._write("poetry/pyproject.toml", text))]
        return ["-r", "pyproject.toml"]

    def install_project(self) -> Path:
        """Install the project itself, without its dependencies; return the folder."""
        target = self._make_environment("project")
        self._install(target, ["--no-deps", "."])
        return target

    def _make_environment(self, name: str) -> Path:
        """Make a virtual environment; return its folder."""
        target = self._scratch / name
        argv = [find_uv_bin(), "venv", "--quiet", "--no-project", "--python", str(self._interpreter.executable)]
        self._run([*argv, str(target)])
        return target

    def _list_locked(self) -> str:
        machine = self._plan.platform.partition("-")[0]
        lock, python = self._facts.poetry_lock or {}, self._interpreter.version
        return "\n".join(list_locked(lock, self._facts.pyproject, python, machine)) + "\n"

    def _write(self, name: str, text: str) -> Path:
        path = self._scratch / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    def _export_lock(self) -> Path:
        exported = self._scratch / "exported.txt"
        argv = [find_uv_bin(), "export", "--frozen", "--no-dev", "--no-emit-project", "--no-editable", "--quiet"]
        argv += ["--python", str(self._interpreter.executable), "--output-file", str(exported)]
        self._run(argv, quiet=True)
        return exported

    def _install(self, target: Path, arguments: list[str]) -> None:
        argv = [find_uv_bin(), "pip", "install", "--python", str(target / "bin" / "python")]
        if "-manylinux_" in self._plan.platform:
            argv += ["--python-platform", self._plan.platform]
        self._run([*argv, *arguments])

    def _run(self, argv: list[str], quiet: bool = False) -> None:
        try:
            self._commands.run(argv, self._source, quiet=quiet)
        except CommandFailed as failed:
            raise BuildError(explain_failure(self._plan.recipe, failed.output, str(self._scratch))) from None


def find(version: str) -> Interpreter:
    """Return this machine's interpreter of the version. BuildError."""
    try:
        return find_interpreter(version)
    except NoInterpreter as error:
        raise BuildError(str(error)) from None


def is_noise(line: str) -> bool:
    """Tell whether a line of uv's output is of no use to the user."""
    return line.startswith(_NOISE)


def explain_failure(recipe: Recipe, output: list[str], scratch: str) -> str:
    """Condense uv's output to one reason, and say what to do."""
    lines = [line for line in output if line.strip() and not is_noise(line)]
    start = next((index for index, line in enumerate(lines) if line.startswith("error:")), 0)
    words = " ".join(line.strip() for line in drop_tracebacks(lines[start:])).replace(scratch + os.sep, "")
    words = words.removeprefix("error:").replace("requirements/requirements.txt", "requirements.txt")
    reason = re.sub(r"\s+", " ", words).replace(" cause: ", ": ").strip()
    file = recipe.value if recipe is not Recipe.NONE else "pyproject.toml"
    if "No solution found" in reason or "not found in the" in reason:
        place = "pyproject.toml, run `uv lock`" if recipe is Recipe.LOCK else file
        todo = f"correct the name or the version in {place}"
    elif "Failed to fetch" in reason or "error sending request" in reason:
        todo = "see that the package index can be reached from here (UV_DEFAULT_INDEX, HTTPS_PROXY), then deploy again"
    elif "Hash mismatch" in reason:
        todo = "the index serves other files than were locked: run `uv lock --upgrade` and deploy again"
    else:
        todo = "the build's log has it in full"
    return f"{file}: the dependencies cannot be installed: {squeeze(reason).rstrip('.')}; {todo}"


def squeeze(reason: str) -> str:
    """Return a reason of bounded length: its beginning names the package, its end the error."""
    if len(reason) <= HEAD + TAIL:
        return reason
    return f"{reason[:HEAD].rstrip()} ... {reason[-TAIL:].lstrip()}"


def list_installed(folder: Path, prefix: str) -> list[SourceFile | TextFile]:
    """Return the files of a virtual environment for a layer at `prefix`, free of what differs between machines.

    Shebangs become `env python3`, RECORD is rewritten to match, and installer leftovers are dropped. Links to files
    become what they lead to. BuildError for one that leads out of the folder: foreign code may have left it, and we may
    read what that may not.
    """
    top = os.path.realpath(folder.parent) + os.sep + folder.name
    files: dict[str, SourceFile | TextFile] = {}
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in names:
            path = Path(root) / name
            relative = path.relative_to(folder).as_posix()
            if not OF_VENV.fullmatch(relative) and not name.endswith((".pyc", ".pyo")) and not _is_leftover(path):
                _check_inside(path, relative, top)
                files[relative] = _read(path, relative)
    for record in [name for name in files if name.endswith(".dist-info/RECORD")]:
        files[record] = TextFile(record, _rewrite_record(folder, record, files))
    return [_move(file, prefix) for file in files.values()]


def _check_inside(path: Path, relative: str, top: str) -> None:
    real = os.path.realpath(path)
    if not real.startswith(top + os.sep):
        raise BuildError(f"{relative}: what was installed links to {real}, outside its folder: install a copy of that")
    if not stat.S_ISREG(path.stat().st_mode):
        raise BuildError(f"{relative}: what was installed is neither a file nor a folder: install files")


def _is_leftover(path: Path) -> bool:
    if not path.parent.name.endswith(".dist-info"):
        return False
    if path.name == "direct_url.json":
        return bool(str(json.loads(path.read_bytes()).get("url", "")).startswith("file:"))
    return path.name in DROPPED


def _read(path: Path, relative: str) -> SourceFile | TextFile:
    status = path.stat()
    executable = bool(status.st_mode & 0o100)
    if relative.startswith("bin/"):
        content = path.read_bytes()
        changed = _UV_SHEBANG.sub(SHEBANG, content)
        if changed != content:
            return TextFile(relative, changed, executable=True)
    return SourceFile(relative, path, executable=executable, size=status.st_size)


def _rewrite_record(folder: Path, record: str, files: dict[str, SourceFile | TextFile]) -> bytes:
    """Return RECORD sorted, without dropped files, with hashes of the files that were changed."""
    packages = PurePosixPath(record).parent.parent  # what the names in it are relative to
    rows: list[list[str]] = []
    for row in csv.reader(io.StringIO((folder / record).read_text(encoding="utf-8"))):
        name = os.path.normpath(packages / row[0]) if row else ""
        file = files.get(name)
        if isinstance(file, TextFile) and not name.endswith("/RECORD"):
            digest = base64.urlsafe_b64encode(hashlib.sha256(file.content).digest()).rstrip(b"=").decode()
            rows.append([row[0], f"sha256={digest}", str(len(file.content))])
        elif file is not None:
            rows.append(row)
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(sorted(rows))
    return out.getvalue().encode()


def _move(file: SourceFile | TextFile, prefix: str) -> SourceFile | TextFile:
    name = f"{prefix}/{file.name}"
    if isinstance(file, TextFile):
        return TextFile(name, file.content, file.executable)
    return SourceFile(name, file.path, file.executable, file.link, file.size)


def move_all(files: Iterable[SourceFile], prefix: str) -> list[SourceFile | TextFile]:
    """Return the files with `prefix`/ before their names."""
    return [_move(file, prefix) for file in files]
