"""A partner that is down, refuses the credentials, or is gone: nobody's tries are used up, and it comes back gently."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from syncctl.core.breaker import BreakerRules
from syncctl.core.stream import RetrySchedule
from syncctl.local.partner import LocalPartner
from syncctl.local.partner_account import PartnerConfig
from tests.harness.source_db import SourceDb
from tests.harness.world import World
from tests.integration.hostile_partner import HostilePartner, answering

PAST = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def backlog(world: World, source_db: SourceDb) -> World:
    source_db.create_orders(60)
    world.poll()
    world.change_stream(batch_size=10, window=10)
    world.partner = replace(world.partner, breaker=BreakerRules(calls=10))
    return world


def meet(world: World, url: str) -> None:
    world.partner = replace(world.partner, url=url)


def end_pause(world: World) -> None:
    world.database.partners.update_many({"breaker.until": {"$exists": True}}, {"$set": {"breaker.until": PAST}})


def breaker(world: World) -> dict[str, Any]:
    found: dict[str, Any] = world.database.partners.find_one({"_id": "default"}).get("breaker", {})
    return found


def tries(world: World) -> list[int]:
    return sorted(each["tries"] for each in world.records())


def test_a_partner_that_is_down_is_not_called_and_nobody_behind_uses_up_tries(backlog: World) -> None:
    with LocalPartner(PartnerConfig(error_rate=1.0)) as down:
        meet(backlog, down.url)
        backlog.send_all()
        calls = len(down.calls())
        assert breaker(backlog)["state"] == "open"
        assert 10 <= calls <= 20
        backlog.let_retries_come()
        assert backlog.dispatch() == 0
        assert len(down.calls()) == calls
        before = tries(backlog)
        asked = []
        for _ in range(3):
            end_pause(backlog)
            backlog.let_retries_come()
            assert backlog.dispatch() == 1
            assert backlog.dispatch() == 0
            backlog.deliver()
            asked.append(down.calls()[-1].row)
        # One record asks each time, another than the last time, and it costs none of them a try.
        assert len(down.calls()) == calls + 3
        assert asked[0] != asked[1] != asked[2]
        assert tries(backlog) == before
        assert "HTTP 500" in breaker(backlog)["reason"]


def test_a_partner_that_is_back_gets_everything_gently(backlog: World) -> None:
    with LocalPartner(PartnerConfig(error_rate=1.0)) as server:
        meet(backlog, server.url)
        backlog.send_all()
        server.fix()
        end_pause(backlog)
        backlog.let_retries_come()
        queued = []
        while count := backlog.dispatch():
            queued.append(count)
            while backlog.messages:
                backlog.deliver()
            backlog.let_retries_come()
        assert queued[:4] == [1, 2, 4, 8]
        assert max(queued) <= 10
        assert {each["state"] for each in backlog.records()} == {"delivered"}
        assert len(server.rows()) == 60


def test_a_batch_under_way_gives_back_what_it_has_not_sent(backlog: World) -> None:
    backlog.change_stream(batch_size=60, window=60)
    with LocalPartner(PartnerConfig(error_rate=1.0)) as down:
        meet(backlog, down.url)
        backlog.dispatch()
        done = backlog.deliver()
        assert done.retrying == len(down.calls())
        assert done.returned == 60 - done.retrying
        assert done.waits
    assert len([each for each in backlog.records() if each["tries"] == 0]) == done.returned


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden"])
def test_refused_credentials_pause_the_partner_and_use_up_nothing(backlog: World, status: str) -> None:
    with HostilePartner(answering(status, b'{"message":"token expired"}')) as server:
        meet(backlog, server.url)
        backlog.send_all()
        assert backlog.dispatch() == 0
    paused = backlog.ledger.partners.load_all()["default"]["paused"]
    assert (paused["by"], paused["reason"]) == ("syncctl", f"HTTP {status[:3]}: token expired")
    assert set(tries(backlog)) == {0}
    assert {each["state"] for each in backlog.records()} == {"pending"}
    with LocalPartner() as healthy:
        meet(backlog, healthy.url)
        backlog.ledger.partners.resume("default")
        backlog.send_all()
        assert len(healthy.rows()) == 60


def test_an_endpoint_that_is_gone_pauses_its_stream(backlog: World) -> None:
    with HostilePartner(answering("410 Gone")) as server:
        meet(backlog, server.url)
        backlog.send_all()
    assert backlog.ledger.streams.load_all()["orders"]["paused"]["reason"] == "HTTP 410"
    assert not backlog.ledger.partners.load_gate("default").paused
    assert set(tries(backlog)) == {0}


def test_a_worker_waits_for_permits_that_others_hold(backlog: World, partner: LocalPartner) -> None:
    backlog.partner = replace(backlog.partner, max_in_flight=3)
    take = backlog.ledger.partners.acquire_permits
    assert take("default", token="other", wanted=3, at_most=3, seconds=60.0) == 3
    backlog.dispatch()
    done = backlog.deliver()
    assert (done.claimed, done.returned, done.waits) == (10, 10, True)
    assert partner.calls() == []
    backlog.ledger.partners.release_permits("default", token="other")
    backlog.send_all()
    assert len(partner.rows()) == 60
    assert backlog.database.partners.find_one({"_id": "default"})["permits"] == []


@pytest.mark.parametrize(
    ("changes", "status", "body", "state"),
    [
        ({"accepts_conflict": True}, "409 Conflict", b"", "delivered"),
        ({}, "409 Conflict", b"", "failed"),
        ({"accepted_when": "result.status=ok"}, "200 OK", b'{"result":{"status":"ok"}}', "delivered"),
        ({"accepted_when": "result.status=ok"}, "200 OK", b'{"result":{"status":"error"}}', "pending"),
        ({"accepted_when": "result.status=ok"}, "200 OK", b"<html>", "pending"),
        ({"accepted_when": "result.status=ok"}, "204 No Content", b"", "pending"),
        ({"ambiguous": "hold"}, "504 Gateway Timeout", b"", "failed"),
        ({"ambiguous": "hold"}, "503 Busy", b"", "pending"),
    ],
)
def test_rules_of_a_stream(
    world: World, source_db: SourceDb, changes: dict[str, Any], status: str, body: bytes, state: str
) -> None:
    source_db.create_orders(1)
    world.poll()
    world.change_stream(**changes)
    with HostilePartner(answering(status, body)) as server:
        meet(world, server.url)
        world.dispatch()
        world.deliver()
    assert world.record(1)["state"] == state
    if changes.get("ambiguous") == "hold" and state == "failed":
        assert "held, because the partner may have it" in world.record(1)["error"]["message"]


def test_what_a_dead_worker_had_in_sending_is_held_where_the_stream_says_so(world: World, source_db: SourceDb) -> None:
    source_db.create_orders(1)
    world.poll()
    world.change_stream(ambiguous="hold")
    world.dispatch()
    token, ids = world.messages.pop()
    world.ledger.flights.claim("orders", ids, batch=token, mapping_hash="m", seconds=60.0, worker="dead")
    world.let_leases_expire()
    world.keep_up()
    assert world.record(1)["state"] == "failed"
    assert "held, because the partner may have it" in world.record(1)["error"]["message"]


@pytest.mark.parametrize(("waited", "state"), [(50.0, "pending"), (101.0, "failed")])
def test_the_last_delay_is_repeated_until_it_is_time_to_give_up(
    world: World, source_db: SourceDb, waited: float, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source_db.create_orders(1)
    world.poll()
    world.change_stream(retry=RetrySchedule(delays_seconds=(1.0,), jitter=0.0, give_up_after_seconds=100.0))
    with LocalPartner(PartnerConfig(error_rate=1.0)) as down:
        meet(world, down.url)
        age: Callable[[], object] = lambda: world.database.records.update_one(  # noqa: E731
            {}, [{"$set": {"tried_at": {"$subtract": ["$$NOW", round(waited * 1000)]}}}]
        )
        for _ in range(4):
            world.let_retries_come()
            world.send_all()
        assert (world.record(1)["state"], world.record(1)["tries"]) == ("pending", 4)
        age()
        world.let_retries_come()
        world.send_all()
    assert world.record(1)["state"] == state
