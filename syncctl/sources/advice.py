"""What a layout that nobody asked for leaves out, in words."""

import re

from syncctl.core.stream import Stream
from syncctl.sources.layout import Layout
from syncctl.sources.tables import Column, Kind, Relation

_CHANGE = r"(?<!ex)(?:updated?|modif(?:y|ied|ication)|changed?)"
_WHEN = r"(?:at|on|date|time|datetime|timestamp|stamp|ts|utc)"
_NAMES_A_CHANGE = re.compile(rf"{_CHANGE}(?:[ _]?{_WHEN})*$|{_WHEN}[ _]?{_CHANGE}$|^mtime$", re.IGNORECASE)
# A column that the database calls a text may hold a name or a remark: its own name must tell of a time.
_NAMES_A_TIME = re.compile(rf"{_WHEN}$|{_WHEN}[ _]?{_CHANGE}$", re.IGNORECASE)


def advise(stream: Stream, relation: Relation, layout: Layout, *, has_rowversions: bool) -> tuple[str, ...]:
    """Return a line where a table is read by its primary key because nothing else was said or found.

    Nothing where the stream names its cursor or says that rows are never changed (`append_only`). And one where rows
    that are gone are found, and nothing was said of what the partner is to be told.
    """
    if layout.mode in ("change_tracking", "snapshot") and stream.sends_deletes and stream.delete_method is None:
        told = f"finds deleted rows too, and sends their key alone to {stream.method} {stream.path}"
        ways = 'delete_endpoint = "DELETE /.../{id}", or "none" to send no deletes'
        return (f"{told}; in streams.{stream.name} set {ways}",)
    if stream.cursor is not None or stream.append_only or layout.mode != "increasing":
        return ()
    changed = next((column for column in relation.columns if tells_of_changes(column)), None)
    if changed is not None:
        way = f'cursor = "{changed.name}" if every change sets it'
    else:
        way = "cursor to a column that every change moves forward"
        way += " (or add a rowversion column to the table)" if has_rowversions else ""
    ways = f"{way}, or append_only = true if rows never change"
    return (f"finds new rows only, no changed ones; in streams.{stream.name} set {ways}",)


def tells_of_changes(column: Column) -> bool:
    """Say whether a column may be a time, and has a name such as `updated_at`."""
    if column.kind not in (Kind.TIME, Kind.DATE, Kind.TEXT, Kind.OTHER) or not _NAMES_A_CHANGE.search(column.name):
        return False
    return column.kind in (Kind.TIME, Kind.DATE) or _NAMES_A_TIME.search(column.name) is not None
