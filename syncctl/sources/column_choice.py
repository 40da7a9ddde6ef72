"""Choose the columns of a stream that are read and those that are sent, and convert their values for the payload."""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass

from syncctl.core.column_masks import Mask, mask_value
from syncctl.core.json_text import NotJson, read_json
from syncctl.core.rows import Value
from syncctl.core.spelling import suggest
from syncctl.core.stream import Stream
from syncctl.errors import ConfigurationError
from syncctl.sources.catalog.relation import Column, Kind, Relation, find_name
from syncctl.sources.cursor import Raw
from syncctl.sources.dialect import Dialect
from syncctl.sources.instants import add_offset, load_zone
from syncctl.sources.layout import Layout

Converter = Callable[[Raw], Value]
MESSAGE_LEFT_OUT = "its message is left out, because it may contain a masked value"
_LABEL = re.compile(r"'c(\d+)'")


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """The columns of a page."""

    #: The columns that are read, in the relation's order.
    read: tuple[Column, ...]
    #: The names of the columns in the payload.
    sent: frozenset[str]
    #: A converter for each column that is read, to its value for the key.
    converters: tuple[Converter, ...]
    #: A converter for each column that is read, to its value for the payload: masked, and with an offset, if so set.
    payload_converters: tuple[Converter, ...]
    #: The names of sent columns that a write-back may change; they do not make a row a changed one.
    unnoticed: frozenset[str]
    #: A short hash of everything that decides the form of a payload.
    fingerprint: str
    #: Why no row can be sent: JSON cannot represent a column that should be sent. None if rows can be sent.
    refusal: str | None = None

    def explain(self, error: Exception, *, is_masked: bool) -> str:
        """Return why the database could not read a row: its message, with the names of columns (invariant 10).

        Args:
            is_masked: Whether a column is masked: then the message is left out, as it may contain a masked value.
        """
        if is_masked:
            return MESSAGE_LEFT_OUT
        message = " ".join(str(getattr(error, "orig", None) or error).split())
        return _LABEL.sub(lambda match: f"'{self.read[int(match[1])].name}'", message)


def choose_columns(
    stream: Stream, relation: Relation, layout: Layout, dialect: Dialect, *, parent_of: Collection[str] = ()
) -> Columns:
    """Choose columns according to `columns` or `exclude`; key and cursor are always read, even if they are not sent.

    Args:
        parent_of: The columns by which children belong to a row; they are always read, even if they are not sent.

    Raises:
        ConfigurationError: The stream names a column that does not exist, or masks one that the ledger must know.
    """
    roles = _name_roles(layout)
    # A rowversion is the record's version: it changes with every update, even one that changes no other column.
    unsent = {layout.cursor_name} if layout.mode == "rowversion" and layout.cursor is not None else set()
    needed = {column.name for column in (*layout.order, *layout.key)} | {layout.cursor_name}
    return _choose(
        stream,
        relation,
        dialect,
        roles=roles,
        needed=needed,
        unsent=unsent,
        key=layout.key,
        parent_of=parent_of,
        unnoticed=_find_unnoticed(stream, relation, layout),
    )


def choose_child_columns(
    stream: Stream, relation: Relation, dialect: Dialect, *, on: Collection[str], parent_of: Collection[str] = ()
) -> Columns:
    """Choose the columns of a child: the columns of `on` are sent only if `columns` names them.

    Args:
        stream: The child as its own stream.
        on: The columns by which the child's rows belong to their parents.
        parent_of: The columns by which the child's own children belong to its rows.
    """
    unsent = set() if stream.columns else set(on)
    roles: dict[str, str] = {}
    cursor = None if stream.cursor is None else find_name(stream.cursor, [column.name for column in relation.columns])
    if cursor is not None:
        roles[cursor] = "cursor"
        # A rowversion changes with every update, even one that changes no other column.
        unsent |= {
            column.name for column in relation.columns if column.name == cursor and column.kind is Kind.ROWVERSION
        }
    return _choose(stream, relation, dialect, roles=roles, needed=set(), unsent=unsent, key=(), parent_of=parent_of)


def _choose(
    stream: Stream,
    relation: Relation,
    dialect: Dialect,
    *,
    roles: Mapping[str, str],
    needed: Set[str],
    unsent: Set[str],
    key: Collection[Column],
    parent_of: Collection[str],
    unnoticed: Set[str] = frozenset(),
) -> Columns:
    names = [column.name for column in relation.columns]
    wanted = _resolve(stream, "columns", stream.columns, names)
    unwanted = _resolve(stream, "exclude", stream.exclude, names)
    sent = {name for name in names if (name in wanted if wanted else name not in unwanted)}
    sent -= unsent
    # Otherwise each write-back would be a change of its row, which would be sent again.
    sent -= _resolve(stream, "write_back", tuple(stream.write_back), names)
    masks = _resolve_masks(stream, roles, names)
    # invariant 10: a dropped column is not even read, so that no database error can contain it.
    dropped = {name for name, mask in masks.items() if mask == "drop"}
    sent -= dropped
    _check_parent_of(stream, dropped & set(parent_of))
    formless = [column for column in relation.columns if column.name in sent and column.kind is Kind.FORMLESS]
    sent -= {column.name for column in formless}
    documents = _choose_documents(stream, relation, roles, names, masks) & sent
    needed = needed | set(parent_of)
    read = tuple(column for column in relation.columns if column.name in sent | needed)
    masks = {name: mask for name, mask in masks.items() if name in sent}
    refusal = _refuse(stream, formless)
    converters = tuple(dialect.converter(column) for column in read)
    return Columns(
        read=read,
        sent=frozenset(sent),
        unnoticed=frozenset(unnoticed & sent),
        converters=converters,
        payload_converters=tuple(_convert_payload(stream, key, read, converters, masks, documents)),
        fingerprint=_fingerprint(
            stream, [column.name for column in read if column.name in sent], masks, refusal, documents
        ),
        refusal=refusal,
    )


def _check_parent_of(stream: Stream, dropped: Collection[str]) -> None:
    for name in sorted(dropped):
        raise ConfigurationError(
            f"streams.{stream.name}.mask is wrong",
            why=f"{name} is dropped, so it is never read, but it says which row a child belongs to",
            hint=f"leave it out of mask, and set exclude = [{json.dumps(name, ensure_ascii=False)}]: it is not sent",
        )


def _resolve(stream: Stream, setting: str, given: Sequence[str], names: Sequence[str]) -> frozenset[str]:
    resolved = set()
    for column in given:
        name = find_name(column, names)
        if name is None:
            raise ConfigurationError(
                f"streams.{stream.name}.{setting} is wrong",
                why=f"there is no column {column}",
                hint=suggest(column, names),
            )
        resolved.add(name)
    return frozenset(resolved)


def _find_unnoticed(stream: Stream, relation: Relation, layout: Layout) -> set[str]:
    """Return the columns that the database or a trigger may set whenever a write-back changes a row."""
    if not stream.write_back:
        return set()
    unnoticed = {column.name for column in relation.columns if column.kind is Kind.ROWVERSION}
    if layout.cursor is not None and layout.cursor not in layout.key:
        unnoticed.add(layout.cursor.name)
    return unnoticed


def _resolve_masks(stream: Stream, roles: Mapping[str, str], names: Sequence[str]) -> dict[str, Mask]:
    masks: dict[str, Mask] = {}
    for given, mask in stream.mask.items():
        (name,) = _resolve(stream, "mask", (given,), names)
        masks[name] = mask
    for name in masks:
        if name in roles:
            raise ConfigurationError(
                f"streams.{stream.name}.mask is wrong",
                why=f"{name} is in the {roles[name]}, which the ledger must know as it is",
                hint="leave it out of mask; or read a query whose key and cursor tell nothing about a person",
            )
    if "hash" in masks.values() and not stream.mask_secret:
        raise ConfigurationError(
            f"stream {stream.name} has a mask that is hash, and MASK_SECRET is not set",
            why="a plain hash of an identity number is reversed by trying them all",
            hint="make a secret with: openssl rand -hex 32, and set MASK_SECRET in .env or the environment",
        )
    return masks


def _choose_documents(
    stream: Stream, relation: Relation, roles: Mapping[str, str], names: Sequence[str], masks: Mapping[str, Mask]
) -> frozenset[str]:
    """Return the columns whose text is JSON: those that `json` names, and those of the type JSON.

    Masked columns are not among them, because a mask replaces the document by a text.

    Raises:
        ConfigurationError: `json` names a column that does not exist, or that the ledger must know as text.
    """
    named = _resolve(stream, "json", stream.json_columns, names)
    for name in named & roles.keys():
        raise ConfigurationError(
            f"streams.{stream.name}.json is wrong",
            why=f"{name} is in the {roles[name]}, which must stay text",
            hint="leave it out of json",
        )
    typed = {column.name for column in relation.columns if column.kind is Kind.JSON}
    return frozenset((named | typed) - roles.keys() - masks.keys())


def _name_roles(layout: Layout) -> dict[str, str]:
    """Return the roles (key or cursor) of the columns that the ledger must know unchanged."""
    roles = {column.name: "cursor" for column in (*layout.order, layout.cursor) if column is not None}
    return roles | {column.name: "key" for column in layout.key}


def _refuse(stream: Stream, formless: Sequence[Column]) -> str | None:
    """Return why rows with these columns fail. The columns are not even read, because drivers fail on their values."""
    if not formless:
        return None
    them = "it" if len(formless) == 1 else "them"
    reason = "; ".join(f"column {column.name}: {column.type} has no JSON form" for column in formless)
    if stream.columns:
        return f"{reason}; leave {them} out of columns"
    names = [*stream.exclude, *(column.name for column in formless)]
    return f"{reason}; leave {them} out: exclude = {json.dumps(names, ensure_ascii=False)}"


def _convert_payload(
    stream: Stream,
    key: Collection[Column],
    columns: Sequence[Column],
    converters: Sequence[Converter],
    masks: Mapping[str, Mask],
    documents: frozenset[str],
) -> list[Converter]:
    """Return the converters of the payload: times without an offset get one if the stream names their time zone.

    Keys stay unchanged, so that the payload of an upsert, the path of its call and a later delete name the row in the
    same way.
    """
    zone = None if stream.timezone is None else load_zone(stream.timezone, f"streams.{stream.name}.timezone")
    payload = list(converters)
    for index, column in enumerate(columns):
        convert = converters[index]
        if zone is not None and column.kind is Kind.TIME and column not in key:
            payload[index] = lambda raw, convert=convert: (  # type: ignore[misc]
                add_offset(value, zone) if isinstance(value := convert(raw), str) else value
            )
        if column.name in documents:
            payload[index] = convert_document(payload[index])
        if column.name in masks:
            payload[index] = _mask(payload[index], masks[column.name], stream.mask_secret)
    return payload


def convert_document(convert: Converter) -> Converter:
    """Return a converter for text that is JSON; it refuses other values, and names the place of the error."""

    def convert_text(raw: Raw) -> Value:
        if isinstance(raw, bytes | bytearray | memoryview):
            raise ValueError("it is not JSON: its value is binary, and JSON is text")  # noqa: TRY004
        value = convert(raw)
        if value is None:
            return None
        # SQLite stores numbers as numbers, even in a text column.
        text = json.dumps(value) if isinstance(value, bool | float) else str(value)
        try:
            return read_json(text)
        except NotJson as error:
            raise ValueError(f"it is not JSON: {error}") from None

    return convert_text


def _mask(convert: Converter, mask: Mask, secret: str) -> Converter:
    def convert_masked(raw: Raw) -> Value:
        try:
            value = convert(raw)
        except ValueError:
            # invariant 10: neither the message nor a traceback shows the value.
            raise ValueError("JSON cannot represent its value, which is masked") from None
        return mask_value(value, mask, secret)

    return convert_masked


def _fingerprint(
    stream: Stream, sent: Sequence[str], masks: Mapping[str, Mask], refusal: str | None, documents: frozenset[str]
) -> str:
    """Return a hash that changes when a column is added or removed, or the time zone, a mask or its secret changes.

    It also changes when a text becomes a document, or a document becomes a text.
    """
    parts = [*sent, "", stream.timezone or "", refusal or ""]
    parts += [f"{name}={mask}:{mask_value('', mask, stream.mask_secret)}" for name, mask in sorted(masks.items())]
    parts += [f"{name} is JSON" for name in sorted(documents)]
    return hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:12]
