"""A driver's errors, as what happened, why, and what to do next; never with a secret."""

import re
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sqlalchemy import exc

from syncctl.core.durations import format_duration
from syncctl.errors import ConfigurationError, ServiceUnavailable, SourceError, SyncctlError

_PREFIX = re.compile(r"^(?:\s*\[[^\]]*\])+\s*")
_SUFFIX = re.compile(r"\s*\(-?\d+\)(?:\s*\((?:SQL\w+)\))?\s*$")
_REASON_AT_MOST = 300
_PROBE_SECONDS = 2.0
_SECRET_AT_LEAST = 4
_TOO_SLOW = ("HYT00", "HYT01", "HY008")
_CUT_OFF = ("08S01", "08003", "08004", "08007", "01002", "HYT01")


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """Where a source is, as errors name it.

    `setting` is where its URL is configured; `secrets` are cut out of every text.
    """

    title: str
    setting: str
    source: str = "default"
    user: str = ""
    host: str = ""
    port: int = 0
    login_timeout_seconds: float = 10.0
    query_timeout_seconds: float = 60.0
    secrets: frozenset[str] = field(default=frozenset(), repr=False)

    def redact(self, text: str) -> str:
        """Return a text without the secrets of this source."""
        for secret in sorted(self.secrets, key=len, reverse=True):
            if len(secret) >= _SECRET_AT_LEAST:
                text = text.replace(secret, "***")
        return text


@contextmanager
def translated(
    address: Address, reading: str = "the source cannot be read", *, connecting: bool = False
) -> Iterator[None]:
    """Turn what SQLAlchemy and the drivers raise within into our errors.

    Args:
        reading: What cannot be done then, such as `stream orders cannot be read`.
        connecting: A connection is made within: errors are about reaching the server and logging in.
    """
    try:
        yield
    except (exc.SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise explain(error, address, reading, connecting=connecting) from error


def explain(error: Exception, address: Address, reading: str, *, connecting: bool) -> SyncctlError:
    """Return our error for a driver's."""
    cause = getattr(error, "orig", None) or error
    if isinstance(cause, sqlite3.Error):
        return _explain_sqlite(cause, address, reading)
    state = str(cause.args[0]) if cause.args else ""
    reason = _clean(cause, address)
    if connecting:
        return _explain_login(state, reason, address)
    return _explain_query(state, reason, address, reading)


def _clean(cause: BaseException, address: Address) -> str:
    """Return the first diagnostic of a driver without its brackets and its numbers."""
    text = str(cause.args[-1]) if cause.args else str(cause)
    text = " ".join(text.split())
    first = re.split(r"; \[", text, maxsplit=1)[0]
    first = _SUFFIX.sub("", _PREFIX.sub("", first)).rstrip(". ")
    return address.redact(first)[:_REASON_AT_MOST] or type(cause).__name__


def _explain_sqlite(cause: sqlite3.Error, address: Address, reading: str) -> SyncctlError:
    reason = address.redact(str(cause))
    if "locked" in reason or "busy" in reason:
        waited = format_duration(address.query_timeout_seconds)
        return ServiceUnavailable(
            f"{address.title} is locked",
            service="source",
            why=f"another program held it for more than {waited}",
            hint="let it finish, or switch the database to write-ahead logging: pragma journal_mode = wal",
        )
    if "unable to open" in reason or "disk I/O" in reason:
        return ServiceUnavailable(
            f"cannot open {address.title}", service="source", why=reason, hint=f"check {address.setting}"
        )
    hint = "correct its table, query, key or cursor in syncctl.toml"
    if "not a database" in reason:
        hint = f"check {address.setting}: it must name a SQLite file"
    return SourceError(reading, why=reason, hint=hint)


def _explain_login(state: str, reason: str, address: Address) -> SyncctlError:
    database = re.search(r'Cannot open database "([^"]*)"', reason)
    if database is not None:
        return ConfigurationError(
            f"{address.title} does not open the database {database[1]} for {address.user or 'this login'}",
            why=reason,
            hint=f"check the database in {address.setting}, and that the login has a user in it",
        )
    if state == "28000":
        return ConfigurationError(
            f"{address.title} refuses the login" + (f" of {address.user}" if address.user else ""),
            why=reason,
            hint=f"check the user and the password in {address.setting}, then run: syncctl doctor source",
        )
    if state in ("01000", "IM002", "IM003", "IM004") or "Can't open lib" in reason:
        return ConfigurationError(
            "the ODBC driver for SQL Server cannot be loaded",
            why=reason,
            hint=f"correct the driver in {address.setting}, or leave it out and run: pip install 'syncctl[mssql]'",
        )
    if "connection string" in reason.lower():
        return ConfigurationError(
            f"{address.setting} is not understood by the ODBC driver", why=reason, hint=f"correct {address.setting}"
        )
    return _unreachable(state, reason, address)


def _unreachable(state: str, reason: str, address: Address) -> ServiceUnavailable:
    why, hint = reason, f"check {address.setting}, then run: syncctl doctor source"
    if "certificate" in reason.lower():
        hint = "install the server's certificate authority, or add TrustServerCertificate=yes to " + address.setting
    elif state in ("HYT00", "08001"):
        if state == "HYT00":
            why = f"login timed out after {address.login_timeout_seconds:g} s"
        found = _probe(address)
        why = f"{why}; {found}" if found else why
    return ServiceUnavailable(f"cannot reach {address.title}", service="source", why=why, hint=hint)


def _probe(address: Address) -> str:
    """Say what a plain connection meets: Microsoft's driver calls every trouble a timeout."""
    if not (address.host and address.port):
        return ""
    try:
        socket.create_connection((address.host, address.port), timeout=_PROBE_SECONDS).close()
    except socket.gaierror:
        return f"no address is known for the name {address.host}"
    except TimeoutError:
        return "nothing answers at that address"
    except OSError as error:
        return f"nothing listens there: {(error.strerror or str(error)).lower()}"
    return "something listens there, but it does not answer as SQL Server does"


def _explain_query(state: str, reason: str, address: Address, reading: str) -> SyncctlError:
    if state in _TOO_SLOW:
        waited = f"{address.query_timeout_seconds:g} s"
        return ServiceUnavailable(
            f"{address.title} did not answer a query in time",
            service="source",
            why=f"it was given up after {waited}",
            hint="index the table by its cursor and key, look for a writer that blocks it, "
            f"or raise sources.{address.source}.query_timeout",
        )
    if state in _CUT_OFF or state.startswith("08"):
        return ServiceUnavailable(
            f"the connection to {address.title} was cut",
            service="source",
            why=reason,
            hint="try again; the next poll goes on from the same place",
        )
    if state == "40001":
        return ServiceUnavailable(
            f"{address.title} ended a query to resolve a deadlock",
            service="source",
            why=reason,
            hint="the next poll tries again; turn READ_COMMITTED_SNAPSHOT on so that readers wait for no writer",
        )
    hint = "correct its table, query, key or cursor in syncctl.toml"
    if "permission" in reason.lower():
        hint = f"let the login{f' {address.user}' if address.user else ''} read it: GRANT SELECT ON ... TO ..."
    elif "ORDER BY clause is invalid" in reason:
        hint = "leave ORDER BY out of the query: syncctl orders it by cursor and key"
    return SourceError(reading, why=reason, hint=hint)
