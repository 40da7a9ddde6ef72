"""The proposal of a stream for a table: its key, the modes it allows with the safest first, and its settings."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from syncctl.core.spelling import suggest
from syncctl.core.stream import Mode
from syncctl.errors import UsageError
from syncctl.sources.catalog import CatalogColumn, CatalogIndex, CatalogTable, Reference, TableName
from syncctl.sources.catalog.relation import Kind, find_name, quote_name
from syncctl.sources.change_time_names import may_be_change_time
from syncctl.sources.layout import CURSOR_KINDS

SNAPSHOT_ROWS_AT_MOST = 100_000
_NAMES_A_BIRTH = re.compile(
    r"(?:creat|insert|enter|add|log|receiv)ed?(?:[ _]?(?:at|on|date|time|utc))*$", re.IGNORECASE
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A mode in which a table could be read."""

    mode: Mode
    cursor: str | None
    why: str
    #: Whether an index serves the cursor; None without a cursor column.
    indexed: bool | None
    #: Whether changed rows are found too, not only new ones.
    finds_changes: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class InspectedColumn:
    """One column, with its type as the database declares it."""

    name: str
    type: str
    nullable: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class ProposedChild:
    """A table that refers to the inspected one by a foreign key, and its settings as a child of the stream."""

    name: str
    settings: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class InspectedTable:
    """A table or a view, and how it is best read."""

    #: Its name in the form of a stream's `table`.
    table: str
    name: str
    is_view: bool
    rows: int | None
    key: tuple[str, ...]
    key_origin: str
    columns: tuple[InspectedColumn, ...]
    #: The modes in which it could be read, the safest first.
    candidates: tuple[Candidate, ...]
    #: Advice for the operator.
    advice: tuple[str, ...]
    #: The settings of the proposed stream, without its start.
    settings: Mapping[str, Any]
    #: Comments on some of the settings.
    remarks: Mapping[str, str]
    children: tuple[ProposedChild, ...] = ()


def propose_stream(
    table: CatalogTable,
    wanted_key: Sequence[str] = (),
    wanted_cursor: str | None = None,
    *,
    chosen: Candidate | None = None,
    children: Sequence[tuple[CatalogTable, Reference]] = (),
) -> InspectedTable:
    """Return how a table is best read.

    Args:
        wanted_key: The columns that identify its rows according to the operator, in place of the table's own key.
        wanted_cursor: The column to follow, in place of the safest mode.
        chosen: One of the modes that the table allows, in place of the safest.
        children: The tables that refer to the table.

    Raises:
        UsageError: The table has no column of such a name, or the column cannot be followed.
    """
    key, origin = _check_key(table, wanted_key) if wanted_key else _decide_key(table)
    candidates = rank_candidates(table, key)
    title = quote_table(table.name)
    if chosen is None or chosen not in candidates:
        chosen = candidates[0] if wanted_cursor is None else _choose(candidates, wanted_cursor, title)
    settings, remarks = _propose_settings(table, title, key, chosen)
    return InspectedTable(
        table=title,
        name=table.name.name,
        is_view=table.name.is_view,
        rows=table.rows,
        key=key,
        key_origin=origin,
        columns=tuple(
            InspectedColumn(name=column.name, type=column.declared, nullable=column.nullable)
            for column in table.columns
        ),
        candidates=candidates,
        advice=tuple(_advise(table, title, key, chosen, candidates)),
        settings=settings,
        remarks=remarks,
        children=tuple(_propose_child(child, reference, chosen.mode) for child, reference in children),
    )


def _propose_child(child: CatalogTable, reference: Reference, mode: Mode) -> ProposedChild:
    on = [column for column, _ in reference.columns]
    settings: dict[str, Any] = {"table": quote_table(child.name), "on": dict(reference.columns)}
    primary = next((index.columns for index in child.indexes if index.is_primary), ())
    without_form = [column.name for column in child.columns if not column.has_json_form]
    if any(index.is_unique and set(index.columns) <= set(on) for index in child.indexes):
        settings["one"] = True
    else:
        ordered = [column.name for column in child.columns if column.name not in (*on, *without_form)]
        settings["sort"] = [name for name in primary if name not in on] or ordered[:1] or on
    if mode != "snapshot" and (cursor := _find_child_cursor(child, set(on), set(primary))):
        settings["cursor"] = cursor
    if without_form:
        settings["exclude"] = without_form
    documents = [column.name for column in child.columns if column.is_checked_json and column.name not in on]
    if documents:
        settings["json"] = documents
    return ProposedChild(name=child.name.name, settings=settings)


def _find_child_cursor(child: CatalogTable, on: set[str], primary: set[str]) -> str | None:
    """Return the cursor that orders the changes of a child; None if the catalog shows none."""
    if child.is_tracked and not child.tracking_refused and on <= primary:
        return "change_tracking"
    versions = [column.name for column in child.columns if column.kind is Kind.ROWVERSION]
    times = [column.name for column in child.columns if column.is_set_at_update or may_be_change_time(column)]
    return next(iter([*versions, *times]), None)


def quote_table(name: TableName) -> str:
    """Return a name in the form of a stream's `table`: `dbo.orders`, `[sales].[order lines]`."""
    return quote_name(name.schema or "", name.name)


def _choose(candidates: Sequence[Candidate], wanted: str, title: str) -> Candidate:
    cursors = [candidate.cursor for candidate in candidates if candidate.cursor is not None]
    name = find_name(wanted, cursors)
    if name is None:
        raise UsageError(
            f"{title} has no column {wanted} that a stream could follow",
            why=suggest(wanted, cursors) if cursors else "none of its columns is a time, a rowversion or a number",
            hint=f"run: syncctl inspect {shlex.quote(title)}",
        )
    return next(candidate for candidate in candidates if candidate.cursor == name)


def _check_key(table: CatalogTable, wanted: Sequence[str]) -> tuple[tuple[str, ...], str]:
    names = [column.name for column in table.columns]
    key: list[str] = []
    for given in wanted:
        name = find_name(given, names)
        if name is None:
            raise UsageError(
                f"{quote_table(table.name)} has no column {given} for --key",
                why=suggest(given, names),
                hint=f"run: syncctl inspect {shlex.quote(quote_table(table.name))}",
            )
        key.append(name)
    return tuple(dict.fromkeys(key)), "as asked for"


def _decide_key(table: CatalogTable) -> tuple[tuple[str, ...], str]:
    """Return the primary key, otherwise the shortest unique index whose columns have a value in every row."""
    usable = [
        index
        for index in table.indexes
        if index.is_unique and all(_can_be_key(column) for column in _list_columns(table, index))
    ]
    primary = next((index for index in usable if index.is_primary), None)
    if primary is not None:
        return primary.columns, "primary key"
    filled = [index for index in usable if not any(column.nullable for column in _list_columns(table, index))]
    if not filled:
        return (), ""
    return min(filled, key=lambda index: (len(index.columns), index.columns)).columns, "unique index"


def _list_columns(table: CatalogTable, index: CatalogIndex) -> list[CatalogColumn]:
    return [table.find(name) for name in index.columns]


def _can_be_key(column: CatalogColumn) -> bool:
    return column.has_json_form and column.kind is not Kind.ROWVERSION


_Ranked = tuple[int, Candidate]


def rank_candidates(table: CatalogTable, key: tuple[str, ...]) -> tuple[Candidate, ...]:
    """Return the modes that a table allows, the safest first."""
    ranked = [*_follow_changes(table, key), *_follow_times(table), *_read_all(table), *_follow_numbers(table, key)]
    return tuple(candidate for _, candidate in sorted(ranked, key=lambda pair: pair[0]))


def _follow_changes(table: CatalogTable, key: tuple[str, ...]) -> Iterator[_Ranked]:
    primary = next((index.columns for index in table.indexes if index.is_primary), ())
    # Change Tracking reports the primary key of a changed row and nothing else.
    if table.is_tracked and set(key) == set(primary):
        why = "finds inserts, updates and deletes, in the order in which they were committed"
        yield 0, Candidate(mode="change_tracking", cursor=None, why=why, indexed=None)
    for column in table.columns:
        if column.kind is Kind.ROWVERSION:
            why = "finds inserts and updates, none missed in whatever order they commit; no deletes"
            yield 1, _follow("rowversion", table, column, why)


def _follow_times(table: CatalogTable) -> Iterator[_Ranked]:
    """Yield every column that may be followed as a time, ranked by the evidence that changes set it."""
    for column in table.columns:
        nulls = f"; rows without a value in {column.name} are never read" if column.nullable else ""
        late = f"late commits within lookback{nulls}"
        if column.is_set_at_update and column.kind in CURSOR_KINDS:
            why = f"finds inserts and updates: the database sets it at each update; {late}"
            yield (4 if column.nullable else 2), _follow("increasing", table, column, why)
        elif may_be_change_time(column):
            why = f"finds inserts and updates only if every change sets it; {late}"
            yield (4 if column.nullable else 2), _follow("increasing", table, column, why)
        elif column.kind is Kind.TIME and _NAMES_A_BIRTH.search(column.name):
            why = f"finds new rows only; {late}"
            yield 6, _follow("increasing", table, column, why, finds_changes=False)
        elif column.is_set_at_insert and column.kind in CURSOR_KINDS:
            why = f"finds new rows, as its default is the current time; finds updates only if each one sets it; {late}"
            yield (6 if column.nullable else 4), _follow("increasing", table, column, why)
        elif column.kind in (Kind.TIME, Kind.DATE):
            why = f"finds inserts and updates only if every change sets it, which the catalog does not tell; {late}"
            yield 8, _follow("increasing", table, column, why)


def _read_all(table: CatalogTable) -> Iterator[_Ranked]:
    is_small = table.rows is not None and table.rows <= SNAPSHOT_ROWS_AT_MOST
    now = "" if table.rows is None else f" ({table.rows:,} row{'' if table.rows == 1 else 's'} now)"
    why = f"finds inserts, updates and deletes, but reads the whole table at each poll{now}"
    if not is_small:
        why += f"; suitable up to about {SNAPSHOT_ROWS_AT_MOST:,}"
    yield (3 if is_small else 7), Candidate(mode="snapshot", cursor=None, why=why, indexed=None)


def _follow_numbers(table: CatalogTable, key: tuple[str, ...]) -> Iterator[_Ranked]:
    for column in table.columns:
        name = column.name
        if column.kind is not Kind.INTEGER or not (column.is_numbered or key == (name,)):
            continue
        why = "finds new rows only; missing numbers are remembered and asked for again"
        if not column.is_numbered:
            why += "; only if each new row gets a higher one"
        yield 5, _follow("increasing", table, column, why, finds_changes=False)


def _follow(
    mode: Mode, table: CatalogTable, column: CatalogColumn, why: str, *, finds_changes: bool = True
) -> Candidate:
    name = column.name
    return Candidate(mode=mode, cursor=name, why=why, indexed=table.serves(name), finds_changes=finds_changes)


def _propose_settings(
    table: CatalogTable, title: str, key: tuple[str, ...], best: Candidate
) -> tuple[dict[str, Any], dict[str, str]]:
    settings: dict[str, Any] = {"table": title}
    remarks: dict[str, str] = {}
    if key:
        settings["key"] = list(key)
    settings["mode"] = best.mode
    if best.cursor is not None:
        settings["cursor"] = best.cursor
        if table.find(best.cursor).kind is Kind.DATE:
            settings["lookback"] = "2d"
            remarks["lookback"] = "a date has no time of day: whole days are read again"
    if not best.finds_changes:
        settings["append_only"] = True
        remarks["append_only"] = "this mode finds no changed rows"
    if best.mode == "snapshot":
        settings["poll_every"] = "1m"
        remarks["poll_every"] = "each poll reads the whole table"
    followed = {*key, best.cursor}
    documents = [column.name for column in table.columns if column.is_checked_json and column.name not in followed]
    if documents:
        settings["json"] = documents
        remarks["json"] = "a check of the table says that it is JSON"
    without_form = [column for column in table.columns if not column.has_json_form]
    if without_form:
        settings["exclude"] = [column.name for column in without_form]
        types = list(dict.fromkeys(column.declared for column in without_form))
        remarks["exclude"] = f"{', '.join(types)}: JSON cannot represent them"
    return settings, remarks


def _advise(
    table: CatalogTable, title: str, key: tuple[str, ...], best: Candidate, candidates: Sequence[Candidate]
) -> Iterator[str]:
    if not key:
        reason = "it is a view" if table.name.is_view else "it has neither a primary key nor a unique index"
        yield f"there is no key: {reason}; name the columns that identify its rows with --key"
    if best.mode == "change_tracking" and table.tracking_refused:
        yield f"the login may not read the changes yet: GRANT VIEW CHANGE TRACKING ON {title} TO ..."
    if best.indexed is False and best.cursor is not None:
        if table.name.is_view:
            yield f"a view has no index of its own: make sure that one serves {best.cursor} in the table below it"
        else:
            index = "_".join(re.findall(r"\w+", f"ix {table.name.name} {best.cursor}"))
            yield (
                f"no index serves {best.cursor}, so each poll scans the table: "
                f"CREATE INDEX {index} ON {title} ({quote_name(best.cursor)})"
            )
    if best.mode == "snapshot":
        times = [candidate.cursor for candidate in candidates if candidate.cursor and candidate.finds_changes]
        if times:
            named = " or ".join(times)
            better = f"if every insert and update sets {named}, follow it, so that polls read only new and changed rows"
            yield f"{better}: syncctl inspect {shlex.quote(title)} --cursor {shlex.quote(times[0])}"
    if best.mode == "increasing" and best.finds_changes:
        yield f"make sure that every insert and update sets {best.cursor}: other changes are never found"
    if best.mode == "increasing" and not best.finds_changes:
        yield "changed rows are not found: give the table a column that every change sets, or use mode snapshot"
