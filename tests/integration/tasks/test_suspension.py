"""A machine that was suspended, of which the monotonic clock knows nothing, looks before it goes on."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from syncctl.ledger.expressions import ClockReading
from syncctl.local.mock_partner import MockPartner
from syncctl.pipeline.delivery.delivery_gate import Permits
from tests.harness.meddling_client import MeddlingClient, once
from tests.harness.passing_time import sleep
from tests.harness.source_db import SourceDb
from tests.harness.testbed import Testbed, claim_records, new_record


def test_the_clock_of_leases_goes_on_while_the_machine_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    reading = ClockReading.taken_now(datetime.now(UTC))
    sleep(monkeypatch, seconds=3600)
    assert 3600 <= (reading.now() - reading.at).total_seconds() < 3700


def test_a_lease_has_run_out_when_the_machine_wakes(testbed: Testbed, monkeypatch: pytest.MonkeyPatch) -> None:
    testbed.ledger.records.log([new_record(1)], datetime.now(UTC))
    claim = claim_records(testbed.ledger, ["orders-1"], seconds=300.0)
    assert claim.is_held
    sleep(monkeypatch, seconds=301)
    assert not claim.is_held


def test_a_pause_that_began_while_the_machine_slept_is_seen_before_the_next_call(
    testbed: Testbed, source_db: SourceDb, partner: MockPartner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease still holds: what was seen before is too old all the same."""
    source_db.create_orders(40)
    testbed.poll()
    testbed.change_stream(lease_seconds=600.0)
    testbed.partner = replace(testbed.partner, max_in_flight=1)

    def pause() -> None:
        testbed.ledger.streams.pause("orders", who="me", reason="stock-taking")
        sleep(monkeypatch, seconds=60)

    client = MeddlingClient(testbed, before=once(pause))
    testbed.deliver(client=client)
    client.close()
    assert len(partner.calls()) == 1


def test_permits_are_asked_for_anew_when_the_machine_wakes(testbed: Testbed, monkeypatch: pytest.MonkeyPatch) -> None:
    partner = replace(testbed.partner, max_in_flight=2, timeout_seconds=2.0)
    permits = Permits(testbed.ledger, partner, token="mine", share=2)
    assert permits.keep() == 2
    assert permits.is_fresh
    sleep(monkeypatch, seconds=60)
    assert not permits.is_fresh
