"""A mongod as a replica set of one, so that majority writes are real."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from syncctl.core.safe_text import make_safe_line
from syncctl.errors import TroubleFound
from syncctl.local.server import LOOPBACK, Server, find_binary

if TYPE_CHECKING:
    from pymongo import MongoClient

REPLICA_SET = "syncctl"
DATABASE = "celery_logs"
USER = "syncctl"

_NOT_YET_INITIALIZED = 94
_USER_EXISTS = 51003


def find_mongod() -> Path:
    """Return the path of the mongod to run.

    Raises:
        ServiceUnavailable: there is none; the hint says how to install it.
    """
    return find_binary("mongod", package="fiftyone", inside="db/bin/mongod", service="mongodb")


class Mongod(Server):
    """A real mongod on the loopback, primary of a replica set of one."""

    name = "mongod"
    service = "mongodb"

    @property
    def address(self) -> str:
        """The address of its only member in the replica set's configuration."""
        return f"{LOOPBACK}:{self.port}"

    def url(self, database: str = DATABASE) -> str:
        """Return the URL of a database."""
        if not self.password:
            return f"mongodb://{self.address}/{database}"
        return f"mongodb://{USER}:{self.password}@{self.address}/{database}?authSource=admin"

    def command(self) -> list[str | Path]:
        """Return the command line; caches are small because the server shares the machine."""
        return [
            find_mongod(),
            *("--port", str(self.port)),
            *("--bind_ip", LOOPBACK),
            *("--dbpath", self.files),
            *("--replSet", REPLICA_SET),
            *("--wiredTigerCacheSizeGB", "0.25"),
            *("--oplogSize", "64"),
            *("--setParameter", "diagnosticDataCollectionEnabled=false"),
            # Nothing reads the past, and until removed index entries are no longer history, each search passes them.
            *("--setParameter", "minSnapshotHistoryWindowInSeconds=0"),
            # Members of a replica set authenticate by a key, and with one the server asks every client for a password.
            # By default, a client on this machine could create the first user itself; the parameter prevents that.
            *(("--keyFile", self.password_file) if self.password else ()),
            *(("--setParameter", "enableLocalhostAuthBypass=false") if self.password else ()),
            "--nounixsocket",
            "--quiet",
        ]

    def check_ready(self, *, timeout_seconds: float) -> bool:
        """Tell whether this very process is primary; initiate or reconfigure its replica set if needed.

        Raises:
            TroubleFound: it has users that syncctl did not create.
        """
        if not self.owns_port():
            return False
        from pymongo import MongoClient
        from pymongo.errors import PyMongoError

        # Log in as a member of the set, which may do everything, even before there is a user.
        login: dict[str, Any] = {"username": "__system", "password": self.password, "authSource": "local"}
        client: MongoClient[dict[str, Any]] = MongoClient(
            LOOPBACK,
            self.port,
            directConnection=True,
            timeoutMS=int(timeout_seconds * 1000) + 1,
            **(login if self.password else {}),
        )
        try:
            return self._advance(client)
        except PyMongoError:
            # A starting server may refuse any of these commands; the caller checks again until its deadline.
            return False
        finally:
            client.close()

    def _advance(self, client: MongoClient[dict[str, Any]]) -> bool:
        """Take the next step towards a working replica set; return True once this process is primary."""
        admin = client.admin
        hello = admin.command("hello")
        if hello.get("isWritablePrimary"):
            is_ours = bool(hello["me"] == self.address and admin.command("serverStatus")["pid"] == self.pid)
            if is_ours and self.password:
                _refuse_other_users(client)
                _set_password(client, self.password)
            return is_ours
        config = _read_config(client)
        if config is None:
            members = [{"_id": 0, "host": self.address}]
            admin.command("replSetInitiate", {"_id": REPLICA_SET, "members": members})
        elif config["members"][0]["host"] != self.address:
            # On a new port the server does not recognise itself as the member in the configuration.
            config["members"][0]["host"] = self.address
            config["version"] += 1
            admin.command("replSetReconfig", config, force=True)
        return False


def _refuse_other_users(client: MongoClient[dict[str, Any]]) -> None:
    """Check that the server has no user other than that of `url`.

    Raises:
        TroubleFound: there is another one, which another user of this machine may have created.
    """
    users = client.admin.command("usersInfo", {"forAllDBs": True})["users"]
    others = [f"{user['user']} in {user['db']}" for user in users if (user["user"], user["db"]) != (USER, "admin")]
    if others:
        raise TroubleFound(
            "MongoDB has users that syncctl did not create",
            why=f"{make_safe_line(', '.join(others))}; earlier versions let other users of this machine create some",
            hint="run: syncctl local down --wipe, which removes all data; or run a MongoDB of your own for more users",
        )


def _set_password(client: MongoClient[dict[str, Any]], password: str) -> None:
    """Create the user of `url`, or give it this password."""
    from pymongo.errors import OperationFailure

    try:
        client.admin.command("createUser", USER, pwd=password, roles=["root"])
    except OperationFailure as error:
        if error.code != _USER_EXISTS:
            raise
        client.admin.command("updateUser", USER, pwd=password)


def _read_config(client: MongoClient[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the replica set's configuration, None if there is none yet."""
    from pymongo.errors import OperationFailure

    try:
        config: dict[str, Any] = client.admin.command("replSetGetConfig")["config"]
    except OperationFailure as error:
        if error.code == _NOT_YET_INITIALIZED:
            return None
        raise
    return config
