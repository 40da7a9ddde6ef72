"""What would make a stream of a table: its key, its mode, and the settings that say so."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from syncctl.core.spelling import suggest
from syncctl.errors import UsageError
from syncctl.sources.catalog.candidates import Candidate, rank_candidates
from syncctl.sources.catalog.found import FoundColumn, FoundTable, Name
from syncctl.sources.tables import Kind, find_name

_PLAIN = re.compile(r"[^\W\d]\w*")


@dataclass(frozen=True, kw_only=True, slots=True)
class SurveyedColumn:
    """One column, with its type as the database declares it."""

    name: str
    type: str
    nullable: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class SurveyedTable:
    """A table or a view, and how it is best read.

    `table` is its name as a stream takes it. `candidates` begin with the safest. `advice` is what an operator should
    know or do. `settings` are those of the stream that is proposed, without its start; `remarks` say more of some.
    """

    table: str
    name: str
    is_view: bool
    rows: int | None
    key: tuple[str, ...]
    key_origin: str
    columns: tuple[SurveyedColumn, ...]
    candidates: tuple[Candidate, ...]
    advice: tuple[str, ...]
    settings: Mapping[str, Any]
    remarks: Mapping[str, str]


def propose_stream(found: FoundTable, wanted_key: Sequence[str] = ()) -> SurveyedTable:
    """Return how a table is best read.

    Args:
        wanted_key: What the operator says tells its rows apart, in place of what the table says.

    Raises:
        UsageError: There is no column of such a name.
    """
    key, origin = _name_key(found, wanted_key) if wanted_key else _decide_key(found)
    candidates = rank_candidates(found, key)
    table = quote_name(found.name)
    settings, remarks = _settle(found, table, key, candidates[0])
    return SurveyedTable(
        table=table,
        name=found.name.name,
        is_view=found.name.is_view,
        rows=found.rows,
        key=key,
        key_origin=origin,
        columns=tuple(
            SurveyedColumn(name=each.column.name, type=each.declared, nullable=each.column.nullable)
            for each in found.columns
        ),
        candidates=candidates,
        advice=tuple(_advise(found, table, key, candidates[0])),
        settings=settings,
        remarks=remarks,
    )


def quote_name(name: Name) -> str:
    """Return a name as a stream's `table` takes it: `dbo.orders`, `[sales].[order lines]`."""
    return ".".join(_quote(part) for part in (name.schema, name.name) if part is not None)


def _quote(part: str) -> str:
    return part if _PLAIN.fullmatch(part) else f"[{part.replace(']', ']]')}]"


def _name_key(found: FoundTable, wanted: Sequence[str]) -> tuple[tuple[str, ...], str]:
    names = [each.column.name for each in found.columns]
    key: list[str] = []
    for each in wanted:
        name = find_name(each, names)
        if name is None:
            raise UsageError(
                f"--key {each} is no column of {quote_name(found.name)}",
                why=suggest(each, names),
                hint=f"run: syncctl inspect {quote_name(found.name)}",
            )
        key.append(name)
    return tuple(dict.fromkeys(key)), "as asked for"


def _decide_key(found: FoundTable) -> tuple[tuple[str, ...], str]:
    """Return the primary key, else the shortest unique index whose columns all have a value in each row."""
    usable = [index for index in found.indexes if index.is_unique and all(map(_can_be_key, _columns_of(found, index)))]
    primary = next((index for index in usable if index.is_primary), None)
    if primary is not None:
        return primary.columns, "primary key"
    filled = [index for index in usable if not any(each.column.nullable for each in _columns_of(found, index))]
    if not filled:
        return (), ""
    return min(filled, key=lambda index: (len(index.columns), index.columns)).columns, "unique index"


def _columns_of(found: FoundTable, index: Any) -> list[FoundColumn]:
    return [found.find(name) for name in index.columns]


def _can_be_key(each: FoundColumn) -> bool:
    return each.has_json_form and each.column.kind is not Kind.ROWVERSION


def _settle(
    found: FoundTable, table: str, key: tuple[str, ...], best: Candidate
) -> tuple[dict[str, Any], dict[str, str]]:
    settings: dict[str, Any] = {"table": table}
    remarks: dict[str, str] = {}
    if key:
        settings["key"] = list(key)
    settings["mode"] = best.mode
    if best.cursor is not None:
        settings["cursor"] = best.cursor
        if found.find(best.cursor).column.kind is Kind.DATE:
            settings["lookback"] = "2d"
            remarks["lookback"] = "a date has no time: its days are read again"
    if not best.finds_changes:
        settings["append_only"] = True
        remarks["append_only"] = "this mode finds no changed rows"
    if best.mode == "snapshot":
        settings["poll_every"] = "1m"
        remarks["poll_every"] = "each poll reads the whole table"
    without_form = [each for each in found.columns if not each.has_json_form]
    if without_form:
        settings["exclude"] = [each.column.name for each in without_form]
        types = list(dict.fromkeys(each.declared for each in without_form))
        remarks["exclude"] = f"{', '.join(types)}: no form in JSON"
    return settings, remarks


def _advise(found: FoundTable, table: str, key: tuple[str, ...], best: Candidate) -> Iterator[str]:
    if not key:
        what = "a view" if found.name.is_view else "this table: it has neither a primary key nor a unique index"
        yield f"no key tells the rows apart of {what}; name its columns with --key"
    if best.mode == "change_tracking" and found.tracking_refused:
        yield f"the login may not read the changes yet: GRANT VIEW CHANGE TRACKING ON {table} TO ..."
    if best.indexed is False and best.cursor is not None:
        if found.name.is_view:
            yield f"a view has no index of its own: see that one serves {best.cursor} in the table below it"
        else:
            index = "_".join(re.findall(r"\w+", f"ix {found.name.name} {best.cursor}"))
            yield (
                f"no index serves {best.cursor}, so each poll scans the table: "
                f"CREATE INDEX {index} ON {table} ({_quote(best.cursor)})"
            )
    if best.mode == "increasing" and best.finds_changes:
        yield f"see that every insert and update sets {best.cursor}, or a change is never found"
    if best.mode == "increasing" and not best.finds_changes:
        yield "changed rows are not found: give the table a column that every change sets, or use mode snapshot"
