"""Seaway's own image, by the same road as an app's: this package, and what it needs in the versions found here."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Callable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import seaway
from seaway.builder.base import BuildError
from seaway.builder.cluster import RegistryBuilder
from seaway.builder.source import pack
from seaway.builder.stores import FolderSources, NoLogs
from seaway.home import Home
from seaway.model import Source
from seaway.registry.images import Registries

OWN_NAME = "seaway.platform"  # the repository: no app's name has a dot
PROCFILE = "control: python3 -m seaway control\n"


async def build_own_image(
    registries: Registries,
    base: str,
    *,
    push: bool = True,
    scratch: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> str:
    """Build Seaway's own image on the base; return HOST/PATH@sha256:... Raises BuildError.

    Without `push` nothing is written to the registry. `scratch` is where some 700 MB are written meanwhile. `say` gets
    each step's sentence.
    """
    with TemporaryDirectory(prefix="seaway-own-", dir=scratch) as folder:
        home = Home(Path(folder, "home")).create()
        source = await asyncio.to_thread(write_source, Path(folder, "source"))
        packed = await asyncio.to_thread(pack, source, Path(folder, "source.tar.gz"))
        sources = FolderSources(home.sources)
        await sources.put(Path(folder, "source.tar.gz"), packed.sha256)
        builder = RegistryBuilder(home, registries, sources, NoLogs(), base, push=push)
        built = await builder.build(OWN_NAME, Source(archive=packed.sha256), home.builds / "own.log", say)
        return built.image


def write_source(folder: Path) -> Path:
    """Write what the image is built from: the package that runs now, and the versions of what it needs."""
    folder.mkdir()
    package = Path(seaway.__file__).parent
    shutil.copytree(package, folder / "seaway", ignore=shutil.ignore_patterns("__pycache__"))
    about = folder / f"seaway-{seaway.__version__}.dist-info"  # `seaway --version` asks for it
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: seaway\nVersion: {seaway.__version__}\n")
    (folder / "Procfile").write_text(PROCFILE)
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in pin_requirements("seaway")))
    return folder


def pin_requirements(name: str) -> list[str]:
    """Return name==version of everything that the installed distribution needs, directly or not, sorted."""
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(name, "")]
    while waiting:
        wanted, extra = waiting.pop()
        if (wanted, extra) in seen:
            continue
        seen.add((wanted, extra))
        about = _find(wanted)
        found[canonicalize_name(wanted)] = about.version
        for text in about.requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                waiting += [(requirement.name, inner) for inner in ("", *requirement.extras)]
    del found[canonicalize_name(name)]
    return [f"{package}=={_public(version)}" for package, version in sorted(found.items())]


def _find(name: str) -> Distribution:
    try:
        return distribution(name)
    except PackageNotFoundError:
        raise BuildError(
            f"{name} is not installed beside Seaway, so its version is not known: install Seaway with pip or uv"
        ) from None


def _public(version: str) -> str:
    """Leave out a local part (+cpu): no index has it."""
    return re.sub(r"\+.*", "", version)
