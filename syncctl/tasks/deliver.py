"""Delivery, in one of the slots that a worker has for it."""

from typing import Any

from syncctl.tasks.process import connections, count_processes, delivery_slot, stopping, task
from syncctl.wiring import row_path

AT_MOST_SECONDS = 300.0
"""How long a process takes records before it is free for other tasks; another process continues."""
ALONE_SECONDS = 5.0
"""The same for a worker with a single process, for which polls and maintenance wait."""


@task("syncctl.deliver")
def deliver(stream: str) -> dict[str, Any]:
    """Deliver due records of every stream, beginning with one, unless this worker's slots are taken.

    Each holder of a slot looks at every stream, so no record has to wait for this task.
    """
    with delivery_slot() as is_free:
        if not is_free:
            return {"stream": stream, "skipped": True}
        seconds = ALONE_SECONDS if count_processes() == 1 else AT_MOST_SECONDS
        return {"streams": row_path.deliver(connections(), stream, should_stop=stopping, seconds=seconds)}
