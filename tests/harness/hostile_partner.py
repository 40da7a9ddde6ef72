"""A server that breaks the protocol on purpose: a script of bytes, pauses and cuts for each connection."""

import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class Peer:
    """The server's end of one connection."""

    def __init__(self, sock: socket.socket, server: "HostilePartner") -> None:
        self.sock = sock
        self._server = server
        self._buffer = b""

    def read_request(self) -> bytes:
        """Read one request, head and body; empty when the caller has hung up."""
        while b"\r\n\r\n" not in self._buffer and self._fill():
            pass
        head, _, rest = self._buffer.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        wanted = int(length[1]) if length else 0
        while len(rest) < wanted and self._fill():
            rest = self._buffer.partition(b"\r\n\r\n")[2]
        request, self._buffer = head + b"\r\n\r\n" + rest[:wanted], rest[wanted:]
        if head:
            self._server.requests.append(request)
            return request
        return b""

    def _fill(self) -> bool:
        try:
            piece = self.sock.recv(65536)
        except OSError:
            return False
        self._buffer += piece
        return bool(piece)

    def send(self, data: bytes) -> None:
        """Send bytes; quiet when the caller has hung up."""
        with suppress(OSError):
            self.sock.sendall(data)

    def answer(self, status: str, body: bytes = b"", *headers: str) -> None:
        """Send a whole answer."""
        lines = (f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", "")
        self.send("\r\n".join(lines).encode("latin-1") + body)

    def drip(self, data: bytes) -> None:
        """Send the bytes again and again, one at a time, until the caller hangs up or the server stops."""
        while True:
            for position in range(len(data)):
                if self._server.stopping.wait(0.02):
                    return
                try:
                    self.sock.sendall(data[position : position + 1])
                except OSError:
                    return

    def hold(self) -> None:
        """Do nothing until the server stops."""
        self._server.stopping.wait()

    def reset(self) -> None:
        """Cut the connection with an RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


Script = Callable[[Peer], None]
"""The behaviour on one connection."""


def answering(status: str, body: bytes = b"", *headers: str) -> Script:
    """Return a script that answers every request like this."""

    def script(peer: Peer) -> None:
        while peer.read_request():
            peer.answer(status, body, *headers)

    return script


def sending(data: bytes) -> Script:
    """Return a script that sends these bytes for a request, and hangs up."""

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(data)

    return script


class HostilePartner:
    """Runs a script for each accepted connection, in a separate thread; the connection ends with the script.

    Args:
        script: The behaviour on one connection.
        tls: Speak TLS with this context.
        receive_buffer: The listening socket's SO_RCVBUF, small for a server that never reads.
    """

    def __init__(self, script: Script, *, tls: ssl.SSLContext | None = None, receive_buffer: int | None = None) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self.stopping = threading.Event()
        self._script = script
        self._tls = tls
        self._threads: list[threading.Thread] = []
        self._socks: list[socket.socket] = []
        self._listener = socket.socket()
        if receive_buffer is not None:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(64)
        self.port = self._listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End every script and every connection."""
        self.stopping.set()
        # A connection of our own wakes accept(); closing the listener under it would not.
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port)).close()
        self._accepting.join()
        self._listener.close()
        for sock in self._socks:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            sock, _ = self._listener.accept()
            if self.stopping.is_set():
                sock.close()
                return
            self.connections += 1
            self._socks.append(sock)
            thread = threading.Thread(target=self._serve, args=(sock,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True)
                self._socks.append(sock)
            self._script(Peer(sock, self))
        except (ssl.SSLError, OSError):
            pass
        finally:
            sock.close()
