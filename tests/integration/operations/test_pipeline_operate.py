"""Operators' actions and views: replay, discard, clean up, status, show, failures."""

from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from syncctl.core.ids import key_id
from syncctl.core.states import State
from syncctl.core.time_zone import floor_hour
from syncctl.errors import TroubleFound, UsageError
from syncctl.local.mock_partner import MockPartner, PartnerConfig
from syncctl.pipeline.inspection.show import find_record, find_versions, show_records
from syncctl.pipeline.maintenance import cleanup
from syncctl.pipeline.maintenance.cleanup import Cleaned, clean_up
from syncctl.pipeline.monitoring.obstacles import StreamPlan
from syncctl.pipeline.monitoring.status import group_failures, read_status
from syncctl.pipeline.operations.replay import Discarded, Replayed, discard_records, replay_records
from syncctl.pipeline.reporting.report import build_report
from syncctl.pipeline.selection import Selection, complete_ids, list_records, read_key
from tests.harness.passing_time import PAST, let_hours_pass
from tests.harness.testbed import NASTY, ListReader, Testbed, claim_records, new_record, version_row

DAY = 86_400.0
KEPT = {"delivered": 30 * DAY, "failed": 90 * DAY, "superseded": 7 * DAY, "discarded": 7 * DAY}


def log(testbed: Testbed, *numbers: int, content: Any = "a") -> None:
    testbed.poll(ListReader([version_row(number, content, None) for number in numbers]))


@pytest.fixture
def refusing(testbed: Testbed) -> Iterator[MockPartner]:
    """A partner that refuses every row until it is fixed."""
    with MockPartner(PartnerConfig(reject_rate=1.0)) as server:
        testbed.partner = type(testbed.partner)(name="default", url=server.url, timeout_seconds=20.0)
        yield server


def replay(testbed: Testbed, dry_run: bool = False, new_key: bool = False, **selection: Any) -> Replayed:
    return replay_records(
        ledger=testbed.ledger,
        selection=Selection(**selection),
        streams={"orders": testbed.stream},
        who=NASTY,
        dry_run=dry_run,
        new_key=new_key,
    )


def discard(testbed: Testbed, dry_run: bool = False, **selection: Any) -> Discarded:
    return discard_records(
        ledger=testbed.ledger, selection=Selection(**selection), reason="$reason", who=NASTY, dry_run=dry_run
    )


# Replay.


def test_failed_records_go_again_when_their_cause_is_fixed(testbed: Testbed, refusing: MockPartner) -> None:
    log(testbed, 1, 2, 3)
    testbed.deliver()
    assert testbed.states() == {number: ["failed"] for number in (1, 2, 3)}
    planned = replay(testbed, dry_run=True)
    assert planned == Replayed(matched=3, replayed=3, skipped=0, dry_run=True)
    assert testbed.states() == {number: ["failed"] for number in (1, 2, 3)}
    assert testbed.ledger.audit.load(limit=5) == []
    assert replay(testbed) == Replayed(matched=3, replayed=3, skipped=0, dry_run=False)
    refusing.fix()
    testbed.deliver()
    assert testbed.states() == {number: ["delivered"] for number in (1, 2, 3)}
    assert len({call.key for call in refusing.calls()}) == 3
    (audit,) = testbed.ledger.audit.load(limit=5)
    assert audit.items() >= {"action": "replay", "who": "$state", "count": 3}.items()
    assert audit["detail"]["states"] == ["failed"]


@pytest.mark.parametrize(("order", "state"), [("latest", "superseded"), ("none", "failed"), ("strict", "failed")])
def test_a_failed_version_is_superseded_once_a_newer_one_is_delivered(
    testbed: Testbed, refusing: MockPartner, order: str, state: str
) -> None:
    """Nobody has to look at it any more, unless every version counts. Fails without `supersede_failed`."""
    testbed.change_stream(order=order, strict_hold_seconds=0.0)
    log(testbed, 1, 2, content="a")
    testbed.deliver()
    assert testbed.states() == {1: ["failed"], 2: ["failed"]}
    log(testbed, 1, content="b")
    testbed.deliver()
    assert testbed.states()[1] == ["failed", "failed"], "the newer one was not delivered"
    refusing.fix()
    log(testbed, 1, content="c")
    testbed.maintain()
    testbed.deliver()
    assert testbed.states() == {1: [state, state, "delivered"], 2: ["failed"]}
    if state == "superseded":
        first, _, newest = testbed.records(**{"key.id": 1})
        assert (first["superseded_by"], "failed_at" in first) == (newest["_id"], False)
        entry = first["history"][-1]
        assert (entry["action"], entry["from"], entry["by"]) == ("superseded", "failed", newest["_id"])
        assert [group["count"] for group in group_failures(ledger=testbed.ledger).groups] == [1]


def test_a_failed_version_stays_failed_when_an_older_one_is_delivered(testbed: Testbed, refusing: MockPartner) -> None:
    log(testbed, 1, content="a")
    refusing.fix()
    testbed.deliver()
    testbed.poll(ListReader([version_row(1, "b", None, payload=None, error="column amount: the number is NaN")]))
    assert replay(testbed, states=("delivered",)).skipped == 1
    testbed.deliver()
    assert testbed.states() == {1: ["delivered", "failed"]}


@pytest.mark.parametrize("how", ["replay", "resend"])
def test_a_record_that_is_sent_again_begins_a_new_series_of_attempts(
    testbed: Testbed, refusing: MockPartner, how: str
) -> None:
    """Fails where reports count each attempt but a record's first as a retry."""
    refusing.fix()
    log(testbed, 1)
    testbed.deliver()
    if how == "replay":
        assert replay(testbed, states=("delivered",)).replayed == 1
    else:
        testbed.ledger.delivery_states.resend([testbed.record(1)["_id"]])
    counts = testbed.ledger.records.count_states(["orders"])["orders"]
    assert (counts["pending"], counts["retrying"]) == (1, 0)
    testbed.deliver()
    record = testbed.record(1)
    assert [entry.get("retry") for entry in record["history"] if entry["action"] == "attempt"] == [None, False]
    assert (record["attempts"], record["tries"]) == (2, 1)
    assert count_retries(testbed) == (2, 0)


def test_a_canary_is_the_oldest_records_that_may_be_sent(testbed: Testbed) -> None:
    log(testbed, 1, 2, 3, 4, 5)
    testbed.deliver()
    # They were all delivered in one write.
    ago = {"$subtract": [10, "$key.id"]}
    finished_at = {"$dateSubtract": {"startDate": "$finished_at", "unit": "second", "amount": ago}}
    testbed.database.records.update_many({}, [{"$set": {"state": "failed", "finished_at": finished_at}}])
    # A newer version has overtaken the oldest one.
    testbed.database.keys.update_one({"version": testbed.record(1)["_id"]}, {"$set": {"version": "x", "seq": 2**62}})
    plan = replay(testbed, limit=2, dry_run=True)
    assert plan == Replayed(matched=3, replayed=2, skipped=1, dry_run=True)
    assert replay(testbed, limit=2) == Replayed(matched=3, replayed=2, skipped=1, dry_run=False)
    assert [number for number, states in testbed.states().items() if states == ["pending"]] == [2, 3]
    assert discard(testbed, limit=1, states=("failed",)).discarded == 1
    assert testbed.states()[1] == ["discarded"]


def test_retries_are_counted_within_a_series(testbed: Testbed) -> None:
    with MockPartner(PartnerConfig(error_rate=1.0)) as server:
        testbed.partner = type(testbed.partner)(name="default", url=server.url, timeout_seconds=20.0)
        log(testbed, 1)
        for _ in range(2):
            testbed.deliver()
            testbed.make_retries_due()
        assert count_retries(testbed) == (2, 1)
        testbed.database.records.update_one({}, {"$set": {"state": "failed"}})
        assert replay(testbed, ids=(testbed.record(1)["_id"],)).replayed == 1
        for _ in range(2):
            testbed.deliver()
            testbed.make_retries_due()
        assert count_retries(testbed) == (4, 2)


def count_retries(testbed: Testbed) -> tuple[int, int]:
    """Return the attempts and the retries that a report counts."""
    hour = floor_hour(testbed.ledger.streams.server_time())
    start, end = hour - timedelta(hours=1), hour + timedelta(hours=1)
    hours = testbed.ledger.reports.roll_up(start, end, frozen_until=start)
    return sum(hour.attempts for hour in hours), sum(hour.retries for hour in hours)


def test_a_replay_of_nothing_leaves_no_trace(testbed: Testbed) -> None:
    assert replay(testbed) == Replayed(matched=0, replayed=0, skipped=0, dry_run=False)
    assert testbed.ledger.audit.load(limit=5) == []


def test_an_overtaken_record_is_skipped_because_it_would_make_the_partner_stale(
    testbed: Testbed, refusing: MockPartner
) -> None:
    log(testbed, 1, content="a")
    testbed.deliver()
    log(testbed, 1, content="b")
    assert replay(testbed, dry_run=True) == Replayed(matched=1, replayed=0, skipped=1, dry_run=True)
    assert replay(testbed) == Replayed(matched=1, replayed=0, skipped=1, dry_run=False)
    testbed.change_stream(order="none")
    assert replay(testbed).replayed == 1


def test_a_row_that_could_not_be_read_is_skipped_because_it_cannot_be_sent(testbed: Testbed) -> None:
    testbed.poll(ListReader([version_row(1, None, None, payload=None, error="column amount: the number is NaN")]))
    assert replay(testbed) == Replayed(matched=1, replayed=0, skipped=1, dry_run=False)


def test_a_delete_that_failed_goes_again(testbed: Testbed, refusing: MockPartner) -> None:
    log(testbed, 1, content="a")
    testbed.poll(ListReader([version_row(1, None, "0x1", payload=None, op="delete")]))
    testbed.deliver()
    assert replay(testbed).replayed == 1


def test_a_delivered_record_that_is_replayed_is_received_again(testbed: Testbed, partner: MockPartner) -> None:
    log(testbed, 1)
    testbed.deliver()
    assert replay(testbed, states=("delivered",)).replayed == 1
    testbed.deliver()
    identity = testbed.record(1)["_id"]
    assert [(call.key, call.fate) for call in partner.calls()] == [(identity, "applied"), (f"{identity}-2", "applied")]


def test_a_new_key_is_for_a_partner_that_keeps_its_refusal(testbed: Testbed, refusing: MockPartner) -> None:
    log(testbed, 1, content="a")
    log(testbed, 2)
    testbed.deliver()
    log(testbed, 1, content="b")
    assert replay(testbed, new_key=True) == Replayed(matched=2, replayed=1, skipped=1, dry_run=False)
    refusing.fix()
    testbed.deliver()
    identity = testbed.record(2)["_id"]
    keys = [call.key for call in refusing.calls() if call.key.startswith(identity)]
    assert keys == [identity, f"{identity}-2"]
    (audit,) = testbed.ledger.audit.load(limit=5)
    assert audit["detail"].items() >= {"new_key": True, "skipped": 1}.items()


def test_a_replay_of_one_error_leaves_the_others_alone(testbed: Testbed, refusing: MockPartner) -> None:
    log(testbed, *range(1, 9))
    testbed.deliver()
    testbed.poll(ListReader([version_row(9, None, None, payload=None, error="column amount: the number is NaN")]))
    groups = group_failures(ledger=testbed.ledger).groups
    assert [group["count"] for group in groups] == [8, 1]
    assert groups[0]["sample_id"] in {record["_id"] for record in testbed.records()}
    assert groups[0]["first_at"] <= groups[0]["last_at"]
    assert groups[0]["streams"] == ["orders"]
    assert replay(testbed, error=groups[1]["fingerprint"]).matched == 1
    assert replay(testbed, error=groups[0]["fingerprint"]) == Replayed(matched=8, replayed=8, skipped=0, dry_run=False)


def test_a_replay_tells_its_caller_which_records_to_wait_for(testbed: Testbed, refusing: MockPartner) -> None:
    log(testbed, 1, 2)
    testbed.deliver()
    ids: list[str] = []
    replay_records(
        ledger=testbed.ledger, selection=Selection(), streams={"orders": testbed.stream}, who="me", replayed_ids=ids
    )
    assert sorted(ids) == sorted(record["_id"] for record in testbed.records())
    assert testbed.ledger.records.count_by_state(ids) == {"pending": 2}


def test_a_stream_that_left_the_configuration_is_not_replayed(testbed: Testbed, refusing: MockPartner) -> None:
    """No worker would dispatch its records: they would wait forever."""
    log(testbed, 1)
    testbed.deliver()
    done = replay_records(ledger=testbed.ledger, selection=Selection(), streams={}, who="me")
    assert (done.matched, done.replayed, done.skipped) == (1, 0, 1)
    assert [record["state"] for record in testbed.records()] == ["failed"]


# Discard.


def test_a_discard_gives_up_with_a_reason(testbed: Testbed, refusing: MockPartner) -> None:
    log(testbed, 1, 2)
    testbed.deliver()
    assert discard(testbed, dry_run=True) == Discarded(matched=2, discarded=2, dry_run=True)
    assert testbed.states() == {1: ["failed"], 2: ["failed"]}
    assert discard(testbed) == Discarded(matched=2, discarded=2, dry_run=False)
    assert testbed.states() == {1: ["discarded"], 2: ["discarded"]}
    assert testbed.record(1)["reason"] == "$reason"
    (audit,) = testbed.ledger.audit.load(limit=5)
    assert (audit["action"], audit["who"], audit["count"], audit["detail"]["reason"]) == (
        "discard", "$state", 2, "$reason",
    )  # fmt: skip
    assert testbed.take_rows() == []


def test_a_waiting_record_can_be_discarded_and_one_in_flight_cannot(testbed: Testbed) -> None:
    log(testbed, 1, 2)
    ids = {record["key"]["id"]: record["_id"] for record in testbed.records()}
    claim_records(testbed.ledger, [ids[2]])
    done = discard(testbed, ids=tuple(ids.values()), states=("failed", "pending"))
    assert (done.matched, done.discarded) == (1, 1)
    assert testbed.states() == {1: ["discarded"], 2: ["sending"]}


def test_a_delivered_record_cannot_be_discarded(testbed: Testbed) -> None:
    with pytest.raises(UsageError, match="'delivered' is not one of failed, pending"):
        discard(testbed, states=("delivered",))


# Clean up.


def test_a_clean_up_removes_records_older_than_their_retention(testbed: Testbed, refusing: MockPartner) -> None:
    log(testbed, 1, 2, 3)
    testbed.deliver()
    discard(testbed, ids=(testbed.record(1)["_id"],))
    refusing.fix()
    log(testbed, 4)
    testbed.deliver()
    log(testbed, 5, content="a")
    log(testbed, 5, content="b")
    assert testbed.take_rows() == [5]

    def clean(**options: Any) -> Cleaned:
        return clean_up(ledger=testbed.ledger, retention_seconds=KEPT, who="$me", **options)

    let_hours_pass(testbed.database, 24 * 8)
    planned = clean(dry_run=True)
    assert planned.deleted == {"delivered": 0, "failed": 0, "superseded": 1, "discarded": 1}
    assert len(testbed.records()) == 6
    assert clean(streams=["others"]).deleted["discarded"] == 0
    assert clean() == Cleaned(deleted=planned.deleted, archived=0, dry_run=False)
    let_hours_pass(testbed.database, 24 * 30)
    assert clean().deleted == {"delivered": 1, "failed": 0, "superseded": 0, "discarded": 0}
    let_hours_pass(testbed.database, 24 * 90)
    assert clean().deleted == {"delivered": 0, "failed": 2, "superseded": 0, "discarded": 0}
    # What is not finished stays, however old; and keys stay, or old rows would come in again.
    assert testbed.states() == {5: ["sending"]}
    assert testbed.database.keys.count_documents({}) == 5
    assert [entry["count"] for entry in testbed.ledger.audit.load(limit=5) if entry["action"] == "cleanup"] == [
        2,
        1,
        2,
    ]
    log(testbed, 1, 4)
    assert testbed.states() == {5: ["sending"]}


def test_hours_that_are_open_keep_their_records_whatever_the_retention(testbed: Testbed) -> None:
    log(testbed, 1)
    testbed.deliver()
    gone = clean_up(ledger=testbed.ledger, retention_seconds=dict.fromkeys(KEPT, 0.0), who="me")
    assert gone.deleted["delivered"] == 0
    let_hours_pass(testbed.database, 3)
    gone = clean_up(ledger=testbed.ledger, retention_seconds=dict.fromkeys(KEPT, 0.0), who="me")
    assert gone.deleted["delivered"] == 1


def test_the_report_says_the_same_before_and_after_a_clean_up(testbed: Testbed) -> None:
    log(testbed, *range(1, 6))
    testbed.deliver()
    let_hours_pass(testbed.database, 24 * 40)
    since = testbed.ledger.streams.server_time() - timedelta(days=60)

    def totals() -> tuple[Any, int]:
        status = read_status(ledger=testbed.ledger, configured={"orders": StreamPlan(partner="default")}, messages=0)
        return build_report(ledger=testbed.ledger, since=since).totals, status.streams[0]["counts"]["delivered"]

    before = totals()
    assert before[0]["delivered"] == before[1] == 5
    assert clean_up(ledger=testbed.ledger, retention_seconds=KEPT, who="me").deleted["delivered"] == 5
    assert totals() == before


def test_a_clean_up_goes_on_until_nothing_is_left(testbed: Testbed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleanup, "RECORDS_AT_ONCE", 2)
    log(testbed, *range(1, 6))
    testbed.deliver()
    let_hours_pass(testbed.database, 24 * 40)
    assert clean_up(ledger=testbed.ledger, retention_seconds=KEPT, who="me").deleted["delivered"] == 5


def test_a_state_that_is_not_named_is_kept(testbed: Testbed) -> None:
    log(testbed, 1)
    testbed.deliver()
    let_hours_pass(testbed.database, 24 * 40)
    gone = clean_up(ledger=testbed.ledger, retention_seconds={"failed": 0.0}, who="me")
    assert gone.deleted == {"failed": 0}
    assert testbed.states() == {1: ["delivered"]}


# Status, show, failures.


def test_status_shows_where_each_stream_stands(testbed: Testbed, refusing: MockPartner) -> None:
    log(testbed, 1, 2, 3)
    testbed.deliver()
    refusing.fix()
    log(testbed, 4, 5)
    testbed.deliver()
    log(testbed, 6)
    let_hours_pass(testbed.database, 0.01)
    testbed.ledger.streams.ensure("gone")
    testbed.ledger.streams.pause("orders", who="me", reason=NASTY)
    testbed.ledger.heartbeats.record_worker("w1", {"pid": 7, "queues": ["poll"], "concurrency": 4, "version": "1"})
    testbed.ledger.heartbeats.record_beat({"pid": 1})
    plans = {name: StreamPlan(partner="default") for name in ("orders", "new")}
    status = read_status(ledger=testbed.ledger, configured=plans, messages=9)
    orders, new, gone = status.streams
    assert orders["counts"] == {
        "pending": 1, "retrying": 0, "queued": 0, "sending": 0, "delivered": 2, "failed": 3, "superseded": 0,
        "discarded": 0,
    }  # fmt: skip
    assert (orders["paused"], orders["paused_reason"], orders["cursor"]) == (True, "$state", "None")
    assert orders["oldest_due_seconds"] >= 36
    assert orders["last_poll_at"]
    assert (new["configured"], gone["stream"], gone["configured"]) == (True, "gone", False)
    assert (new["cursor"], new["last_poll_at"], new["oldest_due_seconds"]) == (None, None, None)
    assert (status.queue["messages"], status.queue["dropped"]) == (9, 0)
    assert status.workers[0].items() >= {"worker": "w1", "pid": 7, "concurrency": 4}.items()
    assert status.beat["last_tick_at"]
    assert not status.beat["late"]


def test_the_status_of_an_empty_ledger_is_empty(testbed: Testbed) -> None:
    testbed.database.streams.delete_many({})
    status = read_status(ledger=testbed.ledger, configured={"orders": StreamPlan(partner="default")}, messages=None)
    assert not any(status.streams[0]["counts"].values())
    assert (status.queue["messages"], status.queue["dropped"], status.workers) == (None, 0, ())
    assert status.beat == {
        "last_tick_at": None,
        "late": False,
        "settings_differ": False,
        "ledger_differs": False,
        "overdue": [],
        "failing": [],
    }


def test_show_tells_all_versions_of_a_row_newest_first(testbed: Testbed) -> None:
    log(testbed, 1, 2, content="a")
    testbed.deliver()
    log(testbed, 1, content="b")
    shown = find_versions(testbed.ledger, "orders", {"id": 1})
    assert [version["payload"]["content"] for version in shown] == ["b", "a"]
    assert shown[1]["history"][0]["outcome"] == "accepted"
    assert find_record(testbed.ledger, shown[0]["_id"]) == shown[:1]


def test_show_of_an_unknown_record_says_why(testbed: Testbed) -> None:
    with pytest.raises(TroubleFound, match="no record has the id orders-x"):
        find_record(testbed.ledger, "orders-x")
    with pytest.raises(TroubleFound, match="holds no record of orders id=7,line=2") as caught:
        find_versions(testbed.ledger, "orders", {"id": 7, "line": 2})
    assert caught.value.why == "it was never logged, or cleanup has removed it"


def test_show_takes_the_beginning_of_an_id_if_it_is_unique(testbed: Testbed) -> None:
    testbed.ledger.records.log([new_record(n, id=f"orders-abcdef{n}0") for n in (1, 2)], PAST)
    testbed.ledger.records.log([new_record(3, id="orders-abc-def0", stream="orders-abc")], PAST)
    (record,) = find_record(testbed.ledger, "orders-abcdef2")
    assert record["_id"] == "orders-abcdef20"
    for text in ("orders-abcdef", "orders-a"):
        with pytest.raises(UsageError) as caught:
            find_record(testbed.ledger, text)
        assert caught.value.what == f"{text} is ambiguous: several ids begin with it"
        assert caught.value.why == "orders-abcdef10, orders-abcdef20"
    for text in ("orders-", "orders", "orders-abcde0", "orders-abcdef2-x"):
        with pytest.raises(TroubleFound):
            find_record(testbed.ledger, text)


@pytest.mark.parametrize("text", ["²", "--5", "9" * 5000, "-", '{"id": 1e99999999999999999999}'])
def test_a_key_that_is_no_whole_number_is_read_as_text(text: str) -> None:
    assert {"id": text} in list(read_key(text, ["id"]))


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("bed=7,slot=5", {"bed": "7", "slot": 5}),
        ("bed=7,slot=5.0", {"bed": 7, "slot": Decimal("5.0")}),
        ("slot=5, bed=a,b=c", {"bed": "a,b=c", "slot": 5}),
        ('{"bed": "a,slot=9", "slot": 5}', {"bed": "a,slot=9", "slot": 5}),
        ("bed=2,slot=1e+300", {"bed": 2.0, "slot": 1e300}),
        ('{"bed": 2.0, "slot": 1.50}', {"bed": 2.0, "slot": Decimal("1.50")}),
    ],
)
def test_each_column_of_a_key_has_a_type_of_its_own(testbed: Testbed, text: str, key: dict[str, Any]) -> None:
    testbed.ledger.records.log([new_record(1, key=key, key_id=key_id(key))], PAST)
    shown = show_records(ledger=testbed.ledger, id_or_stream="orders", key=text, configured=["orders"])
    assert [record["_id"] for record in shown] == ["orders-1"]
    selection = Selection(key=text, states=("pending",))
    assert len(list(list_records(testbed.ledger, selection))) == 1


@pytest.mark.parametrize("text", ["bed=7", "7", "bed=1,bed=2,slot=3", '{"bed": 7}', "[7, 5]"])
def test_a_text_that_is_no_key_says_how_one_is_written(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        list(read_key(text, ["bed", "slot"]))
    assert refused.value.hint == """write bed=…,slot=…; or, of any value, '{"bed": …, "slot": …}'"""


def test_ids_are_completed_each_once_and_an_unknown_one_stays(testbed: Testbed) -> None:
    full = f"orders-{'ab' * 16}"
    testbed.ledger.records.log([new_record(1, id=full)], PAST)
    texts = ("orders-a", f"{full}-2", full, "orders-ff", "nope")
    assert complete_ids(testbed.ledger, texts) == (full, "orders-ff", "nope")


def test_many_ids_that_begin_alike_are_not_all_listed(testbed: Testbed) -> None:
    testbed.ledger.records.log([new_record(n, id=f"orders-a{n:02}") for n in range(12)], PAST)
    with pytest.raises(UsageError) as caught:
        complete_ids(testbed.ledger, ["orders-a"])
    assert caught.value.why.endswith("orders-a09, ...")


def test_failures_are_grouped_by_their_error(testbed: Testbed, refusing: MockPartner) -> None:
    log(testbed, 1, 2, 3)
    testbed.deliver()
    testbed.poll(ListReader([version_row(4, None, None, payload=None, error="column amount: the number is NaN")]))
    groups = group_failures(ledger=testbed.ledger).groups
    assert [(group["count"], group["status"]) for group in groups] == [(3, 422), (1, None)]
    assert "this row is not valid" in groups[0]["message"]
    assert groups[0]["sample_id"] in {record["_id"] for record in testbed.records(state=State.FAILED.value)}
    assert group_failures(ledger=testbed.ledger, limit=1).groups == groups[:1]
    assert group_failures(ledger=testbed.ledger, selection=Selection(streams=("others",))).groups == ()
    later = testbed.ledger.streams.server_time() + timedelta(hours=1)
    assert group_failures(ledger=testbed.ledger, selection=Selection(since=later)).groups == ()
    assert len(group_failures(ledger=testbed.ledger, selection=Selection(until=later)).groups) == 2
