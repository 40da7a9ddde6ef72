"""A partner that costs next to nothing: nginx if it is installed and every call is answered at once, otherwise a small
event loop."""

import asyncio
import json
import shutil
import subprocess
import sys
import time
import urllib.request
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.processes import free_port, stop

ANSWER = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n{"ok":true}'
NGINX_CONFIGURATION = """\
daemon off; master_process off; worker_processes 1; pid {directory}/nginx.pid; error_log {directory}/error.log warn;
events {{ worker_connections 2048; }}
http {{
  access_log off; keepalive_requests 1000000; keepalive_timeout 75s;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location / {{ default_type application/json; return 200 '{{"ok":true}}'; }}
  }}
}}
"""


@contextmanager
def serve_partner(directory: Path, *, delay_ms: float = 0.0, hang_share: float = 0.0) -> Iterator[str]:
    """Serve a partner that accepts every call after `delay_ms`; yield its URL.

    Args:
        hang_share: The share of rows, by the number in their body, whose calls are never answered.
    """
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if nginx and not delay_ms and not hang_share:
        configuration = directory / "nginx.conf"
        configuration.write_text(NGINX_CONFIGURATION.format(directory=directory, port=port))
        command = [nginx, "-c", str(configuration), "-p", str(directory)]
    else:
        command = [sys.executable, "-m", "benchmarks.partner", str(port), str(delay_ms), str(hang_share)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_up(url)
        yield url
    finally:
        stop(process)


def _wait_until_up(url: str) -> None:
    until = time.monotonic() + 20
    while True:
        try:
            urllib.request.urlopen(url, timeout=2).close()  # noqa: S310 - our own, on the loopback
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
        else:
            return


def count_calls(url: str) -> dict[str, int]:
    """Return the counts of the calls that a partner with a delay has received.

    Returns:
        The number of `calls`, and of the `rows` in them; the calls that are `under_way` now, and the `most_under_way`
        at once; and the `most_in_a_second`, in any second.
    """
    with urllib.request.urlopen(f"{url}/calls", timeout=10) as answer:  # noqa: S310 - our own, on the loopback
        return dict(json.load(answer))


@dataclass(slots=True)
class _Calls:
    """The calls that a partner has received."""

    rows: Counter[bytes] = field(default_factory=Counter)
    under_way: int = 0
    most_under_way: int = 0
    most_in_a_second: int = 0
    _of_last_second: deque[float] = field(default_factory=deque)

    def begin(self, row: bytes) -> None:
        now = time.monotonic()
        self.rows[row] += 1
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        self._of_last_second.append(now)
        while self._of_last_second[0] <= now - 1:
            self._of_last_second.popleft()
        self.most_in_a_second = max(self.most_in_a_second, len(self._of_last_second))

    def describe(self) -> bytes:
        document = {
            "calls": self.rows.total(),
            "rows": len(self.rows),
            "under_way": self.under_way,
            "most_under_way": self.most_under_way,
            "most_in_a_second": self.most_in_a_second,
        }
        body = json.dumps(document).encode()
        return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


class _Connection(asyncio.Protocol):
    """One connection: each request is answered after a delay, in order."""

    def __init__(self, delay_seconds: float, hang_every: int, calls: _Calls) -> None:
        self._delay_seconds = delay_seconds
        self._hang_every = hang_every
        self._calls = calls
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = self._received[:end].lower()
            place = head.find(b"content-length:")
            length = int(head[place + 15 :].split(b"\r\n", 1)[0]) if place >= 0 else 0
            if len(self._received) < end + 4 + length:
                return
            body, self._received = self._received[end + 4 : end + 4 + length], self._received[end + 4 + length :]
            place = body.find(b'"id":')
            if place < 0:
                self._transport.write(self._calls.describe())  # type: ignore[attr-defined]
                continue
            row = body[place + 5 :].lstrip().split(b",", 1)[0].split(b"}", 1)[0]
            self._calls.begin(row)
            if not self._hang_every or int(row) % self._hang_every:
                asyncio.get_running_loop().call_later(self._delay_seconds, self._answer)

    def _answer(self) -> None:
        self._calls.under_way -= 1
        self._transport.write(ANSWER)  # type: ignore[attr-defined]


async def _serve(port: int, delay_ms: float, hang_share: float) -> None:
    hang_every = round(1 / hang_share) if hang_share else 0
    loop = asyncio.get_running_loop()
    calls = _Calls()
    server = await loop.create_server(
        lambda: _Connection(delay_ms / 1000, hang_every, calls), "127.0.0.1", port, backlog=1024
    )
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])))
