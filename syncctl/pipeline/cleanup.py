"""cleanup: remove finished records older than their retention, from frozen hours only. Their keys stay."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from syncctl.core.states import State
from syncctl.ledger.ledger import Ledger
from syncctl.logs import get_logger
from syncctl.pipeline.report import roll_up

log = get_logger(__name__)

RECORDS_AT_ONCE = 1000
RUNS_KEPT = timedelta(days=30)
EMPTY_RUNS_KEPT = timedelta(days=1)
SILENT_WORKERS_KEPT_SECONDS = 86_400.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Cleaned:
    """How many records a clean-up removed, or would remove, by state."""

    deleted: Mapping[str, int]
    archived: int
    dry_run: bool


def clean_up(
    *,
    ledger: Ledger,
    retention_seconds: Mapping[str, float],
    streams: Sequence[str] = (),
    who: str,
    dry_run: bool = False,
) -> Cleaned:
    """Remove finished records older than their state's retention; safe to repeat and to interrupt.

    Args:
        retention_seconds: By state; records in other states are kept.
        streams: Only these; if empty, all streams, also those that left the configuration.
    """
    ledger.ensure_prepared()
    roll_up(ledger=ledger)
    frozen = ledger.reports.frozen_until()
    now = ledger.streams.server_time()
    deleted = dict.fromkeys(retention_seconds, 0)
    for stream in streams or sorted(ledger.streams.load_all()):
        for state, seconds in retention_seconds.items():
            before = now - timedelta(seconds=seconds)
            if frozen is None:
                continue
            before = min(before, frozen)
            if dry_run:
                deleted[state] += ledger.operations.count_finished(stream, State(state), before)
                continue
            while removed := ledger.operations.remove_finished(stream, State(state), before, limit=RECORDS_AT_ONCE):
                deleted[state] += removed
    if not dry_run:
        ledger.runs.remove(before=now - RUNS_KEPT, empty_before=now - EMPTY_RUNS_KEPT)
        ledger.heartbeats.forget_silent_workers(seconds=SILENT_WORKERS_KEPT_SECONDS)
        if any(deleted.values()):
            ledger.audit.add(action="cleanup", who=who, count=sum(deleted.values()), detail={"deleted": deleted})
            log.info("cleanup", **deleted)
    return Cleaned(deleted=deleted, archived=0, dry_run=dry_run)
