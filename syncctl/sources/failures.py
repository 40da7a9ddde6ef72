"""A driver's errors, as what happened, why, and what to do next; never with a secret."""

import re
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sqlalchemy import exc

from syncctl.core.causes import walk_causes
from syncctl.core.durations import format_duration
from syncctl.core.redaction import redact
from syncctl.errors import ConfigurationError, ServiceUnavailable, SourceError, SyncctlError
from syncctl.sources.odbc_diagnostics import (
    CONFLICT,
    LOCKED,
    MOVED,
    PERMISSION,
    THROTTLED,
    TOO_SLOW,
    Diagnostic,
    is_transient,
    read_diagnostic,
)
from syncctl.sources.permissions import advise_grant

__all__ = ["Address", "clean_reason", "explain", "is_transient", "translated"]

_PREFIX = re.compile(r"^(?:\s*\[[^\]]*\])+\s*")
_SUFFIX = re.compile(r"\s*\(-?\d+\)(?:\s*\(SQL[\w()]+\))?\s*$")
_REASON_AT_MOST = 300
_PROBE_SECONDS = 2.0


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
        return redact(text, self.secrets)


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
    except (exc.SQLAlchemyError, sqlite3.Error, OSError, OverflowError) as error:
        raise explain(error, address, reading, connecting=connecting) from error


def explain(error: Exception, address: Address, reading: str, *, connecting: bool) -> SyncctlError:
    """Return our error for a driver's."""
    cause = _find_cause(error)
    if isinstance(cause, sqlite3.Error):
        return _explain_sqlite(cause, address, reading)
    found = read_diagnostic(cause) or Diagnostic(state="")
    reason = clean_reason(cause, address)
    # SQLAlchemy asks a new connection for the server's version: such a query may be slow or refused, too.
    if connecting and not (reason.startswith("Query timeout") or found.is_among(PERMISSION)):
        return _explain_login(found, reason, address)
    return _explain_query(found, reason, address, reading)


def _find_cause(error: BaseException) -> BaseException:
    """Return the driver's error.

    SQLAlchemy asks a new connection for the server's version, closes it when that fails, and then stumbles over the
    closed one: what failed is only the context of what it raises.
    """
    wrapped = (getattr(cause, "orig", None) for cause in walk_causes(error))
    return next((driver_error for driver_error in wrapped if isinstance(driver_error, BaseException)), error)


def clean_reason(cause: BaseException, address: Address) -> str:
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


def _explain_login(found: Diagnostic, reason: str, address: Address) -> SyncctlError:
    trouble = _explain_passing(found, reason, address)
    if trouble is not None:
        return trouble
    state = found.state
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


def _explain_query(found: Diagnostic, reason: str, address: Address, reading: str) -> SyncctlError:
    if found.state in TOO_SLOW:
        waited = f"{address.query_timeout_seconds:g} s"
        return ServiceUnavailable(
            f"{address.title} did not answer a query in time",
            service="source",
            why=f"it was given up after {waited}",
            hint="index the table by its cursor and key, look for a writer that blocks it, "
            f"or raise sources.{address.source}.query_timeout",
        )
    trouble = _explain_passing(found, reason, address)
    if trouble is not None:
        return trouble
    if found.is_cut or found.state.startswith("08"):
        return ServiceUnavailable(
            f"the connection to {address.title} was cut",
            service="source",
            why=reason,
            hint="try again; the next poll goes on from the same place",
        )
    hint = "correct its table, query, key or cursor in syncctl.toml"
    if found.is_among(PERMISSION) or "permission" in reason.lower():
        hint = advise_grant(reason, address.user)
    elif "ORDER BY clause is invalid" in reason:
        hint = "leave ORDER BY out of the query: syncctl orders it by cursor and key"
    return SourceError(reading, why=reason, hint=hint)


def _explain_passing(found: Diagnostic, reason: str, address: Address) -> ServiceUnavailable | None:
    """Return the error of what passes by itself: a deadlock, a lock, throttling, a failover; None of another."""
    again = "the next poll tries again"
    if found.is_deadlock:
        what = f"{address.title} ended a query to resolve a deadlock"
        hint = f"{again}; turn READ_COMMITTED_SNAPSHOT on so that readers wait for no writer"
    elif found.is_among(CONFLICT):
        what = f"{address.title} ended a query because rows changed under its snapshot"
        hint = again
    elif found.is_among(LOCKED):
        what = f"a writer of {address.title} held a lock for too long"
        hint = f"{again}; turn READ_COMMITTED_SNAPSHOT on so that readers wait for no writer"
    elif found.is_among(THROTTLED):
        what = f"{address.title} has too much to do"
        hint = f"{again}; if it comes often, poll less often (poll_every), or give the server more"
    elif found.is_among(MOVED):
        what = f"the database of {address.title} is moving to another server"
        hint = f"{again}; a failover takes a minute or so"
    else:
        return None
    return ServiceUnavailable(what, service="source", why=reason, hint=hint)
