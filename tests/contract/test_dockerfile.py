"""Sources with a Dockerfile, built by the real buildah and pushed to a real registry."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from seaway.builder.base import BuildError
from seaway.builder.compose import LABEL_APP
from seaway.builder.process import SubprocessBuilder
from seaway.model import BuildManifest
from seaway.registry.transport import Access
from tests.builder_kit import make_dock, write_app
from tests.contract.test_registry_builder import Replica, make_replica
from tests.image_kit import can_enter, run, unpack
from tests.packages import ensure_packages
from tests.registry_kit import Registry, make_htpasswd, push_busybox, run_registry, write_credentials

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0 or not can_enter(), reason="buildah needs root and namespaces here"),
]

DOCKERFILE = """
FROM busybox:1
RUN echo "made $(id -u)" > /made
COPY app.sh /srv/app.sh
EXPOSE 8000
USER 1000
CMD ["/bin/sh", "/srv/app.sh"]
"""
APP = {"Dockerfile": DOCKERFILE, "app.sh": "cat /made; id -u\n"}
HANGING = "FROM busybox:1\nRUN sleep 4711\n"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    ensure_packages("images")
    root = tmp_path_factory.mktemp("registry")
    auth = make_htpasswd(root / "htpasswd")
    with run_registry(root, auth=auth, access=Access(insecure=True)) as running:
        running.access = Access(insecure=True, credentials=write_credentials(root / "config.json", running.host))
        push_busybox(running, root, Entrypoint=[])
        yield running


@pytest_asyncio.fixture
async def replica(registry: Registry, tmp_path: Path) -> AsyncIterator[Replica]:
    registries = registry.registries()
    made = make_replica(tmp_path / "home", registries, "")
    yield made
    assert made.dock.scratch == []
    await registries.close()


async def test_a_dockerfile(replica: Replica, registry: Registry, tmp_path: Path) -> None:
    """Its CMD is the web process on the port it exposes; the image is named by digest, notes its manifest, and runs."""
    built = await replica.build(write_app(tmp_path / "app", APP))
    assert built.image.startswith(f"{registry.host}/apps/shop@sha256:")
    web = built.manifest.processes["web"]
    assert (web.command, web.port) == ("/bin/sh /srv/app.sh", 8000)
    image = await replica.read(built.image)
    assert BuildManifest.model_validate_json(image.labels[LABEL_APP]) == built.manifest
    log = replica.dock.log.read_text()
    assert "STEP 2/6: RUN echo" in log
    assert "hunter2" not in log
    unpacked = await unpack(replica.registries, built.image, tmp_path / "root")
    ran = run(unpacked, tmp_path / "root")
    assert ran.stdout == "made 0\n1000\n", ran.stderr


async def test_the_same_again_is_taken_from_the_cache(replica: Replica, registry: Registry, tmp_path: Path) -> None:
    """Another replica with an empty disk runs no step twice, and comes to the same digest."""
    first = await replica.build(write_app(tmp_path / "app", APP))
    other = make_replica(tmp_path / "other", replica.registries, "")
    again = await other.build(write_app(tmp_path / "again", {**APP, "README": "not copied"}))
    assert again.image == first.image
    assert other.dock.log.read_text().count("Cache pulled from remote") == 5


async def test_app_files_beside_a_dockerfile(replica: Replica, tmp_path: Path) -> None:
    """With [build] dockerfile a Procfile names the processes; its path is below the top."""
    files = {
        "docker/web": DOCKERFILE,
        "app.sh": APP["app.sh"],
        "Procfile": "web: serve\nworker: work\n",
        "seaway.toml": '[build]\ndockerfile = "docker/web"\n',
    }
    built = await replica.build(write_app(tmp_path / "app", files))
    assert sorted(built.manifest.processes) == ["web", "worker"]
    assert built.manifest.processes["web"].command == "serve"


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"Dockerfile": "FROM busybox:1\nRUN false\n"}, "the Dockerfile cannot be built: Error: building at STEP"),
        ({"Dockerfile": "FRM x\n"}, "the Dockerfile cannot be built: "),
        ({"Dockerfile": "FROM none:1\n"}, "the Dockerfile cannot be built: "),
        ({"Dockerfile": "FROM busybox:1\nENTRYPOINT []\nCMD []\n"}, "Dockerfile: has no CMD"),
        ({"seaway.toml": '[build]\ndockerfile = "x"\n'}, "build.dockerfile: there is no file x in the source"),
        ({"seaway.toml": '[build]\ndockerfile = "../x"\n'}, "'../x' is not a file of the source"),
    ],
)
async def test_bad_dockerfiles(replica: Replica, tmp_path: Path, files: dict[str, str], sentence: str) -> None:
    """buildah's reason in one sentence; its output is in the log."""
    with pytest.raises(BuildError) as caught:
        await replica.build(write_app(tmp_path / "app", files))
    assert sentence in str(caught.value)
    assert "hunter2" not in replica.dock.log.read_text()


async def test_cancel_ends_buildah(replica: Replica, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The RUN command dies with the build; nothing stays mounted, nor lies where temporary files are kept."""
    elsewhere = tmp_path / "temporary"
    elsewhere.mkdir()
    monkeypatch.setenv("TMPDIR", str(elsewhere))
    task = asyncio.create_task(replica.build(write_app(tmp_path / "app", {"Dockerfile": HANGING})))
    async with asyncio.timeout(60):
        while not find_processes("4711"):
            await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(10):
        while find_processes("4711"):
            await asyncio.sleep(0.05)
    assert str(tmp_path) not in Path("/proc/mounts").read_text()
    assert list(elsewhere.iterdir()) == []


def find_processes(word: str) -> list[int]:
    sleeping = (p for p in psutil.process_iter(["cmdline", "status"]) if p.info["cmdline"] == ["sleep", word])
    return [process.pid for process in sleeping if process.info["status"] != psutil.STATUS_ZOMBIE]


async def test_without_buildah(replica: Replica, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to install or set; on one machine it says that containers are needed."""
    monkeypatch.setattr(shutil, "which", lambda _: None)
    app = write_app(tmp_path / "app", APP)
    with pytest.raises(
        BuildError, match="Dockerfile: nothing here can build it: give the platform an image that has buildah"
    ):
        await replica.build(app)
    dock = make_dock(tmp_path / "local")
    with pytest.raises(
        BuildError, match="Dockerfile: such an image needs containers: run it with the Kubernetes engine"
    ):
        await SubprocessBuilder(dock.home).build("shop", dock.upload(app), dock.log, print)
