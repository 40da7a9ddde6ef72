"""A minimal SQL Server: every login succeeds, and queries get no answer, or one error.

Microsoft's own driver talks to it, so that tests see the driver's reaction to silence and errors as users see it.
"""

import ctypes.util
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass

import pytest

from syncctl.sources.odbc import find_packaged_driver

# Kinds of messages and tokens: learn.microsoft.com/openspecs/windows_protocols/ms-tds.
_PRELOGIN, _LOGIN, _REPLY = 0x12, 0x10, 0x04
_HEADER = struct.Struct(">BBHHBB")
_LAST_PACKET = 1
_NO_ENCRYPTION = 2
_QUERY, _CALL, _CANCEL = 0x01, 0x03, 0x06
AFTER_LOGIN = _CALL
_DONE = struct.pack("<BHHQ", 0xFD, 0, 0, 0)
_DONE_WITH_ERROR = struct.pack("<BHHQ", 0xFD, 2, 0, 0)
_CANCELLED = struct.pack("<BHHQ", 0xFD, 0x20, 0, 0)

needs_driver = pytest.mark.skipif(
    sys.platform != "linux" or ctypes.util.find_library("odbc") is None or find_packaged_driver() is None,
    reason="needs libodbc (apt-get install unixodbc) and Microsoft's driver (pip install 'syncctl[mssql]')",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """The error for each query, or for each login."""

    number: int
    message: str
    severity: int = 16
    of_login: bool = False


@contextmanager
def tds_server(refusal: Refusal | None = None, *, silent_at: int = _QUERY) -> Iterator[int]:
    """Serve until the end of the block and yield the port.

    Args:
        refusal: The error for each query; None: a query is never answered.
        silent_at: With `AFTER_LOGIN`, the driver's own queries after the login are not answered either.
    """
    with closing(socket.create_server(("127.0.0.1", 0), backlog=20)) as server:
        clients: list[tuple[socket.socket, threading.Thread]] = []
        acceptor = threading.Thread(target=_accept, args=(server, clients, refusal, silent_at), daemon=True)
        acceptor.start()
        try:
            yield server.getsockname()[1]
        finally:
            # This wakes a waiting thread, which close() does not.
            server.shutdown(socket.SHUT_RDWR)
            acceptor.join()
            for client, thread in clients:
                with suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)
                thread.join()
                client.close()


def _accept(
    server: socket.socket,
    clients: list[tuple[socket.socket, threading.Thread]],
    refusal: Refusal | None,
    silent_at: int,
) -> None:
    with suppress(OSError):
        while True:
            client, _ = server.accept()
            thread = threading.Thread(target=_serve, args=(client, refusal, silent_at), daemon=True)
            clients.append((client, thread))
            thread.start()


def _serve(client: socket.socket, refusal: Refusal | None, silent_at: int) -> None:
    with suppress(OSError, EOFError):
        while True:
            answer = _choose_answer(_receive(client), refusal, silent_at)
            if answer:
                _send(client, answer)


def _choose_answer(kind: int, refusal: Refusal | None, silent_at: int) -> bytes:
    """Return the answer to a message; empty for silence."""
    if kind == _PRELOGIN:
        return _make_prelogin()
    if kind == _LOGIN:
        return _make_error(refusal) if refusal is not None and refusal.of_login else _make_welcome()
    if kind == _CANCEL:
        return _CANCELLED
    if kind == silent_at and refusal is None:
        return b""
    return _make_error(refusal) if kind == _QUERY and refusal is not None else _DONE


def _receive(client: socket.socket) -> int:
    """Read a whole message and return its kind."""
    status = kind = 0
    while not status & _LAST_PACKET:
        kind, status, length, *_ = _HEADER.unpack(_read(client, _HEADER.size))
        _read(client, length - _HEADER.size)
    return kind


def _read(client: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        piece = client.recv(size - len(received))
        if not piece:
            raise EOFError
        received += piece
    return received


def _send(client: socket.socket, body: bytes) -> None:
    client.sendall(_HEADER.pack(_REPLY, _LAST_PACKET, _HEADER.size + len(body), 0, 1, 0) + body)


def _make_prelogin() -> bytes:
    version = bytes((16, 0, 0, 0, 0, 0))
    ends_at = 2 * 5 + 1
    options = struct.pack(">BHHBHHB", 0, ends_at, len(version), 1, ends_at + len(version), 1, 0xFF)
    return options + version + bytes((_NO_ENCRYPTION,))


def _make_welcome() -> bytes:
    name = "Microsoft SQL Server"
    acknowledged = struct.pack(">BI", 1, 0x74000004) + _short(name) + bytes((16, 0, 0, 0))
    return _changed(1, "erp", "master") + _token(0xAD, acknowledged) + _changed(4, "4096", "4096") + _DONE


def _make_error(refusal: Refusal) -> bytes:
    text = refusal.message.encode("utf-16-le")
    body = struct.pack("<iBBH", refusal.number, 1, refusal.severity, len(refusal.message)) + text
    return _token(0xAA, body + _short("sqlserver") + _short("") + struct.pack("<I", 1)) + _DONE_WITH_ERROR


def _changed(kind: int, now: str, before: str) -> bytes:
    return _token(0xE3, bytes((kind,)) + _short(now) + _short(before))


def _token(kind: int, body: bytes) -> bytes:
    return struct.pack("<BH", kind, len(body)) + body


def _short(text: str) -> bytes:
    return bytes((len(text),)) + text.encode("utf-16-le")
