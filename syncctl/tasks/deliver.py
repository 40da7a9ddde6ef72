"""The delivery of one batch."""

from dataclasses import asdict
from typing import Any

from syncctl.errors import SyncctlError
from syncctl.logs import get_logger
from syncctl.tasks.define import task
from syncctl.tasks.process import delivery_slot, services, stopping, streams_that_wait

log = get_logger(__name__)


@task("syncctl.deliver")
def deliver(stream: str, token: str, ids: list[str]) -> dict[str, Any]:
    """Deliver a batch, then ask for more; where this worker has no slot for it, put it back."""
    with delivery_slot(stream) as free:
        if not free:
            services().put_back(stream, token, ids)
            return {"stream": stream, "put_back": len(ids)}
        delivery = services().deliver(stream, token, ids, should_stop=stopping)
    # Those who found no slot first: this stream's next batch would take the one that is free now. A stream that may not
    # call now is not asked for more: upkeep asks for it.
    again = [] if delivery.waits else [stream]
    for each in [] if stopping() else [*(name for name in streams_that_wait() if name != stream), *again]:
        try:
            services().dispatch(each)
        except SyncctlError as error:
            # Upkeep dispatches what is due as soon as whatever is away is back.
            log.warning("dispatch.failed", stream=each, error=str(error))
    return asdict(delivery)
