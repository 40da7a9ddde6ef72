"""A partner that answers each row with the status that a test wants."""

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Self


class RowPartner:
    """Answers `POST` of one row; `calls` are the rows that it was called with, in their order.

    Args:
        answer: The status for a row's id.
        body: What is said with every status.
    """

    def __init__(self, answer: Callable[[int], int], *, body: bytes = b"{}") -> None:
        self.calls: list[int] = []
        partner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                row = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["id"]
                partner.calls.append(row)
                self.send_response(answer(row))
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
