"""The checks of the database behind the streams: each function asks the source for one fact and judges it."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from syncctl.core.durations import format_age
from syncctl.core.stream import Stream
from syncctl.doctor.check import Finding, failed, join_findings, passed, skipped, warned
from syncctl.sources.catalog import sqlserver_catalog as sql
from syncctl.sources.catalog.relation import bracket, quote_name, split_name
from syncctl.sources.catalog.sqlite_catalog import SQLITE_VERSION
from syncctl.sources.diagnostics import Diagnostics, Unavailable
from syncctl.sources.driver_errors import grant

CLOCKS_APART_SECONDS = 10.0
OPEN_TOO_LONG_SECONDS = 60.0
OPEN_MUCH_TOO_LONG_SECONDS = 3600.0
ROWS_WITHOUT_INDEX = 10_000

_OLDEST_MAJOR = 13
_RELEASES = {9: "2005", 10: "2008", 11: "2012", 12: "2014", 13: "2016", 14: "2017", 15: "2019", 16: "2022", 17: "2025"}
# Microsoft keeps the services that it runs itself up to date, whatever their version number says.
_HOSTED = {5: "Azure SQL Database", 8: "Azure SQL Managed Instance", 9: "Azure SQL Edge", 12: "SQL database in Fabric"}


def check_sqlite(source: Diagnostics) -> Finding:
    """Report the version of SQLite."""
    return passed(f"SQLite {source.ask(SQLITE_VERSION)[0][0]}; {source.driver}")


def check_server(source: Diagnostics) -> Finding:
    """Report version, edition and driver, and whether the server is new enough."""
    version, edition, engine = source.ask(sql.SERVER)[0]
    major = int(version.partition(".")[0])
    if engine in _HOSTED:
        title = f"{_HOSTED[engine]} ({version})"
    else:
        title = f"SQL Server {_RELEASES.get(major, '')} ({version}), {edition}".replace("  ", " ")
    detail = f"{title}; {source.driver}"
    if engine not in _HOSTED and major < _OLDEST_MAJOR:
        return warned(detail, "upgrade to SQL Server 2016 or later: older versions are neither tested nor supported")
    return passed(detail)


def check_encryption(source: Diagnostics, setting: str) -> Finding:
    """Check whether others on the network could read the rows, or pretend to be the server.

    Args:
        setting: The setting that holds the source's URL.
    """
    asked, rows = source.encryption, source.try_ask(sql.IS_ENCRYPTED)
    if not rows:
        rows = Unavailable(why="the server does not list this connection")
    if isinstance(rows, Unavailable):
        is_encrypted, unknown = asked.is_asked, f"; the server does not tell ({rows.why})"
    else:
        is_encrypted, unknown = str(rows[0][0]).upper() == "TRUE", ""
    if is_encrypted is None:
        hint = rows.grant if isinstance(rows, Unavailable) and rows.grant else f"add Encrypt=yes to {setting}"
        return skipped(f"the DSN decides whether the connection is encrypted{unknown}", hint)
    because = f" ({asked.setting})" if asked.setting else ""
    if not is_encrypted:
        return warned(f"rows are sent unencrypted{because}{unknown}", f"set Encrypt=yes in {setting}")
    how = "the connection string asks for encryption" if unknown else "the connection is encrypted"
    if not asked.is_certificate_checked:
        return warned(
            f"{how}, but the server's certificate is not checked{because}{unknown}",
            f"install the server's certificate authority and leave TrustServerCertificate out of {setting}; "
            "FreeTDS needs a `ca file` in freetds.conf",
        )
    return passed(f"{how}{unknown}")


def check_isolation(source: Diagnostics, streams: Sequence[Stream]) -> Finding:
    """Check whether polls and writers wait for each other."""
    name, reads_versions, allows_snapshots = source.ask(sql.ISOLATION)[0]
    alter = f"let an administrator run: ALTER DATABASE {bracket(name)} SET"
    findings = [passed("READ_COMMITTED_SNAPSHOT is on: readers do not wait for writers")]
    if not reads_versions:
        detail = "READ_COMMITTED_SNAPSHOT is off: polls and writers wait for each other's locks"
        hint = f"{alter} READ_COMMITTED_SNAPSHOT ON WITH ROLLBACK IMMEDIATE (it ends open transactions)"
        findings = [warned(detail, hint)]
    if not allows_snapshots and any(stream.mode == "change_tracking" for stream in streams):
        detail = "ALLOW_SNAPSHOT_ISOLATION is off: mode change_tracking reads changes and rows at different moments"
        findings.append(warned(detail, f"{alter} ALLOW_SNAPSHOT_ISOLATION ON"))
    return join_findings(findings)


def check_role(source: Diagnostics, streams: Sequence[Stream]) -> Finding:
    """Check whether the database is a copy that lags behind the one that is written to."""
    name, is_read_only, is_secondary = source.ask(sql.ROLE)[0]
    if not is_secondary:
        return passed(f"database {name} is {'read-only: nothing in it changes' if is_read_only else 'writable'}")
    detail = f"database {name} is a read-only copy: MIN_ACTIVE_ROWVERSION() proves nothing here"
    hint = "let the source's URL name the primary, and leave out ApplicationIntent=ReadOnly"
    by_rowversion = [stream.name for stream in streams if stream.mode == "rowversion"]
    if by_rowversion:
        return failed(f"{detail}, and mode rowversion refuses it: {', '.join(by_rowversion)}", hint)
    return warned(f"{detail}, so mode rowversion refuses it; other modes read the rows that have arrived", hint)


def check_clock(source: Diagnostics, ledger_clock: Callable[[], datetime]) -> Finding:
    """Check how far the source's clock is from MongoDB's; a difference of up to half the round trip is ignored."""
    # The first question also opens the connection, and the time for that must not be part of the round trip.
    source.read_clock()
    before = ledger_clock()
    there = source.read_clock()
    round_trip = ledger_clock() - before
    apart = abs((there - (before + round_trip / 2)).total_seconds()) - round_trip.total_seconds() / 2
    detail = f"the source's clock and MongoDB's are {max(0.0, apart):.1f} s apart"
    if apart <= CLOCKS_APART_SECONDS:
        return passed(detail)
    return warned(
        f"{detail}: if several machines set the times, a lookback must be longer than that; and rewind takes a time by "
        "MongoDB's clock",
        "synchronise both machines: timedatectl set-ntp true (on Windows: w32tm /resync)",
    )


def check_transactions(source: Diagnostics) -> Finding:
    """Check whether an open transaction holds rowversions back, so that streams in mode rowversion wait for it."""
    rows = source.try_ask(sql.ROWVERSIONS_HELD_BACK)
    if isinstance(rows, Unavailable):
        return skipped(f"MIN_ACTIVE_ROWVERSION() cannot be read: {rows.why}", rows.grant)
    held_back = max(0, int(rows[0][0]))
    rows = source.try_ask(sql.OLDEST_TRANSACTION)
    oldest = None if isinstance(rows, Unavailable) or not rows else rows[0]
    if not held_back:
        elsewhere = (
            "" if oldest is None else f"; the oldest open transaction holds none back: {_describe_transaction(oldest)}"
        )
        return passed(f"no open transaction holds rowversions back{elsewhere}")
    detail = f"an open transaction holds the last {held_back:,} rowversions back"
    if isinstance(rows, Unavailable):
        return skipped(f"{detail}; its age cannot be seen: {rows.why}", rows.grant)
    if oldest is None:
        return passed(f"{detail}; it has ended in the meantime")
    detail = f"{detail}: {_describe_transaction(oldest)}"
    if oldest.age_seconds < OPEN_TOO_LONG_SECONDS:
        return passed(detail)
    if oldest.session_id is None:
        unit = "SELECT request_owner_guid FROM sys.dm_tran_locks WHERE request_session_id = -2"
        hint = f"let an administrator find its unit of work ({unit}) and run KILL with it"
    else:
        session = oldest.session_id
        hint = f"find out what session {session} waits for, or let an administrator run: KILL {session}"
    report = failed if oldest.age_seconds >= OPEN_MUCH_TOO_LONG_SECONDS else warned
    return report(f"{detail}; streams in mode rowversion wait for it", hint)


def _describe_transaction(row: Any) -> str:
    who = ["no session" if row.session_id is None else f"session {row.session_id}"]
    named = (("login", row.login_name), ("host", row.host_name), ("program", row.program_name))
    who += [f"{what} {name}" for what, name in named if name]
    age = format_age(max(0.0, float(row.age_seconds)))
    return f"open for {age}, since {row.began} by its clock ({', '.join(who)})"


def check_rights(source: Diagnostics, stream: Stream) -> Finding:
    """Check which rights on a stream's table the login lacks."""
    parts = split_name(stream.table or "")
    if len(parts) > 2:
        return skipped(f"{stream.table} is in another database, whose rights cannot be queried")
    table = quote_name(*parts)
    may_read, object_id, user = source.ask(sql.PERMISSION, name=table, right="SELECT")[0]
    missing = []
    if may_read != 1 and (object_id is None or not _may_read_columns(source, stream, table)):
        missing.append("SELECT")
    if stream.mode == "change_tracking":
        right = "VIEW CHANGE TRACKING"
        if source.ask(sql.PERMISSION, name=table, right=right)[0][0] != 1:
            missing.append(right)
    if not missing:
        return passed(f"user {user} may read {table}")
    or_none = "" if object_id is not None else ", or there is no such table"
    return join_findings(
        [
            failed(
                f"user {user} has no {right} on {table}{or_none}",
                f"let an administrator run: {grant(right, user, on=table)}",
            )
            for right in missing
        ]
    )


def _may_read_columns(source: Diagnostics, stream: Stream, table: str) -> bool:
    """Tell whether the login may read at least the columns that the stream reads."""
    refused = {str(row[0]).casefold() for row in source.ask(sql.UNREADABLE_COLUMNS, name=table)}
    if stream.columns:
        return not refused & {name.casefold() for name in (*stream.columns, *stream.key, stream.cursor or "")}
    return refused <= {name.casefold() for name in stream.exclude}


def check_index(source: Diagnostics, stream: Stream, columns: Sequence[str]) -> Finding:
    """Check whether an index serves the order in which a stream is read.

    Args:
        columns: The columns that the rows are ordered by.
    """
    parts, first = split_name(stream.table or ""), columns[0]
    rows = source.ask_index(parts, first)
    if isinstance(rows, Unavailable) or not rows:
        return skipped(f"whether an index begins with {first} is unknown: the login may not see the indexes")
    is_table, count, indexes = rows[0]
    if not is_table:
        return skipped(f"whether an index begins with {first} is unknown: {stream.table} is not a table, but a view")
    if indexes:
        return passed(f"an index begins with {first}")
    if count is not None and count <= ROWS_WITHOUT_INDEX:
        return passed(f"no index begins with {first}; the table is small ({count:,} rows)")
    size = "" if count is None else f" ({count:,} rows or more)"
    name, ordered = quote_name(f"ix_{parts[-1]}_{first}"), ", ".join(quote_name(column) for column in columns)
    return warned(
        f"no index begins with {first}: every page reads and sorts the whole table{size}",
        f"let an administrator run: CREATE INDEX {name} ON {quote_name(*parts)} ({ordered})",
    )


def check_tracking(source: Diagnostics, stream: Stream, cursor: Mapping[str, Any] | None, age: float | None) -> Finding:
    """Check whether the changes since the stream's cursor are still known, and for how long they will be.

    Args:
        age: Seconds since the stream's last poll that read to the end; None if there was none.
    """
    table = quote_name(*split_name(stream.table or ""))
    retention = source.ask(sql.TRACKING_RETENTION, name=table)
    database = bracket(retention[0][0] if retention else source.ask(sql.DATABASE_NAME)[0][0])
    if not retention or not retention[0][3]:
        return failed(
            f"change tracking is off for {table}, or the login may not see it",
            f"let an administrator run: ALTER DATABASE {database} SET CHANGE_TRACKING = ON"
            f" (CHANGE_RETENTION = 7 DAYS, AUTO_CLEANUP = ON); ALTER TABLE {table} ENABLE CHANGE_TRACKING",
        )
    _, is_cleaned_up, kept_seconds, _ = retention[0]
    oldest = source.try_ask(sql.OLDEST_CHANGE, right="VIEW CHANGE TRACKING", name=table)
    if not isinstance(oldest, Unavailable) and oldest[0][0] is None:
        needed = f"GRANT VIEW CHANGE TRACKING ON {table} TO ..."
        oldest = Unavailable(why="the server does not tell the oldest version", grant=needed)
    version, rewind = _read_version(cursor), f"run: syncctl rewind {stream.name} --to beginning"
    if version is not None and not isinstance(oldest, Unavailable) and oldest[0][0] > version:
        return failed(
            f"changes are known since version {oldest[0][0]}, but were read up to {version}: those between are lost",
            rewind,
        )
    if not is_cleaned_up:
        return passed("changes are kept for ever")
    detail = f"changes are kept for {format_age(kept_seconds)}"
    if version is None or age is None:
        return passed(f"{detail}; the stream was never read to the end")
    detail += f", its last complete poll was {format_age(age)} ago"
    if age > kept_seconds:
        return failed(f"{detail}: changes may be lost", rewind)
    if age > kept_seconds / 2:
        longer = f"ALTER DATABASE {database} SET CHANGE_TRACKING (CHANGE_RETENTION = 14 DAYS)"
        return warned(
            detail, f"find out why it is not polled: syncctl doctor streams; or keep changes longer: {longer}"
        )
    if isinstance(oldest, Unavailable):
        return skipped(
            f"{detail}; whether all changes since then are still known is unknown: {oldest.why}", oldest.grant
        )
    return passed(detail)


def _read_version(cursor: Mapping[str, Any] | None) -> int | None:
    """Return the version of a cursor in mode change_tracking."""
    if not cursor or cursor.get("mode") != "change_tracking":
        return None
    # During the first load, changes count from the moment when the load began.
    text = str(cursor.get("since") if cursor.get("phase") == "load" else cursor.get("at"))
    return int(text) if text.isdigit() else None
