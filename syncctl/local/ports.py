"""Loopback ports: is one free, find one."""

import secrets
import socket
from contextlib import suppress
from pathlib import Path

LOOPBACK = "127.0.0.1"

_LOWEST = 20_000
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_EPHEMERAL_LOW = 32_768


def find_port() -> int:
    """Return a free loopback port that stays free while its server is down.

    It lies below the range from which the system takes ports for outgoing connections: there, a client that
    keeps trying to reach a stopped server can be given that server's own port, and then talks to itself.
    """
    low = _EPHEMERAL_LOW
    with suppress(OSError, ValueError):
        low = int(_EPHEMERAL.read_text().split()[0])
    span = max(low - _LOWEST, 0)
    for _ in range(100 if span >= 1000 else 0):
        port = _LOWEST + secrets.randbelow(span)
        if why_taken(port) is None:
            return port
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def why_taken(port: int) -> str | None:
    """Return why no server can listen on this loopback port, None when one can."""
    with socket.socket() as probe:
        # Servers set it too; without it a port would count as taken for a minute after its server stopped.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            return error.strerror or str(error)
    return None


def is_listening(port: int) -> bool:
    """Tell whether something accepts connections on this loopback port."""
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except OSError:
        return False
    return True
