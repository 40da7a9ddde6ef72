"""`syncctl add`: two numbers through broker, worker and result backend; the error names the hop that broke."""

import time
from typing import Any

from celery import Celery
from celery.exceptions import TimeoutError as NoResult
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from syncctl.broker.queue import CONTROL, Broker, unavailable
from syncctl.errors import ServiceUnavailable


def add_through_queue(app: Celery, broker: Broker, x: float, y: float, *, timeout_seconds: float) -> dict[str, Any]:
    """Return the fields of a round trip.

    Raises:
        ServiceUnavailable: Broker: Redis cannot be reached. Worker: nobody took the task. Result: it was taken, and
            nothing came back.
    """
    started = time.monotonic()
    broker.count_waiting(CONTROL)
    try:
        sent = app.send_task("syncctl.add_and_sign", args=[x, y], queue=CONTROL, ignore_result=False)
        try:
            result = sent.get(timeout=timeout_seconds)
        except NoResult:
            sent.forget()
            raise _explain(broker, timeout_seconds) from None
    except (OperationalError, RedisError, OSError) as error:
        raise unavailable(broker.url, error) from error
    elapsed = round((time.monotonic() - started) * 1000, 1)
    return {"x": x, "y": y, "sum": result["sum"], "round_trip_ms": elapsed, "worker": result["worker"]}


def _explain(broker: Broker, timeout_seconds: float) -> ServiceUnavailable:
    """Tell a worker that took nothing from a result that did not come back."""
    if broker.count_waiting(CONTROL) > 0:
        return ServiceUnavailable(
            "broker: reached; worker: nobody took the task",
            service="worker",
            why=f"it still waits in the queue {CONTROL} after {timeout_seconds:g} s",
            hint="start one: syncctl worker",
        )
    return ServiceUnavailable(
        "broker: reached; worker: took the task; result: none came back",
        service="result",
        why=f"no result within {timeout_seconds:g} s: the worker is busy, died, or writes to another Redis",
        hint="read the worker's log, and compare its REDIS_URL with this one",
    )
