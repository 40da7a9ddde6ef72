"""The doctor's check of a partner that the workers do not call."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from syncctl.core.stream import Batching, BreakerRules
from syncctl.doctor.check import Status
from syncctl.doctor.partner import check_calls
from syncctl.doctor.streams import check_stream
from syncctl.ledger.breakers import Tally
from syncctl.ledger.ledger import Ledger
from tests.harness.cases import make_partner, make_stream


def look(ledger: Ledger) -> tuple[Status, str, str]:
    examined: Any = SimpleNamespace(
        ledger=ledger, settings=SimpleNamespace(streams={"orders": SimpleNamespace(partner="erp")})
    )
    finding = check_calls(examined, "erp")
    return finding.status, finding.detail, finding.hint


def test_a_paused_partner_is_told_apart_from_one_that_is_down(ledger: Ledger, database: Any) -> None:
    assert look(ledger)[:2] == (Status.OK, "neither paused nor down")
    tally = Tally(calls=10, failures=10, reason="HTTP 503: closed for the night")
    ledger.breakers.report("orders", tally, token="batch", rules=BreakerRules())
    status, detail, hint = look(ledger)
    assert status is Status.WARN
    assert detail.startswith("stream orders: down (circuit open) for ")
    assert "HTTP 503: closed for the night" in detail
    assert "syncctl resume orders" in hint
    past = datetime(2020, 1, 1, tzinfo=UTC)
    database.streams.update_one({"_id": "orders"}, {"$set": {"breaker.until": past}})
    ledger.breakers.acquire_probe("orders", token="probe", record="r", seconds=60.0)
    ledger.breakers.report("orders", Tally(calls=1), token="probe", rules=BreakerRules())
    assert look(ledger)[:2] == (Status.OK, "stream orders: recovering (half-open), with limited calls")
    ledger.partners.pause("erp", who="syncctl", reason="HTTP 401: token expired")
    status, detail, hint = look(ledger)
    assert status is Status.WARN
    assert detail.startswith("paused by syncctl since ")
    assert detail.endswith(": HTTP 401: token expired; next probe in 0s")
    assert "syncctl resume --partner erp" in hint


def look_at_stream(ledger: Ledger, *, rows_per_call: int) -> tuple[Status, str, str]:
    stream = make_stream(batching=Batching(size=rows_per_call))
    section = SimpleNamespace(
        partner="erp",
        poll_every=60.0,
        acknowledge_failed=None,
        table="orders",
        write_back={},
        source="default",
        after=(),
    )
    partner = SimpleNamespace(rate=None, max_in_flight=None)
    settings = SimpleNamespace(stream=lambda _: stream, streams={"orders": section}, partners={"erp": partner})
    examined: Any = SimpleNamespace(ledger=ledger, settings=settings)
    finding = check_stream(examined, "orders")
    return finding.status, finding.detail, finding.hint


def test_calls_that_were_too_large_are_told_with_the_setting_to_write(ledger: Ledger, database: Any) -> None:
    ledger.streams.limit_body("orders", refused_bytes=80_000, rows=100)
    ledger.streams.limit_body("orders", refused_bytes=40_000, rows=50)
    database.streams.update_one({"_id": "orders"}, {"$set": {"health.last_poll_at": ledger.streams.server_time()}})
    status, detail, hint = look_at_stream(ledger, rows_per_call=100)
    assert status is Status.WARN
    assert "a call of 50 rows (40,000 bytes) was too large for the partner (413)" in detail
    assert "at most 20,000 bytes for a day" in detail
    assert hint == "set streams.orders.rows_per_call = 25, then restart the workers"
    # Once it is set, and after a day.
    assert look_at_stream(ledger, rows_per_call=25)[0] is Status.OK
    database.streams.update_one({"_id": "orders"}, {"$set": {"too_large.at": datetime(2020, 1, 1, tzinfo=UTC)}})
    assert look_at_stream(ledger, rows_per_call=100)[0] is Status.OK


def look_at_pace(ledger: Ledger, *, rate: tuple[int, float] | None = None) -> tuple[Status, str, str]:
    examined: Any = SimpleNamespace(
        ledger=ledger,
        settings=SimpleNamespace(streams={"orders": SimpleNamespace(partner="erp")}),
        partner=lambda name: make_partner("http://h", name=name, rate=rate),
    )
    finding = check_calls(examined, "erp")
    return finding.status, finding.detail, finding.hint


def note_minutes(ledger: Ledger, database: Any, *minutes: tuple[int, int]) -> None:
    """Let so many calls of each of the last minutes have passed, and met the limit; the last one is this minute's."""
    for before, (passed, limited) in enumerate(reversed(minutes)):
        ledger.partners.note_pace("erp", passed=passed, limited=limited)
        (entry,) = database.partners.find_one({"_id": "erp"})["pace"][-1:]
        database.partners.update_one(
            {"_id": "erp", "pace.minute": entry["minute"]},
            {"$set": {"pace.$.minute": entry["minute"] - timedelta(minutes=before)}},
        )


@pytest.mark.parametrize(
    ("passed", "rate", "proposed"),
    [
        (100, None, "100/minute"),
        (599, None, "599/minute"),
        (3000, None, "50/second"),
        (0, None, "1/minute"),
        (3000, (100, 1.0), "50/second"),
        (3000, (50, 1.0), "45/second"),
    ],
)
def test_the_rate_that_was_seen_is_proposed_with_the_setting_to_write(
    ledger: Ledger, database: Any, passed: int, rate: tuple[int, float] | None, proposed: str
) -> None:
    # Counting began within the first minute, the last one is not over, and in one there was no more to send.
    minutes = ((7, 3), (passed, 10), (passed, 20), (passed // 3, 0), (passed, 5), (3, 1))
    note_minutes(ledger, database, *minutes)
    status, detail, hint = look_at_pace(ledger, rate=rate)
    assert status is Status.WARN
    limited, calls = 39, 39 + sum(passed for passed, _ in minutes)
    assert detail.startswith(f"{limited} of {calls:,} calls met its limit (429) in the last 10 minutes; it lets about ")
    assert hint == f'write rate = "{proposed}" under [partners.erp] in syncctl.toml, then restart the workers'


def test_a_limit_that_was_met_just_now_has_no_rate_yet(ledger: Ledger, database: Any) -> None:
    note_minutes(ledger, database, (40, 3))
    status, detail, hint = look_at_pace(ledger)
    assert (status, detail) == (Status.WARN, "3 of 43 calls met its limit (429) in the last 10 minutes")
    assert hint.startswith("the rate to set will be known in two minutes")
    database.partners.update_one({"_id": "erp"}, {"$set": {"pace.0.minute": datetime(2020, 1, 1, tzinfo=UTC)}})
    assert look_at_pace(ledger)[:2] == (Status.OK, "neither paused nor down")
    ledger.partners.note_pace("erp", passed=1, limited=0)
    assert [each["passed"] for each in database.partners.find_one({"_id": "erp"})["pace"]] == [1]
