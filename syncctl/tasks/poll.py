"""The poll of one stream, as Beat asks for it."""

import time
from dataclasses import asdict
from typing import Any

from syncctl.errors import LeaseHeld
from syncctl.logs import get_logger
from syncctl.tasks.process import connections, stopping, task
from syncctl.wiring import row_path

log = get_logger(__name__)

POLL_AT_MOST_SECONDS = 20.0
"""After this time the process is free for other tasks; the next tick continues from the cursor."""
KILLED_AFTER_SECONDS = 900.0
"""A pool process whose source never returns is replaced after this long (prefork; threads cannot be ended)."""


@task("syncctl.poll", time_limit=KILLED_AFTER_SECONDS)
def poll(stream: str) -> dict[str, Any]:
    """Poll one stream, unless another process is polling it or it was polled just now."""
    try:
        enough = time.monotonic() + POLL_AT_MOST_SECONDS
        run = row_path.poll(
            connections(), stream, tick=True, should_stop=lambda: stopping() or time.monotonic() > enough
        )
    except LeaseHeld:
        return {"stream": stream, "skipped": True}
    tell = log.warning if run.error or run.failed else log.info if run.logged else log.debug
    tell("poll", **asdict(run))
    return asdict(run)
