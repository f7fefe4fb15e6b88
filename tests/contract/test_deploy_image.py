"""The API with a real registry behind it: images that others pushed, and sources and logs that replicas share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from seaway.builder.foreign import RegistryImages
from seaway.builder.registry_stores import RegistryLogs, RegistrySources
from seaway.home import Home
from seaway.model import Build, BuildState, Role
from seaway.registry.images import Registries
from seaway.registry.transport import Access
from tests.contract.test_registry import push_image
from tests.registry_kit import Registry, push_base, run_registry
from tests.unit.api_support import Bench, open_bench

PLAIN = Access(insecure=True)
START = {"Entrypoint": ["/usr/bin/python3", "-m"], "Cmd": ["http.server", "a b"], "User": "33"}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with run_registry(tmp_path_factory.mktemp("registry"), access=PLAIN) as running:
        yield running


@dataclass
class Ship:
    """The API with the registry."""

    bench: Bench
    registry: Registry
    registries: Registries

    async def release(self, image: str, app: str = "shop", http: httpx2.AsyncClient | None = None, **more: Any) -> Any:
        client = http or self.bench.http
        return await client.post(f"/v1/apps/{app}/releases", json={"image": image, **more})


@pytest_asyncio.fixture
async def ship(registry: Registry, tmp_path: Path) -> AsyncIterator[Ship]:
    async with open_bench(tmp_path / "home") as bench:
        registries = registry.registries()
        bench.api.state.deps = replace(
            bench.api.state.deps,
            images=RegistryImages(registries),
            source_store=RegistrySources(registries, bench.home),
            build_logs=RegistryLogs(registries),
        )
        await bench.http.post("/v1/apps", json={"name": "shop"})
        yield Ship(bench, registry, registries)
        await registries.close()


async def test_a_tag_becomes_a_digest_and_its_command_the_web_process(ship: Ship) -> None:
    """What moves is never stored; the entrypoint is quoted for a shell; the exposed port is where it listens."""
    exposed: dict[str, Any] = {"ExposedPorts": {"9000/tcp": {}, "8000/tcp": {}, "53/udp": {}}}
    name = push_base(ship.registry, "ci/web", "7", **START, **exposed)
    spec = (await ship.release(name)).json()["spec"]
    assert spec["image"].startswith(f"{ship.registry.host}/ci/web@sha256:")
    assert spec["processes"]["web"]["command"] == "/usr/bin/python3 -m http.server 'a b'"
    assert spec["processes"]["web"]["port"] == 8000
    assert spec["description"] == f"Deploy {name} ({spec['image'][-64:-52]})"
    again = (await ship.release(spec["image"])).json()["spec"]
    assert (again["image"], again["processes"]) == (spec["image"], spec["processes"])


async def test_app_files_given_along(ship: Ship) -> None:
    """A Procfile names all processes; without one seaway.toml adds to the image's own; errors name it."""
    name = push_base(ship.registry, "ci/files", "1", **START)
    procfile = (await ship.release(name, procfile="web: serve\nworker: work\nrelease: migrate\n")).json()["spec"]
    assert (sorted(procfile["processes"]), procfile["release_command"]) == (["web", "worker"], "migrate")
    toml = '[processes.web]\nport = 9000\nhealth.readiness.http = "/ok"\n[processes.mail]\ncommand = "m"\n'
    both = (await ship.release(name, seaway_toml=toml)).json()["spec"]["processes"]
    assert (both["web"]["port"], both["web"]["health"]["readiness"]["http"]) == (9000, "/ok")
    assert sorted(both) == ["mail", "web"]
    mount = '[[mounts]]\nname = "db"\npath = "db"\n'
    for field, text in [("procfile", "web"), ("seaway_toml", "[process]\n"), ("seaway_toml", mount)]:
        answer = await ship.bench.http.post("/v1/apps/shop/releases", json={"image": name, field: text})
        assert (answer.status_code, answer.json()["error"]["field"]) == (422, field)


async def test_root_is_said(ship: Ship) -> None:
    """An image that asks for root is released; the release says that it runs without."""
    name = push_base(ship.registry, "ci/root", "1")
    assert (await ship.release(name)).json()["spec"]["description"].endswith("; it asks for root and runs without")


async def test_images_that_cannot_be_released(ship: Ship) -> None:
    """No such tag, no image, no command, no registry: each with its code, its status and what to do."""
    host = ship.registry.host
    await push_image(ship.registries.home, "ci/silent", "1")
    await RegistryLogs(ship.registries).put("log", ship.registry.root / "config.yml")
    for name, status, code in [
        (f"{host}/ci/web:none", 422, "no-such-image"),
        (f"{host}/nowhere/at/all:1", 422, "no-such-image"),
        (f"{host}/apps/seaway.logs:log", 422, "not-an-image"),
        (f"{host}/ci/silent:1", 422, "no-command"),
        ("127.0.0.1:9/ci/web:1", 503, "registry-unreachable"),
        ("shop:1", 422, "invalid"),
        (f"{host}/UPPER:1", 422, "invalid"),
        ("sha256:" + "b" * 64, 422, "unknown-image"),
    ]:
        answer = await ship.release(name)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["field"]) == (status, code, "image"), error
    assert (await ship.bench.http.get("/v1/apps/shop/releases")).json() == []


async def test_another_teams_repository_is_not_theirs(ship: Ship) -> None:
    """The platform may read every repository below its own place; a team deploys from those of its own apps."""
    await ship.bench.http.post("/v1/apps", json={"name": "secret", "team": "red"})
    await ship.bench.http.post("/v1/apps", json={"name": "open", "team": "blue"})
    push_base(ship.registry, "apps/secret/web", "1", **START)
    push_base(ship.registry, "apps/open", "1", **START)
    async with await ship.bench.client(Role.DEVELOPER, "blue") as blue:
        refused = await ship.release(f"{ship.registry.host}/apps/secret/web:1", "open", blue)
        assert (refused.status_code, refused.json()["error"]["code"]) == (422, "image-not-allowed")
        assert (await ship.release(f"{ship.registry.host}/apps/open:1", "open", blue)).status_code == 201


async def test_own_builds_by_digest_alone(ship: Ship) -> None:
    """A build's image in the registry is known by its whole name and by its digest; its files are its own."""
    digest = push_base(ship.registry, "apps/shop", "1", **START)
    image = str((await ship.release(digest)).json()["spec"]["image"])
    for name in (image, image.partition("@")[2]):
        assert (await ship.release(name)).json()["spec"]["image"] == image
    answer = await ship.release(image.partition("@")[2], procfile="web: x")
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "procfile")


async def test_without_a_registry_it_needs_containers(tmp_path: Path) -> None:
    """On one machine an image of a registry is refused, and what to do instead."""
    async with open_bench(tmp_path / "home") as bench:
        await bench.http.post("/v1/apps", json={"name": "shop"})
        answer = await bench.http.post("/v1/apps/shop/releases", json={"image": "registry.example.com/shop:1"})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (422, "needs-containers")
        assert "needs containers: run it with the Kubernetes engine" in error["message"]


async def test_sources_and_logs_of_another_replica(ship: Ship, tmp_path: Path) -> None:
    """What one replica was sent another builds from; what one wrote another shows, also while it goes on."""
    archive = b"\x1f\x8b" + b"x" * 100
    sent = await ship.bench.http.put("/v1/sources", content=archive)
    digest = sent.json()["digest"]
    assert digest == hashlib.sha256(archive).hexdigest()
    elsewhere = RegistrySources(ship.registries, Home(tmp_path / "elsewhere").create())
    assert await elsewhere.fetch(digest, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == archive
    (ship.bench.home.sources / f"{digest}.tar.gz").unlink()
    assert (await ship.bench.http.post("/v1/apps/shop/builds", json={"source": {"archive": digest}})).status_code == 201
    build = await ship.bench.store.get(Build, "shop.b1")
    log = tmp_path / ship.bench.home.build_log(build.name, build.meta.uid).name
    log.write_text("one\ntwo\n")
    await RegistryLogs(ship.registries).put(log.stem, log)
    shown = (await ship.bench.http.get("/v1/apps/shop/builds/1/log")).text
    assert [json.loads(line)["line"] for line in shown.splitlines()] == ["one", "two"]
    log.write_text("one\ntwo\nthree\n")
    await RegistryLogs(ship.registries).put(log.stem, log)
    status = build.status.model_copy(update={"state": BuildState.FAILED, "reason": "it ended"})
    await ship.bench.store.update(build.model_copy(update={"status": status}))
    followed = (await ship.bench.http.get("/v1/apps/shop/builds/1/log", params={"follow": "true"})).text
    assert [line for line in ("one", "two", "three") if f'"{line}"' in followed] == ["one", "two", "three"]
