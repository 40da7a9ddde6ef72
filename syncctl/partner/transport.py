"""One partner's connections: send a request and return the response, within the deadline of the call.

The engine is aiohttp on the event loop of the process. It follows no redirect, repeats no request, reads no proxy from
the environment, and does not unpack bodies, because `unpack_body` does so within a bound.
"""

import asyncio
import functools
import io
import os
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import SplitResult

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from syncctl.core.stream import Partner
from syncctl.partner.call_deadline import call_deadline
from syncctl.partner.connection_errors import (
    ClosedTransportError,
    NotHttpError,
    explain_error,
    was_refused_in_handshake,
)
from syncctl.partner.event_loop import event_loop, run_on_loop
from syncctl.partner.proxy import ProxyError, find_proxy_error, read_proxy
from syncctl.partner.response import BODY_AT_MOST_BYTES, Response, unpack_body
from syncctl.partner.tls import make_tls_context

IDLE_AT_MOST_SECONDS = 4.0
"""How long a connection may be idle and still be used: many servers close theirs after five seconds, and a request that
crosses such a close is ambiguous."""
LARGE_BODY_BYTES = 256 * 1024
HEADER_LINES_AT_MOST = 1000
HEADER_AT_MOST_BYTES = 64 * 1024
ADDRESS_DELAY_SECONDS = 0.25
"""How long an address of a name is tried alone before the next one is tried too (RFC 8305)."""

_END_OF_HEADERS = b"\r\n\r\n"
_OURS_ALONE = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")


class _Protocol(ResponseHandler):
    """Delivers a response before parsing the bytes after its headers; closes a connection that sends unrequested data.

    Some servers send a body with a 204, or a longer one than they announced: the parser takes the rest for another
    response, and would drop the first one with it. Others answer a request twice, such as a gateway that gives up and
    then forwards the answer for which it had waited: aiohttp (3.14.5) takes bytes that arrive between two calls for the
    answer to the next call, so a refused row would be delivered. Such bytes answer no request (RFC 9112, 9.2).
    """

    #: Whether no call is using this connection.
    is_idle = False

    def data_received(self, data: bytes) -> None:
        if self.is_idle and data:
            self.close()
            return
        end = data.find(_END_OF_HEADERS)
        if end >= 0:
            end += len(_END_OF_HEADERS)
            super().data_received(data[:end])
            data = data[end:]
        if data or end < 0:
            super().data_received(data)


class _Request(aiohttp.ClientRequest):
    """A request that, without a body, has no `Content-Length` if its method expects no body (RFC 9110, 8.6)."""

    def update_body_from_data(self, body: Any, _stacklevel: int = 3) -> None:
        super().update_body_from_data(body, _stacklevel)
        if body is None and self.method not in self.POST_METHODS:
            self.headers.pop("Content-Length", None)


class _Response(aiohttp.ClientResponse):
    """Lets a request that is still being sent go on after its response: aiohttp would stop sending it."""

    def _response_eof(self) -> None:
        if self._writer is None:
            super()._response_eof()

    async def finish_request(self, ending: asyncio.Timeout) -> bool:
        """Wait until the request has left, or can no longer leave; return False if the deadline ends the call first."""
        if self._writer is None:
            return True
        try:
            await asyncio.wait([self._writer])
        except asyncio.CancelledError:
            if not ending.expired():
                raise
            return False
        return True


class _Connector(aiohttp.TCPConnector):
    """Notes for a call that its connection is established, so that its bytes may be sent; and which ones are idle."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._factory: Any = functools.partial(_Protocol, loop=self._loop)

    async def connect(self, req: Any, traces: Any, timeout: Any) -> Any:
        connection = await super().connect(req, traces, timeout)
        protocol: Any = connection.protocol
        protocol.is_idle = False
        call_deadline.sent = True
        return connection

    def _release(self, key: Any, protocol: Any, *, should_close: bool = False) -> None:
        super()._release(key, protocol, should_close=should_close)
        protocol.is_idle = True


class _Resolver(AbstractResolver):
    """Looks names up in a thread: the C library's resolver takes no timeout."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        addresses = await _look_up_soon(host, port)
        return [
            ResolveResult(
                hostname=host,
                host=address[0],
                port=address[1],
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST,
            )
            for kind, _, protocol, _, address in addresses
            if family in (socket.AF_UNSPEC, kind)
        ]

    async def close(self) -> None:
        """Do nothing: there is nothing to close."""


async def _look_up_soon(host: str, port: int) -> list[Any]:
    """Look up a name in its own thread: a lookup that hangs delays no other, and ends when the resolver gives up."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[Any]] = loop.create_future()

    def settle(addresses: list[Any] | None, error: Exception | None) -> None:
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(addresses or [])

    def look_up() -> None:
        addresses, error = None, None
        try:
            addresses = _look_up(host, port)
        except Exception as cause:  # noqa: BLE001 - it is raised again, in the task that waits
            error = cause
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, addresses, error)

    threading.Thread(target=look_up, name="resolve", daemon=True).start()
    return await answer


def _look_up(host: str, port: int) -> list[Any]:
    return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))


class Transport:
    """Connections to one host by the rules of one partner; safe to use from many threads, and after a fork.

    Args:
        response_at_most: How many bytes of a response are read.

    Raises:
        ConfigurationError: A certificate, a key or a proxy cannot be used.
    """

    def __init__(self, partner: Partner, base: SplitResult, *, response_at_most: int = BODY_AT_MOST_BYTES) -> None:
        self._seconds = partner.timeout_seconds
        self._response_at_most = response_at_most
        self._tls = make_tls_context(partner) if base.scheme == "https" else None
        self._proxy = read_proxy(partner.proxy, f"{partner.settings_key}.proxy")
        self._origin = f"{base.scheme}://{base.netloc}"
        self._is_plain = base.scheme == "http"
        self._session: aiohttp.ClientSession | None = None
        self._pid = 0
        self._closed = False
        port = base.port or (443 if base.scheme == "https" else 80)
        name = base.hostname or ""
        self.host = f"[{name}]:{port}" if ":" in name else f"{name}:{port}"

    def exchange(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None
    ) -> tuple[Response | None, str | None]:
        """Send a request and wait for the result, as `exchange_soon` does; from any thread but the event loop's."""
        return run_on_loop(self.exchange_soon(method, target, headers, body))

    async def exchange_soon(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None
    ) -> tuple[Response | None, str | None]:
        """Send a request; return the response, if one came, and the error, if there was one.

        `call_deadline.sent` then tells whether a byte of the request may have left this machine.
        """
        call_deadline.sent = False
        response: Response | None = None
        error: Exception | None = None
        try:
            response = await self._request(method, target, headers, body)
            error = response.error
            if response.status == 407 and self._proxy is not None and self._is_plain:
                response, error = None, ProxyError(f"the proxy {self._proxy.name} refused our credentials")
        except Exception as cause:  # noqa: BLE001 - any error is reported as an outcome
            error = find_proxy_error(cause, self._proxy, self.host, sent=call_deadline.sent) or cause
        if error is None:
            return response, None
        if isinstance(error, ProxyError | ClosedTransportError) or was_refused_in_handshake(error):
            call_deadline.sent = False
        return response, explain_error(error, host=self.host, seconds=self._seconds, sent=call_deadline.sent)

    async def _request(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> Response:
        session = self._open_session()
        options: dict[str, Any] = {}
        if self._proxy is not None:
            options["proxy"] = URL.build(scheme="http", host=self._proxy.host, port=self._proxy.port)
            if self._is_plain:
                headers = {**headers, **self._proxy.headers}
            else:
                options["proxy_headers"] = dict(self._proxy.headers)
        left = call_deadline.ends_at - asyncio.get_running_loop().time()
        async with asyncio.timeout(max(0.0, left)) as ending:
            try:
                response: Any = await session.request(
                    method,
                    URL(self._origin + target, encoded=True),
                    # A large body is sent piece by piece, so that it does not delay concurrent calls.
                    data=io.BytesIO(body) if body is not None and len(body) > LARGE_BODY_BYTES else body,
                    headers=headers,
                    allow_redirects=False,
                    **options,
                )
            except aiohttp.ServerDisconnectedError as cut:
                status = getattr(cut.message, "code", 0)
                if not call_deadline.sent or status < 200:
                    raise
                # The response broke off within its headers, so the status is known.
                return Response(status=status, headers=cut.message.headers, body=b"", error=cut)  # type: ignore[union-attr]
            if (keep_alive := response.headers.get("Keep-Alive")) is not None:
                connector: Any = session.connector
                connector._keepalive_timeout = min(connector._keepalive_timeout, _idle_seconds(keep_alive))
            if response.status == 101:
                response.close()
                raise NotHttpError("101, which was not requested")
            return await self._read_body(response, ending)

    async def _read_body(self, response: _Response, ending: asyncio.Timeout) -> Response:
        """Read a body up to the cap; the status is known even if the body breaks off."""
        error: Exception | None = None
        read = bytearray()
        try:
            while len(read) <= self._response_at_most:
                piece = await response.content.read(self._response_at_most + 1 - len(read))
                if not piece:
                    break
                read += piece
        except Exception as cause:  # noqa: BLE001 - it is reported together with the status
            error = cause
        except asyncio.CancelledError:
            # The deadline cancels this task.
            if not ending.expired():
                raise
            error = TimeoutError()
        if error is not None:
            # The reader raises before it returns the bytes that had arrived by then.
            read += b"".join(response.content._buffer)
        is_capped = len(read) > self._response_at_most
        is_reusable = error is None and not is_capped
        if is_reusable and 200 <= response.status <= 299:
            # A partner that accepts a row before it has read it still needs the rest.
            is_reusable = await response.finish_request(ending)
        if is_reusable:
            response.release()
        else:
            response.close()
        coding = response.headers.get("Content-Encoding", "")
        body, coding, is_broken = unpack_body(
            bytes(read[: self._response_at_most]), coding, at_most=self._response_at_most
        )
        if is_broken and error is None and not is_capped:
            error = aiohttp.ClientPayloadError()
        return Response(
            status=response.status,
            headers=response.headers,
            body=body[: self._response_at_most],
            error=error,
            is_capped=is_capped or len(body) > self._response_at_most,
            coding=coding,
        )

    def close_idle(self) -> None:
        """Close the idle connections; the next request opens another."""
        session, self._session = self._session, None
        if session is not None and self._pid == os.getpid():
            event_loop().call_soon_threadsafe(_close_soon, session)

    def close(self) -> None:
        """Close the idle connections; a running call ends by itself."""
        self._closed = True
        self.close_idle()

    def _open_session(self) -> aiohttp.ClientSession:
        """Return this process's session: connections are never shared with a parent process."""
        if self._closed:
            raise ClosedTransportError
        if self._session is None or self._pid != os.getpid():
            connector = _Connector(
                limit=0,
                resolver=_Resolver(),
                use_dns_cache=True,
                ttl_dns_cache=10,
                keepalive_timeout=IDLE_AT_MOST_SECONDS,
                happy_eyeballs_delay=ADDRESS_DELAY_SECONDS,
                ssl=self._tls if self._tls is not None else True,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                request_class=_Request,
                response_class=_Response,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                skip_auto_headers=_OURS_ALONE,
                timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None),
                max_line_size=HEADER_AT_MOST_BYTES,
                max_field_size=HEADER_AT_MOST_BYTES,
                max_headers=HEADER_LINES_AT_MOST,
            )
            # Otherwise aiohttp silently repeats a request that met a dying connection (invariant 4).
            self._session._retry_connection = False
            self._pid = os.getpid()
        return self._session


def _close_soon(session: aiohttp.ClientSession) -> None:
    async def close() -> None:
        with suppress(Exception):
            await session.close()

    _closing.add(task := asyncio.get_running_loop().create_task(close()))
    task.add_done_callback(_closing.discard)


_closing: set[Any] = set()


def _idle_seconds(keep_alive: str) -> float:
    """Return how long a connection may be idle: a second less than a server says in `Keep-Alive`."""
    for part in keep_alive.split(","):
        name, _, value = part.partition("=")
        if name.strip().lower() == "timeout" and value.strip().isdecimal():
            return min(IDLE_AT_MOST_SECONDS, int(value[:9]) - 1.0)
    return IDLE_AT_MOST_SECONDS
