"""Records as lines of an archive: MongoDB's relaxed Extended JSON, exact to the last digit; `mongoimport` reads it."""

from collections.abc import Mapping
from datetime import UTC
from typing import Any

from bson.errors import BSONError
from bson.json_util import RELAXED_JSON_OPTIONS, JSONOptions, dumps, loads

from syncctl.ledger.codec import decode_values, escape_operators

Doc = dict[str, Any]
_READING: JSONOptions = RELAXED_JSON_OPTIONS.with_options(tz_aware=True, tzinfo=UTC)


def to_line(document: Mapping[str, Any]) -> bytes:
    """Return the line of a stored record, its id first.

    A column may have the name of a type of Extended JSON, such as `$date`, so objects with such names become pairs.
    """
    escaped = {"_id": document["_id"], **{name: escape_operators(value) for name, value in document.items()}}
    return dumps(escaped, json_options=RELAXED_JSON_OPTIONS).encode() + b"\n"


def begin_line(record_id: str) -> bytes:
    """Return the beginning of the line of any record whose id begins with this text."""
    return dumps({"_id": record_id}, json_options=RELAXED_JSON_OPTIONS).encode()[:-2]


def read_line(line: bytes) -> Doc | None:
    """Return the record of a line, its key and its row decoded; None if the line is not a record."""
    try:
        document = loads(line, json_options=_READING)
        payload = document["payload"]
        return {
            **document,
            "key": decode_values(document["key"]),
            "payload": None if payload is None else decode_values(payload),
            "state": str(document["state"]),
            "stream": str(document["stream"]),
            "_id": str(document["_id"]),
            "finished_at": document["finished_at"].astimezone(UTC),
        }
    except (ValueError, TypeError, KeyError, AttributeError, BSONError, RecursionError, ArithmeticError):
        return None
