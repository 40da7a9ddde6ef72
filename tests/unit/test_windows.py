"""How much may be on its way at once."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncctl.core.stream import Batching
from syncctl.core.windows import Sizes, decide_margin_seconds, decide_sizes, decide_slots, shorten_batch
from tests.harness.cases import make_partner, make_stream

RATES = st.none() | st.tuples(st.integers(1, 10_000), st.sampled_from([1.0, 60.0, 3600.0, 86400.0]))
SETTINGS = st.fixed_dictionaries(
    {
        "batch_size": st.integers(1, 1000),
        "window": st.integers(1, 20_000),
        "lease_seconds": st.floats(1, 3600),
        "timeout_seconds": st.floats(0.1, 300),
        "max_in_flight": st.integers(1, 500),
        "rate": RATES,
        "processes": st.integers(1, 64),
        "streams": st.integers(1, 40),
    }
)


def sizes(**changes: Any) -> Sizes:
    chosen: dict[str, Any] = {
        "batch_size": 100, "window": 2000, "lease_seconds": 300.0, "timeout_seconds": 30.0, "max_in_flight": 32,
        "rate": None, "processes": 4, "streams": 1, **changes,
    }  # fmt: skip
    of_stream, of_partner = ("batch_size", "window", "lease_seconds"), ("timeout_seconds", "max_in_flight", "rate")
    stream = make_stream(**{name: chosen[name] for name in of_stream})
    partner = make_partner("http://p", **{name: chosen[name] for name in of_partner})
    return decide_sizes(stream, partner, processes=chosen["processes"], streams=chosen["streams"])


@given(SETTINGS)
def test_no_size_is_ever_zero(settings: dict[str, Any]) -> None:
    found = sizes(**settings)
    assert min(found.batch, found.window, found.retries, found.threads, found.messages) >= 1


@given(SETTINGS)
def test_no_setting_is_exceeded(settings: dict[str, Any]) -> None:
    found = sizes(**settings)
    assert found.batch <= settings["batch_size"]
    assert found.window <= settings["window"]
    assert found.threads <= found.batch
    # Where there are fewer calls than processes, each still makes one at a time.
    assert found.threads * settings["processes"] <= max(settings["max_in_flight"], settings["processes"])


@given(SETTINGS)
def test_a_batch_of_hanging_calls_ends_within_half_a_lease(settings: dict[str, Any]) -> None:
    found = sizes(**settings)
    rounds = math.ceil(found.batch / found.threads)
    assert rounds == 1 or rounds * settings["timeout_seconds"] <= settings["lease_seconds"] / 2


@given(SETTINGS.filter(lambda each: each["rate"] is not None))
def test_the_batches_of_all_processes_keep_the_rate_within_half_a_lease(settings: dict[str, Any]) -> None:
    found = sizes(**settings)
    calls, seconds = settings["rate"]
    allowed = max(1, settings["lease_seconds"] / 2 * calls / seconds)
    assert found.batch == 1 or found.batch * settings["processes"] <= allowed
    assert found.window <= max(found.batch, allowed)


@given(SETTINGS)
def test_first_attempts_keep_half_of_the_window(settings: dict[str, Any]) -> None:
    found = sizes(**settings)
    assert found.retries <= max(1, found.window / 2)


@given(SETTINGS)
def test_the_messages_of_all_streams_hold_a_window_each(settings: dict[str, Any]) -> None:
    found = sizes(**settings)
    assert found.messages * found.batch >= found.window * settings["streams"]


def test_without_limits_the_settings_are_used_as_they_are() -> None:
    found = sizes(timeout_seconds=5.0)
    assert found == Sizes(batch=100, window=2000, retries=1000, threads=8, messages=20)


def test_a_slow_rate_makes_small_batches() -> None:
    assert sizes(rate=(1, 1.0)).batch == 37
    assert sizes(rate=(1, 3600.0)).batch == 1


@given(st.integers(1, 64), st.integers(1, 40), st.integers(1, 64))
def test_a_worker_of_several_processes_keeps_one_for_polls(concurrency: int, partners: int, most: int) -> None:
    found = decide_slots(concurrency=concurrency, partners=partners, max_in_flight=most)
    assert found.all == max(1, concurrency - 1)
    assert 1 <= found.per_partner <= min(found.all, most)


@given(st.integers(3, 64), st.integers(2, 40))
def test_several_partners_leave_one_process_for_each_other(concurrency: int, partners: int) -> None:
    found = decide_slots(concurrency=concurrency, partners=partners, max_in_flight=64)
    assert found.per_partner < found.all
    if partners <= found.all:
        assert found.per_partner * (partners - 1) < found.all, "one is left, whatever all partners but one hold"
        assert found.per_partner >= found.all // partners
    assert decide_slots(concurrency=concurrency, partners=1, max_in_flight=64).per_partner == found.all


@pytest.mark.parametrize(
    ("rate", "rows", "batch"), [((50, 1.0), 1, 100), ((2, 1.0), 1, 10), ((2, 1.0), 5, 50), ((59, 60.0), 1, 100)]
)
def test_a_batch_under_a_rate_soon_gives_its_place_to_others(rate: tuple[int, float], rows: int, batch: int) -> None:
    stream = make_stream(batching=Batching(size=rows))
    found = shorten_batch(sizes(timeout_seconds=1.0), stream, rate)
    assert (found.batch, found.window) == (batch, 2000)
    assert shorten_batch(found, stream, None) == found


@given(st.floats(0.5, 1000), st.floats(0.1, 400))
def test_whatever_lease_the_settings_allow_leaves_time_for_a_call(lease: float, timeout: float) -> None:
    """The settings ask for a lease of more than twice the deadline."""
    if lease > 2 * timeout:
        assert lease > timeout + decide_margin_seconds(lease)
