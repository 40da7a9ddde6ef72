"""The version of the ledger, the check that a process knows it well enough, and the upgrade of an older ledger.

One document in `project` has the version, and the oldest version whose processes may still use the ledger. A syncctl
that does not know that oldest version is refused; one that knows it, but not the newest version, may continue.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pymongo.collection import Collection
from pymongo.database import Database

from syncctl import __version__
from syncctl.errors import ConfigurationError, LeaseHeld
from syncctl.ledger.audit import Audit
from syncctl.ledger.expressions import SYNCCTL, in_future, is_past
from syncctl.ledger.heartbeats import Heartbeats
from syncctl.ledger.migrations import MIGRATIONS, Advance, Migration
from syncctl.ledger.mongo_client import edge, new_token
from syncctl.logs import get_logger

log = get_logger(__name__)

Doc = dict[str, Any]

LEASE_SECONDS = 20.0
LOOK_AGAIN_SECONDS = 0.5
_ID = "schema"


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """The version of a ledger, as the ledger states it."""

    #: 0: it was written before ledgers had versions, or nothing was written yet.
    version: int = 0
    #: The oldest version whose processes may use it.
    oldest: int = 0
    #: The release of syncctl that wrote the version; None in version 0.
    written_by: str | None = None
    written_at: datetime | None = None
    #: It has no stream and no record.
    is_empty: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class PendingMigration:
    """A migration that is yet to be made."""

    version: int
    title: str
    #: How many documents it changes, counted now.
    documents: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Upgraded:
    """The result of an upgrade."""

    version_before: int
    version: int
    #: How many documents this process has changed.
    changed: int
    duration_ms: float


Watch = Callable[[Migration, Advance], None]


class Schema:
    """The version of the ledger, and its upgrades under a lease.

    Args:
        migrations: In order; the last one leads to the version that this process knows.
    """

    def __init__(self, database: Database[Doc], hosts: str, *, migrations: Sequence[Migration] = MIGRATIONS) -> None:
        self._database = database
        self._project: Collection[Doc] = database["project"]
        self._migrations = tuple(migrations)
        self.known = self._migrations[-1].version
        self.hosts = hosts

    @edge
    def load(self) -> Form:
        """Return the version that the ledger states."""
        document = self._project.find_one({"_id": _ID}) or {}
        if not document.get("version"):
            is_empty = all(
                self._database[name].find_one({}, {"_id": True}) is None for name in ("streams", "records")
            )  # fmt: skip
            return Form(oldest=int(document.get("oldest", 0)), is_empty=is_empty)
        return Form(
            version=int(document["version"]),
            oldest=int(document.get("oldest", 0)),
            written_by=document.get("by"),
            written_at=document.get("at"),
        )

    def check(self) -> Form:
        """Return the version that the ledger states, if this process may use the ledger.

        Raises:
            ConfigurationError: A newer syncctl has upgraded it, and this one would misread it.
        """
        form = self.load()
        if form.oldest > self.known:
            raise self._refuse(form)
        return form

    def _refuse(self, form: Form) -> ConfigurationError:
        writer = form.written_by or "a newer syncctl"
        at = f" on {form.written_at:%Y-%m-%d}" if form.written_at is not None else ""
        return ConfigurationError(
            f"the ledger {self._database.name} has version {max(form.version, form.oldest)}, "
            f"and this syncctl {__version__} knows versions up to {self.known}",
            why=f"{writer} upgraded it{at}; a syncctl that does not know version {form.oldest} would misread it",
            hint=f"run {writer} or later on this machine too; docs/upgrade.md says how to go back instead",
        )

    @edge
    def list_pending(self) -> list[PendingMigration]:
        """Return the migrations that the ledger lacks, in order; changes nothing."""
        version = self.check().version
        return [
            PendingMigration(version=step.version, title=step.title, documents=step.count(self._database))
            for step in self._migrations
            if step.version > version
        ]

    @edge
    def upgrade(self, *, who: str = SYNCCTL, watch: Watch | None = None) -> Upgraded:
        """Make the migrations that the ledger lacks, after waiting for any other process that makes them.

        Safe to repeat, and to kill: the next process continues.

        Args:
            who: For the audit log.
            watch: Called after each step.

        Raises:
            ConfigurationError: A newer syncctl has upgraded the ledger, and this one would misread it.
        """
        started = time.monotonic()
        before = form = self.check()
        changed = 0
        while form.version < self.known:
            token = new_token()
            if self._acquire(token, who):
                try:
                    changed += self._migrate(token, self.check(), who, watch)
                except LeaseHeld:
                    log.warning("ledger.upgrade_lost")
                finally:
                    self._project.update_one({"_id": _ID, "lease.token": token}, {"$unset": {"lease": True}})
            else:
                time.sleep(LOOK_AGAIN_SECONDS)
            form = self.check()
        took_ms = round((time.monotonic() - started) * 1000, 1)
        if before.version < form.version and not before.is_empty:
            log.info(
                "ledger.upgraded", version_before=before.version, version=form.version, changed=changed,
                duration_ms=took_ms,
            )  # fmt: skip
        return Upgraded(version_before=before.version, version=form.version, changed=changed, duration_ms=took_ms)

    def _acquire(self, token: str, who: str) -> bool:
        if self._project.find_one({"_id": _ID}, {"_id": True}) is None:
            start = {"version": 0, "oldest": 0}
            self._project.update_one({"_id": _ID}, {"$setOnInsert": start}, upsert=True)
        free: Doc = {"$or": [{"lease": {"$exists": False}}, is_past("lease.until")]}
        lease = {"token": token, "who": {"$literal": who}, "until": in_future(LEASE_SECONDS)}
        return self._project.update_one({"_id": _ID, **free}, [{"$set": {"lease": lease}}]).matched_count == 1

    def _renew(self, token: str) -> None:
        until = [{"$set": {"lease.until": in_future(LEASE_SECONDS)}}]
        if self._project.update_one({"_id": _ID, "lease.token": token}, until).matched_count == 0:
            raise LeaseHeld("another process is upgrading the ledger")

    def _migrate(self, token: str, form: Form, who: str, watch: Watch | None) -> int:
        """Make every pending migration; return how many documents were changed."""
        pending = [step for step in self._migrations if step.version > form.version]
        detail = {"version_before": form.version, "version": self.known}
        with Audit(self._database, self.hosts).record(action="upgrade", who=who, detail=detail) as entry:
            if pending and not form.is_empty:
                entry.begin()
            for step in pending:
                if step.oldest > form.oldest:
                    self._project.update_one({"_id": _ID}, {"$max": {"oldest": step.oldest}})
                for advance in self._advance(token, step):
                    if watch is not None:
                        watch(step, advance)
                    if advance.changed:
                        entry.add(advance.changed)
                written = {
                    "version": step.version,
                    "by": f"syncctl {__version__}",
                    "who": {"$literal": who},
                    "at": "$$NOW",
                }
                self._project.update_one({"_id": _ID, "lease.token": token}, [{"$set": written}])
        return entry.count

    def _advance(self, token: str, step: Migration) -> Iterator[Advance]:
        """Yield the result of each step until nothing is left, once no process runs that could not handle it."""
        has_waited = False
        while True:
            self._renew(token)
            writers = self._find_older(step.oldest)
            advance = (
                Advance(changed=0, left=step.count(self._database), waits_for=f"the end of {', '.join(writers)}")
                if writers
                else step.advance(self._database)
            )
            yield advance
            if not writers and not advance.left:
                return
            if not advance.changed:
                if advance.waits_for and not has_waited:
                    log.info("ledger.upgrade_waits", waits_for=advance.waits_for, left=advance.left)
                    has_waited = True
                time.sleep(LOOK_AGAIN_SECONDS)

    def _find_older(self, oldest: int) -> list[str]:
        """Return the live processes that do not know a version of the ledger."""
        if oldest == 0:
            return []
        heartbeats = Heartbeats(self._database, self.hosts)
        older = [str(worker["_id"]) for worker in heartbeats.load_workers() if worker.get("ledger", 0) < oldest]
        beat = heartbeats.load_beat()
        if beat is not None and not beat["late"] and beat.get("ledger", 0) < oldest:
            older.append("Beat")
        return older
