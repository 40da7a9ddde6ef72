"""Open a source from its URL: its engine, its dialect, and its connections."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import exc

from syncctl.core.stream import Source
from syncctl.errors import ConfigurationError
from syncctl.sources import odbc, sqlite
from syncctl.sources.catalog import Catalog
from syncctl.sources.catalog.sqlite_catalog import SqliteCatalog
from syncctl.sources.catalog.sqlserver_catalog import SqlServerCatalog
from syncctl.sources.dialect import Dialect
from syncctl.sources.driver_errors import Address, translated
from syncctl.sources.sqlite import SqliteDialect
from syncctl.sources.sqlserver import SqlServerDialect

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+._-]*://")
_EXAMPLES = "mssql+pyodbc://user:password@host:1433/database, sqlite:///file.db or an ODBC connection string"


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenSource:
    """A source that can be read; the first connection is made when it is used."""

    engine: sa.Engine
    address: Address
    dialect: Dialect
    catalog: Catalog
    driver: str
    #: A warning about the driver.
    warning: str = ""
    #: The encryption that is asked for; None if no network is used.
    encryption: odbc.Encryption | None = None


def open_source(source: Source) -> OpenSource:
    """Open a source; the first connection is made when it is used.

    Raises:
        ConfigurationError: The URL is wrong, or a driver is missing.
        ServiceUnavailable: A SQLite file is missing.
    """
    setting = "SOURCE_URL" if source.name == "default" else f"sources.{source.name}.url"
    if not _URL.match(source.url.strip()):
        return _open_sql_server(source, _read_pairs(source.url, setting), setting)
    url = _read_url(source.url.strip(), setting)
    match url.drivername:
        case "sqlite" | "sqlite+pysqlite":
            address = Address(
                title=f"the SQLite file {url.database or ''}".rstrip(),
                setting=setting,
                source=source.name,
                query_timeout_seconds=source.query_timeout_seconds,
            )
            engine = sqlite.open_engine(source, url, address)
            return OpenSource(
                engine=engine, address=address, dialect=SqliteDialect(), catalog=SqliteCatalog(), driver="sqlite3"
            )
        case "mssql" | "mssql+pyodbc":
            return _open_sql_server(source, _read_pairs(url, setting), setting)
    raise ConfigurationError(
        f"{setting} names a database that syncctl does not read",
        why=f"{url.drivername} is neither mssql+pyodbc nor sqlite",
        hint=f"write {_EXAMPLES}",
    )


@contextmanager
def connect(source: OpenSource, reading: str) -> Iterator[sa.Connection]:
    """Yield a pooled connection that is alive; driver errors become ours.

    Args:
        reading: What an error prevents, such as `stream orders cannot be read`.

    Raises:
        ServiceUnavailable: The source cannot be reached.
        ConfigurationError: The source refuses the login.
        SourceError: A statement of the block failed.
    """
    with translated(source.address, connecting=True):
        connection = source.engine.connect()
    with connection, translated(source.address, reading):
        yield connection


def _open_sql_server(source: Source, pairs: dict[str, str], setting: str) -> OpenSource:
    address = odbc.locate(pairs, source, setting)
    engine, driver = odbc.open_engine(source, pairs)
    return OpenSource(
        engine=engine,
        address=address,
        dialect=SqlServerDialect(),
        catalog=SqlServerCatalog(),
        driver=f"{driver.name} ({driver.origin})" if driver else f"DSN {pairs['dsn']}",
        warning=driver.warning if driver else "",
        encryption=odbc.read_encryption(
            pairs, is_freetds=driver is not None and driver.is_freetds, is_dsn=driver is None
        ),
    )


def _read_url(text: str, setting: str) -> sa.URL:
    why = "it is not an SQLAlchemy URL; a password in it must be percent-encoded"
    try:
        url = sa.make_url(text)
    except (exc.ArgumentError, ValueError):
        # The parser's message may contain a part of the URL, and the URL contains the password.
        raise _wrong_url(setting, why) from None
    if url.host and "@" in url.host:
        # The part before the @ is the end of a password.
        raise _wrong_url(setting, why)
    return url


def _read_pairs(given: str | sa.URL, setting: str) -> dict[str, str]:
    try:
        pairs = odbc.parse_pairs(given) if isinstance(given, str) else odbc.read_url(given)
    except ValueError as error:
        raise _wrong_url(setting, f"it is not an ODBC connection string: {error}") from None
    if not ("server" in pairs or "dsn" in pairs):
        raise _wrong_url(setting, "it names neither a server nor a DSN")
    return pairs


def _wrong_url(setting: str, why: str) -> ConfigurationError:
    return ConfigurationError(f"{setting} is wrong", why=why, hint=f"write {_EXAMPLES}")
