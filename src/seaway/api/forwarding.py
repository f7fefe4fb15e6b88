"""Passing a request on to the replica that leads: for what is on its disk alone."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import httpx2
import structlog
from fastapi import Request

from seaway.api.deps import LeaderLink
from seaway.api.streams import Stream
from seaway.kube.names import TOKEN_HEADER

log = structlog.get_logger()

FORWARDED = "seaway-forwarded"
RETRY_AFTER = "retry-after"  # comes with 429: the leader counts the token's requests and streams, too
PASSED = ("accept", "authorization", "content-type", TOKEN_HEADER, "last-event-id")
"""Headers of the request that matter."""


async def pass_on(request: Request, leader: LeaderLink | None) -> Stream | None:
    """Return the leader's answer; None if this replica is to answer: it leads, or nobody that can be reached does."""
    base = leader.find() if leader is not None and FORWARDED not in request.headers else None
    if leader is None or not base:
        return None
    headers = {name: request.headers[name] for name in PASSED if name in request.headers} | {FORWARDED: "1"}
    url = httpx2.URL(base).copy_with(path=request.url.path, query=request.url.query.encode())
    timeout = httpx2.Timeout(10.0, read=None)
    try:
        answer = await leader.http.send(
            leader.http.build_request(
                request.method, url, headers=headers, content=await request.body() or None, timeout=timeout
            ),
            stream=True,
        )
    except httpx2.TransportError as error:
        log.info("the replica that leads does not answer", error=type(error).__name__)
        return None
    passed = Stream(_read(answer), answer.headers.get("content-type", "application/json"), answer.status_code)
    if RETRY_AFTER in answer.headers:
        passed.headers[RETRY_AFTER] = answer.headers[RETRY_AFTER]
    return passed


async def _read(answer: httpx2.Response) -> AsyncGenerator[bytes, None]:
    try:
        async for chunk in answer.aiter_raw():
            yield chunk
    except httpx2.TransportError:
        return  # the leader died: the stream ends, and the client asks again
    finally:
        await answer.aclose()
