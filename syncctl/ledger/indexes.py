"""Every index that a frequent query needs; partial where only unfinished records matter (invariant 11)."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pymongo
from pymongo import IndexModel
from pymongo.database import Database
from pymongo.errors import OperationFailure

from syncctl.logs import get_logger

log = get_logger(__name__)

Keys = tuple[tuple[str, int], ...]

ONE_IN_FLIGHT = "one_version_in_flight"
FAILED_BY_KEY = "failed_by_key"
TO_WRITE_BACK = "to_write_back"
TO_ACKNOWLEDGE = "to_acknowledge"
KEPT = "kept"
FAILED_BY_ERROR = "failed_by_error"
TOO_OLD = "this_ledger_needs_a_newer_syncctl"
"""The index of the records in flight of the first version of syncctl, under a name that this version does not ask for.

MongoDB creates no index twice, so a process of that version fails at its start, with this name in its error. A process
that is running does not find the index by the name that it knows, and takes no more records.
"""

RETIRED = (("records", "in_flight"), ("records", "one_in_flight"), ("keys", "by_stream"))
"""Indexes of earlier versions, which are dropped."""
_ATTEMPTS = 3
_CONFLICT_CODES = {85, 86}
BUILD_SECONDS = 86_400
QUICKLY_INDEXED = 100_000
"""Creating an index of more documents takes long enough to be logged beforehand."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Index:
    """One index as it should be."""

    collection: str
    name: str
    keys: Keys
    unique: bool = False
    partial: Mapping[str, Any] = field(default_factory=dict)


def _keys(*names: str) -> Keys:
    return tuple((name.removeprefix("-"), -1 if name.startswith("-") else 1) for name in names)


_PENDING = {"state": "pending"}

INDEXES: tuple[Index, ...] = (
    # The records that dispatch takes: first attempts and retries apart, the oldest first.
    Index(collection="records", name="due", keys=_keys("stream", "state", "fresh", "due_at", "seq"), partial=_PENDING),
    # Invariant 5: two versions of one key are never in flight together (order `none`: one record, never twice).
    Index(
        collection="records",
        name=ONE_IN_FLIGHT,
        keys=_keys("stream", "in_flight_key"),
        unique=True,
        partial={"in_flight_key": {"$exists": True}},
    ),
    # Processes of earlier versions count retries by it while others are upgraded.
    Index(collection="records", name="retries_in_flight", keys=_keys("stream"), partial={"in_flight_retry": True}),
    Index(
        collection="records",
        name=TOO_OLD,
        keys=_keys("stream", "in_flight", "fresh", "state", "lease.until"),
        partial={"in_flight": True},
    ),
    # Batches whose lease ran out.
    Index(collection="batches", name="by_lease", keys=_keys("stream", "until")),
    Index(collection="records", name="by_key", keys=_keys("stream", "key_id", "-seq")),
    # Failed versions that a newer one outdates.
    Index(collection="records", name=FAILED_BY_KEY, keys=_keys("stream", "key_id"), partial={"state": "failed"}),
    # Failed records grouped and selected by their error. It has the state too, so that the index alone can answer.
    Index(
        collection="records",
        name=FAILED_BY_ERROR,
        keys=_keys("stream", "state", "error.fingerprint", "finished_at", "_id"),
        partial={"state": "failed"},
    ),
    Index(
        collection="records",
        name="finished",
        keys=_keys("stream", "state", "finished_at", "_id"),
        partial={"finished_at": {"$exists": True}},
    ),
    # Order strict: records that wait for an older version of their key.
    Index(
        collection="records",
        name="waiting",
        keys=_keys("stream", "waits_for", "_id"),
        partial={"waits_for": {"$exists": True}},
    ),
    # Mode flag: finished records that have yet to be reported to the source.
    Index(
        collection="records",
        name=TO_ACKNOWLEDGE,
        keys=_keys("stream", "state"),
        partial={"acknowledge": {"$exists": True}},
    ),
    # Records that cleanup keeps because an append-only stream reads their rows again. With their number, cleanup counts
    # the records that it may remove without reading them.
    Index(collection="records", name=KEPT, keys=_keys("stream", "state"), partial={"kept": {"$exists": True}}),
    # Outcomes that have yet to be written back to the source: those due first, and since when they have waited.
    Index(
        collection="records",
        name=TO_WRITE_BACK,
        keys=_keys("stream", "write_back.due_at", "write_back.since"),
        partial={"write_back.due_at": {"$exists": True}},
    ),
    Index(collection="records", name="logged", keys=_keys("logged_at")),
    Index(
        collection="records",
        name="updated",
        keys=_keys("updated_at"),
        partial={"updated_at": {"$exists": True}},
    ),
    # Mode snapshot walks the live rows, cleanup the deleted ones; neither examines the others.
    Index(collection="keys", name="by_operation", keys=_keys("stream", "op", "_id")),
    Index(collection="runs", name="by_stream", keys=_keys("stream", "-started_at")),
    Index(collection="runs", name="started", keys=_keys("started_at")),
    Index(collection="reports", name="by_stream_hour", keys=_keys("stream", "window_start"), unique=True),
    Index(collection="reports", name="by_hour", keys=_keys("window_start")),
    Index(collection="report_days", name="by_day", keys=_keys("day")),
    Index(collection="audit", name="at", keys=_keys("-at")),
)


def create_indexes(database: Database[dict[str, Any]]) -> list[str]:
    """Create missing indexes and return their names, and drop retired ones; safe to repeat, also by several at once."""
    created: list[str] = []
    for collection in sorted({index.collection for index in INDEXES}):
        for attempt in range(_ATTEMPTS):
            try:
                created += [f"{collection}.{name}" for name in _complete(database, collection)]
                break
            except OperationFailure as error:
                # A process of the first version may have created its own index again in between.
                if error.code not in _CONFLICT_CODES or attempt == _ATTEMPTS - 1:
                    raise
    return created


def _complete(database: Database[dict[str, Any]], collection: str) -> list[str]:
    before = _existing(database, collection)
    for retired in [name for where, name in RETIRED if where == collection and name in before]:
        with suppress(OperationFailure):  # Another process was quicker.
            database[collection].drop_index(retired)
    models = [_model(index) for index in INDEXES if index.collection == collection and index.name not in before]
    if not models:
        return []
    documents = database[collection].estimated_document_count()
    if documents > QUICKLY_INDEXED:
        names = sorted(model.document["name"] for model in models)
        log.warning("ledger.indexes", collection=collection, documents=documents, indexes=names)
    # A build on millions of records takes minutes, and the client's own deadline would end it.
    with pymongo.timeout(BUILD_SECONDS):
        return database[collection].create_indexes(models)


def _model(index: Index) -> IndexModel:
    options: dict[str, Any] = {"name": index.name}
    if index.unique:
        options["unique"] = True
    if index.partial:
        options["partialFilterExpression"] = dict(index.partial)
    return IndexModel(list(index.keys), **options)


def _existing(database: Database[dict[str, Any]], collection: str) -> dict[str, Any]:
    return dict(database[collection].index_information())


def compare_indexes(database: Database[dict[str, Any]]) -> list[str]:
    """Return one line for each index that is missing or differs from what it should be."""
    differences: list[str] = []
    existing = {name: _existing(database, name) for name in {index.collection for index in INDEXES}}
    for index in INDEXES:
        actual = existing[index.collection].get(index.name)
        label = f"{index.collection}.{index.name}"
        if actual is None:
            differences.append(f"{label} is missing")
        elif (
            tuple((str(name), int(way)) for name, way in actual["key"]) != index.keys
            or bool(actual.get("unique", False)) != index.unique
            or dict(actual.get("partialFilterExpression", {})) != dict(index.partial)
        ):
            differences.append(f"{label} differs from what it should be")
    return differences
