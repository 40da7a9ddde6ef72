"""Partners that a test writes in one line; each connection has a thread, so that calls really run at once."""

import json
import threading
import time
from collections.abc import Callable
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self


class HttpPartner:
    """Answers every call as `answer` says; serves while it is used as a context manager."""

    def __init__(self) -> None:
        #: Sent with every answer.
        self.headers: dict[str, str] = {}
        partner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self._send(*partner.answer(self.headers, body))

            def do_DELETE(self) -> None:
                self._send(*partner.delete(self.path))

            def _send(self, status: int, body: bytes) -> None:
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **partner.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            # With the usual 5, some of many simultaneous connections are lost while the accepting thread waits.
            request_queue_size = 256

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, headers: Message, body: bytes) -> tuple[int, bytes]:
        """Return the status and the body for a POST."""
        raise NotImplementedError

    def delete(self, path: str) -> tuple[int, bytes]:
        """Return the status and the body for a DELETE."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class RowPartner(HttpPartner):
    """Answers each row with the status that a test wants; `calls` are the rows, in the order of their calls.

    Args:
        choose_status: The status for a row's id.
        body: The body of every answer.
    """

    def __init__(self, choose_status: Callable[[int], int], *, body: bytes = b"{}") -> None:
        super().__init__()
        self.calls: list[int] = []
        self._choose_status = choose_status
        self._body = body

    def answer(self, headers: Message, body: bytes) -> tuple[int, bytes]:  # noqa: ARG002
        row = json.loads(body)["id"]
        self.calls.append(row)
        return self._choose_status(row), self._body


class CountingPartner(HttpPartner):
    """Answers 200 after a while; counts how many calls run at once, and keeps the time at which each came."""

    def __init__(self, *, latency_seconds: float) -> None:
        super().__init__()
        self.arrivals: list[float] = []
        self.most_at_once = 0
        self._latency_seconds = latency_seconds
        self._at_once = 0
        self._lock = threading.Lock()

    def answer(self, headers: Message, body: bytes) -> tuple[int, bytes]:  # noqa: ARG002
        with self._lock:
            self.arrivals.append(time.monotonic())
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        time.sleep(self._latency_seconds)
        with self._lock:
            self._at_once -= 1
        return 200, b""
