"""The section of a child: rows of another table that go with each row of a stream."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from syncctl.core.stream import CHANGE_TRACKING, Child, Mode
from syncctl.settings.field_types import ChildName, ColumnPairs, Masks, OptionalText, TextList, Whole
from syncctl.settings.section import Broken, Section, rule, setting

if TYPE_CHECKING:
    from syncctl.settings.stream_section import StreamSettings


def is_among(column: str, columns: Sequence[str]) -> bool:
    """Tell whether a column is named among others, in whatever case."""
    return column.strip().casefold() in {name.strip().casefold() for name in columns}


def check_json_columns(
    section: "ChildSettings | StreamSettings", elsewhere: Mapping[str, tuple[Sequence[str], str]]
) -> Broken:
    """Yield the errors of the columns whose text is JSON.

    Args:
        elsewhere: Further settings that must not name such a column: their columns, and the reason.
    """
    places = {
        "cursor": ((section.cursor or "",), "which must stay text; remove it from json"),
        "exclude": (section.exclude, "so it is not sent; remove it from one of the two"),
        "mask": (tuple(section.mask), "which sends a text in its place, or nothing; remove it from one of the two"),
    }
    for column in section.json_columns:
        for place, (columns, why) in {**elsewhere, **places}.items():
            if is_among(column, columns):
                yield "json", f"{column} is in {place}, {why}"
        if section.columns and not is_among(column, section.columns):
            yield "json", f"{column} is not in columns, so it is not sent; add it there, or remove it from json"


class ChildSettings(Section):
    """Rows of another table that go with each row, as a list or as an object."""

    table: OptionalText = setting(None, "table to read; set either this or query", sample="dbo.order_lines")
    query: OptionalText = setting(
        None, "query to read in place of a table", sample="select * from dbo.order_lines where deleted = 0"
    )
    on: ColumnPairs = setting(
        ..., "required: column of the child = column of the row, for each pair", sample={"order_id": "id"}
    )
    sort: TextList = setting(
        (), "columns that order the rows of one parent; required unless one = true", sample=["line"]
    )
    one: bool = setting(False, "true: an object, or null if there is no row; a second row fails the record")
    columns: TextList = setting((), "send only these columns; default: all but those of on", sample=["line", "sku"])
    exclude: TextList = setting((), "send all columns except these and those of on", sample=["note"])
    json_columns: TextList = setting(
        (), "columns whose text is JSON; it is sent as JSON, not as text", sample=["options"], written_as="json"
    )
    where: OptionalText = setting(None, "SQL condition that selects rows", sample="cancelled = 0")
    mask: Masks = setting({}, "drop | hash | last4 for each column", sample={"iban": "last4"})
    max_rows: Whole = setting(10_000, "maximum rows of one parent; with more, the parent's record fails")
    cursor: OptionalText = setting(
        None,
        "column that orders changes, or change_tracking; with it, a changed child sends its row again; default: none",
        sample="row_version",
    )
    children: "dict[ChildName, ChildSettings]" = setting({}, "children of the child, by the same keys")

    @rule("table", "query")
    def _check_origin(self) -> Broken:
        if self.table and self.query:
            yield "query", "cannot be combined with table; remove one of the two"
        elif not self.table and not self.query:
            yield "table", 'is missing; write table = "dbo.order_lines", or query = "select ..."'

    @rule("on")
    def _check_on(self) -> Broken:
        if not self.on:
            yield "on", 'names no column; write on = { order_id = "id" }: column of the child = column of the row'

    @rule("sort", "one")
    def _check_sort(self) -> Broken:
        if not self.sort and not self.one:
            text = 'write sort = ["line"], or one = true where a row has at most one'
            yield "sort", f"is required, so that the same rows make the same list; {text}"

    @rule("one", "max_rows")
    def _check_max_rows(self) -> Broken:
        if self.one and "max_rows" in self.model_fields_set:
            yield "max_rows", "cannot be combined with one, which allows a single row; remove one of the two"

    @rule("columns", "exclude")
    def _check_columns(self) -> Broken:
        if self.columns and self.exclude:
            yield "exclude", "cannot be combined with columns; remove one of the two"

    @rule("cursor", "query")
    def _check_cursor(self) -> Broken:
        if self.cursor == CHANGE_TRACKING and self.query:
            yield "cursor", "change_tracking follows a table, and this child is a query; set table"

    @rule("cursor", "mask")
    def _check_mask(self) -> Broken:
        for masked in self.mask:
            if self.cursor and is_among(masked, (self.cursor,)):
                yield "mask", f"{masked} is the cursor, which must stay unmasked; remove it from mask"

    @rule("json", "cursor", "exclude", "columns", "mask")
    def _check_json(self) -> Broken:
        if self.json_columns:
            yield from check_json_columns(self, {})

    def make_child(self, name: str) -> Child:
        """Return the child that is read."""
        return self.build(
            Child,
            name=name,
            on=tuple((column.strip(), parent.strip()) for column, parent in self.on.items()),
            children=tuple(child.make_child(inner) for inner, child in self.children.items()),
        )


def list_child_names(children: Mapping[str, ChildSettings], path: str) -> dict[str, tuple[str, ...]]:
    """Return the names of children and of their children, by the path of the table that holds them."""
    names = {path: tuple(children)}
    for name, child in children.items():
        names |= list_child_names(child.children, f"{path}.{name}.children")
    return names


def list_child_problems(
    children: Mapping[str, ChildSettings], *, mode: Mode | None, is_append_only: bool, above: Sequence[str] = ()
) -> Broken:
    """Yield the errors of children in the mode of their stream, each with its key."""
    for name, child in children.items():
        path = (*above, "children", name)
        if child.cursor and (text := _refuse_cursor(mode, is_append_only=is_append_only)):
            yield ".".join((*path, "cursor")), text
        yield from list_child_problems(child.children, mode=mode, is_append_only=is_append_only, above=path)


def _refuse_cursor(mode: Mode | None, *, is_append_only: bool) -> str | None:
    if mode == "snapshot":
        return "has no effect in mode snapshot, which reads every row with its children at each poll; remove it"
    if mode == "flag":
        return "cannot be used in mode flag, which sends the rows that are flagged; remove it, and flag the row"
    if is_append_only:
        return "cannot be combined with append_only, which knows one version of a row; remove one of the two"
    return None


def find_mask_hash(children: Mapping[str, ChildSettings]) -> bool:
    """Tell whether a column of children is masked by a hash."""
    return any("hash" in child.mask.values() or find_mask_hash(child.children) for child in children.values())
