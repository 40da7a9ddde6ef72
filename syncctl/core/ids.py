"""Deterministic names of keys, records and contents."""

import hashlib
import json
from collections.abc import Callable, Mapping
from decimal import Decimal
from json.encoder import c_make_encoder, encode_basestring_ascii  # type: ignore[attr-defined]

from syncctl.core.json_text import JsonText
from syncctl.core.rows import Operation, Value

_EPOCH_BITS = 32


def _tag(value: Value) -> object:
    """Make values of different types differ: 1, "1", 1.0 and Decimal("1") are four different contents."""
    if isinstance(value, Decimal):
        return {"d": str(value)}
    if isinstance(value, float):
        return {"f": repr(value)}
    if isinstance(value, JsonText):
        return {"j": value.text}
    if isinstance(value, dict):
        return {"o": value}
    return value


def canonical_text(values: Mapping[str, Value]) -> str:
    """Return one text per content, whatever the order of the columns."""
    tagged = {name: _tag(value) if type(value) in _TAGGED else value for name, value in values.items()}
    return _to_json(tagged)


def _make_encoder() -> Callable[[object], str]:
    """Return the JSON encoder of the standard library, made once: `json.dumps` makes one for each call."""
    if c_make_encoder is None:
        return json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=_tag_inner).encode
    encode = c_make_encoder(None, _tag_inner, encode_basestring_ascii, None, ":", ",", True, False, True)
    return lambda value: "".join(encode(value, 0))


def _tag_inner(value: object) -> object:
    """Return an exact value within a list or object as a list; it stays distinct, as all other lists hold objects."""
    if isinstance(value, Decimal):
        return ["d", str(value)]
    if isinstance(value, JsonText):
        return ["j", value.text]
    raise TypeError(f"{type(value).__name__} has no JSON form")


_TAGGED = frozenset({Decimal, float, JsonText, dict})
_to_json = _make_encoder()


def _digest(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def key_id(key: Mapping[str, Value]) -> str:
    """Name a row within its stream (32 hex digits)."""
    return _digest("key", canonical_text(key))


def show_key(key: Mapping[str, object]) -> str:
    """Return a key as people write it: `order_id=5,line=2`."""
    return ",".join(f"{name}={value}" for name, value in key.items())


def content_hash(payload: Mapping[str, Value] | None, op: Operation, error: str | None = None) -> str:
    """Name a content: equal for equal rows, different when any value, type or column name differs."""
    return _digest("content", op, canonical_text(payload or {}), error or "")


def record_id(stream: str, key: str, version: str) -> str:
    """Name a record, and so its `Idempotency-Key`: the same row in the same version gets the same name.

    Args:
        stream: The stream's name, which begins the id so that people recognize it.
        key: The result of `key_id`.
        version: The source's own version, or the result of `chained_version`.
    """
    return f"{stream}-{_digest('record', stream, key, version)}"


def chained_version(previous: str, content: str) -> str:
    """Name a version of a row whose source keeps none: by its content, chained on the version before.

    A row that goes A → B → A is three versions, because each is chained on another one. Two polls that find the same
    change give it the same name, whatever else they have written about the row.

    Args:
        previous: The id of the record before; empty for the first.
    """
    return f"{previous.rpartition('-')[2] or '0'}.{content}"


def make_seq(epoch: int, position: int) -> int:
    """Return the number that decides which version is newer: the poll lease's epoch, then the position within it."""
    if not (0 <= epoch < 2**31 and 0 <= position < 2**_EPOCH_BITS):
        raise ValueError(f"epoch {epoch} or position {position} is out of range")
    return epoch << _EPOCH_BITS | position


def epoch_of(seq: int) -> int:
    """Return the epoch of the poll lease under which a seq was given."""
    return seq >> _EPOCH_BITS


def format_seq(seq: int) -> str:
    """Show a seq as people read it: `epoch.position`."""
    return f"{epoch_of(seq)}.{seq & (2**_EPOCH_BITS - 1)}"
