"""How many records are taken at once and in all."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from syncctl.core.batch_sizes import decide_sizes
from syncctl.core.stream import Batching
from syncctl.tasks.delivery_slots import count_delivery_slots
from tests.harness.cases import make_partner, make_stream

RATES = st.none() | st.tuples(st.integers(1, 10_000), st.sampled_from([1.0, 60.0, 3600.0, 86400.0]))


@given(st.integers(1, 1000), st.integers(1, 20_000), st.integers(1, 500), RATES)
def test_no_setting_is_exceeded_and_nothing_is_ever_none(batch_size: int, window: int, rows: int, rate: Any) -> None:
    stream = make_stream(batch_size=batch_size, window=window, batching=Batching(size=rows))
    found = decide_sizes(stream, make_partner("http://p", rate=rate))
    assert 1 <= found.batch <= max(batch_size, rows)
    assert found.batch <= found.window
    assert found.window in (window, rows)
    assert 1 <= found.retries <= max(1, found.window // 2)


def test_under_a_rate_a_batch_holds_what_a_few_seconds_let_through() -> None:
    stream = make_stream(batch_size=250, window=2000)
    assert decide_sizes(stream, make_partner("http://p", rate=(10, 1.0))).batch == 50
    assert decide_sizes(stream, make_partner("http://p", rate=(1, 60.0))).batch == 1
    assert decide_sizes(stream, make_partner("http://p")).batch == 250


def test_a_partner_that_recovers_gets_no_more_than_it_is_allowed() -> None:
    sizes = decide_sizes(make_stream(batch_size=250, window=2000), make_partner("http://p")).at_most(4)
    assert (sizes.batch, sizes.window, sizes.retries) == (4, 4, 4)


def test_one_process_is_kept_for_polls_and_maintenance() -> None:
    assert [count_delivery_slots(processes) for processes in (1, 2, 4)] == [1, 1, 3]
