"""The delivery of one batch, and the dispatch of one stream."""

from dataclasses import asdict
from typing import Any

from syncctl.errors import SyncctlError
from syncctl.logs import get_logger
from syncctl.pipeline.deliver import put_back_batch
from syncctl.tasks.process import connections, delivery_slot, stopping, streams_that_wait, task
from syncctl.wiring import rows

log = get_logger(__name__)


@task("syncctl.deliver")
def deliver(stream: str, token: str, ids: list[str]) -> dict[str, Any]:
    """Deliver a batch, then dispatch the stream again; where this worker has no free slot, put the batch back."""
    with delivery_slot(stream) as free:
        if not free:
            put_back_batch(ledger=connections().ledger, stream=stream, token=token, ids=ids)
            return {"stream": stream, "put_back": len(ids)}
        delivery = rows.deliver(connections(), stream, token, ids, should_stop=stopping)
    # First the streams that found no slot: this stream's next batch would take the one that is free now. A stream that
    # must not call its partner now is left to maintenance.
    again = [] if delivery.waits else [stream]
    for name in [] if stopping() else [*(other for other in streams_that_wait() if other != stream), *again]:
        try:
            rows.dispatch(connections(), name)
        except SyncctlError as error:
            # Maintenance dispatches due records once the missing service is back.
            log.warning("dispatch.failed", stream=name, error=str(error))
    return asdict(delivery)


@task("syncctl.dispatch")
def dispatch(stream: str) -> dict[str, Any]:
    """Queue the due records of a stream."""
    return {"stream": stream, "dispatched": rows.dispatch(connections(), stream)}
