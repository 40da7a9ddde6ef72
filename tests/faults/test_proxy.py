"""The proxy does to connections what each mood says; otherwise its faults would break nothing."""

import socket
import socketserver
import threading
from collections.abc import Iterator

import pytest

from tests.harness.tcp_proxy import Proxy


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while received := self.request.recv(1024):
            self.request.sendall(received)


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: connections are reset here on purpose."""


@pytest.fixture
def echo() -> Iterator[int]:
    with Server(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def connect(proxy: Proxy, *, timeout: float = 60.0) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=timeout)


def exchange(connection: socket.socket, text: bytes = b"hello") -> bytes:
    connection.sendall(text)
    return connection.recv(1024)


def test_the_proxy_carries_bytes_both_ways(echo: int) -> None:
    with Proxy(echo) as proxy:
        for mood in ("open", "delay"):
            proxy.set(mood, delay_seconds=0.01)
            with connect(proxy) as connection:
                assert exchange(connection) == b"hello"


def test_a_proxy_that_refused_comes_back_on_its_port(echo: int) -> None:
    with Proxy(echo) as proxy:
        port = proxy.port
        with connect(proxy) as connection:
            assert exchange(connection) == b"hello"
            proxy.set("refuse")
            with pytest.raises(ConnectionResetError):
                connection.recv(1)
        with pytest.raises(ConnectionRefusedError):
            connect(proxy)
        proxy.set("open")
        assert proxy.port == port
        with connect(proxy) as connection:
            assert exchange(connection) == b"hello"


def test_a_proxy_that_cuts_resets_open_and_new_connections(echo: int) -> None:
    with Proxy(echo) as proxy, connect(proxy) as before:
        assert exchange(before) == b"hello"
        proxy.set("cut")
        with pytest.raises(ConnectionResetError):
            before.recv(1)
        # The reset may come as early as the connection.
        with pytest.raises(ConnectionError), connect(proxy) as after:
            exchange(after)


@pytest.mark.parametrize("forgets", [True, False])
def test_bytes_that_hung_arrive_later_or_never(echo: int, forgets: bool) -> None:
    with Proxy(echo, forgets=forgets) as proxy, connect(proxy) as connection:
        assert exchange(connection) == b"hello"
        proxy.set("hang")
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            exchange(connection, b"later")
        proxy.set("open")
        connection.settimeout(60)
        if forgets:
            with pytest.raises(ConnectionResetError):
                connection.recv(1)
        else:
            assert connection.recv(1024) == b"later"
