"""A partner's rate limit, shared by all workers: permits by Redis's clock, evenly paced, never too many in a span."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from redis import Redis

from syncctl.broker.rate import AHEAD_SECONDS, AT_ONCE_SECONDS, SharedRate

MakeRate = Callable[..., SharedRate]


@pytest.fixture
def rate(redis_url: str, redis_prefix: str) -> Iterator[MakeRate]:
    """Open the rate limit of a partner as one worker: `rate(2, 1.0)`."""
    opened: list[SharedRate] = []

    def make(calls: int, seconds: float, *, name: str = "default") -> SharedRate:
        opened.append(SharedRate(redis_url, prefix=redis_prefix, name=name, calls=calls, seconds=seconds))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


def take_permits(rates: list[SharedRate], *, seconds: float, threads: int) -> list[float]:
    """Return when permits came to several workers, each with several that take them, sorted."""
    ends_at = time.monotonic() + seconds
    came: list[float] = []

    def run(rate: SharedRate) -> None:
        while True:
            taken, seconds = rate.take()
            if time.monotonic() + seconds > ends_at:
                return
            time.sleep(seconds)
            if taken:
                came.append(time.monotonic())

    with ThreadPoolExecutor(len(rates) * threads) as pool:
        list(pool.map(run, rates * threads))
    return sorted(came)


def most_within(came: list[float], seconds: float) -> int:
    return max(sum(1 for other in came if each <= other < each + seconds) for each in came)


def test_permits_are_paced_evenly_over_all_workers(rate: MakeRate) -> None:
    calls, seconds = 100, 4.0
    came = take_permits([rate(calls, 1.0) for _ in range(4)], seconds=seconds, threads=3)
    gaps = [after - before for before, after in pairwise(came)]
    # Permits that no thread takes for that long are not made up for: this machine was elsewhere.
    stood_still = sum(gap - AT_ONCE_SECONDS for gap in gaps if gap > AT_ONCE_SECONDS)
    assert len(gaps) / sum(gaps) <= calls * 1.05
    assert len(gaps) / (sum(gaps) - stood_still) >= calls * 0.95
    assert most_within(came, 1.0) <= calls * (1.1 + max(gaps))
    # Fixed windows would let a whole second's calls come here.
    assert most_within(came, 0.2) <= calls * (0.2 * 2 + max(gaps))


def test_after_a_rest_no_more_than_a_tenth_of_a_second_comes_at_once(rate: MakeRate) -> None:
    rested = rate(50, 1.0)
    for _ in range(2):
        near, began = 0, time.monotonic()
        while True:
            taken, seconds = rested.take()
            if not taken or seconds > 0:
                break
            near += 1
        # One more comes due every fiftieth of a second while they are taken.
        assert near <= 50 * (AT_ONCE_SECONDS + time.monotonic() - began)
        while rested.take()[1] > 0:
            time.sleep(0.02)


def test_a_permit_is_given_out_a_little_before_its_time(rate: MakeRate) -> None:
    paced = rate(50, 1.0)
    began = time.monotonic()
    waits = [paced.take() for _ in range(50)]
    given = [seconds for taken, seconds in waits if taken]
    assert 0 < max(given) <= AHEAD_SECONDS
    assert 0 < len(given) <= 50 * (AT_ONCE_SECONDS + AHEAD_SECONDS + time.monotonic() - began) + 1


def test_a_permit_that_is_near_is_waited_for(rate: MakeRate) -> None:
    paced = rate(1, 1.0)
    began = time.monotonic()
    assert len(take_permits([paced], seconds=2.5, threads=1)) == 3
    assert time.monotonic() - began >= 2.0


def test_a_redis_clock_that_was_set_back_delays_permits_only_briefly(
    rate: MakeRate, redis_url: str, redis_prefix: str
) -> None:
    paced = rate(50, 1.0)
    for _ in range(50):
        paced.take()
    with Redis.from_url(redis_url) as redis:
        redis.set(f"{redis_prefix}rate:paced:default", redis.time()[0] * 1_000_000 + 3_600_000_000)
        assert paced.take()[0]
        assert paced.take()[1] <= 1.5


def test_without_redis_no_permit_is_given(redis_prefix: str) -> None:
    """Without it the rate cannot be kept."""
    away = SharedRate("redis://localhost:1/0", prefix=redis_prefix, name="p", calls=1000, seconds=1.0)
    assert away.try_take() is None
    away.close()


@pytest.mark.parametrize("garbage", ["x", "nan", "-nan", "inf", "1e300", "-1e300", "9" * 400, b"\xff\x00", None])
def test_whatever_somebody_put_in_the_place_of_a_rate_blocks_it_for_no_longer_than_a_permit(
    rate: MakeRate, redis_url: str, redis_prefix: str, garbage: str | bytes | None
) -> None:
    limited = rate(10, 1.0)
    with Redis.from_url(redis_url) as redis:
        key = f"{redis_prefix}rate:paced:default"
        if garbage is None:
            redis.hset(key, "x", "y")
        else:
            redis.set(key, garbage)
        assert limited.take()[0]
        limited.take()
        assert redis.type(key) == b"string"
        assert 0 < redis.pttl(key) < 1000
