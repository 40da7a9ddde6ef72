"""Percentiles from histograms that were added up."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncctl.core.histogram import GROWTH, bucket_of, percentile

LATENCIES = st.floats(min_value=0.2, max_value=10_000_000.0)
WITHIN = math.sqrt(GROWTH) * 1.001


@given(st.lists(LATENCIES, min_size=1, max_size=60), st.sampled_from([0.5, 0.95, 0.99, 1.0]))
def test_a_percentile_is_within_five_percent_of_the_true_one(latencies: list[float], share: float) -> None:
    true = sorted(latencies)[max(1, math.ceil(len(latencies) * share)) - 1]
    found = percentile(Counter(map(bucket_of, latencies)), share)
    assert found is not None
    # Rounded to 0.01 ms, which shows only in the smallest.
    assert true / WITHIN - 0.01 <= found <= true * WITHIN + 0.01


@given(st.lists(LATENCIES, max_size=30), st.lists(LATENCIES, max_size=30))
def test_hours_that_are_added_up_give_what_the_day_gives(morning: list[float], evening: list[float]) -> None:
    added = Counter(map(bucket_of, morning)) + Counter(map(bucket_of, evening))
    assert percentile(added, 0.95) == percentile(Counter(map(bucket_of, morning + evening)), 0.95)


@given(st.lists(LATENCIES, min_size=1, max_size=30))
def test_percentiles_never_fall(latencies: list[float]) -> None:
    buckets = Counter(map(bucket_of, latencies))
    found = [percentile(buckets, share / 100) for share in range(101)]
    assert found == sorted(found, key=lambda each: each or 0)


@given(LATENCIES, LATENCIES)
def test_a_longer_call_is_never_in_a_lower_bucket(one: float, other: float) -> None:
    assert (bucket_of(one) <= bucket_of(other)) or one > other


def test_most_calls_decide_and_not_the_slowest() -> None:
    buckets = {bucket_of(10.0): 98, bucket_of(1000.0): 2}
    assert percentile(buckets, 0.5) == pytest.approx(10.0, rel=0.05)
    assert percentile(buckets, 0.98) == pytest.approx(10.0, rel=0.05)
    assert percentile(buckets, 0.99) == pytest.approx(1000.0, rel=0.05)


@pytest.mark.parametrize("latency_ms", [0.0, 0.05, 0.1])
def test_calls_too_short_to_measure_share_a_bucket(latency_ms: float) -> None:
    assert bucket_of(latency_ms) == bucket_of(0.1)


def test_without_calls_there_is_no_percentile() -> None:
    assert percentile({}, 0.5) is None
    assert percentile({3: 0}, 0.5) is None
