"""One stream with a scripted source and partner, and the actors that poll, dispatch and deliver it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from syncctl.core.breaker import BreakerRules
from syncctl.core.outcome import Outcome
from syncctl.core.records import Record
from syncctl.core.states import State
from syncctl.core.stream import Partner, RetrySchedule
from syncctl.errors import LeaseHeld
from syncctl.ledger.delivery_state import DeliveryStates
from syncctl.ledger.keys import Keys
from syncctl.ledger.lease_rescue import LeaseRescue
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.operations import Operations
from syncctl.ledger.records import Records
from syncctl.ledger.sequencing import Sequencing
from syncctl.ledger.streams import Streams
from syncctl.pipeline.replay import Selection, discard_records, replay_records
from tests.harness import passing_time
from tests.harness.cases import make_stream
from tests.harness.testbed import Testbed

from .actors import Actor, GatedDatabase, current_actor, gate
from .simulation_cases import LoggedCall, ScriptedPartner, ScriptedReader, ScriptedSource, call_of
from .strictness import Strictness

ACTORS_AT_MOST = 6
LONG_SECONDS = 10_000.0
SETTLE_SECONDS = 1000.0
ROUNDS_TO_QUIET = 60


def open_gated_ledger(url: str, database: str) -> Ledger:
    """Return a ledger at whose writes actors stand."""
    ledger = Ledger(url, database)
    gated: Any = GatedDatabase(ledger._database)
    for name, room in (
        ("streams", Streams), ("keys", Keys), ("records", Records), ("delivery_states", DeliveryStates),
        ("lease_rescue", LeaseRescue), ("operations", Operations), ("sequencing", Sequencing),
    ):  # fmt: skip
        setattr(ledger, name, room(gated, ledger.hosts))
    return ledger


class ScriptedClient:
    """Turns records into calls; the mapping decides the bytes."""

    def __init__(self, mapping: int) -> None:
        self.mapping_hash = f"mapping-{mapping}"

    def prepare(self, record: Record) -> LoggedCall:
        return call_of(record)


class Simulation:
    """One stream, the actors and faults that change it, and the invariants that must hold."""

    ledger: Ledger
    order: str = "latest"
    versioned: bool = True

    def __init__(self) -> None:
        stream = make_stream(
            retry=RetrySchedule(delays_seconds=(0.0,) * 6, jitter=0.0),
            order=self.order,
            window=4,
            batch_size=3,
            page_size=3,
            lease_seconds=LONG_SECONDS,
        )
        partner = Partner(
            name="default",
            url="http://partner",
            timeout_seconds=SETTLE_SECONDS,
            # Permits of killed actors last for real seconds, and so would an open circuit.
            max_in_flight=10**6,
            breaker=BreakerRules(minimum_calls=10**6),
        )
        self.database: Any = self.ledger._database
        self.testbed = Testbed(ledger=self.ledger, database=self.database, partner=partner, stream=stream, threads=1)
        self.messages = self.testbed.messages
        self.source = ScriptedSource(versioned=self.versioned)
        self.partner = ScriptedPartner()
        self.actors: list[Actor] = []
        self.mapping = 0
        self.settles = 0
        self.stopping = False
        self.strictness = Strictness(self.database)

    def empty_the_ledger(self) -> None:
        """Begin with nothing; the indexes stay."""
        self.ledger.ensure_prepared()
        for name in ("records", "keys", "streams", "runs", "audit"):
            self.database[name].delete_many({})

    def _start(self, kind: str, act: Callable[[], Any]) -> Actor:
        actor = Actor(kind, act)
        self.actors.append(actor)
        return actor

    def _room(self) -> bool:
        self.actors = [actor for actor in self.actors if not actor.done]
        return len(self.actors) < ACTORS_AT_MOST

    def _poll(self) -> None:
        try:
            run = self.testbed.poll(
                ScriptedReader(self.source, page_size=self.testbed.stream.page_size),
                dispatch=self._dispatch,
                should_stop=lambda: self.stopping,
                lease_seconds=LONG_SECONDS,
            )
        except LeaseHeld:
            return
        assert run.error is None or "taken over" in run.error, run.error

    def _dispatch(self) -> int:
        return self.testbed.dispatch(publish=self._publish, sizes=replace(self.testbed.sizes, messages=4))

    def _publish(self, stream: str, token: str, ids: Sequence[str]) -> None:
        gate("before publish")
        self.testbed.publish(stream, token, ids)
        gate("after publish")

    def _deliver(self, token: str, ids: list[str]) -> None:
        client = ScriptedClient(self.mapping)
        self.testbed.deliver((token, ids), client=client, send_batch=self._send_batch, worker="$worker")
        self._dispatch()

    def _send_batch(self, _client: Any, calls: Any, *, may_start: Any, **_: Any) -> Any:
        for record, call in calls:
            if not may_start():
                yield record, None
                continue
            gate("before call")
            self._check_may_send(record)
            actor = current_actor()
            if actor is not None:
                actor.claim_tokens.add(record.id)
            outcome: Outcome = self.partner.answer(call)
            gate("after call")
            yield record, outcome

    def _check_may_send(self, record: Record) -> None:
        """Invariant 5, for the lease's holder: nothing newer was delivered, nothing else of the key is in flight."""
        found = self.database.records.find_one({"_id": record.id})
        holds = (
            found
            and found["state"] == "sending"
            and found["claims"] == record.attempt
            and found["lease"]["until"] > passing_time.PAST
        )
        if not holds or self.order == "none":
            return
        key = self.database.keys.find_one({"_id": f"orders:{found['key_id']}"})
        assert key.get("delivered_seq", 0) <= record.seq, f"{record.id} is sent after a newer version (invariant 5)"
        in_flight = self.database.records.count_documents({"key_id": found["key_id"], "in_flight": True})
        assert in_flight == 1, f"{in_flight} versions of {record.key} in flight together (invariant 5)"
        if self.order == "strict":
            self.strictness.check_call(found, key)

    def _maintain(self) -> None:
        self.testbed.maintain(dispatch=self._dispatch)

    def _replay(self, states: tuple[str, ...]) -> None:
        streams = {self.testbed.stream.name: self.testbed.stream}
        replay_records(ledger=self.ledger, selection=Selection(states=states), streams=streams, who="operator")

    def _discard(self) -> None:
        discard_records(ledger=self.ledger, selection=Selection(states=("failed",)), reason="$given up", who="operator")

    def _clean_up(self) -> None:
        tomorrow = datetime.now(UTC) + timedelta(days=1)
        for state in (State.DELIVERED, State.SUPERSEDED):
            self.ledger.operations.remove_finished("orders", state, tomorrow, limit=2)

    def end_leases(self, what: str) -> None:
        """Let time pass: leases end, whether or not their holders stand still."""
        if what == "records":
            passing_time.expire_record_leases(self.database)
        else:
            passing_time.expire_stream_lease(self.database, what)

    def settle_calls(self) -> None:
        """Let enough time pass that every call has arrived or never will."""
        while self.partner.delayed:
            self.partner.apply(self.partner.delayed.pop(0))
        self.settles += 1
        passing_time.settle_calls(self.database)
        passing_time.make_retries_due(self.database)

    def quiesce(self) -> None:
        """Let everything run out without further faults, until nothing is on its way."""
        self.partner.answers = []
        for actor in self.actors:
            actor.finish()
        for transaction in list(self.source.open):
            self.source.commit(transaction)
        self.ledger.streams.resume("orders")
        for _ in range(ROUNDS_TO_QUIET):
            self.end_leases("poll")
            self.end_leases("dispatch")
            self.end_leases("records")
            self.settle_calls()
            self.run_now(self._poll)
            self.run_now(self._maintain)
            while self.messages:
                token, ids = self.messages.pop(0)
                self.run_now(lambda token=token, ids=ids: self._deliver(token, ids))  # type: ignore[misc]
            unfinished = {"state": {"$in": ["pending", "queued", "sending"]}}
            if not self.database.records.count_documents(unfinished):
                return
            if self.order == "strict":
                self.run_now(self.strictness.check_waiting)
                if not self.database.records.count_documents({**unfinished, "waits_for": {"$exists": False}}):
                    # All others wait for failed ones until an operator replays those.
                    self.run_now(lambda: self._replay(("failed",)))
        stuck = list(self.database.records.find(unfinished))
        raise AssertionError(f"{len(stuck)} records never finish: {stuck[:2]}, keys {list(self.database.keys.find())}")

    @staticmethod
    def run_now(act: Callable[[], Any]) -> None:
        act()

    def check_account(self) -> None:
        keys = {each["key"]["id"]: each for each in self.database.keys.find()}
        for key, (_, content) in self.source.rows.items():
            known = keys.get(key)
            assert known is not None, f"row {key} was never logged (invariant 1)"
            newest = self.database.records.find_one({"_id": known["version"]})
            if newest is not None:
                assert newest["payload"]["content"] == content, f"the ledger's newest {key} is not the source's"
            delivered = newest is None or newest["state"] == "delivered"
            if delivered and self.order != "none":
                assert self.partner.holds.get(key) == content, (
                    f"row {key} is {content} and the partner holds {self.partner.holds.get(key)}: "
                    f"{newest}, {known}, {[call for call in self.partner.log if call.key == key]}"
                )
        assert not self.database.records.count_documents({"$or": [{"lease": {"$exists": True}}, {"in_flight": True}]})
        if self.order == "strict":
            self.strictness.check_account()
        self._check_attempts()

    def _check_attempts(self) -> None:
        """Invariant 4: each call is in the history under its number, as an attempt or as one that was lost."""
        numbers: dict[str, set[int]] = {}
        for found in self.database.records.find():
            entries = found.get("history", [])
            numbers[found["_id"]] = {each.get("n") for each in entries}
        seen: set[tuple[str, int]] = set()
        for call in self.partner.log:
            assert (call.record_id, call.attempt) not in seen or call.idempotency_key, "an attempt number came twice"
            seen.add((call.record_id, call.attempt))
            known = numbers.get(call.record_id)
            assert known is None or call.attempt in known, (
                f"attempt {call.attempt} of {call.record_id} is not on record"
            )
