"""Lists of objects as typed structs, page by page, so that neither side holds everything at once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Generic, TypeVar

import httpx2
import msgspec
from zlib_ng import zlib_ng

from seaway.kube.client import KubeClient
from seaway.kube.errors import Gone, error_of, parse_status, translated
from seaway.kube.structs import ListMeta, Object

T = TypeVar("T", bound=Object)

PAGE = 500  # objects in one answer: at most 3 ms of parsing for pods
LIST_TIMEOUT = httpx2.Timeout(30.0, connect=3.0)  # seconds, of one page
GZIP = 31  # zlib's word for "with a gzip header"
RESTARTS = 3  # a list whose continue token expired on the way begins again so often


@dataclass(frozen=True)
class Resource(Generic[T]):
    """What to list or watch: the collection's URL path, the struct of one object, and selectors."""

    path: str  # for example /api/v1/pods or /apis/apps/v1/namespaces/x/deployments
    item: type[T]
    selectors: Mapping[str, str] = field(default_factory=dict)  # labelSelector, fieldSelector


@dataclass(frozen=True)
class Listed(Generic[T]):
    """All objects as of one moment; watching from `revision` misses nothing and repeats nothing."""

    items: tuple[T, ...]
    revision: str


async def list_objects(client: KubeClient, resource: Resource[T]) -> Listed[T]:
    """Return all objects of the resource, read from etcd, consistent with each other."""
    for _ in range(RESTARTS):
        try:
            return await _list_pages(client, resource)
        except Gone:  # the token is only good for some minutes: compaction went past it
            continue
    return await _list_pages(client, resource, limit=0)


async def _list_pages(client: KubeClient, resource: Resource[T], limit: int = PAGE) -> Listed[T]:
    decoder = _page_decoder(resource.item)
    items: list[T] = []
    params = dict(resource.selectors) | ({"limit": str(limit)} if limit else {})
    while True:
        page: Any = decoder.decode(await _read(client, resource.path, params))
        items += page.items
        if not page.metadata.continue_:
            return Listed(tuple(items), page.metadata.resource_version)
        params["continue"] = page.metadata.continue_
        await asyncio.sleep(0)  # others run between the pages


async def _read(client: KubeClient, path: str, params: Mapping[str, str]) -> bytes:
    """Return the body of one page: sent compressed (a twentieth), inflated in one go (0.5 ms for 3 MB)."""
    headers = {"Accept": "application/json", "Accept-Encoding": "gzip"}
    doing = f"GET {path}"
    with translated(doing):
        async with client.http.stream("GET", path, params=params, headers=headers, timeout=LIST_TIMEOUT) as response:
            body = b"".join([chunk async for chunk in response.aiter_raw()])
    if response.headers.get("content-encoding") == "gzip":
        body = zlib_ng.decompress(body, GZIP)
    if response.is_error:
        raise error_of(parse_status(response.status_code, body), doing)
    return body


@cache
def _page_decoder(item: type[Object]) -> msgspec.json.Decoder[Any]:
    page = msgspec.defstruct(f"{item.__name__}Page", [("metadata", ListMeta), ("items", tuple[item, ...], ())])  # type: ignore[valid-type]
    return msgspec.json.Decoder(page)
