"""The Kubernetes client beside a server that takes connections and says nothing."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import yaml
from lightkube.resources.core_v1 import Node

from seaway.kube.client import KubeClient


async def test_a_request_cancelled_in_its_handshake_leaves_no_socket(tmp_path: Path) -> None:
    """Neither client waits for the garbage collector to close it."""
    hello: asyncio.Queue[None] = asyncio.Queue()
    closed: asyncio.Queue[None] = asyncio.Queue()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            hello.put_nowait(None)
        writer.close()
        closed.put_nowait(None)

    server = await asyncio.start_server(talk, "127.0.0.1")
    port = server.sockets[0].getsockname()[1]
    config = tmp_path / "config"
    config.write_text(
        yaml.safe_dump(
            {
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": {"server": f"https://127.0.0.1:{port}"}}],
                "users": [{"name": "u", "user": {"token": "x"}}],
            }
        )
    )
    client = KubeClient.open(config)
    gc.disable()
    try:
        for request in (client.request("GET", "/version"), client.api.get(Node, "node1")):
            task = asyncio.ensure_future(request)
            await asyncio.wait_for(hello.get(), 10)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            await asyncio.wait_for(closed.get(), 10)
    finally:
        gc.enable()
        await client.close()
        server.close()
