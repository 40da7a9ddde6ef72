"""What SQL Server tells of itself, out of its properties, catalog views and dynamic management views (Microsoft)."""

from datetime import UTC, datetime

from syncctl.core.stream import Stream
from syncctl.sources.diagnostics.asking import Asking
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
from syncctl.sources.encryption import Encryption
from syncctl.sources.permissions import grant, quote_name
from syncctl.sources.tables import split_name

OLDEST_MAJOR = 13
_RELEASES = {9: "2005", 10: "2008", 11: "2012", 12: "2014", 13: "2016", 14: "2017", 15: "2019", 16: "2022", 17: "2025"}
# What Microsoft runs itself is always new, whatever its version says.
_HOSTED = {5: "Azure SQL Database", 8: "Azure SQL Managed Instance", 9: "Azure SQL Edge", 12: "SQL database in Fabric"}
_UNIT_SECONDS = {1: 60, 2: 3600, 3: 86_400}

_SERVER = (
    "SELECT CAST(SERVERPROPERTY('ProductVersion') AS nvarchar(128)), CAST(SERVERPROPERTY('Edition') AS nvarchar(128)),"
    " CAST(SERVERPROPERTY('EngineEdition') AS int)"
)
_ENCRYPTED = "SELECT CAST(encrypt_option AS nvarchar(40)) FROM sys.dm_exec_connections WHERE session_id = @@SPID"
_ISOLATION = (
    "SELECT name, is_read_committed_snapshot_on, snapshot_isolation_state"
    " FROM sys.databases WHERE database_id = DB_ID()"
)
_ROLE = (
    "SELECT name, is_read_only, is_in_standby, CAST(DATABASEPROPERTYEX(name, 'Updateability') AS nvarchar(128))"
    " FROM sys.databases WHERE database_id = DB_ID()"
)
# Idle, MIN_ACTIVE_ROWVERSION() is one more than @@DBTS.
_HELD_BACK = "SELECT CAST(@@DBTS AS bigint) - CAST(MIN_ACTIVE_ROWVERSION() AS bigint) + 1"
# A transaction begins in a database with its first write there: who only reads holds nothing back.
_OLDEST = (
    "SELECT TOP 1 DATEDIFF(second, d.database_transaction_begin_time, SYSDATETIME()),"
    " CONVERT(varchar(19), d.database_transaction_begin_time, 126),"
    " s.session_id, s.login_name, s.host_name, s.program_name"
    " FROM sys.dm_tran_database_transactions AS d"
    " LEFT JOIN sys.dm_tran_session_transactions AS t ON t.transaction_id = d.transaction_id"
    " LEFT JOIN sys.dm_exec_sessions AS s ON s.session_id = t.session_id"
    " WHERE d.database_id = DB_ID() AND d.database_transaction_type = 1"
    " AND d.database_transaction_begin_time IS NOT NULL ORDER BY d.database_transaction_begin_time"
)
_MAY_READ = "SELECT HAS_PERMS_BY_NAME(:name, 'OBJECT', :right), OBJECT_ID(:name), USER_NAME()"
_UNREADABLE = (
    "SELECT name FROM sys.columns WHERE object_id = OBJECT_ID(:name)"
    " AND COALESCE(HAS_PERMS_BY_NAME(:name, 'OBJECT', 'SELECT', name, 'COLUMN'), 0) = 0"
)
_TRACKED = (
    "SELECT DB_NAME(), d.is_auto_cleanup_on, d.retention_period, d.retention_period_units,"
    " (SELECT COUNT(*) FROM sys.change_tracking_tables WHERE object_id = OBJECT_ID(:name))"
    " FROM sys.change_tracking_databases AS d WHERE d.database_id = DB_ID()"
)


class SqlServerHealth(Asking):
    """A database of SQL Server."""

    def read_server(self) -> Server:
        """Return version and edition."""
        version, edition, engine = self.ask(_SERVER)[0]
        major = int(version.partition(".")[0])
        if engine in _HOSTED:
            title = f"{_HOSTED[engine]} ({version})"
        else:
            title = f"SQL Server {_RELEASES.get(major, '')} ({version}), {edition}".replace("  ", " ")
        warning = f"; {self._opened.warning}" if self._opened.warning else ""
        is_old = engine not in _HOSTED and major < OLDEST_MAJOR
        return Server(title=title, driver=self._opened.driver + warning, is_old=is_old)

    def read_link(self) -> Link:
        """Return whether this connection is encrypted."""
        found = self.try_ask(_ENCRYPTED)
        asked = self._opened.encryption or Encryption(is_asked=None, is_certificate_checked=True)
        if isinstance(found, Unseen):
            return Link(is_encrypted=found, asked=asked)
        if not found:
            return Link(is_encrypted=Unseen(why="the server lists no such connection"), asked=asked)
        return Link(is_encrypted=str(found[0][0]).upper() == "TRUE", asked=asked)

    def read_isolation(self) -> Isolation:
        """Return how readers and writers meet."""
        name, reads_versions, snapshots = self.ask(_ISOLATION)[0]
        return Isolation(database=name, reads_versions=bool(reads_versions), allows_snapshots=snapshots == 1)

    def read_role(self) -> Role:
        """Return whether this copy of the database is written to."""
        name, is_read_only, is_standby, updateability = self.ask(_ROLE)[0]
        is_secondary = bool(is_standby) or (updateability == "READ_ONLY" and not is_read_only)
        return Role(database=name, is_secondary=is_secondary, is_frozen=bool(is_read_only) and not is_standby)

    def read_clock(self) -> datetime:
        """Return the server's time."""
        now: datetime = self.ask("SELECT SYSUTCDATETIME()")[0][0]
        return now.replace(tzinfo=UTC)

    def read_transactions(self) -> Transactions | Unseen:
        """Return what holds MIN_ACTIVE_ROWVERSION() back, and since when."""
        held = self.try_ask(_HELD_BACK)
        if isinstance(held, Unseen):
            return held
        found = self.try_ask(_OLDEST)
        if isinstance(found, Unseen):
            return Transactions(held_back=max(0, int(held[0][0])), oldest=found)
        oldest = None
        if found:
            age, began, session, login, host, program = found[0]
            oldest = OpenTransaction(
                age_seconds=max(0.0, float(age)),
                began=began,
                session=session,
                login=login or "",
                host=host or "",
                program=program or "",
            )
        return Transactions(held_back=max(0, int(held[0][0])), oldest=oldest)

    def read_rights(self, stream: Stream) -> Rights | Unseen:
        """Return which rights on its table a stream lacks; a table of another database cannot be asked about."""
        parts = split_name(stream.table or "")
        if len(parts) > 2:
            return Unseen(why=f"{stream.table} is in another database, which tells nothing of rights")
        name, shown = _in_brackets(parts), quote_name(*parts)
        may_read, number, user = self.ask(_MAY_READ, name=name, right="SELECT")[0]
        grants = []
        if may_read != 1 and not (number is not None and self._may_read_columns(stream, name)):
            grants.append(grant("SELECT", user, on=shown))
        if stream.mode == "change_tracking":
            may_track = self.ask(_MAY_READ, name=name, right="VIEW CHANGE TRACKING")[0][0]
            if may_track != 1:
                grants.append(grant("VIEW CHANGE TRACKING", user, on=shown))
        return Rights(table=shown, user=user, grants=tuple(grants), is_visible=number is not None)

    def _may_read_columns(self, stream: Stream, name: str) -> bool:
        """Tell whether the login may read just the columns that the stream reads."""
        refused = {str(row[0]).casefold() for row in self.ask(_UNREADABLE, name=name)}
        if stream.columns:
            return not refused & {each.casefold() for each in (*stream.columns, *stream.key, stream.cursor or "")}
        return refused <= {each.casefold() for each in stream.exclude}

    def read_index(self, stream: Stream, column: str, ties: tuple[str, ...]) -> Indexed:
        """Tell whether an index over all rows begins with a column."""
        if stream.table is None:
            return Indexed(is_served=None, why="a query tells no index")
        parts = split_name(stream.table)
        name = _in_brackets(parts)
        catalog = _in_brackets(parts[:1]) + "." if len(parts) > 2 else ""
        found = self.try_ask(
            f"SELECT o.type, (SELECT SUM(p.rows) FROM {catalog}sys.partitions AS p"  # noqa: S608 - quoted
            " WHERE p.object_id = o.object_id AND p.index_id IN (0, 1)),"
            f" (SELECT COUNT(*) FROM {catalog}sys.index_columns AS x"
            f" JOIN {catalog}sys.indexes AS i ON i.object_id = x.object_id AND i.index_id = x.index_id"
            f" JOIN {catalog}sys.columns AS c ON c.object_id = x.object_id AND c.column_id = x.column_id"
            " WHERE x.object_id = o.object_id AND x.key_ordinal = 1 AND c.name = :column AND i.type IN (1, 2)"
            " AND i.is_disabled = 0 AND i.is_hypothetical = 0 AND i.has_filter = 0)"
            f" FROM {catalog}sys.objects AS o WHERE o.object_id = OBJECT_ID(:name)",
            right="VIEW DEFINITION",
            name=name,
            column=column,
        )
        if isinstance(found, Unseen) or not found:
            return Indexed(is_served=None, why="the login may not see its indexes")
        kind, rows, indexes = found[0]
        if kind.strip() != "U":
            return Indexed(is_served=None, why=f"{stream.table} is no table, and the indexes are those of its tables")
        columns = ", ".join(quote_name(each) for each in (column, *ties))
        create = f"CREATE INDEX {quote_name(f'ix_{parts[-1]}_{column}')} ON {quote_name(*parts)} ({columns})"
        return Indexed(is_served=indexes > 0, rows=None if rows is None else int(rows), create=create)

    def read_tracking(self, stream: Stream) -> Tracking:
        """Return how long changes of a table are kept, and since which version they are known."""
        parts = split_name(stream.table or "")
        name, shown = _in_brackets(parts), quote_name(*parts)
        found = self.ask(_TRACKED, name=name)
        database = found[0][0] if found else self.ask("SELECT DB_NAME()")[0][0]
        if not found or not found[0][4]:
            unseen = Unseen(why="change tracking is off")
            return Tracking(database=database, table=shown, is_on=False, retention_seconds=None, oldest=unseen)
        _, cleans, period, unit, _ = found[0]
        oldest = self.try_ask(
            "SELECT CHANGE_TRACKING_MIN_VALID_VERSION(OBJECT_ID(:name))", right="VIEW CHANGE TRACKING", name=name
        )
        if not isinstance(oldest, Unseen):
            unknown = Unseen(
                why="the oldest version is not told", grant=f"GRANT VIEW CHANGE TRACKING ON {shown} TO ..."
            )
            oldest = unknown if oldest[0][0] is None else oldest
        return Tracking(
            database=database,
            table=shown,
            is_on=True,
            retention_seconds=float(period * _UNIT_SECONDS.get(unit, 60)) if cleans else None,
            oldest=oldest if isinstance(oldest, Unseen) else int(oldest[0][0]),
        )


def _in_brackets(parts: tuple[str, ...]) -> str:
    return ".".join("[" + part.replace("]", "]]") + "]" for part in parts)
