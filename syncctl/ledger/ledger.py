"""The ledger in MongoDB as one object, with an attribute for each collection or concern."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Self

import pymongo
from pymongo.database import Database
from pymongo.errors import OperationFailure

from syncctl.ledger.acknowledgements import Acknowledgements
from syncctl.ledger.alerts import Alerts
from syncctl.ledger.attempt_feed import Attempts
from syncctl.ledger.audit import Audit
from syncctl.ledger.batches import Batches
from syncctl.ledger.breakers import Breakers
from syncctl.ledger.delivery_state import DeliveryStates
from syncctl.ledger.expressions import SYNCCTL
from syncctl.ledger.heartbeats import Heartbeats, MaintenanceLeases
from syncctl.ledger.indexes import compare_indexes, create_indexes
from syncctl.ledger.keys import Keys
from syncctl.ledger.lease_rescue import LeaseRescue
from syncctl.ledger.ledger_version import Schema, Upgraded, Watch
from syncctl.ledger.member_clocks import MemberClock, read_clock
from syncctl.ledger.mongo_client import check_not_refused, connect, describe_hosts, open_database, translated
from syncctl.ledger.operations import Operations
from syncctl.ledger.partners import Partners
from syncctl.ledger.polls import Polls
from syncctl.ledger.project import Project
from syncctl.ledger.records import Records
from syncctl.ledger.report_days import ReportDays
from syncctl.ledger.reports import Reports
from syncctl.ledger.rolling_rate import RollingRate
from syncctl.ledger.runs import Runs
from syncctl.ledger.selections import Selections
from syncctl.ledger.sequencing import Sequencing
from syncctl.ledger.source_schemas import SourceSchemas
from syncctl.ledger.streams import Streams
from syncctl.ledger.totals import Totals
from syncctl.ledger.write_backs import WriteBacks


class Ledger:
    """The record of every row, in MongoDB.

    Args:
        url: `mongodb://…`, a secret.
        database: The database's name.
        timeout_seconds: The deadline of every operation.
    """

    def __init__(self, url: str, database: str, *, timeout_seconds: float = 20.0) -> None:
        self._url = url
        self.hosts = describe_hosts(url)
        self._client = connect(url, timeout_seconds=timeout_seconds)
        self._database: Database[dict[str, Any]] = open_database(self._client, database)
        self.streams = Streams(self._database, self.hosts)
        self.polls = Polls(self._database, self.hosts)
        self.source_schemas = SourceSchemas(self._database, self.hosts)
        self.keys = Keys(self._database, self.hosts)
        self.breakers = Breakers(self._database, self.hosts)
        self.partners = Partners(self._database, self.hosts)
        self.project = Project(self._database, self.hosts)
        self.schema = Schema(self._database, self.hosts)
        self.records = Records(self._database, self.hosts)
        self.batches = Batches(self._database, self.hosts)
        self.delivery_states = DeliveryStates(self._database, self.hosts)
        self.lease_rescue = LeaseRescue(self._database, self.hosts)
        self.operations = Operations(self._database, self.hosts)
        self.attempts = Attempts(self._database, self.hosts)
        self.selections = Selections(self._database, self.hosts)
        self.sequencing = Sequencing(self._database, self.hosts)
        self.acknowledgements = Acknowledgements(self._database, self.hosts)
        self.write_backs = WriteBacks(self._database, self.hosts)
        self.runs = Runs(self._database, self.hosts)
        self.audit = Audit(self._database, self.hosts)
        self.alerts = Alerts(self._database, self.hosts)
        self.heartbeats = Heartbeats(self._database, self.hosts)
        self.maintenance = MaintenanceLeases(self._database, self.hosts)
        self.reports = Reports(self._database, self.hosts)
        self.report_days = ReportDays(self._database, self.hosts)
        self.totals = Totals(self._database, self.hosts)
        self._prepared = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def open_rate(self, partner: str, *, calls: int, seconds: float) -> RollingRate:
        """Return a partner's rate limit of less than one call a second, which all workers share."""
        return RollingRate(self._database, self.hosts, name=partner, calls=calls, seconds=seconds)

    def check_reachable(self, *, timeout_seconds: float) -> None:
        """Ask MongoDB for a sign of life, so that a waiting person need not wait until a long operation times out.

        Raises:
            ServiceUnavailable: There was none in time, or every host refuses the connection, which is known at once.
        """
        check_not_refused(self._url, timeout_seconds=timeout_seconds)
        with translated(self.hosts), pymongo.timeout(timeout_seconds):
            self._client.admin.command("ping")

    def check_writable(self, *, timeout_seconds: float) -> None:
        """Write, without changing anything, as all changes of state are written: acknowledged by a majority.

        Raises:
            ConfigurationError: The login may only read.
            ServiceUnavailable: There was no acknowledgement in time.
        """
        with translated(self.hosts), pymongo.timeout(timeout_seconds):
            self._database.records.update_one({"_id": ""}, {"$set": {"state": "pending"}})

    @contextmanager
    def limit_time(self, seconds: float) -> Iterator[None]:
        """Give all operations in the block one common deadline, this many seconds from now."""
        with translated(self.hosts), pymongo.timeout(seconds):
            yield

    def prepare(self) -> list[str]:
        """Create the indexes that are missing and return their names; upgrade an older ledger. Safe to repeat.

        Raises:
            ConfigurationError: A newer syncctl has upgraded the ledger, and this one would misread it.
        """
        return self.upgrade()[0]

    def upgrade(self, *, who: str = SYNCCTL, watch: Watch | None = None) -> tuple[list[str], Upgraded]:
        """Do the same as `prepare`; return the names of the new indexes, and what the upgrade did.

        Args:
            who: For the audit log.
            watch: Called after each step of a migration.
        """
        self.schema.check()
        with translated(self.hosts):
            created = create_indexes(self._database)
        upgraded = self.schema.upgrade(who=who, watch=watch)
        self._prepared = True
        return created, upgraded

    def ensure_prepared(self) -> None:
        """Create missing indexes and upgrade an older ledger at first use.

        Raises:
            ConfigurationError: A newer syncctl has upgraded the ledger, and this one would misread it.
        """
        if not self._prepared:
            self.prepare()

    def compare_indexes(self) -> list[str]:
        """Return one line for each index that is missing or differs."""
        with translated(self.hosts):
            return compare_indexes(self._database)

    def read_member_clocks(self, *, timeout_seconds: float) -> list[MemberClock]:
        """Ask every member of the replica set that holds data for its time, for `doctor`."""
        with translated(self.hosts):
            hello = self._client.admin.command("hello")
            is_set = self._client.topology_description.topology_type_name.startswith("ReplicaSet")
        # A URL with directConnection reaches only one member.
        members = [*hello.get("hosts", ()), *hello.get("passives", ())] if is_set else []
        with ThreadPoolExecutor(max(1, len(members))) as threads:
            return list(
                threads.map(lambda member: read_clock(self._url, member, timeout_seconds=timeout_seconds), members)
            )

    def describe_server(self) -> dict[str, Any]:
        """Return MongoDB's version and whether it is a replica set, for `doctor`."""
        with translated(self.hosts):
            version = self._client.server_info()["version"]
            # The call before needs no login; this one does where the server requires one.
            self._database.list_collection_names(authorizedCollections=True, nameOnly=True)
            hello = self._client.admin.command("hello")
        return {
            "version": version,
            "replica_set": hello.get("setName"),
            "primary": hello.get("isWritablePrimary", False),
        }

    def read_history_seconds(self) -> int:
        """Return how many seconds of history MongoDB keeps, for `doctor`; 0 if it does not report that."""
        with translated(self.hosts):
            return int(self._read_parameter("minSnapshotHistoryWindowInSeconds") or 0)

    def _read_parameter(self, name: str) -> Any:
        """Return a parameter of the server; None if this user may not read it, or there is none of that name."""
        try:
            return self._client.admin.command({"getParameter": 1, name: 1}).get(name)
        except OperationFailure:
            return None
