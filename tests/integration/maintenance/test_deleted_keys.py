"""Keys of deleted rows: a round of mode snapshot examines none of them, and cleanup removes them in the end."""

from dataclasses import replace
from typing import Any

import pytest

from syncctl.core.ids import key_id
from syncctl.core.stream import Lookup
from syncctl.pipeline.maintenance import cleanup
from syncctl.pipeline.maintenance.cleanup import clean_up, forget_deleted_rows
from tests.harness.id_partner import IdPartner
from tests.harness.passing_time import let_hours_pass
from tests.harness.source_db import SourceDb
from tests.harness.testbed import ListReader, Testbed, version_row
from tests.integration.delivery.test_capture import delete, send
from tests.integration.delivery.test_remote_ids import BY_ID
from tests.integration.polling.test_pipeline_poll import Broken, break_at

DAY = 86_400.0
KEPT = {"delivered": 30 * DAY, "failed": 90 * DAY, "superseded": 7 * DAY, "discarded": 7 * DAY}


@pytest.fixture
def snapshot(testbed: Testbed, source_db: SourceDb) -> Testbed:
    """Five rows that were delivered, of which rows 2 and 4 are deleted, and their deletes delivered too."""
    source_db.create_orders(5)
    testbed.change_stream(mode="snapshot", cursor=None, max_delete_share=1.0)
    testbed.poll()
    testbed.deliver()
    source_db.execute("delete from orders where id in (2, 4)")
    testbed.poll()
    testbed.deliver()
    return testbed


def clean(testbed: Testbed) -> None:
    clean_up(ledger=testbed.ledger, retention_seconds=KEPT, who="me")


def known(testbed: Testbed) -> set[int]:
    return {key["key"]["id"] for key in testbed.database["keys"].find()}


def test_the_key_of_a_deleted_row_goes_after_its_last_record(snapshot: Testbed, source_db: SourceDb) -> None:
    for days in (0, 8, 20):
        let_hours_pass(snapshot.database, 24 * days)
        clean(snapshot)
        assert known(snapshot) == {1, 2, 3, 4, 5}
    let_hours_pass(snapshot.database, 24 * 3)
    clean(snapshot)
    assert known(snapshot) == {1, 3, 5}
    assert snapshot.records() == []
    # Their rows are new ones when they come back, and the others are as well known as before.
    source_db.add_orders([2, 4])
    assert (snapshot.poll().logged, snapshot.poll().logged) == (2, 0)
    snapshot.deliver()
    assert snapshot.states() == {2: ["delivered"], 4: ["delivered"]}


def test_a_key_whose_records_are_gone_waits_for_polls_that_stand_still(snapshot: Testbed) -> None:
    snapshot.database.records.delete_many({})
    clean(snapshot)
    let_hours_pass(snapshot.database, 24 * 6)
    clean(snapshot)
    assert known(snapshot) == {1, 2, 3, 4, 5}
    let_hours_pass(snapshot.database, 25)
    clean(snapshot)
    assert known(snapshot) == {1, 3, 5}


def test_a_row_that_came_back_and_went_again_waits_anew(snapshot: Testbed, source_db: SourceDb) -> None:
    clean(snapshot)
    let_hours_pass(snapshot.database, 24 * 8)
    source_db.add_orders([2])
    snapshot.poll()
    clean(snapshot)
    source_db.execute("delete from orders where id = 2")
    snapshot.poll()
    snapshot.database.records.delete_many({})
    clean(snapshot)
    assert known(snapshot) == {1, 2, 3, 5}


def test_a_key_stays_while_a_poll_runs_and_the_lease_leaves_no_trace(snapshot: Testbed) -> None:
    snapshot.database.records.delete_many({})
    clean(snapshot)
    let_hours_pass(snapshot.database, 24 * 8)
    lease = snapshot.ledger.polls.acquire("orders", seconds=60, worker="w")
    assert lease is not None
    clean(snapshot)
    assert known(snapshot) == {1, 2, 3, 4, 5}
    snapshot.ledger.polls.release(lease, error="the source is away")
    health = snapshot.database.streams.find_one({"_id": "orders"})["health"]
    clean(snapshot)
    assert known(snapshot) == {1, 2, 3, 4, 5}
    assert snapshot.database.streams.find_one({"_id": "orders"})["health"] == health
    # The poll that ended with an error may still write: the next one observes each row anew, as without the cleanup.
    before = {row: seq_of(snapshot, row) for row in (1, 3, 5)}
    assert snapshot.poll().error is None
    assert all(seq_of(snapshot, row) > seq for row, seq in before.items())
    # It read to the end.
    clean(snapshot)
    assert known(snapshot) == {1, 3, 5}


@pytest.mark.parametrize("order", ["strict", "none"])
def test_a_row_that_an_interrupted_poll_has_logged_is_not_named_anew(testbed: Testbed, order: str) -> None:
    testbed.change_stream(order=order)
    testbed.poll(ListReader([version_row(1, "a", None)]))
    testbed.poll(ListReader([version_row(1, None, None, payload=None, op="delete")]))
    testbed.database.records.delete_many({})
    clean(testbed)
    let_hours_pass(testbed.database, 24 * 8)
    new = ListReader([version_row(2, "a", None)])
    with pytest.raises(Broken):
        testbed.poll(new, ledger=break_at(testbed, "records", "log", "after"))
    clean(testbed)
    assert known(testbed) == {1}
    assert testbed.poll(new).error is None
    assert testbed.states() == {2: ["pending"]}
    clean(testbed)
    assert known(testbed) == {2}


def seq_of(testbed: Testbed, row: int) -> int:
    (key,) = testbed.database["keys"].find({"key.id": row})
    return int(key["seq"])


def test_every_key_is_examined_however_many_there_are(snapshot: Testbed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleanup, "DELETED_KEYS_AT_ONCE", 7)
    add_deleted(snapshot, 60)
    snapshot.database.records.delete_many({})
    assert forget_deleted_rows(snapshot.ledger, "orders") == 0
    let_hours_pass(snapshot.database, 24 * 8)
    assert forget_deleted_rows(snapshot.ledger, "orders") == 62
    assert known(snapshot) == {1, 3, 5}


def test_a_round_examines_live_keys_only(snapshot: Testbed) -> None:
    """However many rows the stream has ever seen (invariant 11)."""
    add_deleted(snapshot, 3000)
    snapshot.database.command("profile", 2)
    assert snapshot.poll().error is None
    snapshot.database.command("profile", 0)
    asked = list(snapshot.database["system.profile"].find({"ns": f"{snapshot.database.name}.keys"}))
    assert {plan["op"] for plan in asked} >= {"query", "command"}
    assert sum(plan["keysExamined"] for plan in asked) < 40
    assert sum(plan.get("docsExamined", 0) for plan in asked) < 20


def let_keys_age(testbed: Testbed) -> None:
    """Let every record have been cleaned up, and every delete be long ago."""
    testbed.database.records.delete_many({})
    clean(testbed)
    let_hours_pass(testbed.database, 24 * 8)
    clean(testbed)


@pytest.mark.parametrize("how", ["refused", "none is sent", "delivered"])
def test_an_id_is_kept_until_the_delete_of_its_object_is_delivered(testbed: Testbed, how: str) -> None:
    testbed.change_stream(**BY_ID, sends_deletes=how != "none is sent")
    refusal = (422, {"error": "it is paid"}) if how == "refused" else None
    with IdPartner(hook=lambda call: refusal if call.method == "DELETE" else None) as partner:
        testbed.partner = replace(testbed.partner, url=partner.url)
        send(testbed, 1)
        delete(testbed, 1)
        let_keys_age(testbed)
        assert known(testbed) == (set() if how == "delivered" else {1})
        send(testbed, 1, content="b")
        # Where the partner has its object, a row that comes back creates no second one.
        assert partner.created == {1: 2 if how == "delivered" else 1}
        partner.hook = lambda _: None
        delete(testbed, 1)
        let_keys_age(testbed)
        assert known(testbed) == ({1} if how == "none is sent" else set())


def test_a_key_is_kept_while_the_partner_may_have_an_object(testbed: Testbed) -> None:
    lookup = Lookup(path="/orders?ref={id}", capture={"id": "items[0].id"})
    testbed.change_stream(**BY_ID, lookup=lookup)
    answers = {"POST": (500, {}), "GET": (422, {})}
    with IdPartner(hook=lambda call: answers.get(call.method)) as partner:
        testbed.partner = replace(testbed.partner, url=partner.url)
        send(testbed, 1)
        delete(testbed, 1)
        assert testbed.states()[1][-1] == "failed"
        let_keys_age(testbed)
        assert known(testbed) == {1}


def add_deleted(testbed: Testbed, count: int) -> None:
    """Let the ledger know more rows that were deleted."""
    keys: list[dict[str, Any]] = [{"id": 1000 + number} for number in range(count)]
    testbed.database["keys"].insert_many(
        {
            "_id": f"orders:{key_id(key)}", "stream": "orders", "key": key, "seq": 1, "version": "v", "hash": "h",
            "op": "delete",
        }
        for key in keys
    )  # fmt: skip
