"""RegistryClient against a real registry: logins, uploads that break off, damage, and what users read."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import pytest_asyncio

from seaway.registry.client import INDEX_TYPES, MANIFEST_TYPES, RegistryClient
from seaway.registry.errors import Damaged, NotAnImage, NotThere, RegistryError, TooLarge, Unauthorised, Unreachable
from seaway.registry.images import Registries
from seaway.registry.reference import Place, parse_reference
from seaway.registry.shelf import Shelf
from seaway.registry.transport import Access
from tests.registry_kit import (
    PASSWORD,
    Registry,
    make_certificates,
    make_htpasswd,
    run_breaking_proxy,
    run_registry,
    run_token_server,
    write_credentials,
)

PLAIN = Access(insecure=True)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with run_registry(tmp_path_factory.mktemp("registry"), access=PLAIN) as running:
        yield running


@pytest_asyncio.fixture
async def registries(registry: Registry) -> AsyncIterator[Registries]:
    made = registry.registries()
    yield made
    await made.close()


@pytest.fixture
def client(registries: Registries) -> RegistryClient:
    return registries.home


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


async def push_image(client: RegistryClient, repository: str, tag: str, **changes: object) -> str:
    """Push an image of one small layer; return the manifest's digest."""
    layer = await client.push_bytes(repository, b"layer of " + tag.encode())
    settings = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [layer]}}
    config = await client.push_bytes(repository, json.dumps(settings).encode())
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPES[0],
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 1},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer, "size": 9 + len(tag)}],
    } | changes
    reference = parse_reference(f"{client.host}/{repository}:{tag}")
    return await client.put_manifest(reference, json.dumps(manifest).encode(), MANIFEST_TYPES[0])


async def test_blobs_come_back(client: RegistryClient, tmp_path: Path) -> None:
    """Small and big (in chunks), as bytes and as files; pushing again sends nothing; mounting sends nothing."""
    file = tmp_path / "big"
    file.write_bytes(os.urandom(1024**2) * 40)
    digest = digest_of(file.read_bytes())
    assert not await client.has_blob("one", digest)
    await client.push_file("one", file, digest)
    file_again = tmp_path / "not-read"
    await client.push_file("one", file_again, digest)
    await client.download_blob("one", digest, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == file.read_bytes()
    assert await client.mount_blob("two", digest, "one")
    assert await client.has_blob("two", digest)
    assert not await client.mount_blob("three", digest_of(b"nowhere"), "one")
    small = await client.push_bytes("one", b"small")
    assert await client.get_blob("one", small, 10) == b"small"
    with pytest.raises(TooLarge, match="is over 0 MiB"):
        await client.get_blob("one", small, 4)


async def test_a_broken_upload_is_done_all_the_same(registry: Registry, tmp_path: Path) -> None:
    """The connection dies in the middle of a chunk, twice; the blob is whole in the end."""
    file = tmp_path / "big"
    file.write_bytes(os.urandom(1024**2) * 80)
    digest = digest_of(file.read_bytes())
    async with run_breaking_proxy(registry.host, breaks=[5 * 1024**2, 40 * 1024**2]) as proxy:
        client = RegistryClient(proxy.host, PLAIN)
        await client.push_file("broken", file, digest)
        await client.close()
    assert proxy.broken == 2
    assert digest_of(registry.find_blob(digest).read_bytes()) == digest


async def test_an_answer_that_never_came_is_asked_for_again(registry: Registry, client: RegistryClient) -> None:
    """Connections that die before any answer cost time, not the request."""
    digest = await push_image(client, "lost", "1")
    async with run_breaking_proxy(registry.host, breaks=[1, 1, 1]) as proxy:
        through = RegistryClient(proxy.host, PLAIN)
        assert await through.resolve(parse_reference(f"{proxy.host}/lost:1")) == digest
        await through.close()
    assert proxy.broken == 3


async def test_damage_is_noticed(registry: Registry, client: RegistryClient, tmp_path: Path) -> None:
    """A blob whose bytes changed on the registry's disk never becomes a file here, nor an image."""
    digest = await client.push_bytes("damaged", b"right")
    manifest = await push_image(client, "damaged", "1")
    registry.find_blob(digest).write_bytes(b"wrong")
    with pytest.raises(Damaged, match="its disk may be damaged"):
        await client.download_blob("damaged", digest, tmp_path / "blob")
    assert list(tmp_path.iterdir()) == []
    path = registry.find_blob(manifest)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(RegistryError):
        await client.get_manifest(parse_reference(f"{client.host}/damaged@{manifest}"))


async def test_tags_resolve_to_digests(client: RegistryClient, registries: Registries) -> None:
    """A tag gives the digest it stands for now; an index gives its own, and the image for the platform."""
    amd = await push_image(client, "app", "amd")
    arm = await push_image(client, "app", "arm")
    assert await client.resolve(parse_reference(f"{client.host}/app:amd")) == amd
    entries = [
        {"mediaType": MANIFEST_TYPES[0], "digest": digest, "size": 1, "platform": {"os": "linux", "architecture": arch}}
        for digest, arch in ((amd, "amd64"), (arm, "arm64"))
    ]
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPES[0], "manifests": entries}
    named = parse_reference(f"{client.host}/app:both")
    digest = await client.put_manifest(named, json.dumps(index).encode(), INDEX_TYPES[0])
    image = await registries.read(named, "arm64")
    assert (image.reference.digest, image.manifest.digest) == (digest, arm)
    with pytest.raises(NotAnImage, match=r"no image for linux/s390x \(it has linux/amd64, linux/arm64\)"):
        await registries.read(named, "s390x")
    assert (await registries.read_any(named, "s390x")).manifest.digest == amd
    assert sorted(await client.list_tags("app")) == ["amd", "arm", "both"]


async def test_what_is_no_image(client: RegistryClient, registries: Registries) -> None:
    """A missing tag or repository and an artifact are refused in plain words."""
    shelf = Shelf(client, Place(client.host), "odd.things", "thing")
    await shelf.put("1", b"content")
    for name, kind, sentence in [
        ("odd:none", NotThere, "there is no HOST/odd:none: see its name, or push it first"),
        ("never:1", NotThere, "there is no HOST/never:1"),
        ("odd.things:1", NotAnImage, "is not a container image but something else (application/vnd.seaway.thing"),
    ]:
        with pytest.raises(kind) as caught:
            await registries.read(parse_reference(f"{client.host}/{name}"), "amd64")
        assert sentence in str(caught.value).replace(client.host, "HOST")


async def test_a_huge_manifest_is_not_read() -> None:
    """Over 4 MiB the reading stops: what never ends is not waited for."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n")
        with suppress(ConnectionError):
            while True:
                writer.write(b" " * 65536)
                await writer.drain()
        writer.transport.abort()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        host = "127.0.0.1:" + str(server.sockets[0].getsockname()[1])
        client = RegistryClient(host, PLAIN)
        with pytest.raises(TooLarge, match="is over 4 MiB"):
            await client.get_manifest(parse_reference(f"{host}/huge:1"))
        await client.close()


async def test_shelves(client: RegistryClient, tmp_path: Path) -> None:
    """What is put is found by its tag with its notes, replaced, and gone when deleted."""
    shelf = Shelf(client, Place(client.host, "apps"), "seaway.things", "thing")
    assert await shelf.find("a") is None
    assert await shelf.list() == []
    first = await shelf.put("a", b"one", {"made": "1"})
    await shelf.put("a", b"two")
    found = await shelf.find("a")
    assert found is not None
    assert await shelf.read(found, 100) == b"two"
    assert (await shelf.renew("a", first, {"made": "2"})).notes == {"made": "2"}
    again = await shelf.find("a")
    assert again is not None
    await shelf.fetch(again, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"one"
    assert await shelf.delete(again)
    assert await shelf.find("a") is None


async def test_basic_login(tmp_path: Path) -> None:
    """With the password in; without, and with a wrong one, a sentence that does not show it."""
    with run_registry(tmp_path, auth=make_htpasswd(tmp_path / "htpasswd"), access=PLAIN) as registry:
        file = write_credentials(tmp_path / "config.json", registry.host)
        client = RegistryClient(registry.host, Access(insecure=True, credentials=file))
        await push_image(client, "app", "1")
        for password, sentence in [(None, "wants a user and a password"), ("wrong-one", "refuses user and password")]:
            credentials = write_credentials(tmp_path / "other.json", registry.host, password) if password else None
            other = RegistryClient(registry.host, Access(insecure=True, credentials=credentials))
            with pytest.raises(Unauthorised) as caught:
                await other.resolve(parse_reference(f"{registry.host}/app:1"))
            assert sentence in str(caught.value)
            assert "wrong-one" not in str(caught.value)
            await other.close()
        write_credentials(file, registry.host, "changed")  # a Secret that was mounted is renewed
        with pytest.raises(Unauthorised):
            await client.resolve(parse_reference(f"{registry.host}/app:1"))
        await client.close()


async def test_bearer_login(tmp_path: Path) -> None:
    """A token for each repository and action, from the server that the registry names, reused until it expires."""
    with (
        run_token_server(tmp_path) as tokens,
        run_registry(tmp_path / "registry", auth=tokens.auth, access=PLAIN) as registry,
    ):
        file = write_credentials(tmp_path / "config.json", registry.host)
        client = RegistryClient(registry.host, Access(insecure=True, credentials=file))
        digest = await push_image(client, "team/app", "1")
        assert await client.resolve(parse_reference(f"{registry.host}/team/app:1")) == digest
        await client.mount_blob("team/other", digest_of(b"layer of 1"), "team/app")
        assert len(tokens.scopes) == len(set(tokens.scopes))
        assert "repository:team/app:pull,push" in tokens.scopes
        with pytest.raises(Unauthorised, match=r"may not do this|does not allow|refuses"):
            await client.push_bytes("forbidden/app", b"x")
        await client.close()
        stranger = RegistryClient(registry.host, PLAIN)
        with pytest.raises(Unauthorised):
            await stranger.resolve(parse_reference(f"{registry.host}/team/app:1"))
        await stranger.close()
    assert PASSWORD not in (tmp_path / "registry" / "log").read_text()


async def test_tls(tmp_path: Path) -> None:
    """The CA's certificate has to be given; plain HTTP and TLS taken for one another are told apart."""
    ca, certificate, key = make_certificates(tmp_path)
    with run_registry(tmp_path / "r", tls=(certificate, key), access=Access(ca=ca)) as registry:
        client = RegistryClient(registry.host, Access(ca=ca))
        await push_image(client, "app", "1")
        await client.close()
        for access, sentence in [(Access(), "is not trusted"), (PLAIN, "speaks TLS only: do not set it as insecure")]:
            other = RegistryClient(registry.host, access)
            with pytest.raises(Unreachable) as caught:
                await other.get_manifest(parse_reference(f"{registry.host}/app:1"))
            assert sentence in str(caught.value)
            await other.close()
    with pytest.raises(RegistryError, match="give a PEM file"):
        RegistryClient("h.example", Access(ca=tmp_path / "none"))


async def test_registries_that_are_not_there(registry: Registry) -> None:
    """No such port, no such name, and a registry without TLS."""
    for host, sentence in [
        ("127.0.0.1:9", "cannot be reached"),
        ("registry.invalid", "cannot be reached"),
        (registry.host, "does not speak TLS: if it is meant to be so, set it as insecure"),
    ]:
        client = RegistryClient(host, Access())
        with pytest.raises(Unreachable) as caught:
            async with asyncio.timeout(20):
                await client.resolve(parse_reference(f"{host}/app:1"))
        assert sentence in str(caught.value)
        await client.close()
