"""Pauses that syncctl began, and the record that probes whether they may end: one at a time, and its answer alone."""

from collections.abc import Callable
from typing import Any

import pytest

from syncctl.core.stream import BreakerRules
from syncctl.ledger.expressions import SYNCCTL
from syncctl.ledger.holds import Hold
from syncctl.ledger.ledger import Ledger
from syncctl.local.mock_partner import MockPartner
from tests.harness.meddling_client import MeddlingClient, once
from tests.harness.passing_time import PAST
from tests.harness.source_db import SourceDb
from tests.harness.testbed import Testbed

RULES = BreakerRules(open_seconds=30.0, longest_open_seconds=600.0)


@pytest.fixture(params=["streams", "partners"])
def kind(request: pytest.FixtureRequest) -> str:
    """What is paused."""
    return str(request.param)


@pytest.fixture
def held(ledger: Ledger, kind: str) -> Any:
    """The collection with `erp`, which syncctl has paused; a probe is due."""
    found = getattr(ledger, kind)
    found.pause("erp", who=SYNCCTL, reason="HTTP 410")
    return found


def load(held: Any) -> Hold:
    hold: Hold = held.load_gate("erp").hold
    return hold


def probe(held: Any, token: str) -> bool:
    return bool(held.acquire_probe("erp", token=token, record=f"of {token}", seconds=60.0))


def let_probe_lapse(database: Any, kind: str) -> None:
    """Let whoever probes have been silent for so long that another may."""
    database[kind].update_many({"paused.probe": {"$exists": True}}, {"$set": {"paused.probe.until": PAST}})


def extend(held: Any, token: str) -> None:
    held.extend_pause("erp", token=token, reason="HTTP 401", rules=RULES, rest_seconds=None)


def test_one_record_at_a_time_probes(held: Any, database: Any, kind: str) -> None:
    assert probe(held, "first")
    assert not probe(held, "second")
    let_probe_lapse(database, kind)
    assert probe(held, "second")
    assert (load(held).probe, load(held).last_probe) == ("second", "of second")


def test_a_probe_that_is_not_the_current_one_neither_ends_nor_prolongs_a_pause(
    held: Any, database: Any, kind: str
) -> None:
    """Its process stood still, and another probes by now. Fails without the token in `Holds.end_by_probe` and in
    `extend_pause`."""
    probe(held, "first")
    let_probe_lapse(database, kind)
    probe(held, "second")
    before = held.load_all()["erp"]
    assert not held.end_by_probe("erp", token="first")
    extend(held, "first")
    held.release_probe("erp", token="first")
    assert held.load_all()["erp"] == before
    assert held.end_by_probe("erp", token="second")
    assert not load(held).paused
    assert held.load_gate("erp").back_at is not None


def test_a_probe_neither_ends_nor_prolongs_the_pause_that_an_operator_began_meanwhile(held: Any) -> None:
    probe(held, "first")
    held.pause("erp", who="ada", reason="stock-taking")
    before = held.load_all()["erp"]
    assert not held.end_by_probe("erp", token="first")
    extend(held, "first")
    held.release_probe("erp", token="first")
    assert held.load_all()["erp"] == before
    assert load(held).by_operator
    assert held.resume("erp")


def test_the_probe_of_an_earlier_pause_does_not_end_the_next_one(held: Any) -> None:
    """An operator has resumed meanwhile, and then all were refused again."""
    probe(held, "first")
    held.resume("erp")
    held.pause("erp", who=SYNCCTL, reason="HTTP 410")
    assert not held.end_by_probe("erp", token="first")
    assert load(held).paused


def test_no_record_probes_an_operators_pause(held: Any) -> None:
    """The operator paused between the look at the pause and the probe. Fails without `paused.by` in `acquire_probe`."""
    held.pause("erp", who="ada", reason="stock-taking")
    assert not probe(held, "first")
    assert load(held).probe is None


@pytest.mark.parametrize("meanwhile", ["an operator pauses", "another probes"])
def test_an_accepted_probe_whose_pause_is_not_its_own_any_more_leaves_it(
    testbed: Testbed, source_db: SourceDb, partner: MockPartner, kind: str, meanwhile: str
) -> None:
    """What the process saw before its call is not what the ledger says after it. Fails without the guard of
    `Holds.end_by_probe`."""
    source_db.create_orders(3)
    testbed.poll()
    name = {"streams": "orders", "partners": "default"}[kind]
    held = getattr(testbed.ledger, kind)
    held.pause(name, who=SYNCCTL, reason="HTTP 410")
    changes: dict[str, Callable[[], object]] = {
        "an operator pauses": lambda: held.pause(name, who="ada", reason="stock-taking"),
        "another probes": lambda: testbed.database[kind].update_one(
            {"_id": name}, {"$set": {"paused.probe.token": "another"}}
        ),
    }
    client = MeddlingClient(testbed, before=once(changes[meanwhile]))
    assert testbed.deliver(client=client) == {"delivered": 1}
    client.close()
    assert len(partner.calls()) == 1
    hold = held.load_gate(name).hold
    assert (hold.paused, hold.by_operator) == (True, meanwhile == "an operator pauses")
    assert hold.probe == (None if hold.by_operator else "another")
