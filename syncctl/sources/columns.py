"""Which columns of a relation are read, and which of them are sent."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from syncctl.core.column_masks import Mask, mask_value
from syncctl.core.spelling import suggest
from syncctl.core.stream import Stream
from syncctl.errors import ConfigurationError
from syncctl.sources.layout import Layout
from syncctl.sources.tables import Column, Kind, Relation, find_name


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """`read`: the columns of a page, in the relation's order. `sent`: the names of those in the payload.

    `masks` are those of columns that are sent under one.
    `refusal` says why no row can be sent: a column that should be has no form in JSON. None where there is none.
    """

    read: tuple[Column, ...]
    sent: frozenset[str]
    masks: Mapping[str, Mask] = field(default_factory=dict)
    refusal: str | None = None


def choose_columns(stream: Stream, relation: Relation, layout: Layout) -> Chosen:
    """Choose what `columns` or `exclude` say; key and cursor are always read, sent or not.

    Raises:
        ConfigurationError: The stream names a column that is not there, or masks one that must be known as it is.
    """
    names = [column.name for column in relation.columns]
    wanted = _resolve(stream, "columns", stream.columns, names)
    unwanted = _resolve(stream, "exclude", stream.exclude, names)
    sent = {name for name in names if (name in wanted if wanted else name not in unwanted)}
    if layout.mode == "rowversion" and layout.cursor is not None:
        # It is the record's version: it changes with every touch, also with one that changes nothing.
        sent.discard(layout.cursor.name)
    masks = _resolve_masks(stream, layout, names)
    # What is dropped is not even read: no error of the database can then hold it.
    sent -= {name for name, mask in masks.items() if mask == "drop"}
    formless = [column for column in relation.columns if column.name in sent and column.kind is Kind.FORMLESS]
    sent -= {column.name for column in formless}
    needed = {column.name for column in (*layout.order, *layout.key)} | {layout.cursor_name}
    read = tuple(column for column in relation.columns if column.name in sent | needed)
    masks = {name: mask for name, mask in masks.items() if name in sent}
    return Chosen(read=read, sent=frozenset(sent), masks=masks, refusal=_refuse(stream, formless))


def describe_mask(mask: Mask, secret: str) -> str:
    """Return a text that differs where a column's masked values do: another mask, or another secret."""
    return f"{mask}:{mask_value('', mask, secret)}"


def _resolve_masks(stream: Stream, layout: Layout, names: Sequence[str]) -> dict[str, Mask]:
    found: dict[str, Mask] = {}
    for given, mask in stream.mask.items():
        (name,) = _resolve(stream, "mask", (given,), names)
        found[name] = mask
    kinds = {column.name: "cursor" for column in (*layout.order, layout.cursor) if column is not None}
    kinds |= {column.name: "key" for column in layout.key}
    for name in found:
        if name in kinds:
            raise ConfigurationError(
                f"streams.{stream.name}.mask is wrong",
                why=f"{name} is in the {kinds[name]}, which the ledger must know as it is",
                hint="leave it out of mask; or read a query whose key and cursor tell nothing of a person",
            )
    if "hash" in found.values() and not stream.mask_secret:
        raise ConfigurationError(
            f"stream {stream.name} has a mask that is hash, and MASK_SECRET is not set",
            why="a plain hash of an identity number is reversed by trying them all",
            hint="make a secret with: openssl rand -hex 32, and set MASK_SECRET in .env or the environment",
        )
    return found


def _refuse(stream: Stream, formless: Sequence[Column]) -> str | None:
    """Say why rows with these columns fail. They are not even read: a driver fails over their values, row by row."""
    if not formless:
        return None
    them = "it" if len(formless) == 1 else "them"
    reason = "; ".join(f"column {column.name}: {column.type} has no JSON form" for column in formless)
    if stream.columns:
        return f"{reason}; leave {them} out of columns"
    names = [*stream.exclude, *(column.name for column in formless)]
    return f"{reason}; leave {them} out: exclude = {json.dumps(names, ensure_ascii=False)}"


def _resolve(stream: Stream, setting: str, given: Sequence[str], names: Sequence[str]) -> frozenset[str]:
    found = set()
    for each in given:
        name = find_name(each, names)
        if name is None:
            raise ConfigurationError(
                f"streams.{stream.name}.{setting} is wrong",
                why=f"there is no column {each}",
                hint=suggest(each, names),
            )
        found.add(name)
    return frozenset(found)
