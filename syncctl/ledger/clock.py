"""MongoDB's clock. No lease and no due time is ever judged by a worker's own clock."""

import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any


def in_future(seconds: float) -> dict[str, Any]:
    """Return the expression for MongoDB's now plus some seconds."""
    return {"$add": ["$$NOW", round(seconds * 1000)]}


def is_past(field: str) -> dict[str, Any]:
    """Return the filter for a date that has come; a missing field has not (it would count as past in $expr alone)."""
    return {field: {"$type": "date"}, "$expr": {"$lte": [f"${field}", "$$NOW"]}}


@dataclass(frozen=True, slots=True)
class ClockReading:
    """A reading of MongoDB's clock, carried on by this machine's monotonic clock.

    `monotonic` is taken after the answer has come: what is stamped with it is never ahead of MongoDB's clock, so that
    a record that is due at once is due by the time somebody looks.
    """

    at: datetime
    monotonic: float

    def now(self) -> datetime:
        """Return MongoDB's time by now, behind by at most the round trip of the reading."""
        return self.at_monotonic(time.monotonic())

    def at_monotonic(self, monotonic: float) -> datetime:
        """Return MongoDB's time at an instant of this machine's monotonic clock."""
        return self.at + timedelta(seconds=monotonic - self.monotonic)
