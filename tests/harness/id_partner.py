"""A partner with its own ids: an object is created by POST, changed and deleted under its id, and found by GET."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

Answer = tuple[int, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """A call as it arrived."""

    method: str
    path: str
    key: str | None
    body: Any


@dataclass
class IdPartner:
    """Keeps objects by its own ids; serves while it is used as a context manager.

    Args:
        knows_keys: Whether a POST under a known `Idempotency-Key` creates nothing, and is answered as before.
        hook: Called before each call is applied; if it returns an answer, that is sent instead, and nothing is applied.
            `DROP` applies the call and hangs up.
    """

    knows_keys: bool = True
    hook: Callable[[Seen], Any] = lambda _: None
    objects: dict[str, Any] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    #: How often each row was created.
    created: dict[Any, int] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._answers: dict[str, Answer] = {}
        self._lock = threading.Lock()
        partner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def serve(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                call = Seen(
                    method=self.command,
                    path=self.path,
                    key=self.headers["Idempotency-Key"],
                    body=json.loads(body) if body else None,
                )
                answer = partner.hook(call)
                with partner._lock:
                    partner.seen.append(call)
                    if answer is None or answer is DROP:
                        applied = partner.apply(call)
                if answer is DROP:
                    self.close_connection = True
                    return
                status, document = applied if answer is None else answer
                text = document if isinstance(document, bytes) else json.dumps(document).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(text)), **partner.headers}.items():
                    self.send_header(name, value)
                if status == 201:
                    self.send_header("Location", f"/v1/orders/{document['data']['id']}?v=1")
                self.end_headers()
                self.wfile.write(text)

            do_POST = do_PUT = do_DELETE = do_GET = serve  # noqa: N815

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        class Server(ThreadingHTTPServer):
            request_queue_size = 256

            def handle_error(self, *_: object) -> None:
                """Report nothing."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def apply(self, call: Seen) -> Answer:
        """Apply a call, and return its answer."""
        parts = urlsplit(call.path)
        place = unquote(parts.path.removeprefix("/orders").strip("/"))
        match call.method:
            case "POST" if isinstance(call.body, list):
                return 200, {"results": [{"status": 201, **self._create(row, None)[1]} for row in call.body]}
            case "POST":
                return self._create(call.body, call.key)
            case "GET" if place:
                return (200, {"data": {"id": place}}) if place in self.objects else (404, {})
            case "GET":
                ref = parse_qs(parts.query)["ref"][0]
                items = [{"id": name} for name, row in self.objects.items() if str(row["id"]) == ref]
                return 200, {"items": items}
            case "PUT" if place in self.objects:
                self.objects[place] = call.body
                return 200, {"data": {"id": place}}
            case "DELETE" if place in self.objects:
                del self.objects[place]
                return 204, b""
        return 404, {"message": "no such order"}

    def _create(self, row: Any, key: str | None) -> Answer:
        if self.knows_keys and key in self._answers:
            return self._answers[key]
        number = sum(self.created.values()) + 1
        name = f"P-{number:04}"
        self.objects[name] = row
        self.created[row["id"]] = self.created.get(row["id"], 0) + 1
        answer = (201, {"data": {"id": name}})
        if key is not None:
            self._answers[key] = answer
        return answer

    def calls(self, method: str | None = None) -> list[str]:
        """Return the calls that arrived, in their order: `POST /orders`."""
        return [f"{call.method} {call.path}" for call in self.seen if method in (None, call.method)]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


DROP: Any = object()
