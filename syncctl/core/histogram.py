"""Histograms of durations that can be added up, so that the percentiles of a day come from its hours.

Buckets grow by 5 %, so a percentile is known to within 5 % (the idea of HdrHistogram and DDSketch). For Prometheus and
for charts, which need a few fixed bounds, the buckets are accumulated under those bounds.
"""

import itertools
import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence

GROWTH = 1.05
LN_GROWTH = math.log(GROWTH)

LATENCY_BOUNDS_MS = (5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000)
"""Public: the bounds under which the latencies of calls are counted."""

DELIVERY_BOUNDS_MS = (
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 300_000, 900_000, 3_600_000, 21_600_000, 86_400_000,
    604_800_000,
)  # fmt: skip
"""Public: the bounds under which the times from logged to delivered are counted, 100 ms to 7 days."""


def bucket_of(duration_ms: float) -> int:
    """Return the bucket of a duration in milliseconds; everything below 0.1 ms shares one."""
    return math.floor(math.log(max(duration_ms, 0.1)) / LN_GROWTH)


def percentiles(buckets: Mapping[int, int], shares: Sequence[float]) -> list[float | None]:
    """Return for each share (0 to 1) the duration in ms below which that share of all lies; None if there are none."""
    total = sum(buckets.values())
    if total == 0:
        return [None] * len(shares)
    ordered = sorted(buckets)
    seen = list(itertools.accumulate(buckets[bucket] for bucket in ordered))
    places = [bisect_left(seen, max(1, math.ceil(total * share))) for share in shares]
    return [round(_middle_of(ordered[place]), 2) for place in places]


def accumulate(buckets: Mapping[int, int], bounds_ms: Sequence[float]) -> list[int]:
    """Return how many durations lie below each bound, and at the end how many there are.

    A bucket that a bound divides is counted as a whole where its middle lies, so a bound is exact to within 2.5 %. The
    counts never fall as buckets grow.
    """
    counts = [0] * (len(bounds_ms) + 1)
    for bucket, count in buckets.items():
        counts[bisect_left(bounds_ms, _middle_of(bucket))] += count
    return list(itertools.accumulate(counts))


def estimate_sum(buckets: Mapping[int, int]) -> float:
    """Return the sum of all durations in ms, to within 2.5 %."""
    return math.fsum(count * _middle_of(bucket) for bucket, count in buckets.items())


def _middle_of(bucket: int) -> float:
    return math.pow(GROWTH, bucket + 0.5)
