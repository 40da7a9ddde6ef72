"""What Beat has done at intervals: upkeep, roll-up, clean-up."""

from dataclasses import asdict
from typing import Any

from syncctl.tasks.define import task
from syncctl.tasks.process import services

CHORE_SECONDS = 900.0


@task("syncctl.upkeep")
def upkeep() -> dict[str, Any]:
    """Bring back what dead workers held, and dispatch what is due, for every stream."""
    return {"streams": [asdict(each) for each in services().keep_up()]}


@task("syncctl.roll_up")
def roll_up() -> dict[str, Any]:
    """Recompute the open hours of the reports."""
    with services().maintenance_lease("roll_up", seconds=CHORE_SECONDS) as mine:
        return {"hours": services().roll_up() if mine else 0}


@task("syncctl.cleanup")
def cleanup() -> dict[str, Any]:
    """Remove what the retention no longer keeps."""
    with services().maintenance_lease("cleanup", seconds=CHORE_SECONDS) as mine:
        return asdict(services().cleanup(who="beat")) if mine else {}
