"""Nodes as network namespaces of their own, each with one small web app, whose links can be cut."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import pytest

APP = """
import asyncio, sys, time
from aiohttp import web
label = sys.argv[1]
async def answer(request):
    await asyncio.sleep(float(request.query.get("seconds", "0.02")))
    time.sleep(float(request.query.get("block", "0")))
    return web.json_response({"label": label})
async def main():
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", 8080).start()
    print("ready", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""

needs_namespaces = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root")


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


class NodeNet:
    """One node: a namespace behind a veth pair, addresses from the range for benchmarks (RFC 2544)."""

    def __init__(self, number: int) -> None:
        self.label = f"n{number}"
        self.name = f"sw{os.getpid()}n{number}"
        base = f"198.18.{os.getpid() % 256}"
        self._near, self.address = f"{base}.{4 * number + 1}", f"{base}.{4 * number + 2}"
        self._link = f"sw{os.getpid() % 100000}v{number}"
        self._app: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        run("ip", "netns", "add", self.name)
        run("ip", "link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        run("ip", "addr", "add", f"{self._near}/30", "dev", self._link)
        run("ip", "link", "set", self._link, "up")
        run("ip", "-n", self.name, "addr", "add", f"{self.address}/30", "dev", "eth0")
        run("ip", "-n", self.name, "link", "set", "eth0", "up")
        run("ip", "-n", self.name, "link", "set", "lo", "up")
        command = ("nsenter", f"--net=/var/run/netns/{self.name}", sys.executable, "-c", APP, self.label)
        self._app = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        assert self._app.stdout is not None
        assert (await self._app.stdout.readline()).strip() == b"ready"

    def cut(self) -> None:
        """Take the link down, as a node without power: nobody is told anything."""
        run("ip", "-n", self.name, "link", "set", "eth0", "down")

    def mend(self) -> None:
        """Bring the link back."""
        run("ip", "-n", self.name, "link", "set", "eth0", "up")

    async def stop(self) -> None:
        if self._app is not None:
            self._app.kill()
            await self._app.wait()
        for what in (("link", "del", self._link), ("netns", "del", self.name)):
            subprocess.run(("ip", *what), capture_output=True, check=False)  # noqa: ASYNC221 - some ms


@contextlib.asynccontextmanager
async def start_nodes(count: int) -> AsyncIterator[list[NodeNet]]:
    nodes = [NodeNet(number) for number in range(count)]
    try:
        for node in nodes:
            await node.start()
        yield nodes
    finally:
        for node in nodes:
            await node.stop()


@dataclass(frozen=True)
class Answer:
    """One request: when it was sent and answered (monotonic), by whom, or why not."""

    method: str
    sent: float
    done: float
    status: int
    label: str


class OpenLoad:
    """Sends requests at a fixed rate, whatever becomes of them: every third a POST. Keeps every answer."""

    def __init__(self, port: int, rate: float = 150.0, path: str = "/", host: str = "shop.localhost") -> None:
        self._url, self._host, self._rate = f"http://127.0.0.1:{port}{path}", host, rate
        self._client = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        self._asking: set[asyncio.Task[None]] = set()
        self._sending = asyncio.create_task(self._send())
        self.answers: list[Answer] = []

    async def _send(self) -> None:
        begun, count = time.monotonic(), 0
        while True:
            count += 1
            task = asyncio.create_task(self._ask("POST" if count % 3 == 0 else "GET"))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)
            await asyncio.sleep(max(0.0, begun + count / self._rate - time.monotonic()))

    async def _ask(self, method: str) -> None:
        sent, status, label = time.monotonic(), 0, ""
        try:
            async with self._client.request(method, self._url, headers={"Host": self._host}) as response:
                status = response.status
                label = (await response.json())["label"] if status == 200 else await response.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            label = repr(error)
        self.answers.append(Answer(method, sent, time.monotonic(), status, label))

    async def stop(self) -> list[Answer]:
        """Send no more, wait for every answer and return all."""
        self._sending.cancel()
        await asyncio.gather(self._sending, *self._asking, return_exceptions=True)
        await self._client.close()
        return sorted(self.answers, key=lambda answer: answer.sent)

    def last_second(self) -> Counter[str]:
        """Return how many answers of the last second came from whom."""
        since = time.monotonic() - 1
        return Counter(answer.label for answer in self.answers if answer.done > since)
