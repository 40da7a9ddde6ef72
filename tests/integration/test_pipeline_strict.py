"""Order strict: every version of a row, one after another; what must wait keeps nobody else waiting."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest

from syncctl.core.outcome import Outcome, Verdict
from syncctl.core.records import Record
from syncctl.pipeline.replay import Discarded, Replayed, discard_records, replay_records
from syncctl.pipeline.selection import Selection
from syncctl.pipeline.status import read_status
from tests.harness.world import PAST, ListReader, World, outcome, version_row

HOUR = 3600.0


class Answers:
    """A partner that answers by the content of a row, and remembers what it was sent."""

    def __init__(self) -> None:
        self.refused: set[str] = set()
        self.unanswered: set[str] = set()
        self.sent: list[tuple[int, str]] = []
        self.keys: list[str] = []

    def __call__(self, _: Any, calls: Sequence[tuple[Record, Any]], **__: Any) -> Iterator[tuple[Record, Outcome]]:
        for record, _call in calls:
            content = str((record.payload or {})["content"])
            self.sent.append((int(str(record.key["id"])), content))
            self.keys.append(record.idempotency_key)
            if content in self.refused:
                yield record, outcome(Verdict.REJECTED, status=422, error="HTTP 422")
            elif content in self.unanswered:
                yield record, outcome(Verdict.AMBIGUOUS, error="no answer")
            else:
                yield record, outcome(status=200)

    def contents(self, number: int = 1) -> str:
        """Return what came of a row, in order."""
        return "".join(content for row, content in self.sent if row == number)


@pytest.fixture
def answers(world: World) -> Answers:
    world.change_stream(order="strict")
    return Answers()


def log(world: World, *numbers: int, contents: str = "a") -> None:
    """Let polls have seen these rows in one content after another."""
    for content in contents:
        world.poll(ListReader([version_row(number, content, None) for number in numbers]))


def run(world: World, answers: Answers) -> None:
    """Dispatch and deliver until nothing is due."""
    while world.dispatch():
        while world.messages:
            world.deliver(send_batch=answers)


def replay(world: World, *ids: str, **selection: Any) -> Replayed:
    chosen = Selection(ids=ids, **selection)
    return replay_records(ledger=world.ledger, selection=chosen, streams={"orders": world.stream}, who="me")


def discard(world: World, *ids: str, **selection: Any) -> Discarded:
    chosen = Selection(ids=ids, **selection)
    return discard_records(ledger=world.ledger, selection=chosen, reason="no", who="me")


def waiting(world: World) -> dict[str, str]:
    """Return who waits for whom, by content."""
    contents = {each["_id"]: each["payload"]["content"] for each in world.records()}
    return {
        each["payload"]["content"]: contents.get(each["waits_for"], "?")
        for each in world.records(waits_for={"$exists": True})
    }


def id_of(world: World, content: str) -> str:
    (found,) = world.records(**{"payload.content": content})
    return str(found["_id"])


def fail_long_ago(world: World, *, seconds: float) -> None:
    """Let what is failed have failed so long ago, by MongoDB's clock."""
    at = world.ledger.streams.server_time() - timedelta(seconds=seconds)
    world.database.records.update_many({"state": "failed"}, {"$set": {"failed_at": at}})


def test_every_version_goes_in_order_and_one_at_a_time(world: World, answers: Answers) -> None:
    log(world, 1, contents="abc")
    assert world.dispatch() == 1
    assert waiting(world) == {"b": "a", "c": "b"}
    assert all("due_at" not in each for each in world.records(waits_for={"$exists": True}))
    assert world.dispatch(messages_waiting=lambda: 0) == 0
    world.deliver(send_batch=answers)
    assert waiting(world) == {"c": "b"}
    run(world, answers)
    assert answers.contents() == "abc"
    assert world.states() == {1: ["delivered"] * 3}
    assert not waiting(world)


def test_a_version_that_is_retried_holds_those_behind_it(world: World, answers: Answers) -> None:
    answers.unanswered = {"a"}
    log(world, 1, contents="ab")
    run(world, answers)
    assert answers.contents() == "a"
    answers.unanswered = set()
    world.database.records.update_one({"_id": id_of(world, "a")}, {"$set": {"due_at": PAST}})
    run(world, answers)
    assert answers.contents() == "aab"


def test_a_failed_version_holds_until_it_is_replayed(world: World, answers: Answers) -> None:
    answers.refused = {"a"}
    log(world, 1, contents="abc")
    run(world, answers)
    log(world, 1, contents="d")
    run(world, answers)
    world.keep_up()
    run(world, answers)
    assert world.states() == {1: ["failed", "pending", "pending", "pending"]}
    assert answers.contents() == "a"
    answers.refused = set()
    assert replay(world, streams=("orders",)).replayed == 1
    run(world, answers)
    assert answers.contents() == "aabcd"
    assert world.states() == {1: ["delivered"] * 4}


def test_a_failed_version_holds_until_it_is_discarded(world: World, answers: Answers) -> None:
    answers.refused = {"a"}
    log(world, 1, contents="abc")
    run(world, answers)
    assert discard(world, streams=("orders",)).discarded == 1
    run(world, answers)
    assert answers.contents() == "abc"
    assert world.states() == {1: ["discarded", "delivered", "delivered"]}


def test_one_that_waits_can_be_discarded_and_lets_the_next_one_go(world: World, answers: Answers) -> None:
    answers.refused = {"a"}
    log(world, 1, contents="abc")
    run(world, answers)
    discard(world, id_of(world, "b"), states=("pending",))
    (given_up,) = world.records(state="discarded")
    assert "waits_for" not in given_up
    run(world, answers)
    assert waiting(world) == {"c": "a"}, "the older one still holds it"


def test_rows_held_so_keep_no_other_rows_waiting(world: World, answers: Answers) -> None:
    world.change_stream(window=4, batch_size=4)
    answers.refused = {"x"}
    log(world, *range(1, 5), contents="x")
    run(world, answers)
    log(world, *range(1, 5), contents="abcdefgh")
    log(world, 9)
    run(world, answers)
    assert answers.contents(9) == "a"
    assert world.ledger.waiting.count("orders") == 4 * 8
    due = [world.ledger.records.find_due("orders", fresh=fresh, limit=1) for fresh in (True, False)]
    assert due == [[], []], "what is held must not be looked at again and again"


def test_a_chain_longer_than_the_window(world: World, answers: Answers) -> None:
    world.change_stream(window=2, batch_size=2)
    log(world, 1, 2, contents="abcdefg")
    run(world, answers)
    assert answers.contents(1) == answers.contents(2) == "abcdefg"


def test_with_strict_hold_a_failed_version_holds_so_long(world: World, answers: Answers) -> None:
    world.change_stream(strict_hold_seconds=HOUR)
    answers.refused = {"a"}
    log(world, 1, contents="ab")
    run(world, answers)
    fail_long_ago(world, seconds=HOUR - 60)
    assert world.keep_up().released == 0
    fail_long_ago(world, seconds=HOUR + 1)
    assert world.keep_up().released == 1
    run(world, answers)
    log(world, 1, contents="c")
    run(world, answers)
    assert answers.contents() == "abc"


def test_without_strict_hold_a_failed_version_holds_for_ever(world: World, answers: Answers) -> None:
    answers.refused = {"a"}
    log(world, 1, contents="ab")
    run(world, answers)
    fail_long_ago(world, seconds=1000 * HOUR)
    assert world.keep_up().released == 0
    assert waiting(world) == {"b": "a"}


def test_a_replay_of_what_a_newer_delivered_version_has_overtaken_is_skipped(world: World, answers: Answers) -> None:
    world.change_stream(strict_hold_seconds=HOUR)
    answers.refused = {"a"}
    log(world, 1, contents="ab")
    run(world, answers)
    fail_long_ago(world, seconds=2 * HOUR)
    world.keep_up()
    run(world, answers)
    done = replay(world, streams=("orders",))
    assert (done.matched, done.replayed, done.skipped) == (1, 0, 1)
    assert answers.contents() == "ab"


def test_a_newer_version_that_may_have_landed_goes_under_a_new_key_after_an_older_one(
    world: World, answers: Answers
) -> None:
    """Or the partner would take it for a repeat, and keep the older one."""
    world.change_stream(strict_hold_seconds=HOUR)
    answers.refused, answers.unanswered = {"a"}, {"b"}
    log(world, 1, contents="ab")
    run(world, answers)
    fail_long_ago(world, seconds=2 * HOUR)
    world.keep_up()
    run(world, answers)
    answers.refused, answers.unanswered = set(), set()
    assert replay(world, streams=("orders",)).replayed == 1
    run(world, answers)
    world.database.records.update_many({"state": "pending", "due_at": {"$exists": True}}, {"$set": {"due_at": PAST}})
    run(world, answers)
    assert answers.contents() == "abab"
    first, second = answers.keys[1], answers.keys[3]
    assert first != second


def test_what_comes_too_late_is_not_sent_after_a_newer_version(world: World, answers: Answers) -> None:
    """A poll that was taken over writes its records after those of the next one have been delivered."""
    log(world, 1, contents="b")
    run(world, answers)
    (newer,) = world.records()
    late = {**newer, "_id": "orders-late", "seq": newer["seq"] - 1, "state": "pending", "fresh": True, "due_at": PAST}
    for name in ("delivered_at", "finished_at", "claims"):
        late.pop(name)
    world.database.records.insert_one(late)
    run(world, answers)
    assert answers.contents() == "b"
    assert world.states() == {1: ["superseded", "delivered"]}


def test_a_crash_between_landing_and_release_is_mended_by_upkeep(world: World, answers: Answers) -> None:
    log(world, 1, contents="ab")
    world.dispatch()
    world.deliver(send_batch=answers)
    world.database.records.update_one(
        {"_id": id_of(world, "b")}, {"$set": {"waits_for": id_of(world, "a")}, "$unset": {"due_at": True}}
    )
    assert world.dispatch() == 0
    assert world.keep_up().released == 1
    run(world, answers)
    assert answers.contents() == "ab"


def test_what_waits_for_a_record_that_was_cleaned_up_goes(world: World, answers: Answers) -> None:
    answers.refused = {"a"}
    log(world, 1, contents="ab")
    run(world, answers)
    world.database.records.delete_one({"_id": id_of(world, "a")})
    assert world.keep_up().released == 1
    run(world, answers)
    assert answers.contents() == "ab"


def test_the_sweep_goes_on_where_it_ended(world: World, answers: Answers) -> None:
    answers.refused = {"a"}
    log(world, *range(1, 8), contents="ab")
    run(world, answers)
    world.database.records.delete_many({"state": "failed"})
    released = [world.ledger.waiting.sweep("orders", hold_seconds=None, limit=3) for _ in range(4)]
    assert sorted(released) == [0, 1, 3, 3]


def test_the_sweep_comes_to_those_behind_many_that_still_wait(world: World, answers: Answers) -> None:
    answers.refused = {"a"}
    log(world, *range(1, 8), contents="ab")
    run(world, answers)
    last = max(world.records(state="failed"), key=lambda each: str(each["_id"]))
    world.database.records.delete_one({"_id": last["_id"]})
    released = [world.ledger.waiting.sweep("orders", hold_seconds=None, limit=2) for _ in range(4)]
    assert sum(released) == 1


def test_nothing_waits_in_a_stream_whose_order_is_not_strict_any_more(world: World, answers: Answers) -> None:
    answers.refused = {"a"}
    log(world, 1, contents="abc")
    run(world, answers)
    world.change_stream(order="latest")
    assert world.keep_up().released == 2
    run(world, answers)
    assert answers.contents() == "ac"
    assert world.states() == {1: ["failed", "superseded", "delivered"]}


def test_the_wait_ends_where_the_holder_landed_between_the_look_and_the_write(world: World, answers: Answers) -> None:
    log(world, 1, contents="a")
    run(world, answers)
    log(world, 1, contents="b")
    assert world.ledger.waiting.hold({id_of(world, "b"): id_of(world, "a")}) == 1
    assert world.ledger.waiting.release_if_free("orders", [id_of(world, "a")], hold_seconds=None) == 1
    run(world, answers)
    assert answers.contents() == "ab"


def test_status_counts_what_is_held(world: World, answers: Answers) -> None:
    answers.refused = {"a"}
    log(world, 1, 2, contents="abc")
    run(world, answers)
    status = read_status(ledger=world.ledger, configured={"orders": "default"}, messages=0)
    (stream,) = status.streams
    assert stream["held"] == 4
    assert stream["counts"]["pending"] == 4
    assert world.ledger.waiting.count_failed_holders("orders") == 2


def test_a_look_costs_the_same_however_many_versions_are_finished(world: World, answers: Answers) -> None:
    """Only versions from the newest delivered one on are looked at (invariant 11)."""
    log(world, 1, contents="ab" * 15)
    run(world, answers)
    log(world, 1, contents="c")
    world.database.command("profile", 2)
    assert world.dispatch() == 1
    world.database.command("profile", 0)
    (look,) = world.database["system.profile"].find({"command.aggregate": "keys"})
    # Without the stages behind the lookup: merged with them it does not tell what it has read.
    asked = {"aggregate": "keys", "pipeline": look["command"]["pipeline"][:2], "cursor": {}}
    explained = world.database.command("explain", asked, verbosity="executionStats")
    (lookup,) = [each for each in explained["stages"] if "$lookup" in each]
    assert lookup["indexesUsed"] == ["by_key"]
    assert 1 <= int(lookup["totalDocsExamined"]) <= 3
