"""The history of a record: its newest entries in full, and the earlier ones as counts by hour (invariant 4).

Reports are made from both, so that no event is lost to the bound. A record has counts only once its history is full;
before that, writing an outcome costs nothing more.
"""

from typing import Any

from syncctl.core.histogram import LN_GROWTH
from syncctl.core.states import State

Doc = dict[str, Any]

HISTORY_LENGTH = 50
SLICE_MINUTES = 5
"""The length of a slice of an hour. Reports also count outcomes by slice, from the newest entries alone."""
FIRST_DELIVERY = "first_delivery"
"""The action of the event that carries the time from logged to delivered."""

REOPENED: Doc = {"from": "$state", "finished_at": "$finished_at"}
"""The fields of a reopened record's entry that keep how and when the record had finished."""


def grown(entry: Doc, **computed: Any) -> Doc:
    """Return the changes that add an entry to the history, stamped by MongoDB.

    Args:
        entry: Taken literally, whatever text of a partner or a source it contains.
        computed: Fields whose values are expressions.
    """
    return appended({"$mergeObjects": [{"$literal": entry}, {"at": "$$NOW", **computed}]})


def appended(entry: Doc) -> Doc:
    """Return the changes that add an entry, itself an expression; without room for it, the oldest becomes a count."""
    history = {"$ifNull": ["$history", []]}
    return {
        "history": {"$slice": [{"$concatArrays": [history, [entry]]}, -HISTORY_LENGTH]},
        "earlier": {"$cond": [{"$lt": [{"$size": history}, HISTORY_LENGTH]}, "$earlier", _COUNTED]},
    }


def truncate_hour(at: str) -> Doc:
    """Return the expression for the full hour at or before a time."""
    return {"$dateTrunc": {"date": at, "unit": "hour"}}


def bucket_expression(duration_ms: Any) -> Doc:
    """Return the expression for `core/histogram.py:bucket_of` of a duration."""
    return {"$floor": {"$divide": [{"$ln": {"$max": [duration_ms, 0.1]}}, LN_GROWTH]}}


def _describe_event(entry: str) -> Doc:
    """Return the expression for the parts of an entry that reports distinguish; the entry is a variable or a path."""
    bucket = bucket_expression(f"{entry}.latency_ms")
    return {
        "hour": truncate_hour(f"{entry}.at"),
        "action": f"{entry}.action",
        "state": f"{entry}.state",
        "from": f"{entry}.from",
        "finished_hour": truncate_hour(f"{entry}.finished_at"),
        "again": {"$ifNull": [f"{entry}.retry", {"$gt": [f"{entry}.n", 1]}]},
        "fingerprint": f"{entry}.fingerprint",
        "bucket": {"$cond": [{"$eq": [f"{entry}.action", "attempt"]}, bucket, None]},
    }


_EARLIER: Doc = {"$ifNull": ["$earlier", []]}
_IS_SAME: Doc = {"$eq": ["$$this.event", "$$event"]}
_MERGED: Doc = {"$let": {
    "vars": {"event": _describe_event("$$oldest")},
    "in": {"$concatArrays": [
        {"$filter": {"input": _EARLIER, "cond": {"$not": _IS_SAME}}},
        [{
            "event": "$$event",
            "count": {"$add": [1, {"$sum": {"$map": {
                "input": {"$filter": {"input": _EARLIER, "cond": _IS_SAME}}, "in": "$$this.count",
            }}}]},
            "error": "$$oldest.error",
            "status": "$$oldest.status",
        }],
    ]},
}}  # fmt: skip
_COUNTED: Doc = {"$let": {"vars": {"oldest": {"$first": "$history"}}, "in": _MERGED}}
"""The counts with the oldest entry of the history added: one element for each hour and kind of event."""

_DELIVERED = State.DELIVERED.value
_FIRST_DELIVERED_AT: Doc = {"$min": {"$map": {
    "input": {"$filter": {"input": {"$ifNull": ["$history", []]}, "cond": {"$eq": ["$$this.state", _DELIVERED]}}},
    "in": "$$this.at",
}}}  # fmt: skip
_FIRST_DELIVERY: Doc = {"$let": {
    "vars": {"at": _FIRST_DELIVERED_AT},
    "in": {"$cond": [
        {"$or": [{"$eq": ["$$at", None]}, {"$in": [_DELIVERED, {"$ifNull": ["$earlier.event.state", []]}]}]},
        [],
        [{
            "event": {
                "hour": truncate_hour("$$at"),
                "action": FIRST_DELIVERY,
                "bucket": bucket_expression({"$subtract": ["$$at", "$logged_at"]}),
            },
            "count": 1,
        }],
    ]},
}}  # fmt: skip
"""The time from logged to delivered, once for each record: one that is sent again had reached the partner before."""

EVENTS: Doc = {"$concatArrays": [
    {"$map": {"input": {"$ifNull": ["$history", []]}, "in": {
        "event": _describe_event("$$this"), "count": 1, "error": "$$this.error", "status": "$$this.status",
        "slice": {"$floor": {"$divide": [{"$minute": "$$this.at"}, SLICE_MINUTES]}},
    }}},
    _EARLIER,
    _FIRST_DELIVERY,
]}  # fmt: skip
"""The expression for all events of a record, those of its history and those that it counts, and its first delivery."""
