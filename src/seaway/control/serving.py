"""The HTTP server's own limit: what a connection may send before any of it is a request.

Uvicorn and its parser keep all of a head (and of what may follow a chunked body) until it is complete, however long it
gets, and before anybody has looked at a token.
"""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_LIMIT = 64 << 10
"""Bytes of a request's line and headers."""

_BODY = b'{"error": {"code": "head-too-large", "message": "the headers of the request are too large"}}'
REFUSAL = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n" % len(_BODY)
) + _BODY


class BoundedHeads(HttpToolsProtocol):
    """Ends a connection that goes on sending and completes neither a head nor a part of a body.

    A head that comes whole in one read may be larger, by no more than that read; the API's guard refuses it.
    """

    _unread = 0  # bytes that came since something was complete

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        self._unread += len(data)
        super().data_received(data)
        if self._unread > HEAD_LIMIT and not self.transport.is_closing():
            self.transport.write(REFUSAL)
            self.transport.close()

    def on_headers_complete(self) -> None:
        """Begin the request."""
        self._unread = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the request."""
        self._unread = 0
        super().on_message_complete()
