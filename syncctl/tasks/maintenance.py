"""Beat's tasks at intervals: maintenance of the streams, roll-up, cleanup."""

import time
from dataclasses import asdict
from typing import Any

from syncctl.pipeline.maintenance.cleanup import clean_up
from syncctl.pipeline.maintenance.maintenance import maintenance_lease, note_maintenance
from syncctl.pipeline.reporting.roll_up import roll_up_when_due as roll_up_hours
from syncctl.tasks.process import connections, stopping, task
from syncctl.wiring.row_path import maintain_streams
from syncctl.wiring.use_cases import retention_seconds

LEASE_SECONDS = 900.0
CLEANUP_AT_MOST_SECONDS = 600.0
"""Less than its lease, or a second worker would begin another cleanup. The next tick continues."""


@task("syncctl.upkeep")
def upkeep() -> dict[str, Any]:
    """Bring back what dead workers held, and dispatch due records, for every stream."""
    with note_maintenance(connections().ledger, "upkeep"):
        return {"streams": [asdict(maintained) for maintained in maintain_streams(connections(), should_stop=stopping)]}


@task("syncctl.roll_up")
def roll_up() -> dict[str, Any]:
    """Recompute the open hours of the reports."""
    ledger = connections().ledger
    with maintenance_lease(ledger, "roll_up", seconds=LEASE_SECONDS) as is_held:
        hours = roll_up_hours(ledger=ledger, should_stop=stopping) if is_held else 0
        if is_held:
            ledger.totals.update(frozen_until=ledger.reports.frozen_until())
        return {"hours": hours}


@task("syncctl.cleanup")
def cleanup() -> dict[str, Any]:
    """Remove records that the retention no longer keeps."""
    ledger, settings = connections().ledger, connections().settings
    with maintenance_lease(ledger, "cleanup", seconds=LEASE_SECONDS) as is_held:
        if not is_held:
            return {}
        enough = time.monotonic() + CLEANUP_AT_MOST_SECONDS
        cleaned = clean_up(
            ledger=ledger,
            retention_seconds=retention_seconds(settings),
            who="beat",
            archive=settings.archive_directory,
            should_stop=lambda: stopping() or time.monotonic() > enough,
        )
        return asdict(cleaned)
