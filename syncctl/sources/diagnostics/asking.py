"""Questions to a source that must not stop at what the login may not see."""

from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy import exc

from syncctl.sources.diagnostics.facts import Unseen
from syncctl.sources.engines import Opened
from syncctl.sources.failures import clean_reason
from syncctl.sources.modes.reading import connect
from syncctl.sources.odbc_diagnostics import PERMISSION, read_diagnostic
from syncctl.sources.permissions import find_statement, grant


class Asking:
    """A source to ask; one connection is kept between the questions."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened

    def ask(self, statement: str, /, **values: Any) -> list[Any]:
        """Return the rows of a statement.

        Raises:
            ServiceUnavailable: The source cannot be reached, or does not answer in time.
            SourceError: It refuses the statement.
        """
        with connect(self._opened, "the source does not say") as connection:
            return list(connection.execute(sa.text(statement), values).all())

    def try_ask(self, statement: str, /, *, right: str = "VIEW SERVER STATE", **values: Any) -> list[Any] | Unseen:
        """Return the rows of a statement, or why they cannot be seen.

        Args:
            right: What is asked for where the server does not name the right.
        """
        with connect(self._opened, "the source does not say") as connection:
            try:
                return list(connection.execute(sa.text(statement), values).all())
            except exc.DBAPIError as error:
                return self._explain(error, right)

    def _explain(self, error: exc.DBAPIError, right: str) -> Unseen:
        """Return why a view cannot be seen; raise what is no matter of rights or of the server's age."""
        found = read_diagnostic(error.orig) if error.orig is not None else None
        if found is None or not found.state.startswith("42") or found.is_transient:
            raise error
        address = self._opened.address
        reason = clean_reason(error.orig or error, address)
        if not found.is_among(PERMISSION):
            return Unseen(why=f"this server does not tell: {reason}")
        statement = find_statement(reason, address.user) or grant(right, address.user, database="master")
        return Unseen(why=reason, grant=statement)

    def close(self) -> None:
        """Let go of the connection; safe to repeat."""
        self._opened.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
