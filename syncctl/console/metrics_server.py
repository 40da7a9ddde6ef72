"""The HTTP server of `syncctl metrics --listen`: one page, a limited number of readers, and a deadline for each."""

import io
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TooLate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from syncctl.console.metrics_text import PLAIN, to_metrics_text
from syncctl.core.metric_table import Samples
from syncctl.logs import get_logger

log = get_logger(__name__)

PATH = "/metrics"
READERS_AT_MOST = 16
READER_SECONDS = 5.0
"""How long a reader may take to send its whole request, and to accept each piece of the answer."""
ANSWER_SECONDS = 9.0
"""Less than the ten seconds for which Prometheus waits by default."""
_BUSY = b"HTTP/1.0 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class SharedScrape:
    """Gives the same values to all readers that ask while the values are being read.

    Args:
        read: Reads the values; called by one thread at a time.
    """

    def __init__(self, read: Callable[[], Samples]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._running: Future[Samples] | None = None

    def get(self, *, timeout_seconds: float) -> Samples | None:
        """Return the values; None if they could not be read in time."""
        with self._lock:
            if self._running is None:
                self._running = Future()
                threading.Thread(target=self._run, args=(self._running,), name="metrics-scrape", daemon=True).start()
            running = self._running
        try:
            return running.result(timeout_seconds)
        except TooLate:
            return None

    def _run(self, running: "Future[Samples]") -> None:
        failure: BaseException | None = None
        samples = Samples()
        try:
            samples = self._read()
        except BaseException as error:  # noqa: BLE001 (`get` raises it in each waiting reader)
            failure = error
        with self._lock:
            # Readers that ask from now on get newer values.
            self._running = None
        if failure is None:
            running.set_result(samples)
        else:
            running.set_exception(failure)


class MetricsServer(ThreadingHTTPServer):
    """Serves `/metrics`; close it, or use it as a context manager.

    Raises:
        OSError: The address cannot be listened on.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 2 * READERS_AT_MOST

    def __init__(self, host: str, port: int, read: Callable[[], Samples]) -> None:
        self.scrape = SharedScrape(read)
        self._places = threading.BoundedSemaphore(READERS_AT_MOST)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a reader in its own thread, or turn it away if there are too many readers."""
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
            return
        try:
            request.settimeout(0.1)
            request.sendall(_BUSY)
        except OSError:
            pass
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a reader, then make room for another one."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Log a reader that has gone away at level debug only."""
        log.debug("metrics.reader_gone")


class _Request(io.RawIOBase):
    """Reads a connection until one deadline for the whole request; a timeout for each read would not limit its sum."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection = connection
        self._ends_at = time.monotonic() + seconds

    def readable(self) -> bool:
        """Return that the connection can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read the bytes that are there, or that arrive before the deadline.

        Raises:
            TimeoutError: None arrived.
        """
        left = self._ends_at - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request is not complete")
        usual = self._connection.gettimeout()
        self._connection.settimeout(left)
        try:
            return self._connection.recv_into(buffer)
        finally:
            self._connection.settimeout(usual)


class _Handler(BaseHTTPRequestHandler):
    timeout = READER_SECONDS
    server: MetricsServer
    server_version = "syncctl"
    sys_version = ""

    def setup(self) -> None:
        """Give the whole request a deadline."""
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(_Request(self.connection, self.timeout))

    def do_GET(self) -> None:
        """Answer with the metrics."""
        if self.path.partition("?")[0] != PATH:
            self._answer(HTTPStatus.NOT_FOUND, f"the metrics are at {PATH}\n".encode(), PLAIN)
            return
        try:
            samples = self.server.scrape.get(timeout_seconds=ANSWER_SECONDS)
        except Exception as error:
            log.exception("metrics.failed", error=type(error).__name__)
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, b"internal error; see the log\n", PLAIN)
            return
        if samples is None:
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, b"the values could not be read in time\n", PLAIN)
            return
        self._answer(HTTPStatus.OK, *to_metrics_text(samples, accept=self.headers.get("Accept") or PLAIN))

    do_HEAD = do_GET  # noqa: N815 (the name that the standard library looks for)

    def _answer(self, status: HTTPStatus, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Write no line for each scrape."""
