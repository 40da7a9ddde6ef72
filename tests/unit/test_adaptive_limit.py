"""How many calls at once a partner without a limit of its own gets."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from syncctl.core.adaptive_limit import FIRST, MOST, REST_SECONDS, AdaptiveLimit

SECONDS = st.lists(
    st.tuples(
        st.lists(st.floats(0.1, 60_000.0), max_size=20),
        st.integers(0, 3),
        st.booleans(),
    ),
    max_size=40,
)
"""What happened in each second: how long calls took, how many were told 429, and whether calls had to wait."""


class Clock:
    """A limit, judged once a second by a clock that a test moves."""

    def __init__(self, **options: int) -> None:
        self.limit = AdaptiveLimit(**options)
        self.now = 100.0
        self.limit.judge(now=self.now, was_reached=False)

    def second(self, *latencies: float, too_many: int = 0, was_reached: bool = True) -> int:
        """Let a second pass in which calls ended."""
        for latency_ms in latencies:
            self.limit.note(latency_ms=latency_ms, is_too_many=False)
        for _ in range(too_many):
            self.limit.note(latency_ms=5.0, is_too_many=True)
        self.now += 1.0
        return self.limit.judge(now=self.now, was_reached=was_reached)


@given(SECONDS, st.integers(1, 300))
def test_a_limit_stays_within_its_bounds(seconds: list[tuple[list[float], int, bool]], most: int) -> None:
    clock = Clock(first=min(FIRST, most), most=most)
    for latencies, too_many, was_reached in seconds:
        assert 1 <= clock.second(*latencies, too_many=too_many, was_reached=was_reached) <= most


@given(SECONDS)
def test_a_429_halves_the_limit(seconds: list[tuple[list[float], int, bool]]) -> None:
    clock = Clock()
    for latencies, too_many, was_reached in seconds:
        before = clock.limit.limit
        after = clock.second(*latencies, too_many=too_many, was_reached=was_reached)
        if too_many:
            assert after == max(1, before // 2)
        elif not was_reached:
            assert after <= before, "it is enough as it is"


@given(SECONDS)
def test_after_a_429_it_rests_and_then_grows_one_by_one(seconds: list[tuple[list[float], int, bool]]) -> None:
    clock = Clock()
    throttled_at: float | None = None
    for latencies, too_many, was_reached in seconds:
        before = clock.limit.limit
        after = clock.second(*latencies, too_many=too_many, was_reached=was_reached)
        if too_many:
            throttled_at = clock.now
        elif throttled_at is not None:
            assert after <= before + (clock.now - throttled_at >= REST_SECONDS)


def test_it_grows_by_half_while_a_partner_keeps_up() -> None:
    clock = Clock()
    seen = [clock.second(*[20.0] * 30) for _ in range(8)]
    assert seen[0] == FIRST * 3 // 2 + 1
    assert all(after >= before for before, after in pairwise(seen))
    assert seen[-1] == MOST


def test_it_stays_where_no_call_had_to_wait() -> None:
    clock = Clock()
    assert [clock.second(20.0, was_reached=False) for _ in range(5)] == [FIRST] * 5


def test_it_goes_back_where_calls_take_far_longer_and_no_further_than_it_began() -> None:
    clock = Clock()
    while clock.second(*[20.0] * 30) < MOST:
        pass
    seen = [clock.second(*[200.0] * 30) for _ in range(12)]
    assert seen[0] == int(MOST * 0.9)
    assert all(after <= before for before, after in pairwise(seen))
    assert min(seen) >= FIRST


def test_a_partner_that_has_become_slower_for_good_is_not_held_back_for_ever() -> None:
    clock = Clock()
    clock.second(*[20.0] * 30)
    seen = [clock.second(*[200.0] * 30) for _ in range(60)]
    assert seen[-1] == MOST


def test_one_slow_call_among_many_says_nothing() -> None:
    clock = Clock()
    before = clock.limit.limit
    assert clock.second(*[20.0] * 30, 30_000.0) > before


def test_a_second_without_a_call_changes_nothing() -> None:
    clock = Clock()
    assert [clock.second() for _ in range(5)] == [FIRST] * 5


def test_it_is_judged_once_a_second() -> None:
    limit = AdaptiveLimit()
    limit.judge(now=10.0, was_reached=True)
    for step in range(9):
        limit.note(latency_ms=20.0, is_too_many=step % 2 == 0)
        assert limit.judge(now=10.0 + step / 10, was_reached=True) == FIRST
    assert limit.judge(now=11.0, was_reached=True) == FIRST // 2
