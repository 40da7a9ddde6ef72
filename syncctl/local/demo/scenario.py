"""The demo's scenario: rows are delivered to a failing partner, it is fixed, failures are replayed, all is counted."""

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from syncctl.core.states import UNFINISHED_COUNTS
from syncctl.errors import ServiceUnavailable, TroubleFound
from syncctl.local.demo.account import (
    Account,
    DocumentCounts,
    compare_rows,
    count_calls,
    count_documents,
    find_differences,
    find_document_differences,
)
from syncctl.local.demo.environment import STREAM, DemoEnvironment, isolated_settings
from syncctl.local.demo.source import SourceSize

if TYPE_CHECKING:
    from syncctl.local.demo.screen import DemoDisplay
    from syncctl.wiring.connections import Connections

STATES = (*UNFINISHED_COUNTS, "delivered", "superseded", "failed")
#: The partner's answers to lookups.
LOOKUP_ANSWERS = ("found", "not_found")
RATE_OVER_SECONDS = 3.0
LOOK_EVERY_SECONDS = 0.25
#: The largest share of the time that is spent on counting records, because counting slows down their delivery.
LOOK_AT_MOST_A_SHARE = 0.1
STUCK_AFTER_SECONDS = 60.0
WHO = "demo"


class Stopped(Exception):
    """The user asked the demo to stop."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """Source, ledger, queue and partner at one moment."""

    #: The demo's current activity, for the screen.
    phase: str
    elapsed_seconds: float
    rows_wanted: int
    source: SourceSize
    cursor: str | None
    #: Rows whose outcome has not been written back yet.
    unwritten: int
    #: Records by state.
    counts: Mapping[str, int]
    #: Messages waiting in Redis; None if unknown.
    messages: int | None
    workers: int
    #: The partner's own counts.
    partner: Mapping[str, Any]
    calls_per_second: float
    #: The most frequent errors of failed records.
    failures: tuple[Mapping[str, Any], ...]
    last_error: str | None

    @property
    def records(self) -> int:
        """All records in the ledger."""
        return sum(self.counts[state] for state in STATES)

    @property
    def unfinished(self) -> int:
        """Records not yet delivered, superseded or failed."""
        return sum(self.counts[state] for state in UNFINISHED_COUNTS)

    @property
    def answers(self) -> dict[str, int]:
        """The partner's answers by kind."""
        return count_answers(self.partner)

    def progress(self) -> tuple[object, ...]:
        """Return values of which at least one changes as long as the demo makes progress."""
        moving = (self.source, self.workers, self.cursor, self.unwritten, self.partner["calls"], *self.counts.values())
        return (self.phase, *moving)


def count_answers(stats: Mapping[str, Any]) -> dict[str, int]:
    """Return how often the partner gave each kind of answer."""
    asked = {name: stats[name] for name in LOOKUP_ANSWERS} if "created" in stats else {}
    return {
        "accepted": stats["applied"] + stats["repeated"],
        "too_many_429": stats["too_many"],
        "error_500": stats["error"],
        "cut_before_applied": stats["dropped_before"],
        "cut_after_applied": stats["dropped_after"],
        "refused_422": stats["rejected"] + stats["violation"],
        **asked,
    }


class _RateMeter:
    """Calls per second over the last few seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def measure(self, at: float, calls: int) -> float:
        """Add a reading and return the rate."""
        self._seen.append((at, calls))
        # Two readings stay even if the machine is so slow that they are further apart.
        while len(self._seen) > 2 and self._seen[-1][0] - self._seen[0][0] > RATE_OVER_SECONDS:
            self._seen.popleft()
        (first_at, first), (last_at, last) = self._seen[0], self._seen[-1]
        return (last - first) / (last_at - first_at) if last_at > first_at else 0.0


def run_demo(
    environment: DemoEnvironment, *, rows: int, display: "DemoDisplay", wait: Callable[[float], bool]
) -> Account:
    """Run the whole demo and return the account.

    Args:
        wait: Waits for a number of seconds; returns true if the user asked to stop.

    Raises:
        Stopped: the user asked to stop.
        ServiceUnavailable: a server is missing or does not start.
        TroubleFound: a program ended unexpectedly, or there is no more progress.
    """
    display.say("starting MongoDB and Redis ...")
    environment.start_services()
    with isolated_settings(environment.directory):
        from syncctl.settings import load_settings
        from syncctl.wiring.use_cases import open_connections

        with open_connections(load_settings()) as connections:
            if wait(0):
                raise Stopped
            display.say("starting an unreliable partner, a worker and Beat ...")
            connections.ledger.prepare()
            environment.start_programs()
            return _Scenario(environment, connections, display, rows=rows, wait=wait).run()


class _Scenario:
    """One run of the demo."""

    def __init__(
        self,
        environment: DemoEnvironment,
        connections: "Connections",
        display: "DemoDisplay",
        *,
        rows: int,
        wait: Callable[[float], bool],
    ) -> None:
        self._environment = environment
        self._connections = connections
        self._display = display
        self._rows = rows
        self._wait = wait
        self._started = time.monotonic()
        self._rate = _RateMeter()
        self._written: dict[str, int] = {}
        self._written_at: datetime | None = None

    def run(self) -> Account:
        """Deliver, fix the partner, replay, and count."""
        from syncctl.pipeline.monitoring.status import group_failures
        from syncctl.pipeline.reporting.report import build_report
        from syncctl.pipeline.selection import Selection
        from syncctl.wiring.use_cases import replay

        ledger = self._connections.ledger
        self._watch("waiting for the worker and Beat", self._has_started)
        begun = time.monotonic()
        self._environment.start_writer()
        delivered = self._watch("delivering rows to an unreliable partner", self._is_all_read)
        failed = delivered.counts["failed"]
        if failed:
            self._display.show_failures(group_failures(ledger=ledger, limit=5).groups)
            self._display.say(f"the partner is fixed; replaying {failed} failed records ...")
        self._environment.partner.fix()
        selection = Selection(streams=(STREAM,))
        replayed = replay(self._connections, selection, who=WHO)
        ended = self._watch("replaying failed records", lambda: True)
        if self._environment.documents is not None:
            ended = self._watch("writing the partner's ids into the source", lambda: True)
        seconds = time.monotonic() - begun
        self._display.show_report(
            build_report(ledger=ledger, since=datetime.now(UTC) - timedelta(hours=1), by="stream")
        )
        what = "row" if self._environment.documents is None else "document"
        self._display.say(f"comparing every {what} of the source with the partner's ...")
        still_failed = replay(self._connections, selection, dry_run=True, who=WHO).replayed
        return self._settle(
            ended,
            seconds=seconds,
            failed_before_fix=failed,
            replayed=replayed.replayed,
            overtaken=replayed.skipped,
            still_failed=still_failed,
        )

    def _settle(self, ended: Snapshot, *, seconds: float, still_failed: int, **counts: int) -> Account:
        stats = self._environment.partner.stats()
        calls = self._environment.partner.calls()
        source, held = self._environment.table.read_rows(), self._environment.partner.rows()
        documents = None
        if (tables := self._environment.documents) is not None:
            documents = count_documents(source, held, calls, tables.read_written())
            held = {str(document["id"]): document for document in held.values()}
        compared = compare_rows(source, held)
        called = count_calls(calls)
        differences = find_differences(
            rows=self._rows,
            compared=compared,
            called=called,
            keys_applied=stats["distinct_keys"],
            unfinished=ended.unfinished,
            still_failed=still_failed,
        )
        differences = [*differences, *(find_document_differences(documents, rows=self._rows) if documents else ())]
        rows = asdict(compared)
        del rows["samples"]
        return Account(
            rows=self._rows,
            changes=sum(self._written.values()),
            records=ended.records,
            unfinished=ended.unfinished,
            answers=count_answers(stats),
            duration_ms=round(seconds * 1000, 1),
            rows_per_second=round(compared.source_rows / seconds, 1),
            documents=_show_documents(documents),
            exact=not differences,
            differences=tuple(differences),
            directory=None,
            **rows,
            **asdict(called),
            **counts,
        )

    def _watch(self, phase: str, is_all_there: Callable[[], bool]) -> Snapshot:
        """Show the progress until everything has arrived and every record is finished.

        Raises:
            Stopped: the user asked to stop.
            TroubleFound: a program ended unexpectedly, or there is no more progress.
        """
        moved_at, progress = time.monotonic(), ()  # type: float, tuple[object, ...]
        while True:
            looked_at = time.monotonic()
            # Ask this first, so that unfinished records are counted after the last row was read.
            try:
                all_there = is_all_there()
                snapshot = self._look(phase)
            except ServiceUnavailable:
                self._environment.check_alive()
                raise
            self._display.show(snapshot)
            # The counts are not taken at one instant: a record that changes state between two of them is in neither.
            # So two equal snapshots are needed.
            is_done = snapshot.unfinished == snapshot.unwritten == 0
            if all_there and is_done and snapshot.progress() == progress:
                return snapshot
            if snapshot.progress() != progress:
                moved_at, progress = time.monotonic(), snapshot.progress()
            elif time.monotonic() - moved_at > STUCK_AFTER_SECONDS:
                raise _stuck(snapshot)
            if self._wait(max(LOOK_EVERY_SECONDS, (time.monotonic() - looked_at) / LOOK_AT_MOST_A_SHARE)):
                raise Stopped
            self._environment.check_alive()

    def _has_started(self) -> bool:
        """Tell whether worker and Beat run, so that the source is read while it is written to."""
        from syncctl.wiring.use_cases import read_status

        status = read_status(self._connections)
        return bool(status.workers) and status.beat["last_tick_at"] is not None

    def _is_all_read(self) -> bool:
        """Tell whether a poll that began after the last row was written has succeeded."""
        written = self._environment.read_written()
        if written is None:
            return False
        ledger = self._connections.ledger
        if self._written_at is None:
            self._written, self._written_at = written, ledger.streams.server_time()
        runs = ledger.runs.load(STREAM, limit=3)
        return any(run["started_at"] >= self._written_at and run["error"] is None for run in runs)

    def _look(self, phase: str) -> Snapshot:
        from syncctl.pipeline.monitoring.status import group_failures
        from syncctl.wiring.use_cases import read_status

        status = read_status(self._connections)
        stream = status.streams[0]
        stats = self._environment.partner.stats()
        now = time.monotonic()
        failed = stream["counts"]["failed"]
        return Snapshot(
            phase=phase,
            elapsed_seconds=now - self._started,
            rows_wanted=self._rows,
            source=self._environment.table.measure(),
            cursor=stream["cursor"],
            unwritten=stream["write_back"]["records"],
            counts={state: stream["counts"][state] for state in STATES},
            messages=status.queue["messages"],
            workers=len(status.workers),
            partner=stats,
            calls_per_second=self._rate.measure(now, stats["calls"]),
            failures=group_failures(ledger=self._connections.ledger, limit=3).groups if failed else (),
            last_error=stream["last_error"],
        )


def _show_documents(counts: DocumentCounts | None) -> dict[str, int] | None:
    if counts is None:
        return None
    shown = asdict(counts)
    del shown["samples"]
    return shown


def _stuck(snapshot: Snapshot) -> TroubleFound:
    counts = ", ".join(f"{count} {state}" for state, count in snapshot.counts.items() if count) or "no records"
    workers = f"{snapshot.workers} workers, {snapshot.messages} messages in the queue"
    error = f"; the last poll failed: {snapshot.last_error}" if snapshot.last_error else ""
    return TroubleFound(
        f"nothing has moved for {STUCK_AFTER_SECONDS:g} s while {snapshot.phase}",
        why=f"{snapshot.source.rows} rows in the source, cursor {snapshot.cursor}; {counts}; {workers}{error}",
        hint="run: syncctl demo --keep, and read the logs in the directory that it names",
    )
