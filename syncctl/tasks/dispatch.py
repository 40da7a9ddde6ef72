"""The dispatch of one stream."""

from typing import Any

from syncctl.tasks.define import task
from syncctl.tasks.process import services


@task("syncctl.dispatch")
def dispatch(stream: str) -> dict[str, Any]:
    """Queue what is due."""
    return {"stream": stream, "dispatched": services().dispatch(stream)}
