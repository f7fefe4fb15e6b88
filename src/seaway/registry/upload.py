"""Bringing blobs into a registry: whole, in chunks that go on where they broke off, or from a repository beside."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import httpx2

from seaway.registry.errors import NotThere, RegistryError, Unauthorised, Unreachable, Unsupported
from seaway.registry.transport import PAUSES, Call, Content, Transport

WHOLE = 32 * 1024**2  # bytes; a bigger file goes in chunks of this size
BLOCK = 1024**2  # bytes read from disk at once
ATTEMPTS = 4  # of one blob, each from where the registry has it

_RANGE = re.compile(r"(?:bytes=)?0-(\d+)")


@dataclass(frozen=True)
class _Upload:
    """An upload under way, and the address it goes on at."""

    repository: str
    digest: str
    where: str


class Uploader:
    """Uploads blobs to the registry behind a transport."""

    def __init__(self, transport: Transport, whole: int = WHOLE) -> None:
        self._transport = transport
        self._whole = whole

    async def has(self, repository: str, digest: str) -> bool:
        """Tell whether the repository has the blob."""
        try:
            await self._transport.send(self._call("HEAD", f"/v2/{repository}/blobs/{digest}", repository, digest))
        except NotThere:
            return False
        return True

    async def mount(self, repository: str, digest: str, source: str) -> bool:
        """Ask for the blob of the repository `source`; False: the registry began an upload instead."""
        answer = await self._post(repository, f"?mount={digest}&from={source}", digest)
        if answer.status_code == httpx2.codes.CREATED:
            return True
        await self._forget(repository, digest, answer)
        return False

    async def put(self, repository: str, digest: str, content: Content, size: int) -> None:
        """Upload `size` bytes in one request; from the beginning again if it breaks off."""
        for attempt in range(1, ATTEMPTS + 1):
            place = await self._begin(repository, digest)
            try:
                await self._finish(place, content, size)
            except Unreachable:
                if attempt == ATTEMPTS:
                    raise
                await asyncio.sleep(PAUSES[attempt - 1])
            else:
                return

    async def put_file(self, repository: str, digest: str, file: Path) -> None:
        """Upload a file, in one request if it is small."""
        size = file.stat().st_size
        if size <= self._whole:
            await self.put(repository, digest, lambda: _read(file, 0, size), size)
            return
        place, sent, failures = await self._begin(repository, digest), 0, 0
        while sent < size:
            end = min(sent + self._whole, size)
            try:
                where = await self._patch(place, file, sent, end)
            except RegistryError as error:
                failures += 1
                if failures >= ATTEMPTS or isinstance(error, Unsupported | Unauthorised):
                    raise
                place, sent = await self._look(place)
            else:
                place, sent = replace(place, where=where), end
        await self._finish(place, lambda: b"", 0)

    async def _begin(self, repository: str, digest: str) -> _Upload:
        return _Upload(repository, digest, _locate(await self._post(repository, "", digest)))

    async def _post(self, repository: str, query: str, digest: str) -> httpx2.Response:
        path = f"/v2/{repository}/blobs/uploads/{query}"
        return await self._transport.send(self._call("POST", path, repository, digest, headers={"Content-Length": "0"}))

    async def _patch(self, place: _Upload, file: Path, begin: int, end: int) -> str:
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Range": f"{begin}-{end - 1}",
            "Content-Length": str(end - begin),
        }
        call = self._call("PATCH", place.where, place.repository, place.digest, headers=headers, again=False)
        return _locate(await self._transport.send(replace(call, content=lambda: _read(file, begin, end))))

    async def _look(self, place: _Upload) -> tuple[_Upload, int]:
        """Return where to go on, and how many bytes the registry has; some forget an upload that broke off."""
        try:
            answer = await self._transport.send(self._call("GET", place.where, place.repository, place.digest))
        except (NotThere, Unsupported):
            return await self._begin(place.repository, place.digest), 0
        found = _RANGE.fullmatch(answer.headers.get("Range", ""))
        have = int(found[1]) + 1 if found else 0
        where = _locate(answer) if "Location" in answer.headers else place.where
        return replace(place, where=where), have if have > 1 else 0

    async def _finish(self, place: _Upload, content: Content, size: int) -> None:
        url = str(httpx2.URL(place.where).copy_set_param("digest", place.digest))
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        call = self._call("PUT", url, place.repository, place.digest, headers=headers, again=False)
        try:
            await self._transport.send(replace(call, content=content))
        except Unreachable:
            if not await self.has(place.repository, place.digest):  # it may have arrived, and only the answer not
                raise

    async def _forget(self, repository: str, digest: str, answer: httpx2.Response) -> None:
        """End an upload that nobody wants."""
        with suppress(RegistryError):  # the registry forgets it by itself in the end
            where = _locate(answer)
            await self._transport.send(self._call("DELETE", where, repository, digest, again=False))

    def _call(
        self,
        method: str,
        path: str,
        repository: str,
        digest: str,
        *,
        headers: Mapping[str, str] | None = None,
        again: bool = True,
    ) -> Call:
        what = f"{digest[:19]} of {self._transport.host}/{repository}"
        return Call(method, path, f"repository:{repository}:pull,push", what, headers or {}, again=again)


def _locate(answer: httpx2.Response) -> str:
    """Return the address that an upload goes on at."""
    where = answer.headers.get("Location")
    if not where:
        raise RegistryError(f"the registry {answer.url.host} began an upload and did not say where: it is no registry?")
    return str(answer.url.join(where))


async def _read(file: Path, begin: int, end: int) -> AsyncIterator[bytes]:
    with file.open("rb") as opened:
        opened.seek(begin)
        while begin < end:
            block = await asyncio.to_thread(opened.read, min(BLOCK, end - begin))
            if not block:
                return
            begin += len(block)
            yield block
