"""The store and its watches while the API server is away, stops answering, restarts, and forgets its history."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress

import httpx2
import pytest

from seaway.kube.cache import Cache
from seaway.kube.client import KubeClient
from seaway.kube.config import load_config
from seaway.kube.errors import Gone
from seaway.kube.installing import install_crds
from seaway.kube.listing import list_objects
from seaway.kube.watching import SILENCE, WATCH, Pulse, watch_objects
from seaway.model import App, AppSpec, Meta
from seaway.store.base import AlreadyExists, Conflict, Expired, NotFound, Unavailable
from seaway.store.kubernetes import KubernetesStore
from seaway.store.kubernetes.documents import Resource
from tests.kube.api_server import ApiServer


@pytest.fixture
async def store(fragile_server: ApiServer) -> AsyncIterator[KubernetesStore]:
    client = KubeClient(load_config(fragile_server.kubeconfig))
    await install_crds(client)
    namespace = f"t{secrets.token_hex(4)}"
    await client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    opened = KubernetesStore(client, namespace)
    yield opened
    await opened.close()
    await client.close()


def app(name: str) -> App:
    return App(meta=Meta(name=name))


def scaled(document: App, count: int) -> App:
    return document.model_copy(update={"spec": AppSpec(scale={"web": count})})


async def follow(store: KubernetesStore, seen: dict[str, int], expired: list[str]) -> None:
    """What every consumer does: list, watch, list again when told to; `seen` is app -> scale of web."""
    while True:
        with suppress(Unavailable):
            listing = await store.list(App)
            seen.clear()
            seen.update({found.name: found.spec.scale.get("web", 0) for found in listing.documents})
            try:
                async with aclosing(store.watch((App,), listing.revision)) as changes:
                    async for change in changes:
                        document = change.document
                        assert isinstance(document, App)
                        seen.pop(document.name, None)
                        if change.type == "put":
                            seen[document.name] = document.spec.scale.get("web", 0)
            except Expired as error:
                expired.append(str(error))
        await asyncio.sleep(0.05)


async def count_up(store: KubernetesStore, name: str, until: int) -> int:
    """Write 1, 2, ... `until`, each once, however often the server is away; return how often it was."""
    outages = 0
    while True:
        try:
            document = await store.get(App, name)
            count = document.spec.scale.get("web", 0)
            if count >= until:
                return outages
            await store.update(scaled(document, count + 1))
        except NotFound:
            with suppress(AlreadyExists, Unavailable):
                await store.create(app(name))
        except Conflict:
            continue
        except Unavailable:
            outages += 1
            await asyncio.sleep(0.1)


async def eventually(seen: dict[str, int], wanted: dict[str, int], within: float = 20) -> None:
    async with asyncio.timeout(within):
        while seen != wanted:
            await asyncio.sleep(0.05)


async def test_killed_api_server(store: KubernetesStore, fragile_server: ApiServer) -> None:
    """kill -9 and restart between writes: no write is lost or doubled, watchers end up with what is stored."""
    seen: dict[str, int] = {}
    following = asyncio.create_task(follow(store, seen, []))
    writing = asyncio.create_task(count_up(store, "shop", 400))
    async with asyncio.timeout(60):  # 20 writes, on a machine that others use too
        while seen.get("shop", 0) < 20:
            await asyncio.sleep(0.01)
    assert not writing.done()
    fragile_server.kill_server()
    await asyncio.sleep(1)
    await asyncio.to_thread(fragile_server.start_server)
    async with asyncio.timeout(60):
        assert await writing > 0
    await eventually(seen, {"shop": 400})
    assert (await store.get(App, "shop")).spec.scale == {"web": 400}
    following.cancel()


async def test_half_a_minute_without_answers(store: KubernetesStore, fragile_server: ApiServer) -> None:
    """A stopped API server whose connections stay open: calls fail in time, the watch goes on afterwards."""
    await store.create(app("shop"))
    seen: dict[str, int] = {}
    expired: list[str] = []
    following = asyncio.create_task(follow(store, seen, expired))
    cache = Cache(store.client, store.collection(App))
    picture = asyncio.create_task(_consume(cache))
    await eventually(seen, {"shop": 0})
    await cache.synced.wait()
    fragile_server.pause()
    try:
        began = time.monotonic()
        with pytest.raises(Unavailable, match="did not answer in time"):
            await store.get(App, "shop")
        assert time.monotonic() - began < 12
        writing = asyncio.create_task(count_up(store, "shop", 5))
        await asyncio.sleep(max(0.0, began + 30 - time.monotonic()))
        assert cache.pulse.silent() > SILENCE
        assert cache.pulse.trouble
        assert not writing.done()
        assert not following.done()
        assert cache.objects  # what was known is still there
    finally:
        fragile_server.go_on()
    async with asyncio.timeout(30):
        assert await writing >= 1
    await eventually(seen, {"shop": 5})
    async with asyncio.timeout(20):
        while cache.pulse.trouble or cache.pulse.silent() > WATCH:
            await asyncio.sleep(0.05)
    assert cache.objects[store.namespace, "shop"].spec["scale"] == {"web": 5}
    following.cancel()
    picture.cancel()


async def _consume(cache: Cache[Resource]) -> None:
    async with aclosing(cache.run()) as deltas:
        async for _ in deltas:
            pass


async def test_forgotten_history_is_told(store: KubernetesStore, fragile_server: ApiServer) -> None:
    """After compaction and a restart an old revision is Expired, for the store's watch and for the bare one."""
    created = await store.create(app("shop"))
    for number in range(20):
        await store.create(app(f"other{number}"))
    await asyncio.to_thread(fragile_server.compact)
    fragile_server.kill_server()
    await asyncio.to_thread(fragile_server.start_server)
    with pytest.raises(Expired, match="list again"):
        async with asyncio.timeout(20), aclosing(store.watch((App,), created.meta.revision)) as changes:
            await anext(changes)
    with pytest.raises(Gone):
        async with (
            asyncio.timeout(20),
            aclosing(watch_objects(store.client, store.collection(App), str(created.meta.revision))) as lumps,
        ):
            await anext(lumps)


async def test_cache_lists_again_and_tells_the_difference(store: KubernetesStore, fragile_server: ApiServer) -> None:
    """What came, changed and went while the history was lost comes as one delta; what stayed is not told again."""
    for name in ("stays", "changes", "goes"):
        await store.create(app(name))
    cache = Cache(store.client, store.collection(App))
    deltas = cache.run()
    first = await anext(deltas)
    assert sorted(item.metadata.name for item in first.put) == ["changes", "goes", "stays"]
    waiting = asyncio.ensure_future(anext(deltas))
    await asyncio.sleep(0.5)
    fragile_server.kill_server()
    await asyncio.to_thread(fragile_server.start_server)
    await _change_behind(cache, store)
    found = [await waiting]
    while not {"comes", "changes"} <= {item.metadata.name for delta in found for item in delta.put} or not any(
        delta.gone for delta in found
    ):
        async with asyncio.timeout(20):
            found.append(await anext(deltas))
    assert "stays" not in {item.metadata.name for delta in found for item in delta.put}
    assert sorted(name for _, name in cache.objects) == ["changes", "comes", "stays"]
    await deltas.aclose()


async def _change_behind(cache: Cache[Resource], store: KubernetesStore) -> None:
    await store.update(scaled(await store.get(App, "changes"), 3))
    await store.delete(App, "goes")
    await store.create(app("comes"))


async def test_a_quiet_watch_does_not_grow_old(store: KubernetesStore) -> None:
    """Bookmarks move its position, so that it begins again from there and not from long ago."""
    positions: list[int] = []

    async def note(request: httpx2.Request) -> None:
        if request.url.params.get("watch"):
            positions.append(int(request.url.params["resourceVersion"]))

    listed = await list_objects(store.client, store.collection(App))
    store.client.http.event_hooks = {"request": [note]}
    pulse = Pulse()
    watching = watch_objects(store.client, store.collection(App), listed.revision, pulse)
    waiting = asyncio.ensure_future(anext(watching))
    async with asyncio.timeout(5):
        while not pulse.heard_at:  # 1.20 sends no bookmark for what happened before the stream was open
            await asyncio.sleep(0.01)
    elsewhere = KubernetesStore(store.client, "default")
    name = f"q{secrets.token_hex(4)}"
    created = await elsewhere.create(app(name))
    async with asyncio.timeout(WATCH + 10):
        while len(positions) < 2:
            await asyncio.sleep(0.1)
    assert positions[1] >= created.meta.revision > positions[0]
    await store.create(app("shop"))
    async with asyncio.timeout(5):
        assert [seen.item.metadata.name for seen in await waiting] == ["shop"]
    await watching.aclose()
    await elsewhere.delete(App, name)
