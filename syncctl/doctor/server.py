"""source NAME …: whether the database behind the streams is what it should be."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from syncctl.core.durations import format_age
from syncctl.core.stream import Stream
from syncctl.doctor.check import Finding, failed, join_findings, passed, skipped, warned
from syncctl.doctor.examined import Examined
from syncctl.doctor.mongodb import CLOCKS_APART_SECONDS
from syncctl.sources.diagnostics import (
    Isolation,
    Link,
    OpenTransaction,
    Role,
    Server,
    Transactions,
    Unseen,
    open_health,
    open_sql_server,
)

OPEN_TOO_LONG_SECONDS = 60.0
OPEN_MUCH_TOO_LONG_SECONDS = 3600.0

Check = Callable[[Examined, str, Sequence[Stream]], Finding]


def check_server(examined: Examined, name: str, _streams: Sequence[Stream]) -> Finding:
    """Tell version, edition and driver."""
    with open_health(examined.source(name)) as health:
        return judge_server(health.read_server())


def judge_server(server: Server) -> Finding:
    """Say whether a server is new enough."""
    detail = f"{server.title}; {server.driver}"
    if server.is_old:
        return warned(detail, "upgrade to SQL Server 2016 or later: older ones are neither tested nor supported")
    return passed(detail)


def check_encryption(examined: Examined, name: str, _streams: Sequence[Stream]) -> Finding:
    """Tell whether rows travel encrypted, and whether the server's certificate is checked."""
    with open_sql_server(examined.source(name)) as health:
        return judge_link(health.read_link(), "SOURCE_URL" if name == "default" else f"sources.{name}.url")


def judge_link(link: Link, setting: str) -> Finding:
    """Say whether others on the way could read, or pretend to be the server."""
    asked, seen = link.asked, link.is_encrypted
    found = seen if isinstance(seen, bool) else asked.is_asked
    told = "" if isinstance(seen, bool) else f"; the server does not say ({seen.why})"
    if found is None:
        hint = seen.grant if isinstance(seen, Unseen) and seen.grant else f"add Encrypt=yes to {setting}"
        return skipped(f"the DSN decides whether the connection is encrypted{told}", hint)
    if not found:
        why = f" ({asked.setting})" if asked.setting else ""
        return warned(f"rows travel unencrypted{why}{told}", f"set Encrypt=yes in {setting}")
    how = "the connection is encrypted" if isinstance(seen, bool) else "the connection string asks for encryption"
    if not asked.is_certificate_checked:
        return warned(
            f"{how}, but nobody checks whose certificate it is{f' ({asked.setting})' if asked.setting else ''}{told}",
            f"install the server's certificate authority and leave TrustServerCertificate out of {setting}; "
            "FreeTDS needs a `ca file` in freetds.conf",
        )
    return passed(f"{how}{told}")


def check_isolation(examined: Examined, name: str, streams: Sequence[Stream]) -> Finding:
    """Tell whether readers wait for writers."""
    with open_sql_server(examined.source(name)) as health:
        return judge_isolation(health.read_isolation(), tracks=any(each.mode == "change_tracking" for each in streams))


def judge_isolation(found: Isolation, *, tracks: bool) -> Finding:
    """Say what polls and writers do to each other.

    Args:
        tracks: A stream is read in mode change_tracking.
    """
    alter = f"let an administrator run: ALTER DATABASE {_bracket(found.database)} SET"
    if found.reads_versions:
        findings = [passed("READ_COMMITTED_SNAPSHOT is on: readers wait for no writer")]
    else:
        wait = "READ_COMMITTED_SNAPSHOT is off: each poll waits for writers that hold locks, and they for it"
        findings = [
            warned(wait, f"{alter} READ_COMMITTED_SNAPSHOT ON WITH ROLLBACK IMMEDIATE (it ends open transactions)")
        ]
    if tracks and not found.allows_snapshots:
        detail = "ALLOW_SNAPSHOT_ISOLATION is off: mode change_tracking reads changes and rows at different moments"
        findings.append(warned(detail, f"{alter} ALLOW_SNAPSHOT_ISOLATION ON"))
    return join_findings(findings)


def check_role(examined: Examined, name: str, streams: Sequence[Stream]) -> Finding:
    """Tell whether a copy is read that lags behind."""
    with open_sql_server(examined.source(name)) as health:
        return judge_role(health.read_role(), [each.name for each in streams if each.mode == "rowversion"])


def judge_role(role: Role, by_rowversion: Sequence[str]) -> Finding:
    """Say whether polls can trust what this copy of the database says."""
    if not role.is_secondary:
        state = "read-only: nothing in it changes" if role.is_frozen else "the one that is written to"
        return passed(f"database {role.database} is {state}")
    detail = f"database {role.database} is a read-only copy: MIN_ACTIVE_ROWVERSION() proves nothing here"
    hint = "name the primary, and leave out ApplicationIntent=ReadOnly"
    if by_rowversion:
        return failed(f"{detail}, and mode rowversion refuses it: {', '.join(by_rowversion)}", hint)
    return warned(f"{detail}, so mode rowversion refuses it; others read what has arrived", hint)


def check_clock(examined: Examined, name: str, _streams: Sequence[Stream]) -> Finding:
    """Tell how far the server's clock is from MongoDB's."""
    with open_sql_server(examined.source(name)) as health:
        # The first question also connects, and what that takes would count.
        health.read_clock()
        before = examined.ledger.streams.server_time()
        there = health.read_clock()
        return judge_clock(before, there, examined.ledger.streams.server_time())


def judge_clock(before: datetime, there: datetime, after: datetime) -> Finding:
    """Say whether times of the source and of the ledger can be compared; up to half the way there and back is free."""
    apart = abs((there - (before + (after - before) / 2)).total_seconds())
    apart = max(0.0, apart - (after - before).total_seconds() / 2)
    detail = f"the source's clock and MongoDB's are {apart:.1f} s apart"
    if apart <= CLOCKS_APART_SECONDS:
        return passed(detail)
    return warned(
        f"{detail}: a lookback must be longer than that where several machines set the times, and a time given to"
        " rewind is MongoDB's",
        "synchronise both machines: timedatectl set-ntp true (on Windows: w32tm /resync)",
    )


def check_transactions(examined: Examined, name: str, _streams: Sequence[Stream]) -> Finding:
    """Tell whether an open transaction holds rowversions back, and since when."""
    with open_sql_server(examined.source(name)) as health:
        return judge_transactions(health.read_transactions())


def judge_transactions(found: Transactions | Unseen) -> Finding:
    """Say whether streams in mode rowversion wait for somebody."""
    if isinstance(found, Unseen):
        return skipped(f"MIN_ACTIVE_ROWVERSION() cannot be read: {found.why}", found.grant)
    oldest = found.oldest
    if not found.held_back:
        aside = f"; the oldest that writes elsewhere: {_show(oldest)}" if isinstance(oldest, OpenTransaction) else ""
        return passed(f"no open transaction holds rowversions back{aside}")
    detail = f"an open transaction holds the last {found.held_back:,} rowversions back"
    if isinstance(oldest, Unseen):
        return skipped(f"{detail}; since when cannot be seen: {oldest.why}", oldest.grant)
    if oldest is None:
        return passed(f"{detail}; it has ended meanwhile")
    detail = f"{detail}: {_show(oldest)}"
    if oldest.age_seconds < OPEN_TOO_LONG_SECONDS:
        return passed(detail)
    session = (
        f"session {oldest.session}"
        if oldest.session is not None
        else "it (it has no session: KILL with its unit of work)"
    )
    hint = f"find out what it waits for and end {session}; until then streams in mode rowversion stand still"
    return (failed if oldest.age_seconds >= OPEN_MUCH_TOO_LONG_SECONDS else warned)(detail, hint)


def _show(transaction: OpenTransaction) -> str:
    who = [f"session {transaction.session}" if transaction.session is not None else "no session"]
    who += [f"login {transaction.login}"] if transaction.login else []
    who += [f"host {transaction.host}"] if transaction.host else []
    who += [f"program {transaction.program}"] if transaction.program else []
    return f"open for {format_age(transaction.age_seconds)}, since {transaction.began} of its clock ({', '.join(who)})"


def _bracket(name: str) -> str:
    return "[" + name.replace("]", "]]") + "]"


FILE_CHECKS: Mapping[str, Check] = {"server": check_server}
"""The checks of a SQLite file."""

CHECKS: Mapping[str, Check] = {
    "server": check_server,
    "encryption": check_encryption,
    "isolation": check_isolation,
    "role": check_role,
    "clock": check_clock,
    "transactions": check_transactions,
}
"""The checks of SQL Server, by the last word of their names."""
