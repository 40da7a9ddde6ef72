"""A mongod that fails where it is asked to."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from syncctl.local.mongod import Mongod


class FaultyMongod(Mongod):
    """A mongod with MongoDB's own fail points."""

    def command(self) -> list[str | Path]:
        """Return the command line."""
        return [*super().command(), "--setParameter", "enableTestCommands=1"]

    def administer(self, command: Mapping[str, Any]) -> None:
        """Give it an order, past every proxy; one that is away or frozen has trouble enough without."""
        url = f"mongodb://{self.address}/?directConnection=true"
        client: MongoClient[dict[str, Any]] = MongoClient(url, timeoutMS=2000)
        with suppress(PyMongoError), client:
            client.admin.command(dict(command))
