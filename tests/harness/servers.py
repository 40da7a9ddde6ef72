"""Real servers for tests, each in its own temporary directory."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from syncctl.errors import ServiceUnavailable
from syncctl.local.mongod import Mongod, find_mongod
from syncctl.local.redis_server import RedisServer, find_redis_server
from syncctl.local.server import Server

if TYPE_CHECKING:
    from pymongo import MongoClient

S = TypeVar("S", bound=Server)


def in_ci() -> bool:
    """Return whether a test that cannot run is a failure."""
    return os.environ.get("CI", "").lower() in ("1", "true", "yes")


@contextmanager
def serve_mongod() -> Iterator[Mongod]:
    """Run a separate mongod."""
    with serve_any(Mongod, find_mongod) as server:
        yield server


@contextmanager
def serve_redis() -> Iterator[RedisServer]:
    """Run a separate redis-server."""
    with serve_any(RedisServer, find_redis_server) as server:
        yield server


@contextmanager
def serve_any(kind: Callable[[Path], S], find: Callable[[], Path]) -> Iterator[S]:
    """Run a separate server of a kind whose binary `find` returns."""
    try:
        find()
    except ServiceUnavailable as error:
        _skip_or_fail(error)
    # Not pytest's tmp_path: it keeps the directories of three runs, and a mongod takes 300 MB.
    with tempfile.TemporaryDirectory(prefix="syncctl-test-", ignore_cleanup_errors=True) as directory:
        server = kind(Path(directory))
        try:
            server.start()
            yield server
        finally:
            server.kill()


def _skip_or_fail(error: ServiceUnavailable) -> None:
    message = f"{error}; {error.hint}"
    if in_ci():
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def name_database(url: str) -> str:
    """Return the database that the URL of a mongod names."""
    return url.rpartition("/")[2].partition("?")[0]


def connect(url: str) -> "MongoClient[dict[str, Any]]":
    """Return a client for looking into the database; every operation has a deadline."""
    from pymongo import MongoClient

    return MongoClient(url, tz_aware=True, timeoutMS=10_000)
