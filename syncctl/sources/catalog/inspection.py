"""The inspection of a source: its tables, and how each of them is best read."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from syncctl.core.spelling import suggest
from syncctl.core.stream import Source
from syncctl.errors import ConfigurationError, UsageError
from syncctl.sources.catalog import CatalogTable, Reference, TableName
from syncctl.sources.catalog.proposal import Candidate, InspectedTable, propose_stream, quote_table
from syncctl.sources.catalog.relation import find_name, split_name
from syncctl.sources.engines import connect, open_source

CHILDREN_AT_MOST = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """The tables of a source."""

    source: str
    tables: tuple[InspectedTable, ...]
    #: A line for each question that the login may not ask.
    unknown: tuple[str, ...]


def inspect_source(
    source: Source,
    table: str | None = None,
    key: Sequence[str] = (),
    cursor: str | None = None,
    *,
    chosen: Candidate | None = None,
) -> Inspection:
    """Describe all tables and views of a source, or one of them; nothing is changed, and hardly a row is read.

    Args:
        table: The name of a table or a view, as a stream takes it.
        key: The columns that identify its rows, in place of the table's own key.
        cursor: The column to follow, in place of the safest mode.
        chosen: The mode in which to read it: one of those that an inspection has proposed.

    Raises:
        ServiceUnavailable: The source cannot be reached.
        ConfigurationError: The source's URL or login is wrong.
        UsageError: The table or the column does not exist, or the name is ambiguous.
    """
    opened = open_source(source)
    catalog = opened.catalog
    unknown: list[str] = []
    try:
        with connect(opened, f"the catalog of {opened.address.title} cannot be read") as connection:
            names = catalog.list_tables(connection)
            if table is not None:
                names = [_choose(table, names, catalog.default_schema(connection))]
            described = catalog.describe_tables(connection, opened.dialect, names, unknown) if names else []
            children: dict[TableName, tuple[CatalogTable, Reference]] = {}
            if table is not None:
                for reference in catalog.list_references(connection, names[0], unknown)[:CHILDREN_AT_MOST]:
                    (child,) = catalog.describe_tables(connection, opened.dialect, [reference.table], unknown)
                    # If one table has two foreign keys, the first is proposed.
                    children.setdefault(reference.table, (child, reference))
    finally:
        opened.engine.dispose()
    tables = tuple(
        propose_stream(catalog_table, key, cursor, chosen=chosen, children=tuple(children.values()))
        for catalog_table in described
    )
    return Inspection(source=source.name, tables=tables, unknown=tuple(unknown))


def _choose(table: str, names: Sequence[TableName], schema: str | None) -> TableName:
    """Return the table with this name; for a name without a schema, the login's own schema takes precedence."""
    try:
        *before, wanted = split_name(table)
    except ValueError as error:
        raise UsageError(f"there is no table {table}", why=str(error), hint="run: syncctl inspect") from None
    if len(before) > 1:
        raise ConfigurationError(
            f"{table} is in another database",
            why="inspect reads the database that the source's URL names",
            hint="configure that database as a source of its own ([sources.NAME]), then add --source NAME",
        )
    if schema is None:
        before = []
    spelled = before[0] if before else None
    matches = [
        name
        for name in names
        if name.name.casefold() == wanted.casefold()
        and (spelled is None or (name.schema or "").casefold() == spelled.casefold())
    ]
    exact = find_name(wanted, [name.name for name in matches])
    matches = [name for name in matches if exact is None or name.name == exact]
    own = [name for name in matches if name.schema == schema]
    if len(matches) > 1 and len(own) == 1:
        matches = own
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UsageError(
            f"several tables are called {table}",
            why=", ".join(quote_table(name) for name in matches),
            hint=f"name one: syncctl inspect {shlex.quote(quote_table(matches[0]))}",
        )
    raise _missing(table, wanted, names)


def _missing(table: str, wanted: str, names: Sequence[TableName]) -> UsageError:
    titles = {quote_table(name): name.name for name in names}
    same = [title for title, name in titles.items() if name.casefold() == wanted.casefold()]
    near = suggest(table, list(titles), at_most=10)
    if same:
        near = f"did you mean {' or '.join(same)}?"
    elif not near.startswith("did you mean"):
        # Compare the bare names too, because in a long name with a schema any typing error looks small.
        bare = suggest(wanted, list(titles.values()))
        near = bare if bare.startswith("did you mean") else near
    return UsageError(
        f"there is no table {table}, or the login may not see it",
        why=near if names else "the login sees no tables",
        hint="run: syncctl inspect",
    )
