"""What a source tells of itself: facts for the doctor, each asked for alone, so that a missing right hides one only."""

from typing import TYPE_CHECKING

from syncctl.core.stream import Source
from syncctl.errors import InternalError
from syncctl.sources.diagnostics.facts import (
    Indexed,
    Isolation,
    Link,
    OpenTransaction,
    Rights,
    Role,
    Server,
    Tracking,
    Transactions,
    Unseen,
)

if TYPE_CHECKING:
    from syncctl.sources.diagnostics.sqlite import SqliteHealth
    from syncctl.sources.diagnostics.sqlserver import SqlServerHealth

__all__ = [
    "Indexed",
    "Isolation",
    "Link",
    "OpenTransaction",
    "Rights",
    "Role",
    "Server",
    "Tracking",
    "Transactions",
    "Unseen",
    "is_sqlite",
    "open_health",
    "open_sql_server",
]


def is_sqlite(source: Source) -> bool:
    """Tell from its URL whether a source is a SQLite file."""
    return source.url.strip().lower().startswith(("sqlite:", "sqlite+"))


def open_health(source: Source) -> "SqlServerHealth | SqliteHealth":
    """Return what answers questions about a source; it connects at the first. Close it, or use it as a context manager.

    Raises:
        ConfigurationError: The URL is wrong, or a driver is missing.
        ServiceUnavailable: A SQLite file is missing.
    """
    from syncctl.sources.diagnostics.sqlite import SqliteHealth
    from syncctl.sources.diagnostics.sqlserver import SqlServerHealth
    from syncctl.sources.engines import open_source

    opened = open_source(source)
    return SqliteHealth(opened) if is_sqlite(source) else SqlServerHealth(opened)


def open_sql_server(source: Source) -> "SqlServerHealth":
    """Return what answers questions about a source of SQL Server, as `open_health` does.

    Raises:
        InternalError: It is a SQLite file, which is not asked these questions.
    """
    from syncctl.sources.diagnostics.sqlserver import SqlServerHealth

    health = open_health(source)
    if not isinstance(health, SqlServerHealth):
        raise InternalError(f"source {source.name} is no SQL Server")
    return health
