"""What SQLite tells of itself."""

from typing import Any

import sqlalchemy as sa

from syncctl.core.stream import Stream
from syncctl.sources.diagnostics.asking import Asking
from syncctl.sources.diagnostics.facts import Indexed, Server
from syncctl.sources.modes.reading import connect
from syncctl.sources.permissions import quote_name
from syncctl.sources.tables import reflect_table

ROWS_COUNTED = 100_000


class SqliteHealth(Asking):
    """A SQLite file."""

    def read_server(self) -> Server:
        """Return the version of the library."""
        version = self.ask("SELECT sqlite_version()")[0][0]
        return Server(title=f"SQLite {version}", driver="sqlite3")

    def read_index(self, stream: Stream, column: str, ties: tuple[str, ...]) -> Indexed:
        """Tell whether an index begins with a column; rows are counted up to a bound."""
        if stream.table is None:
            return Indexed(is_served=None, why="a query tells no index")
        with connect(self._opened, f"stream {stream.name} cannot be read") as connection:
            name, schema, _, primary_key = reflect_table(connection, stream)
            inspector = sa.inspect(connection)
            if name in inspector.get_view_names(schema):
                return Indexed(is_served=None, why=f"{name} is a view, and the indexes are those of its tables")
            whole = [each for each in inspector.get_indexes(name, schema) if not _is_partial(each)]
            leading = {each["column_names"][0] for each in whole if each["column_names"]} | set(primary_key[:1])
            table = sa.table(name, schema=schema)
            some = sa.select(sa.literal(1)).select_from(table).limit(ROWS_COUNTED).subquery()
            rows = connection.execute(sa.select(sa.func.count()).select_from(some)).scalar_one()
        columns = ", ".join(quote_name(each) for each in (column, *ties))
        create = f"CREATE INDEX {quote_name(f'ix_{name}_{column}')} ON {quote_name(name)} ({columns})"
        return Indexed(is_served=column in leading, rows=int(rows), create=create)


def _is_partial(index: Any) -> bool:
    return "sqlite_where" in index.get("dialect_options", {})
