"""One build, in a process of its own: `python -m seaway.builder.worker`, started by running.py.

Stdin: one JSON request a line, then an answer to each question. Stdout: JSON lines, {"step": sentence},
{"line": output}, {"ask": ...} (for containers), and last {"built": {...}} or {"error": message}. It leads a process
group, and takes along all that it ever started when it ends, is told to end (SIGTERM) or its parent dies.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import shlex
import shutil
import sys
import time
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from uv import find_uv_bin

from seaway.builder.archive import unpack_archive
from seaway.builder.base import BuildError
from seaway.builder.base_image import ANOTHER, BaseFacts, check_base, choose_platform
from seaway.builder.commands import CommandFailed, Commands, redact
from seaway.builder.confined import Around, Confined, Unconfined, confine
from seaway.builder.dependencies import DependencyInstaller, Runner, find, is_noise, list_installed, move_all
from seaway.builder.dockerfile import Steps, choose_dockerfile, explain_buildah, refuse_dockerfile
from seaway.builder.dying import Descendants
from seaway.builder.facts import read_facts, read_text
from seaway.builder.git import clone, describe_git
from seaway.builder.image import (
    APP_FOLDER,
    PYTHON_FOLDER,
    VENV,
    Layer,
    TextFile,
    write_image,
    write_layer,
)
from seaway.builder.interpreter import Interpreter, order_versions
from seaway.builder.layout import Blob, ImageLayout
from seaway.builder.making import copy_source, make_env, run_command, unpack_environment
from seaway.builder.manifest import (
    PROCFILE,
    SEAWAY_TOML,
    AppFiles,
    check_mounts,
    read_app_files,
    read_build_table,
    set_port,
)
from seaway.builder.plan import BuildPlan, SourceFacts, make_plan
from seaway.builder.quarters import find_cache
from seaway.builder.source import SourceFile, list_files
from seaway.builder.unfetched import find_unfetched
from seaway.builder.unpack import find_prefix
from seaway.builder.venv import SETTINGS, name_pythons, write_settings
from seaway.home import Home
from seaway.model import BuildManifest, Mount, Source
from seaway.model.base import say_bytes
from seaway.sandbox.procs import FILES
from seaway.sandbox.standing import come_last
from seaway.sandbox.view import make_place


@dataclass(frozen=True)
class Request:
    """What to build, and where."""

    home: str
    app: str
    source: Source
    scratch: str
    parent: int  # pid of the process that waits for the answer
    lock: int  # inherited handle; while anybody holds it the scratch folder is in use
    containers: bool = False  # make layers to go on a base image, not an image for this machine
    user: int | None = None  # foreign code is run by this user id; None: by this process's
    word: str = ""  # see quarters.py
    groups: str = ""  # likewise
    files: int = FILES  # that what it starts may have open


class Reporter:
    """Writes the JSON lines that running.py reads."""

    def send(self, **message: Any) -> None:
        """Write one message."""
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()

    def step(self, sentence: str) -> None:
        """Say what happens now."""
        self.send(step=sentence)

    def ask(self, **question: Any) -> Any:
        """Ask running.py's side (which base image, which layers the registry has); return the answer."""
        self.send(**question)
        return json.loads(sys.stdin.readline())["answer"]

    def line(self, text: str) -> None:
        """Pass a line of output on."""
        if not is_noise(text):
            self.send(line=text)


@dataclass(frozen=True)
class Result:
    """What was built: an image in the layout, or (for containers) layers and the plan they were made by."""

    manifest: BuildManifest
    image: str | None
    layers: tuple[Layer, ...] = ()
    plan: BuildPlan | None = None

    def write(self) -> dict[str, Any]:
        """Return it as JSON."""
        plan = self.plan
        return {
            "image": self.image,
            "manifest": self.manifest.model_dump(mode="json"),
            "layers": [{"digest": x.blob.digest, "size": x.blob.size, "holds": x.holds} for x in self.layers],
            "plan": plan
            and {
                "python": plan.python,
                "dependency_key": plan.dependency_key,
                "install_project": plan.install_project,
                "platform": plan.platform,
            },
        }


class SourceBuild:
    """The steps of one build, in order."""

    def __init__(self, request: Request, reporter: Reporter, descendants: Descendants) -> None:
        self._request = request
        self._descendants = descendants
        self._confined: Confined | None = None
        self._report = reporter
        self._home = Home(Path(request.home))
        self._scratch = Path(request.scratch)
        self._layout = ImageLayout(self._home.images).create()
        self._started = time.monotonic()
        self._commands = Commands(emit=reporter.line, deadline=self._started + 7 * 24 * 3600)

    def run(self) -> Result:
        """Build; raise BuildError."""
        root = self._fetch()
        files = list_files(root, git_ignores=False)
        for note in find_unfetched(root, files, from_git=self._request.source.git is not None):
            self._report.line(f"note: {note}")
        names = {file.name for file in files}
        build = read_build_table(*_read_texts(root, names))
        if (dockerfile := choose_dockerfile(names, build)) is not None:
            self._commands.deadline = self._started + build.timeout
            return self._run_dockerfile(root, dockerfile, names, build.timeout)
        app_files = self._read_app_files(root, files)
        self._commands.deadline = self._started + app_files.build.timeout
        facts = read_facts(root, files)
        base = self._ask_base(app_files.build.base) if self._request.containers else None
        if base is not None:
            python, platform = base.default or facts.default_python, choose_platform(base, facts.platform)
            facts = replace(
                facts, default_python=python, platform=platform, offered=tuple(order_versions(base.pythons)),
                offered_by=f"the base image {base.name}", remedy=ANOTHER,
            )  # fmt: skip
        plan = make_plan(facts, app_files.build)
        if base is not None:
            check_base(base, plan)
        self._report.step(self._describe(plan, app_files))
        for note in (*app_files.notes, *plan.notes):
            self._report.line(f"note: {note}")
        with self._layout.adding():
            layers = self._make_layers(plan, facts, root, files, app_files.manifest.mounts)
            if base is not None:
                layers.insert(0, self._make_interpreter_layer(base, plan))
                return Result(app_files.manifest, None, tuple(layers), plan)
            image = write_image(self._layout, plan, layers)
        size = sum(layer.blob.size for layer in layers)
        self._report.step(f"Image {image}, {say_bytes(size)} in {time.monotonic() - self._started:.1f} s")
        return Result(app_files.manifest, image)

    def _run_dockerfile(self, root: Path, dockerfile: str, names: Set[str], timeout: float) -> Result:
        """Have the image built by its Dockerfile, here or wherever the other side says; it is pushed then."""
        if not self._request.containers:
            raise refuse_dockerfile(dockerfile)
        self._report.step(f"Building the image by {dockerfile}")
        told = self._report.ask(ask="dockerfile", path=dockerfile, root=str(root), timeout=timeout)
        digest = told.get("digest") or self._run_steps(Steps(**told["steps"]), root)
        image = self._report.ask(ask="image", digest=digest)
        command = shlex.join(image["command"])
        if not command and PROCFILE not in names and SEAWAY_TOML not in names:
            raise BuildError(f"{dockerfile}: has no CMD, so what to run is not known: add one, or a {PROCFILE}")
        files = read_app_files(*_read_texts(root, names), image_command=command)
        check_mounts(files.manifest.mounts, names, containers=True)
        for note in files.notes:
            self._report.line(f"note: {note}")
        return Result(set_port(files.manifest, image["port"]), digest)

    def _run_steps(self, steps: Steps, root: Path) -> str:
        """Run buildah here; return the digest of what it pushed."""
        open_to_all(root)
        for path, content in steps.files.items():
            Path(path).parent.mkdir(exist_ok=True)
            Path(path).write_text(content)
        try:
            for command in steps.commands:
                self._commands.run(command, root, env=steps.env)
        except CommandFailed as failed:
            raise BuildError(explain_buildah(failed.output)) from None
        return Path(steps.digest_file).read_text().strip()

    def _ask_base(self, name: str | None) -> BaseFacts:
        return BaseFacts.read(self._report.ask(ask="base", name=name))

    def _make_interpreter_layer(self, base: BaseFacts, plan: BuildPlan) -> Layer:
        """Return the layer that calls the base's interpreters `python`, `python3` and so on, as everywhere else.

        A Python app's has also what makes a virtual environment of the other layers' packages. What the base image
        itself brings for its Python stays in reach.
        """
        links = {f"python{version}": path for version, path in base.pythons.items()}
        if version := plan.python or base.default:
            links |= {"python": base.pythons[version], "python3": base.pythons[version]}
        folder = f"{PYTHON_FOLDER.lstrip('/')}/bin"
        files: list[SourceFile | TextFile] = []
        files += [SourceFile(f"{folder}/{name}", Path(path), link=path) for name, path in links.items()]
        if plan.python:
            python, venv = base.pythons[plan.python], VENV.lstrip("/")
            for name in name_pythons(plan.python):
                files.append(SourceFile(f"{venv}/bin/{name}", Path(python), link=python))
            text = write_settings(plan.python, Path(python).parent, with_system=True)
            files.append(TextFile(f"{venv}/{SETTINGS}", text.encode()))
        return Layer(write_layer(self._layout, files, self._scratch), "interpreter")

    def _fetch(self) -> Path:
        source, root = self._request.source, self._scratch / "source"
        if source.git is not None:
            self._report.step(f"Fetching {describe_git(source)}")
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
        self._report.step(f"Unpacking the source ({say_bytes(archive.stat().st_size)})")
        root.mkdir()
        unpack_archive(archive, root)
        return root

    def _read_app_files(self, root: Path, files: list[SourceFile]) -> AppFiles:
        names = {file.name for file in files}
        hints: list[str] = [name for name in ("uv.lock", "pyproject.toml", "requirements.txt") if name in names]
        hints += [name for name in sorted(names) if name.endswith(".py") and "/" not in name][:1]
        found = read_app_files(*_read_texts(root, names), hint=hints[0] if hints else "")
        check_mounts(found.manifest.mounts, names, containers=self._request.containers)
        return found

    @staticmethod
    def _describe(plan: BuildPlan, app_files: AppFiles) -> str:
        processes = ", ".join(app_files.manifest.processes)
        if plan.python is None:
            return f"No language recognised, the files run as they are; processes: {processes}"
        means = f" with {plan.recipe.value}" if plan.dependency_key else " without dependencies"
        return f"Python {plan.python}{means}; processes: {processes}"

    def _make_layers(
        self, plan: BuildPlan, facts: SourceFacts, root: Path, files: list[SourceFile], mounts: Sequence[Mount]
    ) -> list[Layer]:
        layers = []
        if plan.dependency_key is not None:
            layers.append(Layer(self._make_dependency_layer(plan, facts, root), "dependencies"))
        if plan.command is None:
            project = self._install_project(plan, facts, root)
            layers.append(Layer(self._write_app(files, project), "app"))
            return layers
        below = [layer.blob.digest for layer in layers]
        key = self._make_key("command", plan.command, plan.runtime, plan.platform, facts.source_digest, *below)
        with self._layout.lock_dependencies(key):
            if (blob := self._find_layer(key)) is not None:
                self._report.step("Source and command are unchanged: the layer with what it made is reused")
            else:
                project = self._install_project(plan, facts, root)
                files = self._run_build_command(plan, files, layers, project)
                check_mounts(mounts, {file.name for file in files}, containers=self._request.containers)
                blob = self._write_app(files, project)
                self._keep_layer(key, blob)
        return [*layers, Layer(blob, "app")]

    def _install_project(self, plan: BuildPlan, facts: SourceFacts, root: Path) -> list[SourceFile | TextFile]:
        """Return the files of the project itself, if it is to be installed."""
        if not plan.install_project:
            return []
        self._report.step("Installing the project itself")
        return list_installed(self._make_installer(plan, facts, root).install_project(), VENV.lstrip("/"))

    def _write_app(self, files: list[SourceFile], project: list[SourceFile | TextFile]) -> Blob:
        whole = [*move_all(files, APP_FOLDER.lstrip("/")), *project]
        self._report.step(f"Writing the app layer ({len(whole)} files)")
        return write_layer(self._layout, whole, self._scratch)

    def _run_build_command(
        self, plan: BuildPlan, files: list[SourceFile], below: list[Layer], project: list[SourceFile | TextFile]
    ) -> list[SourceFile]:
        """Run what the app wants to be run when all else is there; return the app's files afterwards."""
        assert plan.command is not None
        self._report.step(f"Running the build command: {plan.command}")
        folder, image = self._scratch / "command", self._scratch / "image"
        layers = [self._find_blob(layer.blob) for layer in below]
        layers += [self._layout.path(write_layer(self._layout, project, self._scratch).digest)] if project else []
        interpreter = find(plan.python) if plan.python is not None else None
        venv = unpack_environment(layers, interpreter, image)
        copy_source(files, folder / "source")
        if self._request.user is None:
            runner: Runner = Unconfined(self._commands, self._descendants, make_env(venv, folder / "source"))
        else:
            open_to_all(image)
            runner = self._confine_command(folder, venv, interpreter)
        made = run_command(plan.command, folder / "source", files, runner)
        self._report.step(made.changes)
        return made.files

    def _confine_command(self, folder: Path, venv: Path | None, interpreter: Interpreter | None) -> Confined:
        in_place = venv is not None and make_place(VENV)
        env = make_env(Path(VENV) if in_place else venv, folder / "source")
        shown = [str(venv)] if venv is not None and not in_place else []
        shown += [str(find_prefix(interpreter.executable))] if interpreter is not None else []
        around = Around(tuple(shown), ((str(venv), VENV),) if in_place else (), env)
        cache = find_cache(self._home, self._request.app)
        return confine(self._commands, self._descendants, self._home, folder, cache=cache, around=around)

    def _find_blob(self, blob: Blob) -> Path:
        """Return where a layer is; one that only the registry has is fetched."""
        path = self._layout.path(blob.digest)
        if not path.is_file():
            self._report.ask(ask="fetch", digest=blob.digest)
        return path

    def _make_installer(self, plan: BuildPlan, facts: SourceFacts, root: Path) -> DependencyInstaller:
        if self._request.user is None:
            return DependencyInstaller(plan, facts, root, self._scratch, self._commands)
        if self._confined is None:
            assert plan.python is not None
            cache, folder = find_cache(self._home, self._request.app), self._scratch / "own"
            shutil.copytree(root, folder / "source", symlinks=True)
            around = Around((find_uv_bin(), str(find_prefix(find(plan.python).executable))))
            self._confined = confine(self._commands, self._descendants, self._home, folder, cache=cache, around=around)
        return DependencyInstaller(plan, facts, self._confined.source, self._confined.folder, self._confined)

    def _make_dependency_layer(self, plan: BuildPlan, facts: SourceFacts, root: Path) -> Blob:
        """Return the layer for the plan's key, made now unless there is one."""
        key = plan.dependency_key
        assert key is not None
        if self._request.word:
            key = self._make_key(key)
        with self._layout.lock_dependencies(key):
            if (known := self._find_layer(key)) is not None:
                self._report.step("Dependencies are unchanged: their layer is reused")
                return known
            if self._request.containers and (found := self._report.ask(ask="dependencies", key=key)) is not None:
                self._report.step("Dependencies are unchanged: their layer is in the registry")
                return Blob(str(found["digest"]), int(found["size"]))
            self._report.step(f"Installing dependencies from {plan.recipe.value}")
            folder = self._make_installer(plan, facts, root).install_dependencies()
            self._report.step("Writing the dependency layer")
            blob = write_layer(self._layout, list_installed(folder, VENV.lstrip("/")), self._scratch)
            self._keep_layer(key, blob)
            return blob

    def _make_key(self, *inputs: str) -> str:
        """Return the key of what was made of these by code that may have a hand in this app's builds alone."""
        return hashlib.sha256("\n".join([*inputs, self._request.word]).encode()).hexdigest()

    def _find_layer(self, key: str) -> Blob | None:
        known = self._layout.read_cache("deps", key)
        return Blob(known["digest"], known["size"]) if known and self._layout.has(known["digest"]) else None

    def _keep_layer(self, key: str, blob: Blob) -> None:
        self._layout.write_cache("deps", key, {"digest": blob.digest, "size": blob.size})


def _read_texts(root: Path, names: Set[str]) -> tuple[str | None, str | None]:
    """Return the texts of Procfile and seaway.toml; None: there is no such file. Raises BuildError."""
    procfile, toml = (read_text(root, name) if name in names else None for name in (PROCFILE, SEAWAY_TOML))
    return procfile, toml


def open_to_all(root: Path) -> None:
    """Let everybody read the source, as it was packed: COPY takes modes over, and instances do not run as its owner."""
    for folder, _, names in os.walk(root):
        Path(folder).chmod(0o755)
        for name in names:
            path = Path(folder, name)
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)


def main() -> int:
    """Read the request, build, answer; exit code 0 also for a build that failed with a reason."""
    os.umask(0o077)
    raw = json.loads(sys.stdin.readline())
    request = Request(**{**raw, "source": Source.model_validate(raw["source"])})
    os.set_inheritable(request.lock, False)
    come_last(request.groups)
    resource.setrlimit(resource.RLIMIT_NOFILE, (request.files, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    descendants = Descendants(request.user)
    descendants.die_with_parent(request.parent)
    reporter = Reporter()
    try:
        try:
            built = SourceBuild(request, reporter, descendants).run()
        finally:
            descendants.kill()
    except BuildError as error:
        reporter.send(error=redact(str(error)))
        return 0
    except OSError as error:
        if error.errno is None:
            raise
        reporter.send(error=f"the build could not go on: {error}: see the free space and rights of {request.home}")
        return 0
    reporter.send(built=built.write())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
