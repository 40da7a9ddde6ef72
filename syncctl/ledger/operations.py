"""Operations on records that are not in flight: supersede, replay, discard and remove them."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from pymongo import UpdateOne
from pymongo.collection import Collection
from pymongo.database import Database

from syncctl.core.outcome import GONE_STATUSES, Verdict
from syncctl.core.states import TERMINAL, State
from syncctl.ledger.attempt_history import REOPENED, grown
from syncctl.ledger.expressions import SYNCCTL, or_absent, or_zero
from syncctl.ledger.indexes import KEPT, TO_ACKNOWLEDGE, TO_WRITE_BACK
from syncctl.ledger.mongo_client import edge, update_many_safely
from syncctl.ledger.records import LARGE_ROW_BYTES
from syncctl.ledger.write_backs import WRITE_BACK, marked_if

Doc = dict[str, Any]
TAKEN_BACK_AT_ONCE = 1000
UNTRIED_KEPT = timedelta(days=30)
"""How long after the last try a record is kept whose outcome the source does not have, beyond the usual retention."""
_ACKNOWLEDGED_AGAIN: Doc = {"$cond": [
    {"$eq": ["$acknowledged.ending", "failed"]},
    {"version": "$acknowledged.version"},
    or_absent("acknowledge"),
]}  # fmt: skip
"""In mode flag, a failure that was reported to the source is followed by a report of how the next attempt ends."""


def _superseded(by: str) -> Doc:
    """Return the changes that make a record superseded by a newer one."""
    now = dict.fromkeys(("superseded_at", "finished_at", "updated_at"), "$$NOW")
    return {"state": State.SUPERSEDED.value, "superseded_by": by, **now}


def _finished_before(stream: str, state: State, before: datetime) -> Doc:
    if state not in TERMINAL:
        raise ValueError(f"{state} is not a terminal state")
    return {"stream": stream, "state": state.value, "finished_at": {"$lt": before}}


def _list_kept(state: State, before: datetime) -> list[tuple[str, Doc]]:
    """Return the conditions under which cleanup keeps a finished record of any age, each with the index for it."""
    tried = {"$gte": before - UNTRIED_KEPT}
    kept: list[tuple[str, Doc]] = [
        (KEPT, {"kept": {"$exists": True}}),
        # The source does not have its outcome yet, which `doctor` reports: kept until polls have stopped trying.
        (TO_WRITE_BACK, {f"{WRITE_BACK}.due_at": tried}),
    ]
    if state is State.DELIVERED:
        # In mode flag: it has yet to be reported to the source.
        kept.append((TO_ACKNOWLEDGE, {"acknowledge": {"$exists": True}}))
    elif state in (State.FAILED, State.DISCARDED):
        # The source refuses the report of it, which `doctor` reports: kept until polls have stopped trying.
        refused = {"acknowledge.error": {"$exists": True}, "acknowledge.due_at": tried}
        kept.append((TO_ACKNOWLEDGE, {"acknowledge": {"$exists": True}, **refused}))
    return kept


class Operations:
    """Every change is guarded by the state: a record whose state has changed since it was read stays as it is."""

    def __init__(self, database: Database[Doc], hosts: str) -> None:
        self._records: Collection[Doc] = database["records"]
        self.hosts = hosts

    @edge
    def supersede(self, overtaken: Iterable[tuple[str, int, str]]) -> int:
        """Mark pending records (id, seq, the newer record's id) superseded; return how many.

        A record whose seq was raised since it was judged is by now the newest of its key, and stays as it is.
        """
        writes = [
            UpdateOne(
                {"_id": record, "seq": seq, "state": State.PENDING.value},
                [
                    {"$set": _superseded(by)}, {"$unset": ["due_at", "waits_for", "acknowledge", WRITE_BACK]},
                ],
            )
            for record, seq, by in overtaken
        ]  # fmt: skip
        return self._records.bulk_write(writes, ordered=False).modified_count if writes else 0

    @edge
    def supersede_failed(self, newer: Mapping[str, str]) -> int:
        """Mark failed records (id → the newer record's id) superseded; return how many. Safe to repeat."""
        writes = [
            UpdateOne(
                {"_id": record, "state": State.FAILED.value},
                [
                    {"$set": {**grown({"action": "superseded", "by": by}, **REOPENED), **_superseded(by)}},
                    {"$unset": ["failed_at", "acknowledge", WRITE_BACK]},
                ],
            )
            for record, by in newer.items()
        ]  # fmt: skip
        return self._records.bulk_write(writes, ordered=False).modified_count if writes else 0

    @edge
    def replay(self, ids: Iterable[str], *, states: Sequence[str], who: str, new_key: bool = False) -> int:
        """Make finished records due now; return how many.

        A record that was delivered before takes a new `Idempotency-Key`: the partner would ignore the old one.

        Args:
            new_key: All other records take a new one too.
        """
        was_delivered = {"$ne": [{"$type": "$delivered_at"}, "missing"]}
        changes = {
            **grown({"action": "replayed", "by": who}, **REOPENED),
            "generation": {"$add": [or_zero("generation"), 1 if new_key else {"$cond": [was_delivered, 1, 0]}]},
            "replays": {"$add": [or_zero("replays"), 1]},
            "state": State.PENDING.value,
            "fresh": True,
            "attempts_before": or_zero("claims"),
            "tries": 0,
            "losses": 0,
            "due_at": "$$NOW",
            "updated_at": "$$NOW",
            "acknowledge": _ACKNOWLEDGED_AGAIN,
        }
        gone = [
            "finished_at",
            "delivered_at",
            "failed_at",
            "superseded_at",
            "discarded_at",
            "superseded_by",
            "error",
            "reason",
            "refused",
            "solo",
            "rows_at_most",
            WRITE_BACK,
        ]
        return self._change(ids, states, [{"$set": changes}, {"$unset": gone}])

    @edge
    def make_due(self, record: str) -> None:
        """Make a pending record due now that waits for its next attempt. Safe to repeat."""
        waits = {"_id": record, "state": State.PENDING.value, "due_at": {"$type": "date"}}
        self._records.update_one({**waits, "$expr": {"$gt": ["$due_at", "$$NOW"]}}, [{"$set": {"due_at": "$$NOW"}}])

    @edge
    def take_back_refused(self, stream: str, *, status: int | None, since: datetime) -> int:
        """Make the records due again that failed in a run of refusals; return how many. Safe to repeat.

        Args:
            status: The status that they were refused with.
            since: When the run began.
        """
        failed = {"stream": stream, "state": State.FAILED.value, "error.status": status}
        return self._take_back({**failed, "finished_at": {"$gte": since}})

    @edge
    def take_back_gone(self, stream: str, *, since: datetime) -> int:
        """Make the deletes due again that were done because their rows are gone; return how many. Safe to repeat.

        Args:
            since: When the first of them was answered.
        """
        statuses = {"$in": sorted(GONE_STATUSES)}
        gone = {"action": "attempt", "outcome": Verdict.ACCEPTED.value, "status": statuses, "at": {"$gte": since}}
        done = {"stream": stream, "state": State.DELIVERED.value, "op": "delete", "history": {"$elemMatch": gone}}
        return self._take_back({**done, "finished_at": {"$gte": since}})

    def _take_back(self, query: Doc) -> int:
        changes = {
            **grown({"action": "taken_back", "by": SYNCCTL}, **REOPENED),
            "state": State.PENDING.value,
            "fresh": False,
            "refused": True,
            "tries": {"$max": [0, {"$subtract": [or_zero("tries"), 1]}]},
            "due_at": "$$NOW",
            "updated_at": "$$NOW",
            "acknowledge": _ACKNOWLEDGED_AGAIN,
        }
        taken_back = 0
        # In pages, because a run may not fit in memory; records that are due again no longer match the query.
        while records := list(self._records.find(query, {"_id": True}, limit=TAKEN_BACK_AT_ONCE, hint="finished")):
            ids = [record["_id"] for record in records]
            taken_back += self._change(
                ids, [query["state"]], [{"$set": changes}, {"$unset": ["finished_at", "failed_at", WRITE_BACK]}]
            )
        return taken_back

    @edge
    def discard(
        self, ids: Iterable[str], *, states: Sequence[str], who: str, reason: str, written_back: Sequence[str] = ()
    ) -> int:
        """Give records up, with a reason; return how many.

        Args:
            written_back: The streams whose outcomes are written back into the source.
        """
        changes = {
            **grown({"action": "discarded", "by": who, "reason": reason}, **{"from": "$state"}),
            "state": State.DISCARDED.value,
            "reason": {"$literal": reason},
            "discarded_at": "$$NOW",
            "finished_at": "$$NOW",
            "updated_at": "$$NOW",
            WRITE_BACK: marked_if({"$in": ["$stream", list(written_back)]}),
        }
        return self._change(ids, states, [{"$set": changes}, {"$unset": ["due_at", "waits_for"]}])

    def _change(self, ids: Iterable[str], states: Sequence[str], changes: list[Doc]) -> int:
        guard = {"_id": {"$in": list(ids)}, "state": {"$in": list(states)}}
        return update_many_safely(self._records, guard, changes)

    def finished_before(self, stream: str, state: State, before: datetime) -> Doc:
        """Return the query for the records of a stream and state, finished before a time, that cleanup removes."""
        kept = [condition for _, condition in _list_kept(state, before)]
        return {**_finished_before(stream, state, before), "$nor": kept}

    @edge
    def count_finished(self, stream: str, state: State, before: datetime) -> int:
        """Return how many records a cleanup would remove; reads only those that it keeps."""
        finished = _finished_before(stream, state, before)
        count = self._records.count_documents
        removed, counted = count(finished, hint="finished"), list[Doc]()
        for index, condition in _list_kept(state, before):
            # A record that meets several conditions is counted once.
            others = {"$nor": list(counted)} if counted else {}
            removed -= count({**finished, **condition, **others}, hint=index)
            counted.append(condition)
        return removed

    @edge
    def has_finished(self, stream: str, state: State, before: datetime) -> bool:
        """Return whether a cleanup would remove any record."""
        query = self.finished_before(stream, state, before)
        return self._records.find_one(query, {"_id": True}, hint="finished") is not None

    @edge
    def load_finished(
        self, stream: str, state: State, before: datetime, *, limit: int, bytes_at_most: int
    ) -> list[Mapping[str, Any]]:
        """Return whole records that a cleanup would remove, the oldest first, up to a number of records and of bytes.

        At least one if there is any, even if it is larger.
        """
        query = self.finished_before(stream, state, before)
        documents: list[Mapping[str, Any]] = []
        size = 0
        with self._records.find(
            query, sort=[("finished_at", 1)], limit=limit, batch_size=100, hint="finished"
        ) as cursor:
            for document in cursor:
                # A record states its size only if its row is large.
                size += int(document.get("size", LARGE_ROW_BYTES)) + len(document.get("history", ())) * 1000
                if documents and size > bytes_at_most:
                    break
                documents.append(document)
        return documents

    @edge
    def remove_finished(
        self, stream: str, state: State, before: datetime, *, limit: int, ids: Sequence[str] | None = None
    ) -> int:
        """Remove at most `limit` finished records, the oldest first; return how many. Their keys stay.

        Args:
            ids: Only these; one that is no longer finished stays.
        """
        if ids is None:
            query = self.finished_before(stream, state, before)
            records = self._records.find(query, {"_id": True}, sort=[("finished_at", 1)], limit=limit, hint="finished")
            ids = [record["_id"] for record in records]
        if not ids:
            return 0
        return self._records.delete_many(
            {"_id": {"$in": list(ids)}, "state": state.value, "finished_at": {"$lt": before}}
        ).deleted_count
