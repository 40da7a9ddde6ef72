"""Updates of many documents are made once more after a cut connection: the driver repeats only updates of one."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from syncctl.core.ids import key_id
from syncctl.core.states import State
from syncctl.ledger.delivery_state import Transition
from syncctl.ledger.keys import Observation, SentCall
from syncctl.ledger.ledger import Ledger
from syncctl.local.mongod import find_mongod
from tests.harness import servers
from tests.harness.faulty_mongod import FaultyMongod
from tests.harness.passing_time import PAST
from tests.harness.testbed import claim_records, new_record, outcome

NUMBERS = (1, 2, 3)
IDS = [f"orders-{number}" for number in NUMBERS]


@pytest.fixture(scope="module")
def faulty() -> Iterator[FaultyMongod]:
    with servers.serve_any(FaultyMongod, find_mongod) as server:
        yield server


@pytest.fixture
def own_ledger(faulty: FaultyMongod) -> Iterator[Ledger]:
    """A ledger of three due records."""
    with Ledger(faulty.url("cut_off"), "cut_off") as ledger:
        ledger.prepare()
        for name in ("records", "keys", "batches"):
            ledger._database[name].delete_many({})
        ledger.streams.ensure("orders")
        ledger.records.log([new_record(number) for number in NUMBERS], PAST)
        yield ledger


@contextmanager
def one_cut(faulty: FaultyMongod, collection: str) -> Iterator[None]:
    """Close the connection of the next update of a collection, and see that there was one."""
    failed = faulty.count_failed()
    cut = {"failCommands": ["update"], "closeConnection": True, "namespace": f"cut_off.{collection}"}
    faulty.fail(cut, times=1)
    yield
    faulty.stop_failing()
    assert faulty.count_failed() == failed + 1


def test_the_outcomes_of_a_batch_are_written(own_ledger: Ledger, faulty: FaultyMongod) -> None:
    claim = claim_records(own_ledger, IDS)
    done = [Transition(record=record, state=State.DELIVERED, outcome=outcome(status=201)) for record in claim.records]
    with one_cut(faulty, "records"):
        assert own_ledger.delivery_states.write_transitions(claim, done) == []
    assert own_ledger.records.count_by_state(IDS) == {"delivered": 3}


def test_what_is_known_as_delivered_is_noted(own_ledger: Ledger, faulty: FaultyMongod) -> None:
    keys = {number: key_id({"id": number}) for number in NUMBERS}
    own_ledger.keys.observe(
        "orders",
        [
            Observation(
                key_id=keys[number], key={"id": number}, previous_seq=None, seq=1, version="v", hash="h", op="upsert"
            )
            for number in NUMBERS
        ],
    )
    sent = [SentCall(key_id=keys[number], seq=7, call=f"call {number}", mapping_hash="m") for number in NUMBERS]
    with one_cut(faulty, "keys"):
        own_ledger.keys.note_delivered("orders", sent)
    assert {key.delivered_seq for key in own_ledger.keys.load("orders", keys.values()).values()} == {7}


def test_leases_are_renewed(own_ledger: Ledger, faulty: FaultyMongod) -> None:
    claims = [claim_records(own_ledger, [record_id]) for record_id in IDS]
    with one_cut(faulty, "batches"):
        assert own_ledger.batches.renew(claims, seconds=300.0) == []


def test_a_batch_is_given_back(own_ledger: Ledger, faulty: FaultyMongod) -> None:
    claim = claim_records(own_ledger, IDS)
    with one_cut(faulty, "records"):
        own_ledger.batches.release(claim, IDS)
    assert own_ledger.records.count_by_state(IDS) == {"pending": 3}
