"""Pauses in the documents of streams and partners. Those that syncctl began let one record probe whether they may end.

Every change is one write, judged by MongoDB's clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pymongo.collection import Collection

from syncctl.core.stream import BreakerRules
from syncctl.ledger.expressions import SYNCCTL, doubled_pause_ms, in_future, is_pause_over, or_zero, paused_by
from syncctl.ledger.mongo_client import edge

Doc = dict[str, Any]
_IS_DUE: Doc = {"$and": [
    # A pause of an older version has no `until`: its probe is due at once.
    {"$lte": ["$paused.until", "$$NOW"]},
    {"$not": [{"$gt": ["$paused.probe.until", "$$NOW"]}]},
]}  # fmt: skip
HOLD_FIELDS: Doc = {"paused": True, "is_pause_probe_due": _IS_DUE, "is_pause_over": is_pause_over()}
"""The fields of a document that `read_hold` needs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hold:
    """Whether a stream or a partner is paused, and whether a record may probe."""

    paused: bool = False
    #: An operator has paused it: nothing is sent, not even a probe.
    by_operator: bool = False
    #: The batch that probes; None while none does.
    probe: str | None = None
    is_probe_due: bool = False
    #: The record that probed last; another one probes next.
    last_probe: str | None = None

    @property
    def is_fresh_probe_due(self) -> bool:
        """Whether a record that was never sent may probe; a pause makes no difference between records."""
        return self.is_probe_due

    def admits(self, token: str) -> bool:
        """Tell whether a batch may make its calls."""
        return not self.paused or (not self.by_operator and self.probe == token)


def read_hold(found: Mapping[str, Any]) -> Hold:
    """Return the pause in a document, and whether a record may probe."""
    paused = found.get("paused")
    if paused is None or found.get("is_pause_over"):
        return Hold()
    by_operator = paused.get("by") != SYNCCTL
    return Hold(
        paused=True,
        by_operator=by_operator,
        probe=paused.get("probe", {}).get("token"),
        is_probe_due=not by_operator and bool(found.get("is_pause_probe_due")),
        last_probe=paused.get("last_probe"),
    )


def find_pause(document: Mapping[str, Any], now: datetime, *, field: str = "paused") -> Mapping[str, Any] | None:
    """Return the pause in a document, with who began it, when, and why; None if there is none, or if it is over."""
    paused: Mapping[str, Any] | None = document.get(field)
    ends_at: datetime | None = (paused or {}).get("ends_at")
    return None if ends_at is not None and ends_at <= now else paused


class Holds:
    """The pauses in the documents of one collection: those of the streams, or of the partners.

    Args:
        new: The fields of a new document.
    """

    def __init__(self, documents: Collection[Doc], hosts: str, *, new: Mapping[str, Any] | None = None) -> None:
        self._documents = documents
        self._new = new or {}
        self.hosts = hosts

    @edge
    def ensure(self, name: str, /) -> bool:
        """Create the document where there is none, and return whether there was none; safe to repeat."""
        made = self._documents.update_one({"_id": name}, {"$setOnInsert": self._new}, upsert=True)
        return made.upserted_id is not None

    @edge
    def pause(
        self,
        name: str,
        /,
        *,
        who: str,
        reason: str,
        ends_at: datetime | None = None,
        probe_after_seconds: float = 0.0,
    ) -> None:
        """Send nothing more; rows are still logged. A pause by syncctl never replaces an operator's.

        Args:
            ends_at: When an operator's pause ends by itself; None: never.
            probe_after_seconds: When a pause by syncctl is first probed.
        """
        self.ensure(name)
        paused = paused_by(who, reason, ends_at=ends_at, probe_after_seconds=probe_after_seconds)
        self._documents.update_one({"_id": name}, [{"$set": {"paused": paused}}])

    @edge
    def resume(self, name: str, /) -> bool:
        """Send again; False when there was no pause."""
        return self._end({"_id": name, "paused": {"$exists": True}}, {"back_at": "$$NOW"})

    @edge
    def end_over(self, name: str, /) -> bool:
        """End a pause whose time is over; False if there is none. Safe to repeat: one of several processes ends it."""
        over = {"paused.ends_at": {"$type": "date"}, "$expr": is_pause_over()}
        return self._end({"_id": name, **over}, {"back_at": "$$NOW"})

    @edge
    def acquire_probe(self, name: str, /, *, token: str, record: str, seconds: float) -> bool:
        """Take the right to probe whether syncctl's own pause may end; one record probes at a time."""
        query = {"_id": name, "paused.by": SYNCCTL, "$expr": _IS_DUE}
        probe = {"paused.probe": {"token": token, "until": in_future(seconds)}, "paused.last_probe": record}
        return self._documents.update_one(query, [{"$set": probe}]).matched_count == 1

    @edge
    def release_probe(self, name: str, /, *, token: str) -> None:
        """Let another record probe: this batch made no call."""
        self._documents.update_one({"_id": name, "paused.probe.token": token}, {"$unset": {"paused.probe": True}})

    @edge
    def end_by_probe(self, name: str, /, *, token: str) -> bool:
        """End a pause, because its probe was accepted: only the pause that it probed, never an operator's."""
        probed = {"_id": name, "paused.by": SYNCCTL, "paused.probe.token": token}
        return self._end(probed, {"back_at": "$$NOW", "accepted_at": "$$NOW"})

    @edge
    def extend_pause(
        self, name: str, /, *, token: str, reason: str, rules: BreakerRules, rest_seconds: float | None
    ) -> None:
        """Keep a pause after a probe that did not end it: the next one comes later, up to a limit.

        Args:
            reason: The outcome of the probe; empty if it says nothing about the pause's cause.
            rest_seconds: The delay that the partner asked for with `Retry-After`.
        """
        times = {"$add": [or_zero("paused.times"), 1]}
        wait: Any = {"$min": [round(rules.longest_open_seconds * 1000), doubled_pause_ms(rules, times)]}
        if rest_seconds is not None:
            wait = {"$max": [wait, round(rest_seconds * 1000)]}
        changes: Doc = {"paused.times": times, "paused.until": {"$add": ["$$NOW", wait]}}
        if reason:
            changes["paused.reason"] = {"$literal": reason}
        query = {"_id": name, "paused.by": SYNCCTL, "paused.probe.token": token}
        self._documents.update_one(query, [{"$set": changes}, {"$unset": "paused.probe"}])

    def _end(self, query: Doc, changes: Doc) -> bool:
        stages: list[Doc] = [{"$set": changes}, {"$unset": ["paused", "refusals"]}]
        return self._documents.update_one(query, stages).modified_count == 1
