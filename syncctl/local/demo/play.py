"""The demo's plot: rows leave the source, a partner fails, it is fixed, what failed is replayed, all is counted."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from syncctl.errors import ServiceUnavailable, TroubleFound
from syncctl.local.demo.account import Account, compare_rows, count_calls, find_differences
from syncctl.local.demo.configuration import STREAM, settled_in
from syncctl.local.demo.snapshot import STATES, Snapshot, Speedometer, name_answers
from syncctl.local.demo.stage import Stage

if TYPE_CHECKING:
    from syncctl.pipeline.report import Report
    from syncctl.wiring import Services

LOOK_EVERY_SECONDS = 0.25
LOOK_AT_MOST_A_SHARE = 0.1
"""Of the time: counting records takes its time from those who deliver them."""
STUCK_AFTER_SECONDS = 60.0
WHO = "demo"


class Stopped(Exception):
    """Somebody asked to stop."""


class Audience(Protocol):
    """Who watches the demo."""

    def tell(self, text: str) -> None:
        """Say what happens now."""

    def show(self, snapshot: Snapshot) -> None:
        """Draw how it stands."""

    def show_failures(self, groups: Sequence[Any]) -> None:
        """List failed records by their error."""

    def show_report(self, report: "Report") -> None:
        """Show what happened."""


def perform(stage: Stage, *, rows: int, audience: Audience, wait: Callable[[float], bool]) -> Account:
    """Play the whole demo on a stage and return the account.

    Args:
        wait: Waits so many seconds; true when somebody asked to stop meanwhile.

    Raises:
        Stopped: somebody asked to stop.
        ServiceUnavailable: a server is missing or does not start.
        TroubleFound: something ended by itself, or nothing moves any more.
    """
    audience.tell("starting MongoDB and Redis ...")
    stage.start_services()
    with settled_in(stage.directory):
        from syncctl.settings import load_settings
        from syncctl.wiring import open_services

        with open_services(load_settings()) as services:
            if wait(0):
                raise Stopped
            audience.tell("starting a partner that fails, a worker and Beat ...")
            services.prepare_ledger()
            stage.start_programs()
            return Play(stage, services, audience, rows=rows, wait=wait).run()


class Play:
    """One performance."""

    def __init__(
        self, stage: Stage, services: "Services", audience: Audience, *, rows: int, wait: Callable[[float], bool]
    ) -> None:
        self._stage = stage
        self._services = services
        self._audience = audience
        self._rows = rows
        self._wait = wait
        self._begun = time.monotonic()
        self._speed = Speedometer()
        self._trade: dict[str, int] = {}
        self._traded_at: datetime | None = None

    def run(self) -> Account:
        """Carry, fix, replay, count."""
        from syncctl.pipeline.selection import Selection

        self._watch("waiting for the worker and Beat", self._is_staffed)
        self._begun = time.monotonic()
        self._stage.start_shop()
        carried = self._watch("carrying rows to a partner that fails", self._is_all_read)
        failed = carried.counts["failed"]
        if failed:
            self._audience.show_failures(self._services.failures(limit=5).groups)
            self._audience.tell(f"the partner's cause is fixed; replaying {failed} failed records ...")
        self._stage.partner.fix()
        selection = Selection(streams=(STREAM,))
        replayed = self._services.replay(selection, who=WHO)
        ended = self._watch("replaying what had failed", lambda: True)
        seconds = time.monotonic() - self._begun
        self._audience.show_report(self._services.report(datetime.now(UTC) - timedelta(hours=1), by="stream"))
        self._audience.tell("holding every row of the source against what the partner says it holds ...")
        still_failed = self._services.replay(selection, dry_run=True, who=WHO).replayed
        return self._settle(
            ended,
            seconds=seconds,
            failed_before_fix=failed,
            replayed=replayed.replayed,
            overtaken=replayed.skipped,
            still_failed=still_failed,
        )

    def _settle(self, ended: Snapshot, *, seconds: float, still_failed: int, **counts: int) -> Account:
        stats = self._stage.partner.stats()
        compared = compare_rows(self._stage.table.read_rows(), self._stage.partner.rows())
        called = count_calls(self._stage.partner.calls())
        differences = find_differences(
            rows=self._rows,
            compared=compared,
            called=called,
            keys_applied=stats["distinct_keys"],
            unfinished=ended.unfinished,
            still_failed=still_failed,
        )
        rows = asdict(compared)
        del rows["samples"]
        return Account(
            rows=self._rows,
            changes=sum(self._trade.values()),
            records=ended.records,
            unfinished=ended.unfinished,
            answers=name_answers(stats),
            duration_ms=round(seconds * 1000, 1),
            rows_per_second=round(compared.source_rows / seconds, 1),
            exact=not differences,
            differences=tuple(differences),
            directory=None,
            **rows,
            **asdict(called),
            **counts,
        )

    def _watch(self, phase: str, is_all_there: Callable[[], bool]) -> Snapshot:
        """Show how it stands until all that is there is finished.

        Raises:
            Stopped: somebody asked to stop.
            TroubleFound: something ended by itself, or nothing moves any more.
        """
        moved_at, trail = time.monotonic(), ()  # type: float, tuple[object, ...]
        while True:
            looked_at = time.monotonic()
            # Asked first: what is unfinished is counted after the last row was read.
            try:
                all_there = is_all_there()
                snapshot = self._look(phase)
            except ServiceUnavailable:
                self._stage.check_alive()
                raise
            self._audience.show(snapshot)
            # The counts are not of one instant: what moves between two of them is in neither. So twice the same.
            if all_there and snapshot.unfinished == 0 and snapshot.trail() == trail:
                return snapshot
            if snapshot.trail() != trail:
                moved_at, trail = time.monotonic(), snapshot.trail()
            elif time.monotonic() - moved_at > STUCK_AFTER_SECONDS:
                raise _stuck(snapshot)
            if self._wait(max(LOOK_EVERY_SECONDS, (time.monotonic() - looked_at) / LOOK_AT_MOST_A_SHARE)):
                raise Stopped
            self._stage.check_alive()

    def _is_staffed(self) -> bool:
        """Tell whether worker and Beat are there, so that the source is read while it is written to."""
        status = self._services.status()
        return bool(status.workers) and status.beat["last_tick_at"] is not None

    def _is_all_read(self) -> bool:
        """Tell whether a poll that began after the last row was written has ended well."""
        trade = self._stage.read_trade()
        if trade is None:
            return False
        ledger = self._services.ledger
        if self._traded_at is None:
            self._trade, self._traded_at = trade, ledger.streams.server_time()
        runs = ledger.journal.load_runs(STREAM, limit=3)
        return any(run["started_at"] >= self._traded_at and run["error"] is None for run in runs)

    def _look(self, phase: str) -> Snapshot:
        status = self._services.status()
        stream = status.streams[0]
        stats = self._stage.partner.stats()
        source = self._stage.table.measure()
        now = time.monotonic()
        failed = stream["counts"]["failed"]
        return Snapshot(
            phase=phase,
            elapsed_seconds=now - self._begun,
            rows_wanted=self._rows,
            source_rows=source.rows,
            cursor=stream["cursor"],
            counts={state: stream["counts"][state] for state in STATES},
            messages=status.queue["messages"],
            workers=len(status.workers),
            partner=stats,
            calls_per_second=self._speed.read(now, stats["calls"]),
            failures=self._services.failures(limit=3).groups if failed else (),
            last_error=stream["last_error"],
        )


def _stuck(snapshot: Snapshot) -> TroubleFound:
    counts = ", ".join(f"{count} {state}" for state, count in snapshot.counts.items() if count) or "no records"
    workers = f"{snapshot.workers} workers, {snapshot.messages} messages in the queue"
    error = f"; the last poll said: {snapshot.last_error}" if snapshot.last_error else ""
    return TroubleFound(
        f"nothing has moved for {STUCK_AFTER_SECONDS:g} s while {snapshot.phase}",
        why=f"{snapshot.source_rows} rows in the source, cursor {snapshot.cursor}; {counts}; {workers}{error}",
        hint="run again with --keep, and read the logs in its directory",
    )
