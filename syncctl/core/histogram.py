"""Latency histograms that can be added up, so that the percentiles of a day come from its hours.

Buckets grow by 5 %, so a percentile is known to within 5 % (the idea of HdrHistogram and DDSketch).
"""

import math
from collections.abc import Mapping

GROWTH = 1.05
LN_GROWTH = math.log(GROWTH)


def bucket_of(latency_ms: float) -> int:
    """Return the bucket of a latency in milliseconds; everything below 0.1 ms shares one."""
    return math.floor(math.log(max(latency_ms, 0.1)) / LN_GROWTH)


def percentile(buckets: Mapping[int, int], share: float) -> float | None:
    """Return the latency in ms below which `share` (0 to 1) of the calls lie; None where there were none."""
    total = sum(buckets.values())
    if total == 0:
        return None
    wanted = max(1, math.ceil(total * share))
    seen = 0
    for bucket in sorted(buckets):
        seen += buckets[bucket]
        if seen >= wanted:
            return round(math.pow(GROWTH, bucket + 0.5), 2)
    return None
