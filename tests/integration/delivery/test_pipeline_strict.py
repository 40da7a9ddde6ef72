"""Order strict: every version of a row, one after another; a waiting row delays no other row."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from email.message import Message
from typing import Any

import pytest

from syncctl.pipeline.monitoring.obstacles import StreamPlan
from syncctl.pipeline.monitoring.status import read_status
from syncctl.pipeline.operations.replay import Discarded, Replayed, discard_records, replay_records
from syncctl.pipeline.selection import Selection
from tests.harness.http_partner import HttpPartner
from tests.harness.meddling_client import MeddlingClient
from tests.harness.passing_time import PAST
from tests.harness.testbed import ListReader, Testbed, version_row

HOUR = 3600.0


class ContentPartner(HttpPartner):
    """A partner that answers by the content of a row, and remembers what it was sent."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: set[str] = set()
        #: A proxy gives up: whether the call took effect is not known.
        self.unanswered: set[str] = set()
        self.sent: list[tuple[int, str]] = []
        self.keys: list[str] = []

    def answer(self, headers: Message, body: bytes) -> tuple[int, bytes]:
        row = json.loads(body)
        content = row["content"]
        self.sent.append((row["id"], content))
        self.keys.append(headers["Idempotency-Key"])
        return 422 if content in self.refused else 504 if content in self.unanswered else 200, b"{}"

    def contents(self, number: int = 1) -> str:
        """Return the contents of a row that arrived, in order."""
        return "".join(content for row, content in self.sent if row == number)


@pytest.fixture
def answers(testbed: Testbed) -> Iterator[ContentPartner]:
    testbed.change_stream(order="strict")
    with ContentPartner() as server:
        testbed.partner = replace(testbed.partner, url=server.url)
        yield server


def log(testbed: Testbed, *numbers: int, contents: str = "a") -> None:
    """Let polls have seen these rows in one content after another."""
    for content in contents:
        testbed.poll(ListReader([version_row(number, content, None) for number in numbers]))


def replay(testbed: Testbed, *ids: str, **selection: Any) -> Replayed:
    chosen = Selection(ids=ids, **selection)
    return replay_records(ledger=testbed.ledger, selection=chosen, streams={"orders": testbed.stream}, who="me")


def discard(testbed: Testbed, *ids: str, **selection: Any) -> Discarded:
    chosen = Selection(ids=ids, **selection)
    return discard_records(ledger=testbed.ledger, selection=chosen, reason="no", who="me")


def waiting(testbed: Testbed) -> dict[str, str]:
    """Return which version waits for which, by content."""
    contents = {record["_id"]: record["payload"]["content"] for record in testbed.records()}
    return {
        record["payload"]["content"]: contents.get(record["waits_for"], "?")
        for record in testbed.records(waits_for={"$exists": True})
    }


def id_of(testbed: Testbed, content: str) -> str:
    (found,) = testbed.records(**{"payload.content": content})
    return str(found["_id"])


def fail_long_ago(testbed: Testbed, *, seconds: float) -> None:
    """Let failed records have failed this long ago, by MongoDB's clock."""
    at = testbed.ledger.streams.server_time() - timedelta(seconds=seconds)
    testbed.database.records.update_many({"state": "failed"}, {"$set": {"failed_at": at}})


def test_every_version_goes_in_order_and_one_at_a_time(testbed: Testbed, answers: ContentPartner) -> None:
    log(testbed, 1, contents="abc")
    claim = testbed.take().claim
    assert waiting(testbed) == {"b": "a", "c": "b"}
    assert all("due_at" not in record for record in testbed.records(waits_for={"$exists": True}))
    assert testbed.take_rows() == []
    testbed.give_back(claim)
    seen: list[dict[str, str]] = []
    client = MeddlingClient(testbed, before=lambda _: seen.append(waiting(testbed)))
    testbed.deliver(client=client)
    client.close()
    assert seen == [{"b": "a", "c": "b"}, {"c": "b"}, {}]
    assert answers.contents() == "abc"
    assert testbed.states() == {1: ["delivered"] * 3}
    assert not waiting(testbed)


def test_a_version_that_is_retried_holds_those_behind_it(testbed: Testbed, answers: ContentPartner) -> None:
    answers.unanswered = {"a"}
    log(testbed, 1, contents="ab")
    testbed.deliver()
    assert answers.contents() == "a"
    answers.unanswered = set()
    testbed.database.records.update_one({"_id": id_of(testbed, "a")}, {"$set": {"due_at": PAST}})
    testbed.deliver()
    assert answers.contents() == "aab"


def test_a_failed_version_holds_until_it_is_replayed(testbed: Testbed, answers: ContentPartner) -> None:
    answers.refused = {"a"}
    log(testbed, 1, contents="abc")
    testbed.deliver()
    log(testbed, 1, contents="d")
    testbed.deliver()
    testbed.maintain()
    testbed.deliver()
    assert testbed.states() == {1: ["failed", "pending", "pending", "pending"]}
    assert answers.contents() == "a"
    answers.refused = set()
    assert replay(testbed, streams=("orders",)).replayed == 1
    testbed.deliver()
    assert answers.contents() == "aabcd"
    assert testbed.states() == {1: ["delivered"] * 4}


def test_a_failed_version_holds_until_it_is_discarded(testbed: Testbed, answers: ContentPartner) -> None:
    answers.refused = {"a"}
    log(testbed, 1, contents="abc")
    testbed.deliver()
    assert discard(testbed, streams=("orders",)).discarded == 1
    testbed.deliver()
    assert answers.contents() == "abc"
    assert testbed.states() == {1: ["discarded", "delivered", "delivered"]}


def test_a_waiting_version_can_be_discarded_and_releases_the_next(testbed: Testbed, answers: ContentPartner) -> None:
    answers.refused = {"a"}
    log(testbed, 1, contents="abc")
    testbed.deliver()
    discard(testbed, id_of(testbed, "b"), states=("pending",))
    (given_up,) = testbed.records(state="discarded")
    assert "waits_for" not in given_up
    testbed.deliver()
    assert waiting(testbed) == {"c": "a"}, "the older one still holds it"


def test_held_rows_keep_no_other_rows_waiting(testbed: Testbed, answers: ContentPartner) -> None:
    testbed.change_stream(window=4, batch_size=4)
    answers.refused = {"x"}
    log(testbed, *range(1, 5), contents="x")
    testbed.deliver()
    log(testbed, *range(1, 5), contents="abcdefgh")
    log(testbed, 9)
    testbed.deliver()
    assert answers.contents(9) == "a"
    assert testbed.ledger.sequencing.count(["orders"])["orders"].held == 4 * 8
    due = [testbed.ledger.records.find_due("orders", fresh=fresh, limit=1) for fresh in (True, False)]
    assert due == [[], []], "what is held must not be looked at again and again"


def test_a_chain_longer_than_the_window_is_delivered_in_order(testbed: Testbed, answers: ContentPartner) -> None:
    testbed.change_stream(window=2, batch_size=2)
    log(testbed, 1, 2, contents="abcdefg")
    testbed.deliver()
    assert answers.contents(1) == answers.contents(2) == "abcdefg"


def test_a_failed_version_holds_for_as_long_as_strict_hold_says(testbed: Testbed, answers: ContentPartner) -> None:
    testbed.change_stream(strict_hold_seconds=HOUR)
    answers.refused = {"a"}
    log(testbed, 1, contents="ab")
    testbed.deliver()
    fail_long_ago(testbed, seconds=HOUR - 60)
    assert testbed.maintain().released == 0
    fail_long_ago(testbed, seconds=HOUR + 1)
    assert testbed.maintain().released == 1
    testbed.deliver()
    log(testbed, 1, contents="c")
    testbed.deliver()
    assert answers.contents() == "abc"


def test_without_strict_hold_a_failed_version_holds_forever(testbed: Testbed, answers: ContentPartner) -> None:
    answers.refused = {"a"}
    log(testbed, 1, contents="ab")
    testbed.deliver()
    fail_long_ago(testbed, seconds=1000 * HOUR)
    assert testbed.maintain().released == 0
    assert waiting(testbed) == {"b": "a"}


def test_a_replay_of_a_version_that_a_delivered_one_has_overtaken_is_skipped(
    testbed: Testbed, answers: ContentPartner
) -> None:
    testbed.change_stream(strict_hold_seconds=HOUR)
    answers.refused = {"a"}
    log(testbed, 1, contents="ab")
    testbed.deliver()
    fail_long_ago(testbed, seconds=2 * HOUR)
    testbed.maintain()
    testbed.deliver()
    done = replay(testbed, streams=("orders",))
    assert (done.matched, done.replayed, done.skipped) == (1, 0, 1)
    assert answers.contents() == "ab"


def test_a_newer_version_that_may_have_arrived_goes_under_a_new_key_after_an_older_one(
    testbed: Testbed, answers: ContentPartner
) -> None:
    """Or the partner would take it for a repeat, and keep the older one."""
    testbed.change_stream(strict_hold_seconds=HOUR)
    answers.refused, answers.unanswered = {"a"}, {"b"}
    log(testbed, 1, contents="ab")
    testbed.deliver()
    fail_long_ago(testbed, seconds=2 * HOUR)
    testbed.maintain()
    testbed.deliver()
    answers.refused, answers.unanswered = set(), set()
    assert replay(testbed, streams=("orders",)).replayed == 1
    testbed.deliver()
    testbed.database.records.update_many({"state": "pending", "due_at": {"$exists": True}}, {"$set": {"due_at": PAST}})
    testbed.deliver()
    assert answers.contents() == "abab"
    first, second = answers.keys[1], answers.keys[3]
    assert first != second


@pytest.mark.parametrize("ends", ["replayed", "released"])
def test_a_version_whose_newest_was_given_up_and_cleaned_up_goes(
    testbed: Testbed, answers: ContentPartner, ends: str
) -> None:
    """Nothing newer was delivered. Fails where the age of the newest version is that of its record."""
    answers.refused = {"a"}
    log(testbed, 1, contents="abc")
    testbed.deliver()
    discard(testbed, id_of(testbed, "c"), states=("pending",))
    testbed.database.records.delete_one({"_id": id_of(testbed, "c")})
    if ends == "replayed":
        answers.refused = set()
        assert replay(testbed, streams=("orders",)).replayed == 1
    else:
        discard(testbed, streams=("orders",))
    testbed.deliver()
    assert answers.contents() == ("aab" if ends == "replayed" else "ab")
    assert testbed.states() == {1: ["delivered" if ends == "replayed" else "discarded", "delivered"]}


def test_a_version_that_an_operator_sends_again_goes_although_a_newer_one_may_have_arrived(
    testbed: Testbed, answers: ContentPartner
) -> None:
    """It was given up before its first call. Fails where its first call counts as one that comes too late."""
    answers.unanswered = {"b"}
    log(testbed, 1, contents="ab")
    discard(testbed, id_of(testbed, "a"), states=("pending",))
    testbed.deliver()
    answers.unanswered = set()
    assert replay(testbed, id_of(testbed, "a"), states=("discarded",)).replayed == 1
    testbed.deliver()
    testbed.settle_calls()
    testbed.make_retries_due()
    testbed.deliver()
    assert answers.contents() == "bab"
    assert testbed.states() == {1: ["delivered", "delivered"]}
    assert len(set(answers.keys)) == 3


def write_late(testbed: Testbed, *not_yet: str, content: str) -> None:
    """Write the version before the only record, as a poll does that was taken over.

    Args:
        not_yet: What the record has by now and this one has not.
    """
    (newer,) = testbed.records()
    late = {name: value for name, value in newer.items() if name not in not_yet}
    late |= {"_id": "orders-late", "seq": newer["seq"] - 1, "state": "pending", "fresh": True, "due_at": PAST}
    testbed.database.records.insert_one({**late, "payload": {**newer["payload"], "content": content}})


def test_a_version_that_was_never_tried_is_not_sent_after_a_newer_one_that_may_have_arrived(
    testbed: Testbed, answers: ContentPartner
) -> None:
    """A poll that was taken over writes its record after a newer one was called without an answer. Fails without the
    look at `reached_seq`."""
    answers.unanswered = {"b"}
    log(testbed, 1, contents="b")
    testbed.deliver()
    # Its key has known it: the newer version was logged after it.
    write_late(testbed, "claims", "history", "tries", content="a")
    testbed.deliver()
    assert answers.contents() == "b"
    assert testbed.states() == {1: ["superseded", "pending"]}


def test_a_version_that_comes_too_late_is_not_sent_after_a_newer_one(testbed: Testbed, answers: ContentPartner) -> None:
    """A poll that was taken over writes its records after those of the next one have been delivered."""
    log(testbed, 1, contents="b")
    testbed.deliver()
    write_late(testbed, "delivered_at", "finished_at", "claims", content="b")
    testbed.deliver()
    assert answers.contents() == "b"
    assert testbed.states() == {1: ["superseded", "delivered"]}


def test_a_crash_between_outcome_and_release_is_repaired_by_maintenance(
    testbed: Testbed, answers: ContentPartner
) -> None:
    log(testbed, 1, contents="a")
    testbed.deliver()
    log(testbed, 1, contents="b")
    testbed.database.records.update_one(
        {"_id": id_of(testbed, "b")}, {"$set": {"waits_for": id_of(testbed, "a")}, "$unset": {"due_at": True}}
    )
    assert testbed.take_rows() == []
    assert testbed.maintain().released == 1
    testbed.deliver()
    assert answers.contents() == "ab"


def test_a_version_that_waits_for_a_cleaned_up_record_goes(testbed: Testbed, answers: ContentPartner) -> None:
    answers.refused = {"a"}
    log(testbed, 1, contents="ab")
    testbed.deliver()
    testbed.database.records.delete_one({"_id": id_of(testbed, "a")})
    assert testbed.maintain().released == 1
    testbed.deliver()
    assert answers.contents() == "ab"


def test_the_release_of_waiting_versions_continues_where_it_ended(testbed: Testbed, answers: ContentPartner) -> None:
    answers.refused = {"a"}
    log(testbed, *range(1, 8), contents="ab")
    testbed.deliver()
    testbed.database.records.delete_many({"state": "failed"})
    released = [
        testbed.ledger.sequencing.release_unheld("orders", has_sequence=True, hold_seconds=None, limit=3)
        for _ in range(4)
    ]
    assert sorted(released) == [0, 1, 3, 3]


def test_the_release_reaches_versions_behind_many_that_still_wait(testbed: Testbed, answers: ContentPartner) -> None:
    answers.refused = {"a"}
    log(testbed, *range(1, 8), contents="ab")
    testbed.deliver()
    last = max(testbed.records(state="failed"), key=lambda each: str(each["_id"]))
    testbed.database.records.delete_one({"_id": last["_id"]})
    released = [
        testbed.ledger.sequencing.release_unheld("orders", has_sequence=True, hold_seconds=None, limit=2)
        for _ in range(4)
    ]
    assert sum(released) == 1


def test_nothing_waits_in_a_stream_whose_order_is_not_strict_any_more(
    testbed: Testbed, answers: ContentPartner
) -> None:
    answers.refused = {"a"}
    log(testbed, 1, contents="abc")
    testbed.deliver()
    testbed.change_stream(order="latest")
    assert testbed.maintain().released == 2
    testbed.deliver()
    assert answers.contents() == "ac"
    assert testbed.states() == {1: ["superseded", "superseded", "delivered"]}, "the failed one, by a newer delivery"


def test_the_wait_ends_if_the_holder_finished_between_the_read_and_the_write(
    testbed: Testbed, answers: ContentPartner
) -> None:
    log(testbed, 1, contents="a")
    testbed.deliver()
    log(testbed, 1, contents="b")
    assert testbed.ledger.sequencing.hold({id_of(testbed, "b"): id_of(testbed, "a")}) == 1
    assert testbed.ledger.sequencing.release_if_free("orders", [id_of(testbed, "a")], hold_seconds=None) == 1
    testbed.deliver()
    assert answers.contents() == "ab"


def test_dispatch_frees_what_it_holds_for_a_version_that_was_given_up_meanwhile(
    testbed: Testbed, answers: ContentPartner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The discard released what waited before this waited. Fails without `release_if_free` in dispatch."""
    answers.refused = {"a"}
    log(testbed, 1, contents="a")
    testbed.deliver()
    log(testbed, 1, contents="b")
    hold = testbed.ledger.sequencing.hold

    def discard_first(behind: Any) -> int:
        if behind:
            discard(testbed, id_of(testbed, "a"))
        return hold(behind)

    monkeypatch.setattr(testbed.ledger.sequencing, "hold", discard_first)
    assert testbed.take_rows() + testbed.take_rows() == [1]


def test_status_counts_held_versions(testbed: Testbed, answers: ContentPartner) -> None:
    answers.refused = {"a"}
    log(testbed, 1, 2, contents="abc")
    testbed.deliver()
    status = read_status(ledger=testbed.ledger, configured={"orders": StreamPlan(partner="default")}, messages=0)
    (stream,) = status.streams
    assert stream["held"] == 4
    assert stream["counts"]["pending"] == 4
    assert testbed.ledger.sequencing.count_failed_holders("orders") == 2


def test_a_dispatch_costs_the_same_however_many_versions_are_finished(
    testbed: Testbed, answers: ContentPartner
) -> None:
    """Only versions from the newest delivered one on are looked at (invariant 11)."""
    log(testbed, 1, contents="ab" * 15)
    testbed.deliver()
    log(testbed, 1, contents="c")
    testbed.database.command("profile", 2)
    assert testbed.take_rows() == [1]
    testbed.database.command("profile", 0)
    (look,) = testbed.database["system.profile"].find({"command.aggregate": "keys"})
    # Without the stages behind the lookup: merged with them it does not report how much it read.
    asked = {"aggregate": "keys", "pipeline": look["command"]["pipeline"][:2], "cursor": {}}
    explained = testbed.database.command("explain", asked, verbosity="executionStats")
    (lookup,) = [stage for stage in explained["stages"] if "$lookup" in stage]
    assert lookup["indexesUsed"] == ["by_key"]
    assert 1 <= int(lookup["totalDocsExamined"]) <= 3
