"""MongoDB and Redis for this process: the demo's and the tests' own."""

from pathlib import Path
from typing import Self

from syncctl.local.mongod import Mongod
from syncctl.local.redis_server import RedisServer


class LocalServices:
    """A real mongod and a real redis-server; they end with this process, even when it is killed.

    with LocalServices(directory) as services: services.mongo_url, services.redis_url, services.mongod.pid

    Args:
        directory: Takes the files, logs and pid files of both; it stays when they end.
        mongo_port, redis_port: 0 takes a free one.
    """

    def __init__(self, directory: Path, *, mongo_port: int = 0, redis_port: int = 0) -> None:
        self.mongod = Mongod(directory / "mongodb", port=mongo_port)
        self.redis = RedisServer(directory / "redis", port=redis_port)

    @property
    def mongo_url(self) -> str:
        """The URL of the ledger's database."""
        return self.mongod.url()

    @property
    def redis_url(self) -> str:
        """The URL of the broker's database."""
        return self.redis.url()

    def start(self) -> None:
        """Start both and wait until both can be used.

        Raises:
            ServiceUnavailable: one did not start; then neither runs.
        """
        try:
            self.redis.start()
            self.mongod.start()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Ask both to end and wait for them. Safe to repeat."""
        self.mongod.stop()
        self.redis.stop()

    def kill(self) -> None:
        """Kill both (SIGKILL). Safe to repeat."""
        self.mongod.kill()
        self.redis.kill()

    def restart(self) -> None:
        """Start both again on their ports and files."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
