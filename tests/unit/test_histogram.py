"""Percentiles from histograms that were added up."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncctl.core.histogram import (
    DELIVERY_BOUNDS_MS,
    GROWTH,
    LATENCY_BOUNDS_MS,
    accumulate,
    bucket_of,
    estimate_sum,
    percentiles,
)

LATENCIES = st.floats(min_value=0.2, max_value=10_000_000.0)
WITHIN = math.sqrt(GROWTH) * 1.001


@given(st.lists(LATENCIES, min_size=1, max_size=60), st.sampled_from([0.5, 0.95, 0.99, 1.0]))
def test_a_percentile_is_within_five_percent_of_the_true_one(latencies: list[float], share: float) -> None:
    true = sorted(latencies)[max(1, math.ceil(len(latencies) * share)) - 1]
    (found,) = percentiles(Counter(map(bucket_of, latencies)), [share])
    assert found is not None
    # Rounded to 0.01 ms, which shows only in the smallest.
    assert true / WITHIN - 0.01 <= found <= true * WITHIN + 0.01


@given(st.lists(LATENCIES, max_size=30), st.lists(LATENCIES, max_size=30))
def test_hours_that_are_added_up_give_what_the_day_gives(morning: list[float], evening: list[float]) -> None:
    added = Counter(map(bucket_of, morning)) + Counter(map(bucket_of, evening))
    assert percentiles(added, [0.95]) == percentiles(Counter(map(bucket_of, morning + evening)), [0.95])


@given(st.lists(LATENCIES, min_size=1, max_size=30))
def test_percentiles_never_fall(latencies: list[float]) -> None:
    buckets = Counter(map(bucket_of, latencies))
    found = percentiles(buckets, [share / 100 for share in range(101)])
    assert found == sorted(found, key=lambda each: each or 0)


@given(LATENCIES, LATENCIES)
def test_a_longer_call_is_never_in_a_lower_bucket(one: float, other: float) -> None:
    assert (bucket_of(one) <= bucket_of(other)) or one > other


def test_most_calls_decide_and_not_the_slowest() -> None:
    buckets = {bucket_of(10.0): 98, bucket_of(1000.0): 2}
    assert percentiles(buckets, [0.5, 0.98, 0.99]) == pytest.approx([10.0, 10.0, 1000.0], rel=0.05)


@pytest.mark.parametrize("latency_ms", [0.0, 0.05, 0.1])
def test_calls_too_short_to_measure_share_a_bucket(latency_ms: float) -> None:
    assert bucket_of(latency_ms) == bucket_of(0.1)


def test_without_calls_there_is_no_percentile() -> None:
    assert percentiles({}, [0.5, 0.9]) == [None, None]
    assert percentiles({3: 0}, [0.5]) == [None]


@given(st.lists(LATENCIES, max_size=60))
def test_under_each_bound_lie_the_durations_below_it(durations: list[float]) -> None:
    counts = accumulate(Counter(map(bucket_of, durations)), LATENCY_BOUNDS_MS)
    assert counts[-1] == len(durations)
    assert counts == sorted(counts)
    for bound, count in zip(LATENCY_BOUNDS_MS, counts, strict=False):
        surely, perhaps = (sum(each <= bound * error for each in durations) for error in (1 / WITHIN, WITHIN))
        assert surely <= count <= perhaps


@given(st.lists(LATENCIES, max_size=60))
def test_the_sum_is_within_two_and_a_half_percent(durations: list[float]) -> None:
    estimated = estimate_sum(Counter(map(bucket_of, durations)))
    assert sum(durations) / WITHIN <= estimated <= sum(durations) * WITHIN


def test_the_public_bounds_do_not_change() -> None:
    """A panel that adds up series of several versions needs the same bounds in all of them."""
    assert (LATENCY_BOUNDS_MS[0], LATENCY_BOUNDS_MS[-1], len(LATENCY_BOUNDS_MS)) == (5, 60_000, 13)
    assert (DELIVERY_BOUNDS_MS[0], DELIVERY_BOUNDS_MS[-1], len(DELIVERY_BOUNDS_MS)) == (100, 604_800_000, 15)
