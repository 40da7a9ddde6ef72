"""One unit of time of a report: an hour, a day of a time zone, or a part of an hour."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """The figures of one unit of time."""

    start: datetime
    end: datetime
    #: Outcomes of calls.
    delivered: int
    failed: int
    retried: int
    #: Percentiles 50, 95 and 99 of the latencies of calls; None where there were no calls.
    latency_ms: tuple[float | None, ...] = ()
    #: The same for the times from logged to delivered; None also for hours in which they were not kept yet.
    delivery_ms: tuple[float | None, ...] = ()
