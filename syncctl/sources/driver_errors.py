"""Translate driver errors into syncctl's own: what happened, why, and what to do, without a secret (invariant 10).

Error numbers: learn.microsoft.com/azure/azure-sql/database/troubleshoot-common-errors-issues (transient faults), and
learn.microsoft.com/sql/relational-databases/errors-events/database-engine-events-and-errors.
"""

import re
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sqlalchemy import exc

from syncctl.core.durations import format_duration
from syncctl.core.error_causes import walk_causes
from syncctl.core.redaction import redact
from syncctl.errors import ConfigurationError, ServiceUnavailable, SourceError, SyncctlError
from syncctl.sources.catalog.relation import bracket, quote_name

_DEADLOCK = frozenset({1205})
_CONFLICT = frozenset({3960})
"""A snapshot transaction met a row that was changed since it began."""
_LOCKED = frozenset({1222})
"""A lock timeout that the login or the server sets; syncctl sets none."""
_THROTTLED = frozenset({1204, 8645, 8651, 10928, 10929, 40501, 49918, 49919, 49920})
"""Too little memory, too few locks or workers, or more load than the service tier of an Azure database allows."""
_MOVED = frozenset({615, 983, 4221, 40143, 40197, 40540, 40613})
"""The database is moving to another server: a failover, an upgrade, a change of size."""
_CUT = frozenset({20, 64, 121, 233, 10053, 10054, 10060})
"""The connection broke. These are network error numbers: they mean this only with a SQLSTATE of connections."""
_ROW_CONTENT = frozenset({8114, 8169, 13608, 13609, 13623, 13624, *range(9400, 9460)})
"""A value cannot be converted: a text is not a number, a GUID, JSON, or XML. These errors have the general SQLSTATE
42000; other conversion errors have their own SQLSTATE (class 22)."""
_COLLATIONS = frozenset({468})
_PERMISSION = frozenset({229, 230, 262, 297, 300, 916})
_TRANSIENT = _DEADLOCK | _CONFLICT | _LOCKED | _THROTTLED | _MOVED

_TOO_SLOW = frozenset({"HYT00", "HYT01", "HY008"})
_SERIALIZATION = "40001"
_CUT_STATES = frozenset({"08S01", "08003", "08007", "01002"})
_DRIVER_STATES = frozenset({"01000", "IM002", "IM003", "IM004"})

_NUMBER = re.compile(r"\((-?\d+)\)\s*\(SQL")
_LAST_NUMBER = re.compile(r"\((-?\d+)\)\s*$")
_STATE = re.compile(r"[0-9A-Z]{5}")
_PREFIX = re.compile(r"^(?:\s*\[[^\]]*\])+\s*")
_SUFFIX = re.compile(r"\s*\(-?\d+\)(?:\s*\(SQL[\w()]+\))?\s*$")
_REASON_AT_MOST = 300
_PROBE_SECONDS = 2.0

_ON_OBJECT = re.compile(
    r"The (?P<right>[A-Z][A-Z ]*) permission was denied on"
    r"(?: the column '(?P<column>.*?)' of)? the object '(?P<object>.*?)'"
    r"(?:, database '(?P<database>.*?)'(?:, schema '(?P<schema>.*?)')?)?\W*$"
)
_ON_SERVER = re.compile(r"(?P<right>[A-Z][A-Z ]*) permission was denied on object 'server', database 'master'")
_IN_DATABASE = re.compile(r"(?P<right>[A-Z][A-Z ]*) permission(?: was)? denied in database '(?P<database>.*?)'")
_NO_USER = re.compile(r'The server principal "(?P<login>.*?)" is not able to access the database "(?P<database>.*?)"')


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """Where a source is, for error messages."""

    title: str
    #: The setting that holds the source's URL.
    setting: str
    source: str = "default"
    user: str = ""
    host: str = ""
    port: int = 0
    login_timeout_seconds: float = 10.0
    query_timeout_seconds: float = 60.0
    #: The secrets to remove from every text.
    secrets: frozenset[str] = field(default=frozenset(), repr=False)

    def redact(self, text: str) -> str:
        """Return a text without the secrets of this source."""
        return redact(text, self.secrets)


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnostic:
    """The SQLSTATE and the numbers of a driver's error."""

    state: str
    #: SQL Server's error numbers, the cause first; empty if the driver names none.
    numbers: tuple[int, ...] = ()

    def is_among(self, numbers: frozenset[int]) -> bool:
        """Tell whether the error has one of these numbers."""
        return any(number in numbers for number in self.numbers)

    @property
    def is_permission(self) -> bool:
        """Tell whether the login lacks a right."""
        return self.is_among(_PERMISSION)

    @property
    def is_row_content(self) -> bool:
        """Tell whether one row's content is the cause, so that other rows can be read."""
        return self.state.startswith("22") or self.state == "HY106" or self.is_among(_ROW_CONTENT)

    @property
    def is_deadlock(self) -> bool:
        """Tell whether the server ended the query to resolve a deadlock."""
        return self.is_among(_DEADLOCK) or (self.state == _SERIALIZATION and not self.is_among(_CONFLICT))

    @property
    def is_cut(self) -> bool:
        """Tell whether an established connection was lost."""
        return self.state in _CUT_STATES or (self.state.startswith("08") and self.is_among(_CUT))

    @property
    def is_transient(self) -> bool:
        """Tell whether the same query may succeed a moment later on a new connection."""
        return self.is_deadlock or self.is_cut or self.is_among(_TRANSIENT)


def read_diagnostic(cause: BaseException) -> Diagnostic | None:
    """Return the diagnostic of pyodbc's error; None for any other error.

    pyodbc's arguments: `('40001', '[40001] [Microsoft]...[SQL Server]... (1205) (SQLExecDirectW)')`.
    """
    state = cause.args[0] if len(cause.args) > 1 else None
    if not isinstance(state, str) or not _STATE.fullmatch(state):
        return None
    text = " ".join(str(cause.args[-1]).split())
    numbers = _NUMBER.findall(text) or _LAST_NUMBER.findall(text)
    return Diagnostic(state=state, numbers=tuple(int(number) for number in numbers))


def is_transient(error: BaseException) -> bool:
    """Tell whether trying again at once, on a new connection, may help: a deadlock, throttling, a failover, a break.

    A query timeout is not transient: the same query would take as long again.

    Args:
        error: A driver's error, SQLAlchemy's around it, or ours that was raised from either.
    """
    diagnostics = map(read_diagnostic, walk_causes(error))
    return any(diagnostic is not None and diagnostic.is_transient for diagnostic in diagnostics)


def is_permission(error: BaseException) -> bool:
    """Tell whether a statement failed because the login lacks a right.

    Args:
        error: A driver's error, SQLAlchemy's around it, or ours that was raised from either.
    """
    diagnostics = map(read_diagnostic, walk_causes(error))
    return any(diagnostic is not None and diagnostic.is_permission for diagnostic in diagnostics)


def is_lock(error: BaseException) -> bool:
    """Tell whether a statement failed because another program holds a lock that it needs, or because of a deadlock.

    Args:
        error: A driver's error, SQLAlchemy's around it, or ours that was raised from either.
    """
    for cause in walk_causes(error):
        diagnostic = read_diagnostic(cause)
        if diagnostic is not None and (diagnostic.is_deadlock or diagnostic.is_among(_LOCKED)):
            return True
        if isinstance(cause, sqlite3.OperationalError) and ("locked" in str(cause) or "busy" in str(cause)):
            return True
    return False


@contextmanager
def translated(
    address: Address, reading: str = "the source cannot be read", *, connecting: bool = False
) -> Iterator[None]:
    """Turn the errors of SQLAlchemy and of the drivers into ours.

    Args:
        reading: What an error prevents, such as `stream orders cannot be read`.
        connecting: Whether the block makes a connection, so that its errors concern reaching the server and logging in.
    """
    try:
        yield
    except (exc.SQLAlchemyError, sqlite3.Error, OSError, OverflowError) as error:
        raise explain(error, address, reading, connecting=connecting) from error


def explain(error: Exception, address: Address, reading: str, *, connecting: bool) -> SyncctlError:
    """Return our error for a driver's error."""
    cause = find_driver_error(error)
    if isinstance(cause, sqlite3.Error):
        return _explain_sqlite(cause, address, reading)
    diagnostic = read_diagnostic(cause) or Diagnostic(state="")
    reason = clean_reason(cause, address)
    # SQLAlchemy asks a new connection for the server's version, and that query may also be slow or refused.
    if connecting and not (reason.startswith("Query timeout") or diagnostic.is_permission):
        return _explain_login(diagnostic, reason, address)
    return _explain_query(diagnostic, reason, address, reading)


def find_driver_error(error: BaseException) -> BaseException:
    """Return the driver's error.

    SQLAlchemy asks a new connection for the server's version, closes it if that fails, and then fails again on the
    closed connection: the driver's error is only the context of the one that SQLAlchemy raises.
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


def _explain_login(diagnostic: Diagnostic, reason: str, address: Address) -> SyncctlError:
    transient = _explain_transient(diagnostic, reason, address)
    if transient is not None:
        return transient
    database = re.search(r'Cannot open database "([^"]*)"', reason)
    if database is not None:
        return ConfigurationError(
            f"{address.title} does not open the database {database[1]} for {address.user or 'this login'}",
            why=reason,
            hint=f"check the database in {address.setting}, and that the login has a user in it",
        )
    if diagnostic.state == "28000":
        return ConfigurationError(
            f"{address.title} refuses the login" + (f" of {address.user}" if address.user else ""),
            why=reason,
            hint=f"check the user and the password in {address.setting}, then run: syncctl doctor source",
        )
    if diagnostic.state in _DRIVER_STATES or "Can't open lib" in reason:
        return ConfigurationError(
            "the ODBC driver for SQL Server cannot be loaded",
            why=reason,
            hint=f"correct the driver in {address.setting}, or leave it out and run: pip install 'syncctl[mssql]'",
        )
    if "connection string" in reason.lower():
        return ConfigurationError(
            f"the ODBC driver does not understand {address.setting}", why=reason, hint=f"correct {address.setting}"
        )
    return _explain_unreachable(diagnostic.state, reason, address)


def _explain_unreachable(state: str, reason: str, address: Address) -> ServiceUnavailable:
    why, hint = reason, f"check {address.setting}, then run: syncctl doctor source"
    if "certificate" in reason.lower():
        hint = "install the server's certificate authority, or add TrustServerCertificate=yes to " + address.setting
    elif state in ("HYT00", "08001"):
        if state == "HYT00":
            why = f"login timed out after {address.login_timeout_seconds:g} s"
        probed = _probe(address)
        why = f"{why}; {probed}" if probed else why
    return ServiceUnavailable(f"cannot reach {address.title}", service="source", why=why, hint=hint)


def _probe(address: Address) -> str:
    """Return how a plain TCP connection fails: Microsoft's driver reports every failure as a timeout."""
    if not (address.host and address.port):
        return ""
    try:
        socket.create_connection((address.host, address.port), timeout=_PROBE_SECONDS).close()
    except socket.gaierror:
        return f"the name {address.host} has no address"
    except TimeoutError:
        return "nothing answers at that address"
    except OSError as error:
        return f"nothing listens there: {(error.strerror or str(error)).lower()}"
    return "something listens there, but it does not answer as SQL Server does"


def _explain_query(diagnostic: Diagnostic, reason: str, address: Address, reading: str) -> SyncctlError:
    if diagnostic.state in _TOO_SLOW:
        return ServiceUnavailable(
            f"{address.title} did not answer a query in time",
            service="source",
            why=f"the query was canceled after {address.query_timeout_seconds:g} s",
            hint="index the table by its cursor and key, look for a writer that blocks it, "
            f"or raise sources.{address.source}.query_timeout",
        )
    transient = _explain_transient(diagnostic, reason, address)
    if transient is not None:
        return transient
    if diagnostic.is_cut or diagnostic.state.startswith("08"):
        return ServiceUnavailable(
            f"the connection to {address.title} was cut",
            service="source",
            why=reason,
            hint="try again; the next poll continues from the same place",
        )
    hint = "correct its table, query, key or cursor in syncctl.toml"
    if diagnostic.is_permission or "permission" in reason.lower():
        hint = advise_grant(reason, address.user)
    elif "ORDER BY clause is invalid" in reason:
        hint = "leave ORDER BY out of the query: syncctl orders it by cursor and key"
    elif diagnostic.is_among(_COLLATIONS):
        hint = "read one of the two texts in the other's collation: with a query that selects name COLLATE ... AS name"
    elif diagnostic.is_row_content:
        hint = "convert with TRY_CONVERT in a query, which gives NULL for such a value, or leave its row out with where"
    return SourceError(reading, why=reason, hint=hint)


def _explain_transient(diagnostic: Diagnostic, reason: str, address: Address) -> ServiceUnavailable | None:
    """Return the error for a failure that passes by itself, such as a deadlock or a failover; None for any other."""
    again = "the next poll tries again"
    if diagnostic.is_deadlock:
        what = f"{address.title} ended a query to resolve a deadlock"
        hint = f"{again}; turn READ_COMMITTED_SNAPSHOT on, so that readers do not wait for writers"
    elif diagnostic.is_among(_CONFLICT):
        what = f"{address.title} ended a query because rows changed under its snapshot"
        hint = again
    elif diagnostic.is_among(_LOCKED):
        what = f"a writer of {address.title} held a lock for too long"
        hint = f"{again}; turn READ_COMMITTED_SNAPSHOT on, so that readers do not wait for writers"
    elif diagnostic.is_among(_THROTTLED):
        what = f"{address.title} is overloaded"
        hint = f"{again}; if it happens often, poll less often (poll_every), or give the server more resources"
    elif diagnostic.is_among(_MOVED):
        what = f"the database of {address.title} is moving to another server"
        hint = f"{again}; a failover takes about a minute"
    else:
        return None
    return ServiceUnavailable(what, service="source", why=reason, hint=hint)


def grant(right: str, user: str, *, on: str = "", database: str = "") -> str:
    """Return the GRANT statement for a right, and the database in which to run it."""
    where = f"in {database}: " if database else ""
    return f"{where}GRANT {right}{f' ON {on}' if on else ''} TO {bracket(user or 'login')}"


def advise_grant(reason: str, user: str) -> str:
    """Return advice with the statement that grants the right which SQL Server's message names.

    Messages are in the language of the login; if that is not English, the advice is general.

    Args:
        reason: The message of error 229, 230, 262, 297, 300 or 916.
        user: The login.
    """
    statement = find_grant(reason, user)
    if statement:
        return f"let an administrator run {statement}"
    return f"let the login{f' {user}' if user else ''} read it: GRANT SELECT ON ... TO {bracket(user or 'login')}"


def find_grant(reason: str, user: str) -> str:
    """Return the statement that grants the right which a message names; empty if the message names none."""
    if denied := _ON_OBJECT.search(reason):
        on = quote_name(denied["schema"] or "", denied["object"])
        column = f" ({quote_name(denied['column'])})" if denied["column"] else ""
        return grant(denied["right"], user, on=on + column, database=denied["database"] or "")
    if denied := _ON_SERVER.search(reason):
        return grant(denied["right"], user, database="master")
    if denied := _IN_DATABASE.search(reason):
        return grant(denied["right"], user, database=denied["database"])
    if denied := _NO_USER.search(reason):
        login = bracket(denied["login"])
        return f"in {denied['database']}: CREATE USER {login} FOR LOGIN {login}, and let it read the table"
    return ""
