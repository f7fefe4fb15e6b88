"""What the builder's tests share: writing an app's files, building them, and running what came out."""

from __future__ import annotations

import asyncio
import shutil
import textwrap
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from seaway.builder.base import Built
from seaway.builder.process import SubprocessBuilder
from seaway.builder.source import pack
from seaway.builder.unpack import ImageUnpacker
from seaway.home import Home
from seaway.model import Source

BACKEND = '''
"""A build backend of a few lines, so that installing a project needs no package index."""
import base64, hashlib, os, zipfile

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    files = {
        "hello/__init__.py": "def main():\\n    print('hello from the project')\\n",
        "hello-1.0.dist-info/METADATA": "Metadata-Version: 2.1\\nName: hello\\nVersion: 1.0\\n",
        "hello-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\\nGenerator: kit\\nTag: py3-none-any\\n",
        "hello-1.0.dist-info/entry_points.txt": "[console_scripts]\\nhello = hello:main\\n",
    }
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},{len(text)}\\n"
        for name, text in files.items()
    )
    files["hello-1.0.dist-info/RECORD"] = record + "hello-1.0.dist-info/RECORD,,\\n"
    with zipfile.ZipFile(os.path.join(wheel_directory, "hello-1.0-py3-none-any.whl"), "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
    return "hello-1.0-py3-none-any.whl"
'''

PROJECT = """
[project]
name = "hello"
version = "1.0"
requires-python = ">=3.11"

[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""

PROJECT_APP = {"Procfile": "web: hello\n", "pyproject.toml": PROJECT, "backend.py": BACKEND}


def write_app(folder: Path, files: Mapping[str, str]) -> Path:
    """Write the files (dedented) below the folder; return it."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return folder


def make_wheel(folder: Path) -> None:
    """Put hello-1.0-py3-none-any.whl into the folder."""
    folder.mkdir()
    backend = types.ModuleType("backend")
    exec(BACKEND, backend.__dict__)
    backend.build_wheel(str(folder))


@dataclass
class Dock:
    """A home with a builder, and what was said during builds."""

    home: Home
    steps: list[str] = field(default_factory=list)

    @property
    def log(self) -> Path:
        return self.home.builds / "shop.b1.log"

    @property
    def scratch(self) -> list[Path]:
        return list(self.home.builds.glob("scratch-*"))

    def upload(self, folder: Path) -> Source:
        """Pack the folder as the CLI does and put the archive where the API does."""
        packed = pack(folder, self.home.sources / "upload")
        shutil.move(self.home.sources / "upload", self.home.sources / f"{packed.sha256}.tar.gz")
        return Source(archive=packed.sha256)

    async def build(self, source: Source | Path) -> Built:
        """Build a source, or a folder."""
        wanted = self.upload(source) if isinstance(source, Path) else source
        return await SubprocessBuilder(self.home).build("shop", wanted, self.log, self.steps.append)

    async def run(self, image: str, command: str) -> tuple[int, str]:
        """Run a command in the unpacked image; return exit code and output."""
        prepared = await ImageUnpacker(self.home).prepare(image)
        process = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", command, cwd=prepared.workdir, env=dict(prepared.env),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await process.communicate()
        return process.returncode or 0, output.decode()


def make_dock(root: Path) -> Dock:
    """Return a dock with a fresh home."""
    return Dock(Home(root).create())
