"""The columns that a stream's source declares, and how they differ from those of the poll before."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

ChangeKind = Literal["appeared", "gone", "changed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DeclaredRelation:
    """The table, view or query of a stream or of one of its children, with the columns that it has."""

    #: Empty for the stream itself; a child's name, and those of the children above it: `lines/taxes`.
    path: str
    #: Differs if the settings name another table or query, whose other columns are no change of the source.
    identity: str
    #: Name and declared type, in the order of the names; the type is empty if the database reports none.
    columns: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SchemaChange:
    """A column of the source that has appeared, has gone, or has another type."""

    kind: ChangeKind
    #: Its name, after that of the child if it belongs to one: `lines.quantity`.
    column: str
    #: The declared types; None where there is no such column.
    before: str | None
    after: str | None
    #: Whether its values are in the payload with the present settings; None if it has gone.
    is_sent: bool | None

    @property
    def line(self) -> str:
        """What happened, in one line."""
        sent = "it is sent" if self.is_sent else "it is not sent"
        if self.kind == "appeared":
            return f"column {self.column}{_parenthesize(self.after)} has appeared in the source; {sent}"
        if self.kind == "gone":
            of = _parenthesize(self.before)
            return f"column {self.column}{of} has gone from the source, or its login may no longer see it"
        return f"column {self.column} was {self.before} and is {self.after} now; {sent}"


def _parenthesize(declared: str | None) -> str:
    return f" ({declared})" if declared else ""


def list_schema_changes(
    before: Sequence[DeclaredRelation], now: Sequence[DeclaredRelation], sent: frozenset[str]
) -> list[SchemaChange]:
    """Return the changes in relations that were read before; another table or a new child is not a change.

    Args:
        sent: The columns in the payload, those of a child with its name.
    """
    known = {(relation.path, relation.identity): relation for relation in before}
    changes: list[SchemaChange] = []
    for relation in now:
        if earlier := known.get((relation.path, relation.identity)):
            changes += _compare(earlier, relation, sent)
    return changes


def _compare(before: DeclaredRelation, now: DeclaredRelation, sent: frozenset[str]) -> Iterator[SchemaChange]:
    was, is_now = dict(before.columns), dict(now.columns)
    for name in sorted({*was, *is_now}):
        column = name_column(now.path, name)
        kind: ChangeKind
        if name not in was:
            kind = "appeared"
        elif name not in is_now:
            kind = "gone"
        elif was[name] and is_now[name] and was[name] != is_now[name]:
            kind = "changed"
        else:
            continue
        yield SchemaChange(
            kind=kind,
            column=column,
            before=was.get(name),
            after=is_now.get(name),
            is_sent=None if kind == "gone" else column in sent,
        )


def name_column(path: str, name: str) -> str:
    """Return how a column is called where those of children are beside it: `lines.quantity`."""
    return f"{path.replace('/', '.')}.{name}" if path else name
