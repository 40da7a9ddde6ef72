"""The `project` collection: the project that the ledger belongs to, its secret, and how many messages were dropped."""

import hashlib
import hmac
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pymongo import errors as mongo
from pymongo.collection import Collection
from pymongo.database import Database

from syncctl.core.project_key import ProjectKey
from syncctl.errors import ConfigurationError
from syncctl.ledger.mongo_client import edge

Doc = dict[str, Any]

_SECRET_BYTES = 32
_NOTICED_SECONDS = 86_400
"""Messages dropped within this time lead to a warning."""


class Project:
    """One document that names the project and holds its secret, one that counts dropped messages."""

    def __init__(self, database: Database[Doc], hosts: str) -> None:
        self._project: Collection[Doc] = database["project"]
        self._database_name = database.name
        self.hosts = hosts

    @edge
    def claim(self, name: str) -> ProjectKey:
        """Return the key of the project `name`; a ledger without a project belongs to this one from then on.

        Safe to repeat, also by several processes at once.

        Raises:
            ConfigurationError: The ledger belongs to another project.
        """
        owner = self._load()
        if owner is None:
            fields = {"name": name, "secret": os.urandom(_SECRET_BYTES)}
            with suppress(mongo.DuplicateKeyError):  # Another process was quicker.
                self._project.update_one({"_id": "project"}, {"$setOnInsert": fields}, upsert=True)
            owner = self._load() or {}
        if owner.get("name") != name:
            raise ConfigurationError(
                f"this is the project {name!r}, and the ledger {self._database_name} belongs to {owner.get('name')!r}",
                why="two projects in one ledger would take each other's records for their own",
                hint=f'set project = "{owner.get("name")}" in syncctl.toml, or name another database in MONGO_URL',
            )
        key = hmac.new(bytes(owner["secret"]), f"messages of {name}".encode(), hashlib.sha256).digest()
        return ProjectKey(key, round(owner["now"].timestamp() * 1000))

    @edge
    def record_dropped(self, dropped: Mapping[str, int], *, worker: str) -> None:
        """Add to the number of messages that workers have dropped, by reason."""
        counts = {f"reasons.{reason}": number for reason, number in dropped.items()}
        changes = {
            "$inc": {"total": sum(dropped.values()), **counts},
            "$set": {"worker": worker},
            "$currentDate": {"at": True},
        }
        self._project.update_one({"_id": "dropped"}, changes, upsert=True)

    @edge
    def load_dropped(self) -> Doc:
        """Return how many messages were dropped: `total`, `reasons`, `at`, `worker`; `recent`: within a day."""
        recent = {"$gte": [{"$add": ["$at", _NOTICED_SECONDS * 1000]}, "$$NOW"]}
        dropped = next(self._project.aggregate([{"$match": {"_id": "dropped"}}, {"$set": {"recent": recent}}]), {})
        return {"total": 0, "reasons": {}, "at": None, "worker": None, "recent": False, **dropped}

    def _load(self) -> Doc | None:
        return next(self._project.aggregate([{"$match": {"_id": "project"}}, {"$set": {"now": "$$NOW"}}]), None)
