"""The minimum of HTTP/1.1 that the mock partner needs: keep-alive, bodies with a length, no pipelined answers."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus

HEAD_AT_MOST = 64 * 1024
BODY_AT_MOST = 64 * 1024 * 1024
DROPPED = 0
"""The status of a reply that is never sent; the connection is cut instead."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A request; header names are lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """An answer and the delay before it."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_seconds: float = 0.0


class BadRequest(Exception):
    """A malformed request; it is answered with `status` and the connection is closed."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class MockPartnerProtocol(asyncio.Protocol):
    """One connection. Requests wait in the buffer while an earlier one is being answered."""

    def __init__(self, receive: Callable[[Request], Reply], connections: set["MockPartnerProtocol"]) -> None:
        self._receive = receive
        self._connections = connections
        self._buffer = bytearray()
        self._busy = False
        self._continued = False
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the connection, so that it can be cut when the server stops."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - what asyncio passes to a stream protocol
        self.transport = transport
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        del exc
        self.transport = None
        self._connections.discard(self)

    def data_received(self, data: bytes) -> None:
        """Answer every complete request."""
        self._buffer += data
        self._answer_waiting()

    def _answer_waiting(self) -> None:
        while not self._busy and self.transport is not None:
            try:
                request = self._take_request()
            except BadRequest as error:
                self._write(Reply(status=error.status), close=True)
                return
            if request is None:
                return
            close = request.headers.get("connection", "").lower() == "close"
            reply = self._receive(request)
            if reply.delay_seconds > 0:
                self._busy = True
                loop = asyncio.get_running_loop()
                loop.call_later(reply.delay_seconds, self._finish, reply, close)
            else:
                self._write(reply, close=close)

    def _finish(self, reply: Reply, close: bool) -> None:
        self._busy = False
        self._write(reply, close=close)
        self._answer_waiting()

    def _take_request(self) -> Request | None:
        """Take the first request off the buffer; None while it is incomplete."""
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > HEAD_AT_MOST:
                raise BadRequest(431)
            return None
        method, target, headers = parse_head(bytes(self._buffer[:end]))
        length = find_length(headers)
        if len(self._buffer) < end + 4 + length:
            if headers.get("expect", "").lower() == "100-continue" and not self._continued:
                self._continued = True
                self._send(b"HTTP/1.1 100 Continue\r\n\r\n")
            return None
        body = bytes(self._buffer[end + 4 : end + 4 + length])
        del self._buffer[: end + 4 + length]
        self._continued = False
        return Request(method=method, target=target, headers=headers, body=body)

    def _write(self, reply: Reply, *, close: bool) -> None:
        if reply.status == DROPPED:
            if self.transport is not None:
                self.transport.abort()
            self.transport = None
            return
        self._send(render_reply(reply, close=close))
        if close and self.transport is not None:
            self.transport.close()
            self.transport = None

    def _send(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)


def parse_head(head: bytes) -> tuple[str, str, dict[str, str]]:
    """Return method, target and headers.

    Raises:
        BadRequest: the request is not HTTP/1.
    """
    lines = head.decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise BadRequest(400)
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon:
            raise BadRequest(400)
        headers[name.lower()] = value.strip()
    return words[0], words[1], headers


def find_length(headers: Mapping[str, str]) -> int:
    """Return the length of the body.

    Raises:
        BadRequest: the length is unknown or too large.
    """
    if "transfer-encoding" in headers:
        raise BadRequest(411)
    text = headers.get("content-length", "0")
    if not (text.isascii() and text.isdecimal()):
        raise BadRequest(400)
    length = int(text[:20])
    if length > BODY_AT_MOST:
        raise BadRequest(413)
    return length


def render_reply(reply: Reply, *, close: bool) -> bytes:
    """Return the bytes of a reply."""
    lines = [
        f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}",
        f"Date: {formatdate(time.time(), usegmt=True)}",
        *(f"{name}: {value}" for name, value in reply.headers.items()),
    ]
    if reply.status != HTTPStatus.NO_CONTENT:
        lines += ("Content-Type: application/json", f"Content-Length: {len(reply.body)}")
    if close:
        lines.append("Connection: close")
    return "\r\n".join((*lines, "", "")).encode("latin-1") + reply.body
