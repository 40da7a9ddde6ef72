"""How bytes travel: requests' own adapter over connections that keep a deadline for the whole call.

One adapter serves all threads of a process. What a call changes lives in its connection, which one thread
holds at a time, and in `call_deadline`, which is the thread's own; urllib3's pool between them is made for threads. The
cookies that make a `requests.Session` unsafe to share are not in an adapter.
"""

import http.client
import logging
import ssl
import time
from typing import Any
from urllib.parse import SplitResult

from requests import PreparedRequest, Response
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util import Timeout

from syncctl.partner.deadline import call_deadline, connect_socket
from syncctl.partner.proxy import Proxy, connect_proxy, open_tunnel

IDLE_AT_MOST_SECONDS = 4.0
"""A connection idle for longer is not used again: many servers close theirs after five seconds, and a request
that crosses such a close on the wire is ambiguous."""

# Its warnings repeat URLs and headers; what went wrong with a call is in the call's outcome.
logging.getLogger("urllib3").setLevel(logging.CRITICAL)


class FinalResponse(http.client.HTTPResponse):
    """A response that skips every interim one (RFC 9110, 15.2).

    The standard library skips 100 alone: it takes 103 Early Hints for the answer and leaves the real one on
    the connection, where the next request would find it.
    """

    def _read_status(self) -> tuple[str, int, str]:
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if status == 101:
                raise http.client.BadStatusLine("101, which nobody asked for")
            if status < 102 or status > 199:
                return version, status, reason
            http.client._read_headers(self.fp)  # type: ignore[attr-defined]


class PlainConnection(HTTPConnection):
    """A connection that ends when its call must end, and knows whether anything was sent."""

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
        """Send head and body as one piece: two would cost twice the system calls and packets."""
        if self.sock is not None:
            # Kept from an earlier call, or a TLS socket, which is another one than was connected.
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
        """Read the status and the headers of the final answer."""
        response = super().getresponse()
        self.usable_until = time.monotonic() + _idle_seconds(response.headers.get("Keep-Alive"))
        return response

    @property
    def is_connected(self) -> bool:
        """Whether the connection may serve one more call."""
        return time.monotonic() < self.usable_until and super().is_connected


class TLSConnection(PlainConnection, HTTPSConnection):
    """The same over TLS, through a tunnel where a proxy stands between."""

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
        """Connect. What urllib3 would warn of here, each call anew, the log says once."""
        if conn.is_closed:
            conn.connect()


class PartnerAdapter(HTTPAdapter):
    """requests' adapter bound to one host: one pool, one TLS context; no redirect, no retry.

    Args:
        tls: Whom to trust; None for http.
        proxy: What stands between; never taken from the environment.
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

    def request_url(self, request: PreparedRequest, *_: Any, **__: Any) -> str:
        """Return the target as it was made, without another round of normalising."""
        return request.url or "/"

    def build_response(self, req: PreparedRequest, resp: Any) -> Response:
        """Wrap the raw answer; cookies and text encodings are of no use here."""
        response = Response()
        response.request = req
        response.status_code = resp.status
        response.headers = resp.headers
        response.raw = resp
        return response

    def send_now(self, request: PreparedRequest) -> Response:
        """Send a request within `call_deadline`; return once the headers are read, and leave the body to the caller.

        Raises:
            Exception: whatever requests, urllib3 or the socket raises; `call_deadline.sent` tells if anything left.
        """
        return self.send(request, stream=True, timeout=Timeout(total=None))  # type: ignore[arg-type]

    def close(self) -> None:
        """Close the idle connections; one that is in use closes when its call ends."""
        super().close()
        self._pool.close()


def _idle_seconds(keep_alive: str | None) -> float:
    """Return how long a connection may be idle: a second less than a server says in `Keep-Alive`."""
    if keep_alive is None:
        return IDLE_AT_MOST_SECONDS
    for part in keep_alive.split(","):
        name, _, value = part.partition("=")
        if name.strip().lower() == "timeout" and value.strip().isdecimal():
            return min(IDLE_AT_MOST_SECONDS, int(value[:9]) - 1.0)
    return IDLE_AT_MOST_SECONDS
