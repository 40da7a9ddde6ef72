"""The transport to one host: a request goes out and a response comes back within the deadline of `call_deadline`.

It is requests' adapter over connections that keep one deadline for the whole call. One adapter serves all threads of a
process: the state of a call is in its connection, which one thread holds at a time, and in `call_deadline`, which is
the thread's own. The cookies that make a `requests.Session` unsafe to share are not in an adapter.
"""

import http.client
import logging
import os
import ssl
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util import Timeout

from syncctl.core.stream import Partner
from syncctl.partner.call_deadline import call_deadline, connect_socket
from syncctl.partner.connection_errors import explain_error, was_refused_in_handshake
from syncctl.partner.proxy import Proxy, ProxyError, connect_proxy, open_tunnel, read_proxy
from syncctl.partner.response import BODY_AT_MOST_BYTES, Response, read_response
from syncctl.partner.tls import make_tls_context

IDLE_AT_MOST_SECONDS = 4.0
"""A connection that was idle for longer is not used again: many servers close theirs after five seconds, and a request
that crosses such a close on the network is ambiguous."""

# Its warnings repeat URLs and headers; the error of a call is in the call's outcome.
logging.getLogger("urllib3").setLevel(logging.CRITICAL)


class Transport:
    """Connections to one host by the settings of one partner; safe to use from many threads, and after a fork.

    Args:
        response_at_most: The number of bytes that are read of a response.

    Raises:
        ConfigurationError: a certificate, a key or a proxy that cannot be used.
    """

    def __init__(
        self, partner: Partner, base: SplitResult, *, max_connections: int, response_at_most: int = BODY_AT_MOST_BYTES
    ) -> None:
        self._partner = partner
        self._base = base
        self._max_connections = max_connections
        self._response_at_most = response_at_most
        self._tls = make_tls_context(partner) if base.scheme == "https" else None
        self._proxy = read_proxy(partner.proxy, f"partners.{partner.name}.proxy")
        self._plain_proxy = self._proxy if base.scheme == "http" else None
        self._adapter: PartnerAdapter | None = None
        self._pid = 0
        self._closed = False
        port = base.port or (443 if base.scheme == "https" else 80)
        name = base.hostname or ""
        self.host = f"[{name}]:{port}" if ":" in name else f"{name}:{port}"

    def exchange(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None
    ) -> tuple[Response | None, str | None]:
        """Send a request; return the response, if one came, and the error, if there was one."""
        request = requests.PreparedRequest()
        request.method, request.url, request.body = method, target, body
        request.headers = dict(headers)  # type: ignore[assignment]
        if self._plain_proxy is not None:
            request.url = f"http://{self._base.netloc}{target}"
            request.headers |= self._plain_proxy.headers  # type: ignore[operator]
        response: Response | None = None
        error: Exception | None = None
        call_deadline.sent = False
        try:
            answer = self._open_adapter().send_now(request)
            response = read_response(answer.raw, answer.status_code, self._response_at_most)
            error = response.error
            if response.status == 407 and self._plain_proxy is not None:
                response, error = None, ProxyError(f"the proxy {self._plain_proxy.name} refused our credentials")
        except Exception as cause:  # noqa: BLE001 - any error becomes an outcome
            error = cause
        if error is None:
            return response, None
        if isinstance(error, ProxyError) or was_refused_in_handshake(error):
            call_deadline.sent = False
        seconds = self._partner.timeout_seconds
        return response, explain_error(error, host=self.host, seconds=seconds, sent=call_deadline.sent)

    def close_idle(self) -> None:
        """Close the idle connections; the next request opens another."""
        adapter, self._adapter = self._adapter, None
        if adapter is not None and self._pid == os.getpid():
            adapter.close()

    def close(self) -> None:
        """Close the idle connections for good; a call in progress ends by itself."""
        self._closed = True
        if self._adapter is not None and self._pid == os.getpid():
            self._adapter.close()

    def _open_adapter(self) -> "PartnerAdapter":
        """Return this process's adapter: connections are never shared with a parent process.

        Two threads may make one at the same instant; the adapter that loses serves one call and is dropped.
        """
        adapter = self._adapter
        if adapter is None or self._pid != os.getpid():
            adapter = PartnerAdapter(
                self._base, max_connections=self._max_connections, tls=self._tls, proxy=self._proxy
            )
            if self._closed:
                adapter.close()
            self._adapter, self._pid = adapter, os.getpid()
        return adapter


class FinalResponse(http.client.HTTPResponse):
    """A response that skips every interim one (RFC 9110, 15.2).

    The standard library skips only 100: it would take 103 Early Hints for the response and leave the real one on the
    connection, where the next request would read it.
    """

    def _read_status(self) -> tuple[str, int, str]:
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if status == 101:
                raise http.client.BadStatusLine("101, which was not requested")
            if status < 102 or status > 199:
                return version, status, reason
            http.client._read_headers(self.fp)  # type: ignore[attr-defined]


class PlainConnection(HTTPConnection):
    """A connection that keeps the deadline of its call, and notes whether anything was sent."""

    response_class = FinalResponse
    usable_until: float = float("inf")
    _held: list[bytes] | None = None

    def __init__(self, *args: Any, route: Proxy | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._route = route

    def _new_conn(self) -> Any:
        if self._route is not None:
            return connect_proxy(self._route)
        return connect_socket(self._dns_host, self.port, ends_at=call_deadline.ends_at)

    def request(self, *args: Any, **options: Any) -> None:
        """Send head and body as one piece, for half the system calls and packets."""
        if self.sock is not None:
            # The socket is of an earlier call, or it is the TLS socket around the one that was connected.
            self.sock.ends_at = call_deadline.ends_at  # type: ignore[union-attr]
        held: list[bytes] = []
        self._held = held
        try:
            super().request(*args, **options)
        finally:
            self._held = None
        self.send(b"".join(held))

    def send(self, data: Any) -> None:
        """Send bytes, and note that some may have left."""
        if self._held is not None:
            self._held.append(data)
            return
        if self.sock is None:
            self.connect()
        call_deadline.sent = True
        super().send(data)

    def getresponse(self) -> Any:
        """Read the status and the headers of the final response."""
        response = super().getresponse()
        self.usable_until = time.monotonic() + _idle_seconds(response.headers.get("Keep-Alive"))
        return response

    @property
    def is_connected(self) -> bool:
        """Whether the connection may serve one more call."""
        return time.monotonic() < self.usable_until and super().is_connected


class TLSConnection(PlainConnection, HTTPSConnection):
    """The same over TLS, through a tunnel where there is a proxy."""

    def _new_conn(self) -> Any:
        if self._route is not None:
            return open_tunnel(self._route, self._dns_host, self.port)
        return super()._new_conn()


class PlainPool(HTTPConnectionPool):
    """Connections to an http partner."""

    ConnectionCls = PlainConnection


class TLSPool(HTTPSConnectionPool):
    """Connections to an https partner."""

    ConnectionCls = TLSConnection

    def _validate_conn(self, conn: Any) -> None:
        """Connect, without the warning that urllib3 would repeat for each call; see `warn_unverified`."""
        if conn.is_closed:
            conn.connect()


class PartnerAdapter(HTTPAdapter):
    """requests' adapter bound to one host: one pool, one TLS context; no redirect, no retry.

    Args:
        tls: The certificates to trust; None for http.
        proxy: Never taken from the environment.
    """

    def __init__(
        self, base: SplitResult, *, max_connections: int, tls: ssl.SSLContext | None = None, proxy: Proxy | None = None
    ) -> None:
        super().__init__(pool_connections=1, pool_maxsize=max_connections, max_retries=0)
        host = base.hostname or ""
        self._pool: HTTPConnectionPool
        if tls is not None:
            self._pool = TLSPool(host, base.port or 443, maxsize=max_connections, ssl_context=tls, route=proxy)
        else:
            self._pool = PlainPool(host, base.port or 80, maxsize=max_connections, route=proxy)

    def get_connection_with_tls_context(self, *_: Any, **__: Any) -> HTTPConnectionPool:
        """Return the only pool."""
        return self._pool

    def cert_verify(self, *_: Any, **__: Any) -> None:
        """Leave the pool as it is: its TLS context requires a valid certificate for the host."""

    def request_url(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> str:
        """Return the target as it was built, without normalising it again."""
        return request.url or "/"

    def build_response(self, req: requests.PreparedRequest, resp: Any) -> requests.Response:
        """Wrap the raw response, without cookies and text encodings."""
        response = requests.Response()
        response.request = req
        response.status_code = resp.status
        response.headers = resp.headers
        response.raw = resp
        return response

    def send_now(self, request: requests.PreparedRequest) -> requests.Response:
        """Send a request within `call_deadline`, and return once the headers are read.

        Raises:
            Exception: any of requests, urllib3 or the socket; `call_deadline.sent` tells whether anything left.
        """
        return self.send(request, stream=True, timeout=Timeout(total=None))  # type: ignore[arg-type]

    def close(self) -> None:
        """Close the idle connections; one in use closes when its call ends."""
        super().close()
        self._pool.close()


def _idle_seconds(keep_alive: str | None) -> float:
    """Return how long a connection may be idle: a second less than the server's `Keep-Alive` allows."""
    if keep_alive is None:
        return IDLE_AT_MOST_SECONDS
    for part in keep_alive.split(","):
        name, _, value = part.partition("=")
        if name.strip().lower() == "timeout" and value.strip().isdecimal():
            return min(IDLE_AT_MOST_SECONDS, int(value[:9]) - 1.0)
    return IDLE_AT_MOST_SECONDS
