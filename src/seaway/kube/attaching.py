"""One connection with what a container reads and writes: `pods/attach` over a WebSocket.

Each message begins with the number of its channel (protocol v4.channel.k8s.io). Source: Kubernetes'
staging/src/k8s.io/kubelet/pkg/cri/streaming/remotecommand/websocket.go.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256

import httpx2
import msgspec
import wsproto.events
from httpx2.websockets import AsyncWebSocketSession, HTTPXWSException, WebSocketUpgradeError

from seaway.kube.client import KubeClient
from seaway.kube.errors import Unavailable, error_of, parse_status, translated

PROTOCOL = "v4.channel.k8s.io"
STDIN, STDOUT, STDERR, END, SIZE = range(5)
LONGEST = 32 * 1024  # bytes in one message
MARK = re.compile(rb"\x1b\]seaway;[0-9a-z]*\x07\n")
"""What a one-off's first process writes after the last byte of a stream. No terminal shows it: to those it is a command
(OSC) that they do not know. It ends its line, or that would come into the log later than the rest."""


def make_token(uid: str) -> str:
    """Return the word in the marks of a Job: every replica knows it, its command does not."""
    return f"t{sha256(f'seaway streams {uid}'.encode()).hexdigest()[:32]}"


def make_mark(token: str) -> bytes:
    """Return the mark of a token."""
    return f"\x1b]seaway;{token}\x07\n".encode()


class AttachedPod:
    """The connection."""

    def __init__(self, session: AsyncWebSocketSession, doing: str) -> None:
        self._session, self._doing = session, doing

    async def send(self, channel: int, data: bytes) -> None:
        """Send bytes, at most LONGEST. Unavailable if the connection is gone."""
        try:
            await self._session.send_bytes(bytes([channel]) + data)
        except (HTTPXWSException, httpx2.TransportError) as error:
            raise Unavailable(f"{self._doing}: the connection broke") from error

    async def resize(self, rows: int, columns: int) -> None:
        """Tell the container's terminal its size. Unavailable."""
        await self.send(SIZE, msgspec.json.encode({"Width": columns, "Height": rows}))

    async def receive(self) -> tuple[int, bytes]:
        """Return the next message: its channel, and what came on it. Unavailable if the connection is gone."""
        try:
            event = await self._session.receive()
        except (HTTPXWSException, httpx2.TransportError) as error:
            raise Unavailable(f"{self._doing}: the connection broke") from error
        data = event.data if isinstance(event, wsproto.events.BytesMessage) else b""
        return (data[0], bytes(data[1:])) if data else (STDOUT, b"")


@asynccontextmanager
async def attach(
    client: KubeClient, namespace: str, pod: str, container: str, *, terminal: bool
) -> AsyncIterator[AttachedPod]:
    """Be connected with a container that was made with `stdin`. Raises KubeError and its kinds.

    What it wrote before does not come; a terminal has no standard error of its own.
    """
    doing = f"attach to pod {namespace}/{pod}"
    params = {"container": container, "stdin": "true", "stdout": "true"}
    params |= {"tty": "true"} if terminal else {"stderr": "true"}
    opened = client.http.websocket(
        f"/api/v1/namespaces/{namespace}/pods/{pod}/attach",
        params=params,
        subprotocols=[PROTOCOL],
        max_message_size_bytes=1 << 20,
        keepalive_ping_interval_seconds=None,  # whoever reads slowly would not see the answers
    )
    failed: BaseException | None = None
    try:
        with translated(doing):
            async with opened as session:
                try:
                    yield AttachedPod(session, doing)
                except Exception as error:  # given on below, as the session would put it into a group
                    failed = error
    except WebSocketUpgradeError as error:
        body = await _read(error.response)
        raise error_of(parse_status(error.response.status_code, body), doing) from error
    except ExceptionGroup as error:  # of what it does beside: the other side does not keep to the protocol
        raise Unavailable(f"{doing}: the connection broke") from error
    if failed is not None:
        raise failed


async def _read(response: httpx2.Response) -> bytes:
    try:
        return await response.aread()
    except httpx2.HTTPError:
        return b""
