"""A small HTTP proxy: `CONNECT` tunnels, and requests that carry a whole URL."""

import re
import socket
import threading
from base64 import b64encode
from contextlib import suppress
from types import TracebackType
from typing import Self

from tests.harness.hostile_partner import HostilePartner, Peer

_CONNECT = re.compile(rb"CONNECT (\S+):(\d+) HTTP/1\.1\r\n")
_WHOLE_URL = re.compile(rb"([A-Z]+) http://([^/:\s]+):(\d+)(/\S*) HTTP/1\.1\r\n")


class ConnectProxy:
    """Forwards requests and tunnels.

    Args:
        credentials: `user:password` that it requires; empty for none.
        refuse: The status line that every request gets, as in `502 Bad Gateway`.
    """

    def __init__(self, *, credentials: str = "", refuse: str = "") -> None:
        self._wanted = b64encode(credentials.encode()).decode() if credentials else ""
        self._refuse = refuse
        self._server = HostilePartner(self._serve)
        user = f"{credentials}@" if credentials else ""
        self.url = f"http://{user}127.0.0.1:{self._server.port}"
        self.port = self._server.port

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.stop()

    @property
    def heads(self) -> list[str]:
        """The requests it got, without bodies."""
        return [request.partition(b"\r\n\r\n")[0].decode("latin-1") for request in self._server.requests]

    def _serve(self, peer: Peer) -> None:
        while request := peer.read_request():
            if self._wanted and f"Proxy-Authorization: Basic {self._wanted}\r\n".encode() not in request:
                peer.answer("407 Proxy Authentication Required", b"who are you?")
            elif self._refuse:
                peer.answer(self._refuse, b"not here")
            elif match := _CONNECT.match(request):
                self._tunnel(peer, match[1].decode(), int(match[2]))
                return
            elif match := _WHOLE_URL.match(request):
                self._pass_on(peer, request.replace(match[0], match[1] + b" " + match[4] + b" HTTP/1.1\r\n"), match)

    def _tunnel(self, peer: Peer, host: str, port: int) -> None:
        with socket.create_connection((host, port), timeout=30) as upstream:
            upstream.settimeout(None)
            peer.send(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n")
            back = threading.Thread(target=_pump, args=(upstream, peer.sock))
            back.start()
            _pump(peer.sock, upstream)
            back.join()

    def _pass_on(self, peer: Peer, request: bytes, match: re.Match[bytes]) -> None:
        with socket.create_connection((match[2].decode(), int(match[3])), timeout=30) as upstream:
            upstream.sendall(request)
            peer.send(upstream.recv(65536))


def _pump(source: socket.socket, target: socket.socket) -> None:
    """Pass bytes on until one side ends, then let the other side know."""
    with suppress(OSError):
        while piece := source.recv(65536):
            target.sendall(piece)
    for sock in (source, target):
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
