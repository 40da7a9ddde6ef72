"""Compare a row field by field: as it is in the source now, in its newest version, and as it was delivered."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from syncctl.console.json_documents import to_document
from syncctl.core.column_masks import HIDDEN, Mask
from syncctl.core.json_text import JsonText
from syncctl.core.rows import Row, Value
from syncctl.core.stream import Child, Stream

SIDES = ("source", "newest", "delivered")
DIFFERENCES_AT_MOST = 500
_HASH_DIGITS = 64

Doc = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A field that is not the same on all sides; None stands for NULL, and for a side that lacks the field."""

    #: The path of the field, such as `amount`, `lines[2].quantity` or `attributes.colour`.
    field: str
    source: Any = None
    newest: Any = None
    delivered: Any = None
    #: The sides that have no such field.
    absent_in: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A row as it is in the source now, and its versions in the ledger."""

    stream: str
    key: Mapping[str, Value]
    #: `read`, `gone` (the source has no such row), `unreadable`, `unreachable`, or `not_asked`.
    source: str
    #: Why the source or the row could not be read.
    source_error: str | None = None
    #: The ids of the records; None if the record no longer exists.
    newest: str | None = None
    delivered: str | None = None
    #: Which sides were compared.
    compared: tuple[str, ...] = ()
    differences: tuple[Difference, ...] = field(default=())
    #: Whether more fields differ than are listed.
    more: bool = False


def compare_versions(
    *,
    stream: Stream | None,
    name: str,
    versions: Sequence[Doc],
    delivered_seq: int,
    row: Row | None = None,
    source: str = "not_asked",
    source_error: str | None = None,
) -> Comparison:
    """Return how the row in the source, the newest version and the delivered one differ.

    Args:
        stream: The stream's settings; None if it is no longer configured.
        versions: Every version of the row in the ledger, the newest first.
        delivered_seq: The seq of the newest delivered version; 0 if none was delivered.
        row: The row as it is in the source, masked like every row that is read.
    """
    newest = versions[0]
    delivered = next((version for version in versions if int(version["seq"]) == delivered_seq), None) or next(
        (version for version in versions if version["state"] == "delivered"), None
    )
    sides: dict[str, Mapping[str, Any] | None] = {}
    if row is not None and row.payload is not None:
        sides["source"] = row.payload
    elif source == "gone":
        sides["source"] = {}
    for side, version in (("newest", newest), ("delivered", delivered)):
        if version is not None and (version.get("payload") is not None or version["op"] == "delete"):
            sides[side] = version.get("payload") or {}
    flat = {side: dict(_flatten(payload or {}, stream)) for side, payload in sides.items()}
    differences = list(_compare(flat)) if len(flat) > 1 else []
    return Comparison(
        stream=name,
        key=newest["key"],
        source=source,
        source_error=source_error,
        newest=newest["_id"],
        delivered=delivered["_id"] if delivered is not None else None,
        compared=tuple(side for side in SIDES if side in flat),
        differences=tuple(differences[:DIFFERENCES_AT_MOST]),
        more=len(differences) > DIFFERENCES_AT_MOST,
    )


def _compare(flat: Mapping[str, Mapping[str, Any]]) -> Iterator[Difference]:
    fields = dict.fromkeys(path for values in flat.values() for path in values)
    for path in fields:
        absent = tuple(side for side in SIDES if side in flat and path not in flat[side])
        values = {side: values.get(path) for side, values in flat.items()}
        spelled = {repr(to_document(value)) for value in values.values()}
        if absent or len(spelled) > 1:
            yield Difference(field=path, absent_in=absent, **values)


def _flatten(payload: Mapping[str, Any], stream: Stream | None) -> Iterator[tuple[str, Any]]:
    if stream is None:
        yield from _flatten_row("", payload, ())
    else:
        yield from _flatten_row("", hide_masked(payload, stream), stream.children)


def _flatten_row(prefix: str, payload: Mapping[str, Any], children: Sequence[Child]) -> Iterator[tuple[str, Any]]:
    """Yield every field below a row with its path."""
    by_name = {child.name: child for child in children}
    for name, value in payload.items():
        path = f"{prefix}{name}"
        if name in by_name:
            yield from _flatten_children(path, value, by_name[name])
        else:
            yield from _flatten_value(path, value)


def _flatten_children(path: str, value: Any, child: Child) -> Iterator[tuple[str, Any]]:
    rows = value if isinstance(value, list | tuple) else [value]
    names = [_name_child(row, child) for row in rows]
    has_names = None not in names and len(set(names)) == len(names)
    for at, row in enumerate(rows):
        place = path if child.one else f"{path}[{names[at] if has_names else at + 1}]"
        if isinstance(row, Mapping):
            yield from _flatten_row(f"{place}.", row, child.children)
        else:
            yield place, row


def _name_child(row: Any, child: Child) -> str | None:
    """Return a name that distinguishes a child row from the others: its values in the columns that order them."""
    if not child.sort or not isinstance(row, Mapping) or any(name not in row for name in child.sort):
        return None
    return ",".join(f"{name}={row[name]}" for name in child.sort)


def _flatten_value(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, JsonText):
        parsed = value.parse()
        value = parsed if isinstance(parsed, dict | list) else value
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _flatten_value(f"{path}.{name}", inner)
    elif isinstance(value, list | tuple) and value:
        for at, inner in enumerate(value):
            yield from _flatten_value(f"{path}[{at + 1}]", inner)
    else:
        yield path, value


def hide_masked(payload: Mapping[str, Any], stream: Stream) -> dict[str, Any]:
    """Return a payload to show: values that were logged before their column was masked are hidden, in children too."""
    return _hide_row(payload, stream.mask, stream.children)


def _hide_row(row: Mapping[str, Any], masks: Mapping[str, Mask], children: Sequence[Child]) -> dict[str, Any]:
    by_name = {child.name: child for child in children}
    hidden: dict[str, Any] = {}
    for name, value in row.items():
        if name in by_name:
            hidden[name] = _hide_children(value, by_name[name])
        else:
            hidden[name] = keep_masked(value, masks[name]) if name in masks else value
    return hidden


def _hide_children(value: Any, child: Child) -> Any:
    if isinstance(value, list | tuple):
        return [_hide_children(row, child) for row in value]
    return _hide_row(value, child.mask, child.children) if isinstance(value, Mapping) else value


def keep_masked(value: Any, mask: Mask) -> Any:
    """Return a value of a masked column, hidden if it was logged before the column was masked."""
    if value is None:
        return None
    text = str(value)
    if mask == "last4" and text.startswith(HIDDEN):
        return value
    is_hash = len(text) == _HASH_DIGITS and set(text) <= set("0123456789abcdef")
    return value if mask == "hash" and is_hash else HIDDEN
