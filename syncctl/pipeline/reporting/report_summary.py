"""Sums of rolled-up hours: the rows of a report, its totals and errors, and the figures that are drawn."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo
from typing import Any, Literal

from syncctl.core.histogram import percentiles
from syncctl.core.report_points import Point
from syncctl.core.time_zone import HOUR, LONG_AGO, floor_day, start_of_day
from syncctl.ledger.attempt_history import SLICE_MINUTES
from syncctl.ledger.reports import SLICED

By = Literal["hour", "day", "stream", "error"]
Unit = Literal["slice", "hour", "day"]
Hour = Mapping[str, Any]

COUNTS = ("logged", "delivered", "failed", "superseded", "attempts", "retries")
SHARES = (50, 95, 99)
SLICE = timedelta(minutes=SLICE_MINUTES)
_SLICES_AT_MOST = timedelta(hours=12)
_HOURS_AT_MOST = timedelta(days=8)


@dataclass(kw_only=True, slots=True)
class HourSum:
    """The sum of stored hours."""

    stream: str = ""
    window_start: datetime | None = None
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    latency: dict[str, int] = field(default_factory=dict)
    #: The times from logged to delivered; None if no hour had them, though it had deliveries.
    delivery: dict[str, int] | None = field(default_factory=dict)
    #: How many calls had to be repeated.
    retried: int = 0

    def add(self, hour: Hour) -> None:
        """Add one stored hour."""
        for name in COUNTS:
            self.counts[name] += hour.get(name, 0)
        _merge(self.latency, hour.get("latency", {}))
        delivery = hour.get("delivery")
        if delivery is not None:
            self.delivery = self.delivery or {}
            _merge(self.delivery, delivery)
        elif hour.get("delivered") and not self.delivery:
            self.delivery = None
        self.retried += count_retried(hour)

    def to_hour(self) -> dict[str, Any]:
        """Return the sum in the form of one stored hour, without errors and slices."""
        known = {} if self.delivery is None else {"delivery": self.delivery}
        return {**self.counts, "latency": self.latency, "retried": self.retried, **known}

    def latency_ms(self) -> tuple[float | None, ...]:
        """Return the percentiles of `SHARES` of the latencies of calls."""
        return _find_percentiles(self.latency)

    def delivery_ms(self) -> tuple[float | None, ...]:
        """Return the percentiles of `SHARES` of the times from logged to delivered."""
        return _find_percentiles(self.delivery or {})

    def summarise(self) -> dict[str, Any]:
        """Return the counts and the percentiles."""
        return {
            **self.counts,
            **{f"p{share}_ms": latency for share, latency in zip(SHARES, self.latency_ms(), strict=True)},
            "delivery_count": None if self.delivery is None else sum(self.delivery.values()),
            **{f"delivery_p{share}_ms": duration for share, duration in zip(SHARES, self.delivery_ms(), strict=True)},
        }


def _find_percentiles(buckets: Mapping[str, int]) -> tuple[float | None, ...]:
    counts = {int(bucket): count for bucket, count in buckets.items()}
    return tuple(percentiles(counts, [share / 100 for share in SHARES]))


def _merge(buckets: dict[str, int], more: Mapping[str, int]) -> None:
    for bucket, count in more.items():
        buckets[bucket] = buckets.get(bucket, 0) + count


def count_retried(hour: Hour) -> int:
    """Return how many calls of an hour had to be repeated; for older hours this is an estimate."""
    if "retried" in hour:
        return int(hour["retried"])
    if "slices" in hour:
        return int(sum(hour["slices"].get("retried", {}).values()))
    return max(0, int(hour.get("attempts", 0)) - int(hour.get("delivered", 0)) - int(hour.get("failed", 0)))


class StreamDays:
    """A day added up by stream, in the form of stored hours, so that it can be added to other sums like an hour."""

    def __init__(self) -> None:
        self._sums: dict[str, HourSum] = {}
        self._errors: dict[str, dict[str, dict[str, Any]]] = {}

    def add(self, hour: Hour) -> None:
        """Add one stored hour."""
        stream = hour["stream"]
        self._sums.setdefault(stream, HourSum()).add(hour)
        _add_errors(self._errors.setdefault(stream, {}), hour)

    def to_documents(self) -> dict[str, dict[str, Any]]:
        """Return the document to store for each stream."""
        return {
            stream: {**total.to_hour(), "errors": list(self._errors[stream].values())}
            for stream, total in self._sums.items()
        }


def _add_errors(errors: dict[str, dict[str, Any]], hour: Hour) -> None:
    for error in hour.get("errors", ()):
        known = errors.setdefault(error["fingerprint"], {**error, "count": 0})
        known["count"] += int(error["count"])


class Summary:
    """A period added up by stream and hour, by stream and day of a zone, or by stream."""

    def __init__(self, by: By, zone: tzinfo) -> None:
        self._by = by
        self._zone = zone
        self._sums: dict[tuple[datetime | None, str], HourSum] = {}
        self._errors: dict[str, dict[str, Any]] = {}
        self._total = HourSum()
        self._days: dict[datetime, datetime] = {}

    def add(self, hour: Hour) -> None:
        """Add one stored hour."""
        self._total.add(hour)
        if self._by != "error":
            at = self._window_of(hour["window_start"])
            identity = (at, hour["stream"])
            total = self._sums.get(identity)
            if total is None:
                total = self._sums[identity] = HourSum(stream=hour["stream"], window_start=at)
            total.add(hour)
        _add_errors(self._errors, hour)

    def _window_of(self, at: datetime) -> datetime | None:
        if self._by == "stream":
            return None
        if self._by == "hour":
            return at
        if at not in self._days:
            self._days[at] = floor_day(at, self._zone)
        return self._days[at]

    def totals(self) -> dict[str, Any]:
        """Return the counts and percentiles of the whole period."""
        return self._total.summarise()

    def histograms(self) -> tuple[dict[int, int], dict[int, int] | None]:
        """Return the latencies and the times from logged to delivered, by bucket; the latter are None if unknown."""
        total = self._total
        delivery = None if total.delivery is None else {int(name): count for name, count in total.delivery.items()}
        return {int(name): count for name, count in total.latency.items()}, delivery

    def errors(self) -> list[Mapping[str, Any]]:
        """Return the errors by fingerprint, the most frequent first."""
        return sorted(self._errors.values(), key=lambda error: -int(error["count"]))

    def rows(self) -> list[Mapping[str, Any]]:
        """Return the rows, the oldest first, or the errors."""
        if self._by == "error":
            return self.errors()
        ordered = sorted(self._sums.values(), key=lambda row: (row.window_start or LONG_AGO, row.stream))
        return [{"stream": row.stream, "window_start": row.window_start, **row.summarise()} for row in ordered]


class Figures:
    """The course of a period in the unit of time that suits its length: slices of an hour, hours, or days of a zone."""

    def __init__(self, since: datetime, until: datetime, zone: tzinfo) -> None:
        self.since = since
        self.until = until
        self._zone = zone
        self._slices: dict[datetime, dict[str, int]] | None = {}
        self._sums: dict[datetime, HourSum] = {}
        length = until - since
        self._wants_slices = length <= _SLICES_AT_MOST
        self._unit: Unit = "hour" if length <= _HOURS_AT_MOST else "day"

    def add(self, hour: Hour) -> None:
        """Add one stored hour."""
        start = hour["window_start"]
        at = start if self._unit == "hour" else floor_day(start, self._zone)
        self._sums.setdefault(at, HourSum(window_start=at)).add(hour)
        if not self._wants_slices or self._slices is None:
            return
        if "slices" not in hour and hour.get("attempts"):
            # This hour was rolled up before slices were stored, so only hours are known.
            self._slices = None
            return
        for name, counts in hour.get("slices", {}).items():
            for number, count in counts.items():
                known = self._slices.setdefault(start + int(number) * SLICE, dict.fromkeys(SLICED, 0))
                known[name] += int(count)

    @property
    def adds_days(self) -> bool:
        """Whether the hours of a day are merged."""
        return self._unit == "day"

    @property
    def unit(self) -> Unit:
        """The unit of the outcomes."""
        return "slice" if self._wants_slices and self._slices is not None else self._unit

    def outcomes(self) -> list[Point]:
        """Return the outcomes of calls, including units without calls."""
        if self.unit != "slice" or self._slices is None:
            return self.times()
        none = dict.fromkeys(SLICED, 0)
        starts = [self.since + number * SLICE for number in range(round((self.until - self.since) / SLICE))]
        counts = [(at, self._slices.get(at, none)) for at in starts]
        return [
            Point(
                start=at,
                end=at + SLICE,
                delivered=slice_counts["delivered"],
                failed=slice_counts["failed"],
                retried=slice_counts["retried"],
            )
            for at, slice_counts in counts
        ]

    def times(self) -> list[Point]:
        """Return outcomes and percentiles by hour or day, including those without any."""
        return [self._describe(start, end) for start, end in self._spans()]

    def _describe(self, start: datetime, end: datetime) -> Point:
        total = self._sums.get(start) or HourSum()
        return Point(
            start=start,
            end=end,
            delivered=total.counts["delivered"],
            failed=total.counts["failed"],
            retried=total.retried,
            latency_ms=total.latency_ms(),
            delivery_ms=total.delivery_ms(),
        )

    def _spans(self) -> Iterator[tuple[datetime, datetime]]:
        start = self.since if self._unit == "hour" else floor_day(self.since, self._zone)
        while start < self.until:
            end = start + HOUR if self._unit == "hour" else start_of_day(start.astimezone(self._zone), 1, self._zone)
            yield start, end
            start = end
