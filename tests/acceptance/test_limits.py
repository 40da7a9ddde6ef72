"""Limits that two workers share: concurrent calls, calls per second; and a hung partner beside a healthy one."""

import json
import socket
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from syncctl.broker.rate import AT_ONCE_SECONDS
from syncctl.local.mock_partner import MockPartner
from tests.harness.commands import RunningCommand, run_syncctl
from tests.harness.http_partner import CountingPartner
from tests.harness.source_db import SourceDb

Start = Callable[..., RunningCommand]
MakeSettings = Callable[..., Path]

GAP = AT_ONCE_SECONDS
"""Permits unused for longer than this, in seconds, are not made up for."""


@pytest.fixture
def write(make_settings: MakeSettings) -> Callable[..., Path]:
    """Write settings for a partner with limits."""

    def write(partner_url: str, **limits: Any) -> Path:
        sections = {"partners": {"default": limits}}
        return make_settings(partner_url=partner_url, stream={"batch_size": 20}, sections=sections)

    return write


def start_workers(start_syncctl: Start, directory: Path) -> None:
    for name in ("one", "two"):
        start_syncctl("worker", "--concurrency", "3", "--name", name, cwd=directory)
    start_syncctl("beat", cwd=directory)


@pytest.mark.parametrize("max_in_flight", [1, 5])
def test_two_workers_make_no_more_calls_at_once_than_the_partner_takes(
    write: Any, start_syncctl: Start, source_db: SourceDb, eventually: Callable[..., Any], max_in_flight: int
) -> None:
    rows = 60 * max_in_flight
    source_db.create_orders(rows)
    with CountingPartner(latency_seconds=0.03) as partner:
        directory = write(partner.url, max_in_flight=max_in_flight)
        assert run_syncctl("poll", "--once", cwd=directory).exit_code == 0
        start_workers(start_syncctl, directory)
        eventually(lambda: len(partner.arrivals) >= rows, timeout=120)
    assert partner.most_at_once == max_in_flight


def test_two_workers_keep_to_a_rate_together(
    write: Any, start_syncctl: Start, source_db: SourceDb, eventually: Callable[..., Any]
) -> None:
    rate, rows = 50, 600
    source_db.create_orders(rows)
    with CountingPartner(latency_seconds=0.02) as partner:
        directory = write(partner.url, rate=f"{rate}/second")
        assert run_syncctl("poll", "--once", cwd=directory).exit_code == 0
        start_workers(start_syncctl, directory)
        eventually(lambda: len(partner.arrivals) >= rows, timeout=170)
        arrivals = list(partner.arrivals)
    gaps = [after - before for before, after in pairwise(arrivals)]
    span = sum(gaps)
    # No call was due, or this machine stood still: neither says anything about the rate.
    stood_still = sum(gap - GAP for gap in gaps if gap > GAP)
    most = max(bisect_left(arrivals, each + 1) - index for index, each in enumerate(arrivals))
    figures = f"{len(gaps) / span:.2f} calls/s over {span:.1f} s, {most} in a second, {stood_still:.2f} s stood still"
    print(figures)  # noqa: T201 - the figure of a run by hand
    assert len(gaps) / span <= rate * 1.05, figures
    assert len(gaps) / (span - stood_still) >= rate * 0.95, figures
    # Calls that piled up while this machine stood still come in the second that follows.
    assert most <= rate * (1.1 + max(gaps)), figures
    assert stood_still < span / 2, figures


@pytest.fixture
def hung() -> Iterator[str]:
    """A port that accepts and never answers."""
    with closing(socket.create_server(("127.0.0.1", 0), backlog=512)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_hung_partner_does_not_hold_up_a_healthy_one(
    make_settings: MakeSettings, source_db: SourceDb, hung: str, start_syncctl: Start, eventually: Callable[..., Any],
) -> None:  # fmt: skip
    source_db.create_orders(300)
    with MockPartner() as healthy:
        directory = make_settings(
            partner_url=healthy.url,
            sections={
                "partners": {"default": {}, "dead": {"url": hung, "timeout_seconds": 20}},
                "streams": {
                    "lost": {
                        "table": "orders",
                        "cursor": "id",
                        "start": "beginning",
                        "partner": "dead",
                        "endpoint": "POST /x",
                    }
                },
            },
        )
        assert run_syncctl("poll", "lost", "--once", cwd=directory).exit_code == 0
        start_syncctl("worker", "--concurrency", "3", cwd=directory)
        start_syncctl("beat", cwd=directory)
        eventually(lambda: len(healthy.rows()) == 300, timeout=120)
        status = json.loads(run_syncctl("status", "--json", cwd=directory).stdout)
    streams = {stream["stream"]: stream for stream in status["streams"]}
    assert streams["lost"]["counts"]["delivered"] == 0
    assert sum(streams["lost"]["counts"][state] for state in ("pending", "retrying", "queued", "sending")) == 300


@pytest.mark.parametrize("others", ["slow", "hung"])
def test_two_partners_that_keep_batches_waiting_do_not_hold_up_a_healthy_one(
    make_settings: MakeSettings, source_db: SourceDb, hung: str, start_syncctl: Start,
    eventually: Callable[..., Any], others: str,
) -> None:  # fmt: skip
    """With a worker as it is by default. The two are idle at first: that gives the time of the healthy one."""
    batch = 300
    source_db.create_orders()
    source_db.create_orders(table="others")
    stream = {"table": "others", "cursor": "id", "key": ["id"], "start": "beginning", "poll_every": "1s"}
    with CountingPartner(latency_seconds=0.01) as healthy, CountingPartner(latency_seconds=0.01) as slow:
        partner = {"url": hung, "timeout_seconds": 25} if others == "hung" else {"url": slow.url, "rate": "1/minute"}
        directory = make_settings(
            partner_url=healthy.url,
            sections={
                "partners": {"default": {}, "one": partner, "two": partner},
                "streams": {
                    name: {**stream, "mode": "increasing", "partner": name, "endpoint": "POST /x"}
                    for name in ("one", "two")
                },
            },
        )
        start_syncctl("worker", cwd=directory)
        start_syncctl("beat", cwd=directory)

        def time_orders(rows: int) -> float:
            first, added_at = len(healthy.arrivals) + 1, time.monotonic()
            source_db.add_orders(range(first, first + rows))
            eventually(lambda: len(healthy.arrivals) >= first + rows - 1, timeout=70)
            return healthy.arrivals[first + rows - 2] - added_at

        def are_waiting() -> bool:
            streams = json.loads(run_syncctl("status", "--json", cwd=directory).stdout)["streams"]
            at_work = [stream for stream in streams if stream["stream"] != "orders" and stream["counts"]["sending"]]
            return len(slow.arrivals) == 2 if others == "slow" else len(at_work) == 2

        time_orders(1)  # the worker has begun, too
        alone = max(time_orders(batch) for _ in range(2))
        source_db.add_orders(range(1, 201), table="others")
        eventually(are_waiting, timeout=60)
        beside = time_orders(batch)
        print(f"{alone:.1f} s alone, {beside:.1f} s beside two that are {others}")  # noqa: T201 - the figure by hand
    assert beside <= 5 * alone
