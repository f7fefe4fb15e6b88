"""RegistryBuilder: builds for containers. Layers are made here, put on a base image, and pushed to the registry.

REGISTRY/APP holds an app's images, by digest, each also under a tag that never moves (sha256-HEX: registries may
collect what has no tag) and under one for its source (source-KEY), which says what an unchanged source was built to.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Set
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import structlog

from seaway.builder.base import BuildError, Built
from seaway.builder.buildah import BuildahHere, DockerfileBuilder, Wanted
from seaway.builder.compose import LABEL_APP, LABEL_BASE_DIGEST, Below, Composed, Part, Recipe, compose, encode
from seaway.builder.foreign import describe
from seaway.builder.image import LABEL_BASE, this_architecture
from seaway.builder.layout import MANIFEST_TYPE, ImageLayout
from seaway.builder.process import make_result_key
from seaway.builder.running import Journal, Made, clean_leftovers, finish, run_worker
from seaway.builder.shelves import BaseShelf, DependencyShelf
from seaway.builder.stores import SUFFIX, LogStore, SourceStore
from seaway.home import Home
from seaway.model import BuildManifest, Source
from seaway.model.base import say_bytes
from seaway.registry.errors import NotThere, RegistryError
from seaway.registry.images import Image, Registries
from seaway.registry.reference import Reference

log = structlog.get_logger()

SHOW_EVERY = 2.0  # seconds between copies of a log that others may be following
LAST_COPY = 10.0  # seconds that the last copy of a log may take


class RegistryBuilder:
    """Builds below `home`, for the registry; implements builder.base.Builder."""

    def __init__(
        self,
        home: Home,
        registries: Registries,
        sources: SourceStore,
        logs: LogStore,
        base_image: str = "",
        *,
        push: bool = True,
        dockerfiles: DockerfileBuilder | None = None,
    ) -> None:
        self._home = Home(home.root.absolute())
        self._layout = ImageLayout(self._home.images)
        self._registries = registries
        self._sources = sources
        self._logs = logs
        self._base_image = base_image
        self._push = push  # without, the registry is only read
        self._bases = BaseShelf(registries, base_image, keep=push)
        self._dependencies = DependencyShelf(registries)
        self._dockerfiles = dockerfiles or BuildahHere(registries)

    def clean_leftovers(self) -> int:
        """Remove scratch folders of builds that died with the platform; return how many. Call at start."""
        return clean_leftovers(self._home)

    async def build(self, app: str, source: Source, log: Path, progress: Callable[[str], None]) -> Built:
        """See builder.base.Builder. Whatever the end, the log is kept in the log store too."""
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as output:
            journal = Journal(output, progress)
            async with self._sharing(log):
                try:
                    return await self._build(app, source, journal)
                except RegistryError as error:
                    journal.fail(str(error))
                    raise BuildError(str(error)) from error
                except BuildError as error:
                    journal.fail(str(error))
                    raise

    async def prune(
        self,
        images_in_use: Set[str],  # noqa: ARG002  # see below
        spare_after: float,
        caches_after: float,  # noqa: ARG002  # a build's cache ends with its pod
    ) -> int | None:
        """Delete layers made here that were pushed long ago; the registry's own are left alone."""
        return await asyncio.to_thread(self._layout.create().prune_blobs, spare_after)

    async def forget(self, app: str) -> None:
        """See builder.base.Builder: there is nothing of one app alone but its repository."""

    async def _build(self, app: str, source: Source, journal: Journal) -> Built:
        repository = self._registries.own.repository(app)
        key = self._make_key(source)
        reused = await self._find_result(repository, key) if key else None
        if reused is not None:
            journal.step("The source is unchanged since it was last built: its image is reused")
            journal.step(f"Image {reused.image}")
            return reused
        await self._bring_source(source)
        with ExitStack() as stack:
            # The worker's layers have to stay until they are pushed.
            await asyncio.to_thread(stack.enter_context, self._layout.create().adding())
            began = time.monotonic()
            session = _Session(self, repository, source, journal)
            made = await run_worker(self._home, app, source, journal, session.answer)
            if made.image is not None:
                image = await self._adopt(repository, made.image, made.manifest)
                journal.step(f"Image {image}, in {time.monotonic() - began:.1f} s")
                return Built(image=str(image), manifest=made.manifest)
            assert session.base is not None
            image = await self._publish(repository, session.base, session.name, made, journal)
            if key and self._push:
                await self._tag(repository, image, f"source-{key}")
        size = say_bytes(sum(int(layer["size"]) for layer in made.layers))
        journal.step(f"Image {image}, {size} on its base, in {time.monotonic() - began:.1f} s")
        return Built(image=str(image), manifest=made.manifest)

    async def _bring_source(self, source: Source) -> None:
        """Have the archive where the worker looks for it."""
        if source.archive is None:
            return
        digest = source.archive.removeprefix("sha256:")
        self._home.sources.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not await self._sources.fetch(digest, self._home.sources / f"{digest}{SUFFIX}"):
            raise BuildError(f"the source archive {digest[:12]} is gone from the server: deploy again")

    async def _publish(self, repository: Reference, base: Image, name: str, made: Made, journal: Journal) -> Reference:
        plan = made.plan
        assert plan is not None
        parts = tuple(Part(x["digest"], x["size"], x["holds"]) for x in made.layers)
        recipe = Recipe(
            parts=parts,
            python=plan["python"],
            platform=plan["platform"],
        )
        below = Below(name, str(base.reference.digest), base.config, base.layers)
        composed = compose(below, recipe, made.manifest)
        if not self._push:
            return repository.at(composed.digest)
        journal.step(f"Pushing to {repository}")
        async with asyncio.TaskGroup() as group:
            for layer in base.layers:
                group.create_task(self._bring_base_layer(repository, base, layer.digest, layer.size))
            for part in parts:
                group.create_task(self._push_part(repository, part, plan["dependency_key"]))
        return await self._push_manifest(repository, composed)

    async def _adopt(self, repository: Reference, digest: str, manifest: BuildManifest) -> Reference:
        """Note in an image that buildah pushed what its app's files say; return the image that has the note."""
        image = await self._registries.read(repository.at(digest), this_architecture())
        labels = {**image.labels, LABEL_APP: manifest.model_dump_json()}
        config = encode({**image.config, "config": {**image.settings, "Labels": labels}})
        about = image.manifest.read()
        about["config"] |= {"digest": f"sha256:{hashlib.sha256(config).hexdigest()}", "size": len(config)}
        return await self._push_manifest(repository, Composed(config, encode(about)))

    async def _bring_base_layer(self, repository: Reference, base: Image, digest: str, size: int) -> None:
        client, there = self._registries.home, base.reference
        if there.host == repository.host and await client.mount_blob(repository.path, digest, there.path):
            return
        await client.copy_blob(repository.path, digest, size, self._registries.client(there.host), there.path)

    async def _push_part(self, repository: Reference, part: Part, key: str | None) -> None:
        """Push one of our layers; dependencies by way of their shelf, where other builds find them."""
        client, file = self._registries.home, self._layout.path(part.digest)
        if part.holds != "dependencies" or key is None:
            await client.push_file(repository.path, file, part.digest)
            return
        if await self._dependencies.find(key) is None:
            if not file.exists():
                raise BuildError("the registry lost the layer of dependencies during the build: deploy again")
            await self._dependencies.keep(key, file, part.digest)
        if not await client.mount_blob(repository.path, part.digest, self._dependencies.repository):
            await client.copy_blob(repository.path, part.digest, part.size, client, self._dependencies.repository)

    async def _push_manifest(self, repository: Reference, composed: Composed) -> Reference:
        client = self._registries.home
        await client.push_bytes(repository.path, composed.config)
        image = repository.at(composed.digest)
        await client.put_manifest(image, composed.manifest, MANIFEST_TYPE)
        await self._tag(repository, image, composed.digest.replace(":", "-"), composed.manifest)
        return image

    async def _tag(self, repository: Reference, image: Reference, tag: str, content: bytes | None = None) -> None:
        client = self._registries.home
        manifest = content or (await client.get_manifest(image)).content
        await client.put_manifest(repository.tagged(tag), manifest, MANIFEST_TYPE)

    def _make_key(self, source: Source) -> str | None:
        """Key of an archive's image: what decides it but for the base's digest, which is looked at apart."""
        key = make_result_key(source)
        return hashlib.sha256(f"{key}\n{self._base_image}".encode()).hexdigest() if key else None

    async def _find_result(self, repository: Reference, key: str) -> Built | None:
        """Return what the source was built to, unless its base image's name stands for another one now."""
        try:
            image = await self._registries.read(repository.tagged(f"source-{key}"), this_architecture())
            if image.labels[LABEL_BASE_DIGEST] != await self._bases.resolve(image.labels[LABEL_BASE]):
                return None
            manifest = BuildManifest.model_validate_json(image.labels[LABEL_APP])
        except (NotThere, KeyError):
            return None
        except ValueError:  # made by another version of Seaway
            return None
        return Built(image=str(image.reference), manifest=manifest)

    @asynccontextmanager
    async def _sharing(self, log: Path) -> AsyncIterator[None]:
        """Keep copying the log to the log store while inside, and once more in the end."""
        copying = asyncio.create_task(self._copy_log(log), name=f"log-{log.stem}")
        try:
            yield
        finally:
            copying.cancel()
            await asyncio.gather(copying, return_exceptions=True)
            await finish(self._copy_last(log))

    async def _copy_log(self, log: Path) -> None:
        seen = -1
        while True:
            size = log.stat().st_size
            if size != seen:
                with contextlib.suppress(RegistryError, OSError):  # tried again soon
                    await self._logs.put(log.stem, log)
                seen = size
            await asyncio.sleep(SHOW_EVERY)

    async def _copy_last(self, file: Path) -> None:
        try:
            async with asyncio.timeout(LAST_COPY):
                await self._logs.put(file.stem, file)
        except (RegistryError, OSError, TimeoutError) as error:
            log.warning("a build's log is on this replica only", build=file.stem, error=str(error))


class _Session:
    """Answers one worker's questions, and keeps which base image it was told of."""

    def __init__(self, builder: RegistryBuilder, repository: Reference, source: Source, journal: Journal) -> None:
        self._builder = builder
        self._repository = repository
        self._source = source
        self._journal = journal
        self.base: Image | None = None
        self.name = ""

    async def answer(self, question: Mapping[str, Any]) -> Any:
        """See running.Answer."""
        builder = self._builder
        match question["ask"]:
            case "base":
                scratch = builder._home.builds  # the two are one
                self.base, facts = await builder._bases.find(question["name"], scratch, self._journal.step)
                self.name = facts.name
                return facts.write()
            case "dependencies":
                blob = await builder._dependencies.find(str(question["key"]))
                return blob and {"digest": blob.digest, "size": blob.size}
            case "fetch":
                digest = str(question["digest"])
                await builder._dependencies.fetch(digest, builder._layout.path(digest))
                return None
            case "dockerfile":
                wanted = Wanted(
                    self._repository, question["path"], Path(question["root"]), self._source, question["timeout"]
                )
                return await builder._dockerfiles.build(wanted, self._journal)
            case _:
                image = await builder._registries.read(self._repository.at(question["digest"]), this_architecture())
                found = describe(image, None)
                return {"command": found.command, "port": found.port}
