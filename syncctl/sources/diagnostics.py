"""Ask a source questions about itself, for `doctor`: a missing right makes only one answer unavailable."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy import exc

from syncctl.core.stream import Source
from syncctl.sources.driver_errors import clean_reason, find_grant, grant, read_diagnostic
from syncctl.sources.engines import OpenSource, connect, open_source
from syncctl.sources.odbc import Encryption

_FAILED = "the source does not answer a question about itself"


@dataclass(frozen=True, kw_only=True, slots=True)
class Unavailable:
    """An answer that the login may not see, or that the server does not give."""

    why: str
    #: The statement that makes it visible; empty if no right would.
    grant: str = ""


def is_sqlite(source: Source) -> bool:
    """Tell from its URL whether a source is a SQLite file."""
    return source.url.strip().lower().startswith(("sqlite:", "sqlite+"))


class Diagnostics:
    """Asks a source; close it, or use it as a context manager. One connection is kept between the questions.

    Raises:
        ConfigurationError: The URL is wrong, or a driver is missing.
        ServiceUnavailable: A SQLite file is missing.
    """

    def __init__(self, source: Source) -> None:
        self._source: OpenSource = open_source(source)

    @property
    def driver(self) -> str:
        """The driver, its origin, and a warning about it if there is one."""
        return self._source.driver + (f"; {self._source.warning}" if self._source.warning else "")

    @property
    def encryption(self) -> Encryption:
        """The encryption that the connection string asks for."""
        return self._source.encryption or Encryption(is_asked=None, is_certificate_checked=True)

    def ask(self, statement: str, /, **values: Any) -> Sequence[Any]:
        """Return the rows of a statement.

        Raises:
            ServiceUnavailable: The source cannot be reached, or does not answer in time.
            SourceError: The source refuses the statement.
        """
        with connect(self._source, _FAILED) as connection:
            return connection.execute(sa.text(statement), values).all()

    def try_ask(
        self, statement: str, /, *, right: str = "VIEW SERVER STATE", **values: Any
    ) -> Sequence[Any] | Unavailable:
        """Return the rows of a statement, or why they are unavailable.

        Args:
            right: The right that the statement needs, in case the server's message does not name it.

        Raises:
            ServiceUnavailable: The source cannot be reached, or does not answer in time.
            SourceError: The statement fails for another reason than rights or the server's age.
        """
        with connect(self._source, _FAILED) as connection:
            try:
                return connection.execute(sa.text(statement), values).all()
            except exc.DBAPIError as error:
                return self._explain(error, right)

    def _explain(self, error: exc.DBAPIError, right: str) -> Unavailable:
        diagnostic = read_diagnostic(error.orig) if error.orig is not None else None
        if diagnostic is None or not diagnostic.state.startswith("42") or diagnostic.is_transient:
            raise error
        address = self._source.address
        reason = clean_reason(error.orig or error, address)
        if not diagnostic.is_permission:
            return Unavailable(why=f"this server does not tell: {reason}")
        statement = find_grant(reason, address.user) or grant(right, address.user, database="master")
        return Unavailable(why=reason, grant=statement)

    def ask_index(self, parts: Sequence[str], column: str) -> Sequence[Any] | Unavailable:
        """Return one row about the indexes of a table that start with a column; see `Catalog.index_query`."""
        statement, values = self._source.catalog.index_query(parts, column)
        return self.try_ask(statement, right="VIEW DEFINITION", **values)

    def read_clock(self) -> datetime:
        """Return the time of the source's own clock."""
        with connect(self._source, _FAILED) as connection:
            return self._source.dialect.read_clock(connection)

    def close(self) -> None:
        """Close the connection; safe to repeat."""
        self._source.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
