"""Pieces of MongoDB expressions that several writes share."""

from typing import Any

Doc = dict[str, Any]

HISTORY_LENGTH = 50
ITSELF = "syncctl"
"""Who pauses what refuses the credentials, or is gone."""
IN_FLIGHT_FIELDS = ["lease", "in_flight", "exclusive"]
"""The fields of a record on its way; without them it is on the ground."""
REOPENED: Doc = {"from": "$state", "finished_at": "$finished_at"}
"""What the history entry of a finished record that is opened again says of its end before."""


def or_zero(field: str) -> Doc:
    """Return the expression for a field's number, 0 where it is missing."""
    return {"$ifNull": [f"${field}", 0]}


def grown(entry: Doc, **computed: Any) -> Doc:
    """Return the expression for the history with one entry more, stamped by MongoDB, the oldest beyond the cap dropped.

    Args:
        entry: Taken literally, whatever a partner or a source has put into it.
        computed: Fields that are expressions themselves.
    """
    stamped = {"$mergeObjects": [{"$literal": entry}, {"at": "$$NOW", **computed}]}
    return {"$slice": [{"$concatArrays": [{"$ifNull": ["$history", []]}, [stamped]]}, -HISTORY_LENGTH]}


def paused_by(who: str, reason: str) -> Doc:
    """Return the expression for `paused`: what an operator says stands, whatever syncctl finds later.

    Who says nothing takes back no reason that was given before.
    """
    why = {"$literal": reason} if reason else {"$ifNull": ["$paused.reason", ""]}
    said = {"by": {"$literal": who}, "reason": why, "at": "$$NOW"}
    return {"$ifNull": ["$paused", said]} if who == ITSELF else said
