"""The migrations of the ledger, in order: each one brings stored documents to the form of the next version.

Documents that readers understand in their older form are left as they are; migrations are for those that they do not.
Each migration is safe to repeat, to kill and to run twice at once, and safe while processes of the version before it
continue, unless it says that those must have ended.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pymongo import UpdateOne
from pymongo.database import Database

from syncctl.core.states import State
from syncctl.ledger.expressions import is_past
from syncctl.ledger.heartbeats import Heartbeats
from syncctl.ledger.indexes import TOO_OLD
from syncctl.ledger.mongo_client import new_token, update_many_safely, write_but_duplicates

Doc = dict[str, Any]

BATCHES_AT_ONCE = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Advance:
    """The result of one step of a migration."""

    changed: int
    #: How many documents are left to change.
    left: int
    #: The processes or calls whose end the rest waits for; empty if it waits for none.
    waits_for: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Migration:
    """The way from one version of the ledger to the next."""

    #: The version that it leads to.
    version: int
    title: str
    #: The oldest version whose processes may still use the ledger. Before the first step, older processes begin to be
    #: refused, and the migration waits until none runs.
    oldest: int
    #: Returns how many documents are to be changed.
    count: Callable[[Database[Doc]], int]
    #: Changes some of them, in a second or less.
    advance: Callable[[Database[Doc]], Advance]


_IN_FLIGHT: Doc = {"in_flight": True}
_SENDING: Doc = {**_IN_FLIGHT, "state": State.SENDING.value}
_FIELDS = ["in_flight", "exclusive"]


def _count_in_flight(database: Database[Doc]) -> int:
    # Without a hint: before the upgrade, the index has another name, or there is none.
    return database["records"].count_documents(_IN_FLIGHT)


def _take_over(database: Database[Doc]) -> Advance:
    """Take over records that the first version had in flight, each under its own lease instead of a batch's.

    Queued records become due at once, because the message that was to send them no longer claims anything. Records that
    were being sent become batches whose process is gone, which any worker brings back as usual.
    """
    records = database["records"]
    queued = {**_IN_FLIGHT, "state": {"$ne": State.SENDING.value}}
    is_queued = {"$eq": ["$state", State.QUEUED.value]}
    due = {"state": {"$cond": [is_queued, State.PENDING.value, "$state"]}}
    changed = update_many_safely(records, queued, [{"$set": due}, {"$unset": [*_FIELDS, "lease"]}], hint=TOO_OLD)
    writers = [
        str(worker["_id"]) for worker in Heartbeats(database, "").load_workers() if "ledger" not in worker
    ]  # fmt: skip
    # A live worker will write the outcomes of its calls itself, for as long as its leases last.
    abandoned = {**_SENDING, **is_past("lease.until")} if writers else _SENDING
    group = {
        "_id": {"stream": "$stream", "token": "$lease.token"},
        "ids": {"$push": "$_id"},
        "worker": {"$first": "$lease.worker"},
        "until": {"$max": "$lease.until"},
    }
    stages: list[Doc] = [{"$match": abandoned}, {"$group": group}, {"$limit": BATCHES_AT_ONCE}]
    for old_lease in records.aggregate(stages, hint=TOO_OLD):
        changed += _make_batch(database, old_lease)
    left = records.count_documents(_IN_FLIGHT, hint=TOO_OLD)
    waits_for = f"the calls of {', '.join(writers)}" if writers and left else ""
    return Advance(changed=changed, left=left, waits_for=waits_for)


def _make_batch(database: Database[Doc], old_lease: Doc) -> int:
    """Give the records of one lease to a batch with a new token, so that no late outcome sets their state."""
    token, ids = new_token(), list(old_lease["ids"])
    lease = {"token": token, "worker": {"$literal": old_lease["worker"]}, "at": {"$ifNull": ["$due_at", "$logged_at"]}}
    changes: Doc = {
        "in_flight_key": {"$cond": [{"$eq": ["$exclusive", True]}, "$key_id", "$_id"]},
        "in_flight_retry": {"$cond": [{"$eq": ["$fresh", False]}, True, "$$REMOVE"]},
        "lease": lease,
    }
    batch = {"stream": old_lease["_id"]["stream"], "worker": old_lease["worker"], "ids": ids, "begun": ids}
    database["batches"].insert_one({"_id": token, **batch, "until": old_lease["until"]})
    guard = {**_SENDING, "lease.token": old_lease["_id"]["token"]}
    update: list[Doc] = [{"$set": changes}, {"$unset": _FIELDS}]
    # A record whose key has another version in flight is taken over later (invariant 5).
    return write_but_duplicates(database["records"], [UpdateOne({"_id": record, **guard}, update) for record in ids])


def _select_unended(database: Database[Doc]) -> Doc:
    """Return the filter for entries from before ends were noted: they are older than the first entry with an end."""
    first = database["audit"].find_one({"ended_at": {"$exists": True}}, {"at": True}, sort=[("at", 1)])
    earlier: Doc = {"ended_at": {"$exists": False}, "action": {"$ne": "upgrade"}}
    return {**earlier, **({"at": {"$lt": first["at"]}} if first is not None else {})}


def _count_unended(database: Database[Doc]) -> int:
    return database["audit"].count_documents(_select_unended(database))


def _end_entries(database: Database[Doc]) -> Advance:
    """Note the end of operations whose entries were written only after they had ended."""
    ended: list[Doc] = [{"$set": {"ended_at": "$at", "error": None}}]
    return Advance(changed=update_many_safely(database["audit"], _select_unended(database), ended), left=0)


MIGRATIONS: tuple[Migration, ...] = (
    Migration(
        version=1,
        title="records in flight belong to batches",
        # Processes from before there were versions never check it. An index (`indexes.py:TOO_OLD`) keeps those of the
        # first version from records in flight; later ones do no harm.
        oldest=0,
        count=_count_in_flight,
        advance=_take_over,
    ),
    Migration(
        version=2,
        title="operations in the audit log have an end",
        oldest=0,
        count=_count_unended,
        advance=_end_entries,
    ),
)
VERSION = MIGRATIONS[-1].version
"""The version of the ledger that this syncctl writes."""
