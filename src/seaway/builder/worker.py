"""One build, in a process of its own: `python -m seaway.builder.worker`, started by process.py.

Stdin: one JSON request. Stdout: JSON lines, {"step": sentence}, {"line": output}, and last {"built": {...}} or
{"error": message}. It leads a process group, and takes the whole group along when its parent dies.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seaway.builder.archive import unpack_archive
from seaway.builder.base import BuildError, Built
from seaway.builder.commands import Commands, redact
from seaway.builder.dependencies import DependencyInstaller, is_noise, list_installed, move_all
from seaway.builder.facts import read_facts, read_text
from seaway.builder.git import clone
from seaway.builder.image import APP_FOLDER, DEPS_FOLDER, PROJECT_FOLDER, Layer, TextFile, write_image, write_layer
from seaway.builder.layout import Blob, ImageLayout
from seaway.builder.manifest import PROCFILE, SEAWAY_TOML, AppFiles, read_app_files
from seaway.builder.plan import BuildPlan, SourceFacts, make_plan
from seaway.builder.source import SourceFile, list_files
from seaway.home import Home
from seaway.model import Source

PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Request:
    """What to build, and where."""

    home: str
    app: str
    source: Source
    scratch: str
    parent: int  # pid of the process that waits for the answer
    lock: int  # inherited handle; while anybody holds it the scratch folder is in use


class Reporter:
    """Writes the JSON lines that process.py reads."""

    def send(self, **message: Any) -> None:
        """Write one message."""
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()

    def step(self, sentence: str) -> None:
        """Say what happens now."""
        self.send(step=sentence)

    def line(self, text: str) -> None:
        """Pass a line of output on."""
        if not is_noise(text):
            self.send(line=text)


class SourceBuild:
    """The steps of one build, in order."""

    def __init__(self, request: Request, reporter: Reporter) -> None:
        self._request = request
        self._report = reporter
        self._home = Home(Path(request.home))
        self._scratch = Path(request.scratch)
        self._layout = ImageLayout(self._home.images).create()
        self._started = time.monotonic()
        self._commands = Commands(emit=reporter.line, deadline=self._started + 7 * 24 * 3600)

    def run(self) -> Built:
        """Build; raise BuildError."""
        root = self._fetch()
        files = list_files(root, git_ignores=False)
        app_files = self._read_app_files(root, files)
        self._commands.deadline = self._started + app_files.build.timeout
        facts = read_facts(root, files)
        plan = make_plan(facts, app_files.build)
        self._report.step(self._describe(plan, app_files))
        for note in plan.notes:
            self._report.line(f"note: {note}")
        with self._layout.adding():
            layers = self._make_layers(plan, facts, root, files)
            image = write_image(self._layout, plan, layers)
        size = sum(layer.blob.size for layer in layers)
        self._report.step(f"Image {image}, {format_size(size)} in {time.monotonic() - self._started:.1f} s")
        return Built(image=image, manifest=app_files.manifest)

    def _fetch(self) -> Path:
        source, root = self._request.source, self._scratch / "source"
        if source.git is not None:
            self._report.step(f"Fetching {source.ref or 'HEAD'} of {redact(source.git)}")
            commit = clone(source.git, source.ref, root, self._commands)
            self._report.line(f"commit {commit}")
            return root
        digest = (source.archive or "").removeprefix("sha256:")
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise BuildError(
                "the build names no source: give the sha256 digest of an uploaded archive, or a git address"
            )
        archive = self._home.sources / f"{digest}.tar.gz"
        if not archive.is_file():
            raise BuildError(f"the source archive {digest[:12]} is gone from the server: deploy again")
        self._report.step(f"Unpacking the source ({format_size(archive.stat().st_size)})")
        root.mkdir()
        unpack_archive(archive, root)
        return root

    def _read_app_files(self, root: Path, files: list[SourceFile]) -> AppFiles:
        names = {file.name for file in files}
        hints: list[str] = [name for name in ("uv.lock", "pyproject.toml", "requirements.txt") if name in names]
        hints += [name for name in sorted(names) if name.endswith(".py") and "/" not in name][:1]
        return read_app_files(
            read_text(root, PROCFILE) if PROCFILE in names else None,
            read_text(root, SEAWAY_TOML) if SEAWAY_TOML in names else None,
            hint=hints[0] if hints else "",
        )

    @staticmethod
    def _describe(plan: BuildPlan, app_files: AppFiles) -> str:
        processes = ", ".join(app_files.manifest.processes)
        if plan.python is None:
            return f"No language recognised, the files run as they are; processes: {processes}"
        means = f" with {plan.recipe.value}" if plan.dependency_key else " without dependencies"
        return f"Python {plan.python}{means}; processes: {processes}"

    def _make_layers(self, plan: BuildPlan, facts: SourceFacts, root: Path, files: list[SourceFile]) -> list[Layer]:
        layers = []
        if plan.dependency_key is not None:
            layers.append(Layer(self._make_dependency_layer(plan, facts, root), "dependencies"))
        app: list[SourceFile | TextFile] = move_all(files, APP_FOLDER.lstrip("/"))
        if plan.install_project:
            self._report.step("Installing the project itself")
            folder = DependencyInstaller(plan, facts, root, self._scratch, self._commands).install_project()
            app += list_installed(folder, PROJECT_FOLDER.lstrip("/"))
        self._report.step(f"Writing the app layer ({len(app)} files)")
        layers.append(Layer(write_layer(self._layout, app, self._scratch), "app"))
        return layers

    def _make_dependency_layer(self, plan: BuildPlan, facts: SourceFacts, root: Path) -> Blob:
        """Return the layer for the plan's key, made now unless there is one."""
        key = plan.dependency_key
        assert key is not None
        with self._layout.lock_dependencies(key):
            known = self._layout.read_cache("deps", key)
            if known is not None and self._layout.has(known["digest"]):
                self._report.step("Dependencies are unchanged: their layer is reused")
                return Blob(known["digest"], known["size"])
            self._report.step(f"Installing dependencies from {plan.recipe.value}")
            folder = DependencyInstaller(plan, facts, root, self._scratch, self._commands).install_dependencies()
            self._report.step("Writing the dependency layer")
            blob = write_layer(self._layout, list_installed(folder, DEPS_FOLDER.lstrip("/")), self._scratch)
            self._layout.write_cache("deps", key, {"digest": blob.digest, "size": blob.size})
            return blob


def format_size(size: int) -> str:
    """Return bytes for people, for example 12.3 MiB."""
    if size < 1024:
        return f"{size} bytes"
    return f"{size / 1024:.1f} KiB" if size < 1024**2 else f"{size / 1024**2:.1f} MiB"


def die_with_parent(parent: int) -> None:
    """Have the kernel signal this process when its parent ends; on the signal the whole process group is killed."""

    def kill_group(*_: object) -> None:
        os.killpg(os.getpgid(0), signal.SIGKILL)

    signal.signal(signal.SIGTERM, kill_group)
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:
        kill_group()


def main() -> int:
    """Read the request, build, answer; exit code 0 also for a build that failed with a reason."""
    os.umask(0o077)
    raw = json.loads(sys.stdin.read())
    request = Request(**{**raw, "source": Source.model_validate(raw["source"])})
    os.set_inheritable(request.lock, False)
    die_with_parent(request.parent)
    reporter = Reporter()
    try:
        built = SourceBuild(request, reporter).run()
    except BuildError as error:
        reporter.send(error=redact(str(error)))
        return 0
    except OSError as error:
        if error.errno is None:
            raise
        reporter.send(error=f"the build could not go on: {error}: see the free space and rights of {request.home}")
        return 0
    reporter.send(built={"image": built.image, "manifest": built.manifest.model_dump(mode="json")})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
