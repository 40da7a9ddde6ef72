"""Which columns of a relation are read, and which of them are sent."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from syncctl.core.stream import Stream
from syncctl.errors import ConfigurationError
from syncctl.sources.layout import Layout
from syncctl.sources.tables import Column, Kind, Relation, find_name, suggest


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """`read`: the columns of a page, in the relation's order. `sent`: the names of those in the payload.

    `refusal` says why no row can be sent: a column that should be has no form in JSON. None where there is none.
    """

    read: tuple[Column, ...]
    sent: frozenset[str]
    refusal: str | None = None


def choose_columns(stream: Stream, relation: Relation, layout: Layout) -> Chosen:
    """Choose what `columns` or `exclude` say; key and cursor are always read, sent or not.

    Raises:
        ConfigurationError: The stream names a column that is not there.
    """
    names = [column.name for column in relation.columns]
    wanted = _resolve(stream, "columns", stream.columns, names)
    unwanted = _resolve(stream, "exclude", stream.exclude, names)
    sent = {name for name in names if (name in wanted if wanted else name not in unwanted)}
    if layout.mode == "rowversion" and layout.cursor is not None:
        # It is the record's version: it changes with every touch, also with one that changes nothing.
        sent.discard(layout.cursor.name)
    formless = [column for column in relation.columns if column.name in sent and column.kind is Kind.FORMLESS]
    sent -= {column.name for column in formless}
    needed = {column.name for column in (*layout.order, *layout.key)} | {layout.cursor_name}
    read = tuple(column for column in relation.columns if column.name in sent | needed)
    return Chosen(read=read, sent=frozenset(sent), refusal=_refuse(stream, formless))


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
