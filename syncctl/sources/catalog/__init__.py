"""What a source holds, and how each of its tables is best read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from syncctl.core.spelling import suggest
from syncctl.core.stream import Source
from syncctl.errors import ConfigurationError, UsageError
from syncctl.sources.catalog.found import Catalog, Name
from syncctl.sources.catalog.proposal import SurveyedTable, propose_stream, quote_name
from syncctl.sources.catalog.sqlite_catalog import SqliteCatalog
from syncctl.sources.catalog.sqlserver_catalog import SqlServerCatalog
from syncctl.sources.engines import open_source
from syncctl.sources.failures import translated
from syncctl.sources.tables import find_name, split_name

CATALOGS: Mapping[str, Catalog] = {"mssql": SqlServerCatalog(), "sqlite": SqliteCatalog()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """What a source holds. `unknown`: a line for each question that its login may not ask."""

    source: str
    tables: tuple[SurveyedTable, ...]
    unknown: tuple[str, ...]


def survey_source(source: Source, table: str | None = None, key: Sequence[str] = ()) -> Survey:
    """Look at all tables and views of a source, or at one of them; nothing is changed, hardly a row is read.

    Args:
        table: The name of one, as a stream takes it.
        key: The columns that tell its rows apart, in place of what the table says.

    Raises:
        ServiceUnavailable: The source cannot be reached.
        ConfigurationError: Its URL or its login is wrong.
        UsageError: There is no such table, several are meant, or there is no such column.
    """
    opened = open_source(source)
    catalog = CATALOGS[opened.engine.dialect.name]
    unknown: list[str] = []
    try:
        with translated(opened.address, connecting=True):
            connection = opened.engine.connect()
        with connection, translated(opened.address, f"the catalog of {opened.address.title} cannot be read"):
            names = catalog.list_names(connection)
            if table is not None:
                names = [_choose(table, names, catalog.ask_schema(connection))]
            found = catalog.look(connection, opened.dialect, names, unknown) if names else []
    finally:
        opened.engine.dispose()
    tables = tuple(propose_stream(each, key) for each in found)
    return Survey(source=source.name, tables=tables, unknown=tuple(unknown))


def _choose(table: str, names: Sequence[Name], schema: str | None) -> Name:
    """Return the table that is meant; without a schema, the one of the login's own schema goes first."""
    try:
        *before, wanted = split_name(table)
    except ValueError as error:
        raise UsageError(f"there is no table {table}", why=str(error), hint="run: syncctl inspect") from None
    if len(before) > 1:
        raise ConfigurationError(
            f"{table} lies in another database",
            why="inspect looks into the database that the source's URL names",
            hint="configure that database as a source of its own ([sources.NAME]), then add --source NAME",
        )
    if schema is None:
        before = []
    spelled = before[0] if before else None
    meant = [
        each
        for each in names
        if each.name.casefold() == wanted.casefold()
        and (spelled is None or (each.schema or "").casefold() == spelled.casefold())
    ]
    exact = find_name(wanted, [each.name for each in meant])
    meant = [each for each in meant if exact is None or each.name == exact]
    own = [each for each in meant if each.schema == schema]
    if len(meant) > 1 and len(own) == 1:
        meant = own
    if len(meant) == 1:
        return meant[0]
    if meant:
        raise UsageError(
            f"several tables are called {table}",
            why=", ".join(quote_name(each) for each in meant),
            hint=f"write which: syncctl inspect {quote_name(meant[0])}",
        )
    raise _missing(table, wanted, names)


def _missing(table: str, wanted: str, names: Sequence[Name]) -> UsageError:
    titles = {quote_name(each): each.name for each in names}
    same = [title for title, name in titles.items() if name.casefold() == wanted.casefold()]
    near = suggest(table, list(titles), at_most=10)
    if same:
        near = f"did you mean {' or '.join(same)}?"
    elif not near.startswith("did you mean"):
        # The schema makes a name long, and a slip in the rest small beside it.
        bare = suggest(wanted, list(titles.values()))
        near = bare if bare.startswith("did you mean") else near
    return UsageError(
        f"there is no table {table}, or the login may not see it",
        why=near if names else "the login sees no table at all",
        hint="run: syncctl inspect",
    )
