"""Requests that only the leader can answer: two real servers, one of them leads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import Response, StreamingResponse

from seaway.api.auth import find_authorization
from seaway.api.deps import LeaderLink
from seaway.api.errors import ApiError, install_handlers
from seaway.api.forwarding import pass_on
from seaway.kube.names import TOKEN_HEADER


def make_replica(name: str, leader: LeaderLink | None) -> FastAPI:
    """Return an API of one endpoint that only the leader answers by itself, in two pieces."""
    api = FastAPI()
    install_handlers(api)

    @api.get("/log")
    async def log(request: Request) -> Response:
        if (answer := await pass_on(request, leader)) is not None:
            return answer

        async def pieces() -> AsyncIterator[str]:
            yield f"{name} {find_authorization(request.headers)} "
            await asyncio.sleep(0)
            yield str(request.url.query)

        return StreamingResponse(pieces(), media_type="text/event-stream")

    @api.post("/input")
    async def take(request: Request) -> Response:
        if (answer := await pass_on(request, leader)) is not None:
            return answer
        return Response(await request.body(), media_type=request.headers["content-type"])

    return api


@asynccontextmanager
async def serving(api: FastAPI) -> AsyncIterator[str]:
    """Serve on a free port; yield the base URL."""
    server = uvicorn.Server(uvicorn.Config(api, port=0, log_level="error", lifespan="off"))
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await running


async def ask(leader: str | None, header: tuple[str, str] = ("authorization", "Bearer x")) -> httpx2.Response:
    """Ask a replica that believes `leader` to lead ("" for itself)."""
    async with httpx2.AsyncClient() as http:
        link = LeaderLink(find=lambda: leader, http=http)
        async with serving(make_replica("follower", link)) as url:
            return await http.get(f"{url}/log?follow=true", headers=dict([header]))


async def test_a_follower_passes_the_leaders_answer_on() -> None:
    """With the caller's token, the query, and the kind of stream it is."""
    async with serving(make_replica("leader", None)) as leader:
        answer = await ask(leader)
        through_a_proxy = await ask(leader, (TOKEN_HEADER, "x"))
    assert answer.text == "leader Bearer x follow=true"
    assert through_a_proxy.text == "leader Bearer x follow=true"
    assert answer.headers["content-type"].startswith("text/event-stream")


async def test_what_was_sent_is_passed_on() -> None:
    """Every byte, as what it was said to be."""
    sent, kind = bytes(range(256)) * 4096, "application/octet-stream"
    async with (
        serving(make_replica("leader", None)) as leader,
        httpx2.AsyncClient() as http,
        serving(make_replica("follower", LeaderLink(find=lambda: leader, http=http))) as url,
    ):
        answer = await http.post(f"{url}/input", content=sent, headers={"content-type": kind})
    assert (answer.content, answer.headers["content-type"]) == (sent, kind)


async def test_when_to_ask_again_is_passed_on() -> None:
    """The leader counts the token's requests as well, and has had too many."""
    full = FastAPI()
    install_handlers(full)

    @full.get("/log")
    async def refuse() -> None:
        raise ApiError(429, "too-many-requests", "too many", headers={"Retry-After": "3"})

    async with serving(full) as leader:
        answer = await ask(leader)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")
    assert answer.json()["error"]["code"] == "too-many-requests"


async def test_the_leader_answers_itself() -> None:
    """And so does a replica that was passed a request, whatever it believes: no request goes in circles."""
    assert (await ask("")).text.startswith("follower ")
    async with httpx2.AsyncClient() as http:
        circle = LeaderLink(find=lambda: "http://127.0.0.1:9", http=http)
        async with serving(make_replica("second", circle)) as second:
            assert (await ask(second)).text.startswith("second ")


async def test_without_a_leader_the_replica_answers_what_it_can() -> None:
    """Whether nobody leads, or the leader has just died."""
    for leader in (None, "http://127.0.0.1:9"):
        assert (await ask(leader)).text.startswith("follower ")
