"""What an operator, or the settings, hold: pauses with an end, pauses of polls, quiet hours, and `after`."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from syncctl.core.quiet_hours import QuietHours, parse_quiet_hours
from syncctl.errors import LeaseHeld
from syncctl.ledger.expressions import SYNCCTL
from syncctl.ledger.ledger import Ledger
from syncctl.partner.client import PartnerClient
from syncctl.pipeline.monitoring.obstacles import Obstacle, StreamPlan, find_obstacles, gather_facts
from syncctl.pipeline.pause import EVERYTHING, POLLS, PauseScope, pause_streams, resume_streams
from tests.harness.http_partner import RowPartner
from tests.harness.passing_time import PAST
from tests.harness.testbed import ListReader, Testbed, new_record, version_row

LATER = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)


def pause(testbed: Testbed, **changes: Any) -> None:
    options: dict[str, Any] = {"streams": ["orders"], "who": "ann", "reason": "stock-taking"}
    pause_streams(ledger=testbed.ledger, **{**options, **changes})


def log(testbed: Testbed, *numbers: int) -> None:
    testbed.poll(ListReader([version_row(number, "a", None) for number in numbers]))


def let_pauses_end(testbed: Testbed) -> None:
    for field in ("paused", "polls_paused"):
        for collection in (testbed.database.streams, testbed.database.partners):
            collection.update_many({f"{field}.ends_at": {"$exists": True}}, {"$set": {f"{field}.ends_at": PAST}})


# A pause with an end.


def test_a_pause_ends_by_itself_and_nobody_needs_to_notice(testbed: Testbed) -> None:
    log(testbed, 1, 2)
    pause(testbed, ends_at=LATER)
    assert testbed.ledger.streams.load_gate("orders").hold.by_operator
    assert testbed.take_rows() == []
    let_pauses_end(testbed)
    assert testbed.take_rows() == [1, 2]


def test_maintenance_ends_what_is_over_once_and_says_so(testbed: Testbed) -> None:
    testbed.ledger.streams.ensure("orders")
    pause(testbed, partners=["default"], scope=EVERYTHING, ends_at=LATER)
    testbed.maintain()
    assert testbed.ledger.partners.load_gate("default").paused
    let_pauses_end(testbed)
    testbed.maintain()
    testbed.maintain()
    assert "paused" not in testbed.database.streams.find_one({"_id": "orders"})
    assert "polls_paused" not in testbed.database.streams.find_one({"_id": "orders"})
    assert "paused" not in testbed.database.partners.find_one({"_id": "default"})
    *resumed, paused = testbed.ledger.audit.load(limit=10)
    assert paused["detail"]["until"] == LATER
    assert paused["detail"]["scope"] == ["deliveries", "polls"]
    assert sorted((entry["who"], *map(str, entry["detail"].items())) for entry in resumed) == sorted(
        (SYNCCTL, *map(str, detail.items()))
        for detail in (
            {"streams": ["orders"], "scope": ["deliveries"], "reason": "the pause has reached its end time"},
            {"streams": ["orders"], "scope": ["polls"], "reason": "the pause has reached its end time"},
            {"partners": ["default"], "reason": "the pause has reached its end time"},
        )
    )


def test_a_pause_that_is_over_does_not_keep_syncctl_from_pausing(testbed: Testbed) -> None:
    pause(testbed, ends_at=LATER)
    testbed.ledger.streams.pause("orders", who=SYNCCTL, reason="HTTP 410")
    assert testbed.ledger.streams.load_gate("orders").hold.by_operator
    let_pauses_end(testbed)
    testbed.ledger.streams.pause("orders", who=SYNCCTL, reason="HTTP 410")
    hold = testbed.ledger.streams.load_gate("orders").hold
    assert (hold.paused, hold.by_operator) == (True, False)


def test_a_new_pause_has_its_own_end(testbed: Testbed) -> None:
    pause(testbed, ends_at=LATER)
    pause(testbed, reason="")
    paused = testbed.database.streams.find_one({"_id": "orders"})["paused"]
    assert (paused["reason"], "ends_at" in paused) == ("stock-taking", False)


def test_a_pause_that_is_renewed_lasts_since_it_began(testbed: Testbed) -> None:
    def read_begin(field: str = "paused") -> datetime:
        begin: datetime = testbed.database.streams.find_one({"_id": "orders"})[field]["at"]
        return begin

    def age() -> None:
        for field in ("paused", "polls_paused"):
            testbed.database.streams.update_one({f"{field}.at": {"$exists": True}}, {"$set": {f"{field}.at": PAST}})

    pause(testbed, scope=EVERYTHING, ends_at=LATER)
    age()
    pause(testbed, scope=EVERYTHING, who="bob", reason="a new disk")
    assert (read_begin(), read_begin("polls_paused")) == (PAST, PAST)
    pause(testbed, ends_at=LATER)
    let_pauses_end(testbed)
    pause(testbed)
    assert read_begin() > PAST, "the older one was over"
    testbed.ledger.streams.resume("orders")
    testbed.ledger.streams.pause("orders", who=SYNCCTL, reason="HTTP 410")
    age()
    pause(testbed)
    assert read_begin() > PAST, "syncctl's was another one"


# Polls.


def test_paused_polls_leave_the_source_alone_and_deliveries_go_on(testbed: Testbed) -> None:
    log(testbed, 1)
    pause(testbed, scope=POLLS)
    with pytest.raises(LeaseHeld, match=r"the polls of orders are paused by ann since .+: stock-taking") as refused:
        log(testbed, 2)
    assert refused.value.hint == "run: syncctl resume orders --polls"
    assert testbed.take_rows() == [1]
    testbed.ledger.polls.pause("orders", who="ann", reason="", ends_at=PAST)
    log(testbed, 2)
    assert testbed.take_rows() == [2]


def test_a_poll_that_is_running_ends_after_its_page(testbed: Testbed) -> None:
    reader = ListReader([version_row(number, "a", None) for number in (1, 2, 3)], page_size=1)

    def pause_now() -> bool:
        pause(testbed, scope=POLLS)
        return False

    run = testbed.poll(reader, wake=pause_now)
    assert (run.read, run.error) == (1, None)
    assert sorted(testbed.states()) == [1]


@pytest.mark.parametrize(
    ("scope", "left"),
    [(EVERYTHING, (False, False)), (POLLS, (True, False)), (PauseScope(polls=False), (False, True))],
)
def test_what_is_resumed_goes_on_and_the_rest_does_not(
    testbed: Testbed, scope: PauseScope, left: tuple[bool, bool]
) -> None:
    pause(testbed, scope=EVERYTHING)
    resume_streams(
        ledger=testbed.ledger,
        streams=["orders"],
        scope=scope,
        configured={"orders": "default"},
        wake=lambda _: None,
        who="ann",
    )
    held = testbed.ledger.streams.load_gate("orders").paused, testbed.ledger.polls.load_pause("orders") is not None
    assert held == left


# Quiet hours.


def quiet(offset: float, hours: float = 2.0) -> QuietHours:
    """Return quiet hours that begin so many hours from now."""
    begin = datetime.now(UTC) + timedelta(hours=offset)
    return parse_quiet_hours(f"{begin:%H:%M}-{begin + timedelta(hours=hours):%H:%M} UTC")


def test_in_its_quiet_hours_a_stream_is_read_and_not_sent(testbed: Testbed) -> None:
    testbed.change_stream(quiet_hours=quiet(-1))
    log(testbed, 1)
    assert testbed.take_rows() == []
    assert testbed.deliver() == {}
    testbed.change_stream(quiet_hours=quiet(3))
    assert testbed.take_rows() == [1]


def test_quiet_hours_that_begin_stop_the_calls_that_have_not_begun(testbed: Testbed) -> None:
    log(testbed, 1)
    claim = testbed.take().claim
    assert claim is not None
    loud, silent = (
        testbed.make_setup().open_gate(testbed.ledger, replace(testbed.stream, quiet_hours=quiet(offset)))
        for offset in (3, -1)
    )
    for gate in (loud, silent):
        gate.look(at_once=True)
    assert (loud.admits(claim), silent.admits(claim)) == (True, False)


# One stream after another.


@pytest.fixture
def orders(testbed: Testbed) -> Testbed:
    """Orders, which go after customers."""
    testbed.change_stream(after=("customers",))
    return testbed


def add(ledger: Ledger, stream: str, number: int, minutes_ago: float) -> None:
    """Log a record that has been due for so long."""
    at = ledger.streams.server_time() - timedelta(minutes=minutes_ago)
    ledger.records.log([new_record(number, id=f"{stream}-{number}", stream=stream)], at)


def finish(testbed: Testbed, record: str) -> None:
    testbed.database.records.update_one({"_id": record}, {"$set": {"state": "delivered"}, "$unset": {"due_at": True}})


@pytest.fixture
def known(orders: Testbed) -> Testbed:
    """Orders 1 to 3, which became due a minute after each other; customer 1 between the first two."""
    orders.change_stream(append_only=True)
    for number, minutes in ((1, 9.0), (2, 7.0), (3, 6.0)):
        add(orders.ledger, "orders", number, minutes)
    add(orders.ledger, "customers", 1, 8.0)
    return orders


def test_records_wait_for_those_of_the_other_stream_that_are_older(known: Testbed) -> None:
    assert known.take_all() == [[1]]
    finish(known, "customers-1")
    assert known.take_all() == [[2, 3]]


def test_a_record_in_flight_is_waited_for_until_its_batch_ends(known: Testbed) -> None:
    customers = replace(known.stream, name="customers", after=())
    claim = replace(known, stream=customers).take().claim
    assert claim is not None
    assert known.take_all() == [[1]]
    finish(known, "customers-1")
    known.ledger.batches.end(claim.token)
    assert known.take_all() == [[2, 3]]


@pytest.mark.parametrize(
    "change",
    [{"due_in": timedelta(hours=1), "fresh": False}, {"state": "failed"}, {"due_in": -timedelta(minutes=1)}],
    ids=["retried later", "failed", "younger"],
)
def test_other_records_are_not_waited_for(known: Testbed, change: dict[str, Any]) -> None:
    if "due_in" in change:
        change = {**change, "due_at": datetime.now(UTC) + change["due_in"]}
        del change["due_in"]
    known.database.records.update_one({"_id": "customers-1"}, {"$set": change})
    assert known.take_all() == [[1, 2, 3]]


def test_a_probe_waits_too(known: Testbed) -> None:
    known.database.records.delete_one({"_id": "orders-1"})
    known.ledger.streams.pause("orders", who=SYNCCTL, reason="HTTP 410")
    assert known.take_rows() == []
    finish(known, "customers-1")
    assert len(known.take_rows()) == 1


def test_one_loop_sends_both_in_their_order_before_it_ends(known: Testbed) -> None:
    customers = replace(known.stream, name="customers", path="/customers", after=())
    streams = {"orders": known.stream, "customers": customers}
    clients: list[PartnerClient] = []
    with RowPartner(lambda _: 200) as server:
        known.partner = replace(known.partner, url=server.url)

        def make_setup(name: str) -> Any:
            clients.append(PartnerClient(known.partner, streams[name]))
            return replace(known.make_setup(client=clients[-1]), stream=streams[name])

        known.make_loop(streams=streams, make_setup=make_setup).run("orders")
        for client in clients:
            client.close()
        assert known.states() == {1: ["delivered"] * 2, 2: ["delivered"], 3: ["delivered"]}
    sent_at = {record["_id"]: record["delivered_at"] for record in known.records()}
    assert sent_at["orders-1"] <= sent_at["orders-2"]
    assert sent_at["customers-1"] <= sent_at["orders-2"]


def test_of_streams_that_wait_for_each_other_the_one_that_is_to_move_is_named(testbed: Testbed) -> None:
    ledger, now = testbed.ledger, datetime.now(UTC)
    quiet = parse_quiet_hours(f"{now - timedelta(hours=1):%H:%M}-{now + timedelta(hours=1):%H:%M} UTC")
    regions = StreamPlan(partner="geo")
    for number, name in enumerate(("regions", "customers", "orders")):
        add(ledger, name, number, 9.0 - number)

    def find_waits(regions: StreamPlan, **customers: Any) -> list[Obstacle]:
        plan = StreamPlan(partner="erp", after={"regions": regions}, **customers)
        plan = StreamPlan(partner="erp", after={"customers": plan})
        facts = gather_facts(ledger, {"orders": plan}, documents={}, partners={}, now=ledger.streams.server_time())[
            "orders"
        ]
        return [found for found in find_obstacles(ledger, facts) if found.kind == "waits_for_stream"]

    def find_wait(regions: StreamPlan, **customers: Any) -> Obstacle:
        (wait,) = find_waits(regions, **customers)
        return wait

    wait = find_wait(regions)
    assert wait.detail.startswith("waits for stream customers, which waits for stream regions, which has had a due")
    assert wait.hint.startswith("see what holds regions: syncctl status; or remove customers from streams.orders.after")
    assert not wait.is_planned
    wait = find_wait(replace(regions, quiet_hours=quiet))
    assert "stream regions, which has had a due record for 9m and is in its quiet hours until" in wait.detail
    assert wait.is_planned, "the settings ask for it, however long the chain is"
    assert find_wait(regions, quiet_hours=quiet).detail.startswith("waits for stream customers, which has had a due")
    ledger.partners.pause("geo", who="anna", reason="")
    assert find_wait(regions).hint == "syncctl resume --partner geo"
    ledger.streams.pause("customers", who="anna", reason="")
    assert find_wait(regions).hint == "syncctl resume customers"
    # The one between has nothing to send: it holds nobody, and what it waits for is not waited for either.
    finish(testbed, "customers-1")
    assert find_waits(regions) == []
