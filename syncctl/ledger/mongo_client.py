"""The connection to MongoDB, and the translation of its errors."""

import functools
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, ParamSpec, TypeVar

import pymongo
from pymongo import errors as mongo
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.uri_parser import parse_uri
from pymongo.write_concern import WriteConcern

from syncctl.errors import ConfigurationError, ServiceUnavailable

P = ParamSpec("P")
T = TypeVar("T")

OPERATION_TIMEOUT_SECONDS = 20
_AUTHENTICATION_CODES = {8000, 18}
_RIGHTS_CODE = 13
_WANTS_LOGIN = "requires authentication"
_BAD_VALUE_CODE = 2
_DUPLICATE_CODE = 11000


def connect(
    url: str, *, timeout_seconds: float = OPERATION_TIMEOUT_SECONDS, member: str | None = None
) -> "pymongo.MongoClient[dict[str, Any]]":
    """Return a client whose every operation ends within `timeout_seconds`; it connects at first use.

    Args:
        member: Ask only this member of the replica set, `host:port`.

    Raises:
        ConfigurationError: when the URL is not one.
    """
    try:
        return pymongo.MongoClient(
            url,
            appname="syncctl",
            tz_aware=True,
            timeoutMS=round(timeout_seconds * 1000),
            serverSelectionTimeoutMS=round(min(5.0, timeout_seconds) * 1000),
            retryWrites=True,
            server_selector=None if member is None else lambda servers: _choose(servers, member),
        )
    except (mongo.InvalidURI, mongo.ConfigurationError, ValueError) as error:
        raise ConfigurationError(
            "MONGO_URL is not a MongoDB URL",
            why=str(error).split("@")[-1],
            hint="mongodb://host:27017/celery_logs",
        ) from error


def _choose(servers: Sequence[Any], member: str) -> list[Any]:
    return [server for server in servers if "{}:{}".format(*server.address) == member]


def open_database(client: "pymongo.MongoClient[dict[str, Any]]", name: str) -> Database[dict[str, Any]]:
    """Return the database whose every write is acknowledged by a majority, from its journal (invariant 1)."""
    return client.get_database(
        name,
        write_concern=WriteConcern(w="majority", j=True),
        read_concern=ReadConcern("majority"),
        # Whatever the URL says: reading a claim from a lagging secondary would find nothing.
        read_preference=ReadPreference.PRIMARY,
    )


def describe_hosts(url: str) -> str:
    """Name the hosts of a URL without its user and password."""
    return ",".join(f"{host}:{port}" for host, port in _list_hosts(url)) or url.rpartition("@")[2].partition("/")[0]


def check_not_refused(url: str, *, timeout_seconds: float) -> None:
    """Connect to each host of a URL: the driver waits for a server that may still start, and a person should not.

    Raises:
        ServiceUnavailable: Every host refuses the connection; one that does not answer may still come up.
    """
    hosts = _list_hosts(url)
    for host, port in hosts:
        if port is None:
            return
        try:
            socket.create_connection((host, port), timeout=timeout_seconds).close()
        except ConnectionRefusedError:
            continue
        except (OSError, ValueError):
            return
        return
    if hosts:
        every = "connection refused" if len(hosts) == 1 else "every host refuses the connection"
        raise _unavailable(f" at {describe_hosts(url)}", ConnectionRefusedError(every))


def _list_hosts(url: str) -> list[tuple[str, int | None]]:
    """Return hosts and ports, without a port for a Unix socket; empty if only DNS knows them."""
    try:
        return list(parse_uri(url, validate=False, warn=False)["nodelist"]) if not url.startswith("mongodb+srv") else []
    except (mongo.PyMongoError, ValueError):
        return []


@contextmanager
def translated(hosts: str = "") -> Iterator[None]:
    """Turn pymongo's errors into ours.

    Raises:
        ServiceUnavailable: MongoDB cannot be reached, or did not acknowledge in time.
        ConfigurationError: it requires a login, refuses the given one, or the login lacks a right.
    """
    where = f" at {hosts}" if hosts else ""
    try:
        yield
    except mongo.OperationFailure as error:
        if error.code in _AUTHENTICATION_CODES:
            raise ConfigurationError(
                f"MongoDB{where} refuses the login",
                why="authentication failed",
                hint="check the user and password in MONGO_URL",
            ) from error
        if error.code == _RIGHTS_CODE and _WANTS_LOGIN in str(error):
            raise ConfigurationError(
                f"MongoDB{where} wants a login",
                why="MONGO_URL has no user and password",
                hint=f"set MONGO_URL=mongodb://USER:PASSWORD@{hosts or 'HOST'}/DATABASE?authSource=admin; "
                "for the server of syncctl local: syncctl local up --save --force",
            ) from error
        if error.code == _RIGHTS_CODE:
            # The command follows with its session and its signature, which explain nothing.
            refused, cut, _ = str(error.details and error.details.get("errmsg")).partition(", ")
            raise ConfigurationError(
                f"the MongoDB login{where} lacks a right",
                why=refused + (" ... }" if cut else ""),
                hint="grant it readWrite on the ledger's database",
            ) from error
        if error.code == _BAD_VALUE_CODE and "hint" in str(error):
            raise ConfigurationError(
                f"the ledger in MongoDB{where} lacks an index",
                why="a query that must be fast asks for it by name",
                hint="create what is missing: syncctl init --indexes",
            ) from error
        if isinstance(error, mongo.BulkWriteError) and (error.details or {}).get("writeConcernErrors"):
            raise _unavailable(where, error) from error
        if isinstance(error, mongo.BulkWriteError | mongo.WriteError) and not isinstance(error, mongo.WTimeoutError):
            raise
        if (
            error.timeout
            or isinstance(error, mongo.WriteConcernError | mongo.ExecutionTimeout)
            or error.has_error_label("RetryableWriteError")
        ):
            raise _unavailable(where, error) from error
        raise
    except mongo.ServerSelectionTimeoutError as error:
        raise _unavailable(where, error) from error
    except (mongo.ConnectionFailure, mongo.WaitQueueTimeoutError) as error:
        raise _unavailable(where, error) from error
    except mongo.PyMongoError as error:
        if error.timeout:
            raise _unavailable(where, error) from error
        raise


def _unavailable(where: str, error: Exception) -> ServiceUnavailable:
    cause = str(error).split(", Timeout:")[0].split(" (configured timeouts")[0].split(", full error:")[0]
    if isinstance(error, mongo.BulkWriteError):
        lacking = error.details["writeConcernErrors"][0].get("errmsg", "")
        cause = f"no majority of the replica set acknowledged the write: {lacking}"
    return ServiceUnavailable(
        f"cannot reach MongoDB{where}",
        service="mongodb",
        why=cause[:200] or type(error).__name__,
        hint="check MONGO_URL, then run: syncctl doctor mongodb",
    )


def edge(function: Callable[P, T]) -> Callable[P, T]:
    """Translate the driver's errors of a ledger method."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        with translated(getattr(args[0], "hosts", "") if args else ""):
            return function(*args, **kwargs)

    return call


def is_only_duplicates(error: mongo.BulkWriteError) -> bool:
    """Return whether a bulk failed only because of documents that existed already.

    An empty first list beside a write concern error would otherwise mean "all were duplicates".
    """
    failures = error.details.get("writeErrors", ())
    return not error.details.get("writeConcernErrors") and all(
        failure.get("code") == _DUPLICATE_CODE for failure in failures
    )


def write_but_duplicates(collection: "Collection[dict[str, Any]]", writes: Sequence[pymongo.UpdateOne]) -> int:
    """Make every write but those that a unique index refuses; return how many documents were modified."""
    try:
        return collection.bulk_write(writes, ordered=False).modified_count
    except mongo.BulkWriteError as error:
        if not is_only_duplicates(error):
            raise
        return int(error.details["nModified"])


def find_streams(
    collection: "Collection[dict[str, Any]]",
    query: Mapping[str, Any],
    streams: Iterable[str],
    *,
    hint: str | None = None,
) -> list[str]:
    """Return the given streams that have a document which a query matches.

    One lookup in an index per stream, all in one query: among hundreds of streams, few have anything to count.

    Args:
        query: A query that an index beginning with `stream` answers.
        hint: That index, if MongoDB would not choose it.
    """
    names = list(streams)
    if len(names) <= 1:
        return names
    stages: list[dict[str, Any]] = [{"$match": {"stream": {"$in": names}, **query}}, {"$group": {"_id": "$stream"}}]
    options: dict[str, Any] = {} if hint is None else {"hint": hint}
    matching = {document["_id"] for document in collection.aggregate(stages, **options)}
    return [name for name in names if name in matching]


def new_token() -> str:
    """Return a unique token; unlike a seeded generator it stays unique after a fork."""
    return os.urandom(12).hex()


def update_many_safely(
    collection: "Collection[dict[str, Any]]",
    guard: dict[str, Any],
    changes: list[dict[str, Any]],
    *,
    hint: str | None = None,
    count: Literal["modified", "matched"] = "modified",
) -> int:
    """Update many documents, again after a cut connection (the driver repeats only single updates); return how many.

    Only for changes that are safe to repeat: changed documents no longer match the guard.
    """
    try:
        done = collection.update_many(guard, changes, hint=hint)
    except mongo.AutoReconnect:
        done = collection.update_many(guard, changes, hint=hint)
    return done.modified_count if count == "modified" else done.matched_count
