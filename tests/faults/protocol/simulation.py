"""Everything around the ledger: a source, a partner, wake-ups, and the actors that work between them."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from syncctl.core.outcome import Outcome
from syncctl.core.records import Record
from syncctl.core.states import TERMINAL, UNFINISHED, State
from syncctl.core.stream import Ambiguous, BreakerRules, Child, Lookup, Mode, Partner, RetrySchedule
from syncctl.errors import LeaseHeld, ServiceUnavailable
from syncctl.ledger.ledger import Ledger
from syncctl.partner.call_runner import CallResult, WaitingCall
from syncctl.pipeline.delivery.deliver import keep_permits
from syncctl.pipeline.delivery.delivery_gate import Permits
from syncctl.pipeline.delivery.delivery_lane import DeliveryLane
from syncctl.pipeline.delivery.stream_setup import StreamSetup
from syncctl.pipeline.maintenance.cleanup import forget_deleted_rows
from syncctl.pipeline.maintenance.maintenance import rescue_leases
from syncctl.pipeline.operations.replay import discard_records, replay_records
from syncctl.pipeline.operations.rewind import Plan, rewind_stream
from syncctl.pipeline.selection import Selection
from tests.harness import passing_time
from tests.harness.cases import make_stream
from tests.harness.testbed import Testbed

from .actors import Actor, GatedDatabase, Process, gate
from .clock import LONG_SECONDS
from .object_partner import ObjectPartner
from .oracle import LOSSES_AT_MOST, Oracle
from .simulation_cases import (
    LINES,
    LoggedCall,
    ScriptedClient,
    ScriptedPartner,
    ScriptedReader,
    ScriptedSource,
    show_payload,
)
from .strictness import Strictness

UNITS_AT_MOST = 6
"""The most delivering processes and other actors that run at the same time."""
CALLS_AT_ONCE = 2
TURN_SECONDS = 0.3
LOOKS_WHILE_CONTENDED = 3
SETTLE_SECONDS = 200.0
MINIMUM_CALLS = 4
"""The calls after which a circuit may open: few, so that it does."""
REFUSALS_IN_A_ROW = 3
"""The refusals after which a stream is held: few, so that it is."""
ROUNDS_TO_QUIET = 60
UNGATED = ("runs", "audit", "heartbeats", "reports", "report_days")
"""The collections that only keep notes, on which no decision is based."""
PAUSES = (("streams", "breaker"), ("streams", "paused"), ("partners", "paused"))
NEVER_OPEN = BreakerRules(minimum_calls=10**6)
SOON_OPEN = BreakerRules(
    minimum_calls=MINIMUM_CALLS, open_seconds=LONG_SECONDS, longest_open_seconds=LONG_SECONDS
)  # fmt: skip
CHILD = Child(name=LINES, table="lines", on=(("row", "id"),), sort=("id",), cursor="row_version")
WRITE_BACK = {"partner_id": "remote.id", "sync_error": "error", "record": "record_id", "state": "state"}
WITH_OBJECTS: Mapping[str, Any] = {
    "capture": {"id": "data.id"},
    "update_method": "PUT",
    "update_path": "/orders/{remote.id}",
    "delete_method": "DELETE",
    "delete_path": "/orders/{remote.id}",
}
LOOKUP = Lookup(path="/orders?ref={id}", capture={"id": "items[0].id"})
COLLECTIONS = ("records", "keys", "streams", "partners", "batches", "runs", "audit", "workers", "beat")


def open_gated_ledger(url: str, database: str) -> tuple[Ledger, GatedDatabase]:
    """Return a ledger at whose reads and writes actors stand."""
    ledger = Ledger(url, database)
    gated = GatedDatabase(ledger._database)
    rooms = {name: room for name, room in vars(ledger).items() if type(room).__module__.startswith("syncctl.ledger.")}
    for name, room in rooms.items():
        if name not in UNGATED:
            setattr(ledger, name, type(room)(gated, ledger.hosts))
    return ledger, gated


Objects = Literal["keys", "lookup"]
"""The kinds of partner with its own ids: one that knows the `Idempotency-Key`, and one that does not and is asked."""


class SteppedRunner:
    """Stands in for `CallRunner`: each call is an actor, which the simulation steps whenever it likes."""

    def __init__(self, simulation: "Simulation", process: Process) -> None:
        self.limit = CALLS_AT_ONCE
        self.waiting = 0
        self.under_way = 0
        self.results: list[CallResult] = []
        self.unfinished: set[WaitingCall] = set()
        self._simulation = simulation
        self._process = process

    def push(self, calls: Sequence[WaitingCall]) -> None:
        """Let each of these calls be made by a separate actor."""
        for call in calls:
            self.waiting += 1
            self.unfinished.add(call)
            self._process.actors.append(Actor("call", lambda call=call: self._make(call), process=self._process))  # type: ignore[misc]

    def take_results(self) -> list[CallResult]:
        """Return the results that have come."""
        taken, self.results = self.results, []
        self.unfinished -= {call for call, _ in taken}
        return taken

    @property
    def most_under_way(self) -> int:
        """The most calls in progress as long as the limit is not raised."""
        return max(self.under_way, self.limit)

    def set_limit(self, limit: int) -> None:
        """Allow this many calls at once from now on."""
        self.limit = limit

    def _make(self, call: WaitingCall) -> None:
        answer = "wait"
        while answer == "wait":
            gate("call waits")
            if self.limit == 0:
                answer = "return"
            elif self.under_way < self.limit:
                answer = call.may_start()
        self.waiting -= 1
        if answer == "return":
            self.results.append((call, None))
            return
        self.under_way += 1
        outcomes = self._simulation.make_call(self._process, call)
        self.under_way -= 1
        self.results.append((call, outcomes))


def _is_unwritten(call: WaitingCall) -> bool:
    ids = {record.id for record in call.bulk.records}
    return any(transition.record.id in ids for transition in call.owner.transitions)


class Simulation:
    """One stream, everything that happens to it, and the checks of what must be true of it."""

    ledger: Ledger
    gated: GatedDatabase
    order: str = "latest"
    mode: Mode = "rowversion"
    append_only: bool = False
    rows_per_call: int = 1
    ambiguous: Ambiguous = "retry"
    max_in_flight: int | None = None
    has_lines: bool = False
    writes_back: bool = False
    objects: Objects | None = None
    always_asks: bool = False

    def __init__(self) -> None:
        more: dict[str, Any] = dict(WITH_OBJECTS) if self.objects is not None else {}
        if self.objects == "lookup":
            lookup = replace(LOOKUP, when="always") if self.always_asks else LOOKUP
            more |= {"lookup": lookup, "missing": "create"}
        if self.has_lines:
            more["children"] = (CHILD,)
        if self.writes_back:
            wanted = WRITE_BACK.items()
            more["write_back"] = {
                column: name for column, name in wanted if self.objects is not None or name != "remote.id"
            }
        stream = make_stream(
            **more,
            retry=RetrySchedule(delays_seconds=(0.0,) * 6, jitter=0.0),
            order=self.order,
            mode=self.mode,
            append_only=self.append_only,
            window=6,
            batch_size=3,
            page_size=3,
            lease_seconds=LONG_SECONDS,
            ambiguous=self.ambiguous,
            pause_after_refusals=0,
        )
        partner = Partner(
            name="default",
            url="http://partner",
            timeout_seconds=SETTLE_SECONDS,
            breaker=NEVER_OPEN,
            max_in_flight=self.max_in_flight,
        )
        self.database: Any = self.ledger._database
        self.testbed = Testbed(ledger=self.ledger, database=self.database, partner=partner, stream=stream)
        self.source = ScriptedSource()
        self.partner: ScriptedPartner = (
            ScriptedPartner()
            if self.objects is None
            else ObjectPartner(knows_keys=self.objects == "keys", loses_objects=self.objects == "lookup")
        )
        self.oracle = Oracle(
            database=self.database,
            order=self.order,
            has_keys=not self.append_only,
            losses_at_most=1 if self.ambiguous == "fail" else LOSSES_AT_MOST,
            calls_at_most=self.max_in_flight,
            writes_back=self.writes_back,
        )
        self.gated.watch = self.oracle.watch
        self.strictness = Strictness(self.database)
        #: Actors beside those of processes that deliver: polls, maintenance, operators.
        self.actors: list[Actor] = []
        self.processes: list[Process] = []
        self.processes_started = 0
        #: Wake-ups that wait in Redis.
        self.messages = 0
        self.mapping = 0
        #: The moves that were made, in order.
        self.trail: list[str] = []
        #: How often all deadlines have passed.
        self.settles = 0
        #: How many pages a poll may read before it is stopped.
        self.page_budget = 1000

    def empty_the_ledger(self) -> None:
        """Remove everything from the ledger except its indexes."""
        self.ledger.ensure_prepared()
        for name in COLLECTIONS:
            self.database[name].delete_many({})
        self.ledger.streams.ensure("orders")

    def let_pauses_begin(self) -> None:
        """Let a circuit open, and refusals hold the stream, after a few calls: it takes many otherwise."""
        self.testbed.partner = replace(self.testbed.partner, breaker=SOON_OPEN)
        self.testbed.change_stream(pause_after_refusals=REFUSALS_IN_A_ROW)

    # Actors and processes.

    def start(self, kind: str, act: Callable[[], Any]) -> Actor:
        """Start an actor; it stands at its beginning. Without MongoDB it ends, and leaves the rest to others."""

        def act_while_possible() -> None:
            with suppress(ServiceUnavailable):
                act()

        actor = Actor(kind, act_while_possible)
        self.actors.append(actor)
        return actor

    def start_delivery(self) -> Process:
        """Start a process that delivers; it stands at its beginning."""
        self.processes_started += 1
        process = Process(f"$worker:{self.processes_started}")
        self.processes.append(process)
        process.actors.append(Actor("deliver", lambda: self._deliver(process), process=process))
        return process

    def forget_ended(self) -> None:
        """Drop the actors and processes that have ended."""
        self.actors = [actor for actor in self.actors if not actor.done]
        self.processes = [process for process in self.processes if not process.done]

    def has_room(self) -> bool:
        """Tell whether another actor may begin."""
        self.forget_ended()
        return len(self.actors) + len(self.processes) < UNITS_AT_MOST

    def list_running(self) -> list[Actor]:
        """Return every actor that could be stepped."""
        self.forget_ended()
        return [*self.actors, *(actor for process in self.processes for actor in process.running)]

    def run(self, kind: str, act: Callable[[], Any]) -> None:
        """Do something from its beginning to its end."""
        self.start(kind, act).finish()

    # Their work.

    def poll(self) -> None:
        """Poll the source, and leave a wake-up after each page."""
        left = self.page_budget

        def should_stop() -> bool:
            nonlocal left
            left -= 1
            return left <= 0

        try:
            run = self.testbed.poll(
                self._make_reader(),
                wake=self.wake,
                should_stop=should_stop,
                lease_seconds=LONG_SECONDS,
            )
        except LeaseHeld:
            return
        assert run.error is None or "taken over" in run.error, run.error

    def _make_reader(self) -> ScriptedReader:
        page_size = self.testbed.stream.page_size
        return ScriptedReader(self.source, self.mode, page_size=page_size, has_lines=self.has_lines)

    def wake(self) -> bool:
        """Leave a message for a worker, as Celery would."""
        gate("before publish")
        self.messages = min(self.messages + 1, 3)
        gate("after publish")
        return True

    def _deliver(self, process: Process) -> None:
        """Deliver, as `DeliveryLoop` does, until nothing is due and nothing is in hand."""
        setup = StreamSetup(
            stream=self.testbed.stream,
            partner=self.testbed.partner,
            client=ScriptedClient(self.mapping, rows=self.rows_per_call),  # type: ignore[arg-type]
            sizes=self.testbed.sizes,
        )
        runner = SteppedRunner(self, process)
        permits = None
        if self.max_in_flight is not None:
            runner.limit = 0
            # At times as if there were a single process, at times as if there were many.
            share = self.max_in_flight if self.processes_started % 2 else 1
            permits = Permits(self.ledger, self.testbed.partner, token=process.name, share=share)
        lane = DeliveryLane(
            self.ledger,
            setup,
            runner,  # type: ignore[arg-type]
            None,
            worker=process.name,
            is_stopping=lambda: process.is_stopping,
            has_permit=lambda: permits is None or permits.is_fresh,
        )
        contended = 0
        while True:
            process.clock += TURN_SECONDS
            with suppress(ServiceUnavailable):
                contended += self._turn(process, lane, runner, permits, is_closing=contended >= LOOKS_WHILE_CONTENDED)
            if lane.is_idle and (lane.is_dry or process.is_stopping or contended >= LOOKS_WHILE_CONTENDED):
                break
        if permits is not None:
            with suppress(ServiceUnavailable):
                permits.release()

    @staticmethod
    def _turn(
        process: Process, lane: DeliveryLane, runner: SteppedRunner, permits: Permits | None, *, is_closing: bool
    ) -> int:
        """Do a little of everything; return 1 if another process was choosing records."""
        contended = 0
        is_closing = is_closing or process.is_stopping
        lane.gate.look()
        if permits is not None:
            keep_permits(permits, runner, [lane], is_stopping=process.is_stopping)  # type: ignore[arg-type]
        if lane.wants_more() and not is_closing:
            contended = int(lane.take().is_contended)
        if process.is_stopping:
            lane.give_back_planned()
        lane.prepare_calls()
        lane.begin_calls()
        gate("between turns")
        for call, outcomes in runner.take_results():
            lane.note_result(call, outcomes)
        ended = process.late_calls - set(runner.unfinished)
        lane.write_outcomes(all_of_them=process.writes_at_once or process.is_stopping)
        process.late_calls -= {call for call in ended if not _is_unwritten(call)}
        lane.renew_leases()
        return contended

    def make_call(self, process: Process, call: WaitingCall) -> list[Outcome]:
        """Make a call to the partner; it may stand still before it reaches it, and before its answer comes."""
        self.oracle.check_start(call)
        self.oracle.check_admitted(call)
        self.oracle.check_permit(call, process.name)
        token, began = call.owner.batch.claim.token, self.settles
        ids = [record.id for record in call.bulk.records]

        def is_expected() -> bool:
            """Tell whether the ledger still expects the call: not once it is brought back and all deadlines passed."""
            returned = self.database.records.count_documents({"_id": {"$in": ids}, "lease.token": token}) < len(ids)
            return began == self.settles or not returned

        self._excuse(call)
        process.under_way[call] = is_expected
        gate("before call")
        for record in call.bulk.records:
            self._check_may_send(record, token)
        if not is_expected():
            process.late_calls.add(call)
            if isinstance(self.partner, ObjectPartner):
                self.partner.excused |= {row.key for row in self._list_rows(call)}
        del process.under_way[call]
        outcomes = [self.partner.answer(row) for row in self._list_rows(call)]
        gate("after call")
        self.oracle.under_way.pop(call, None)
        return outcomes

    def _excuse(self, call: WaitingCall) -> None:
        """Note the rows of which an older version was refused after a call without an answer.

        A partner that is not asked may still have an object of such a row, and nothing can find out its id, as the docs
        say.
        """
        if isinstance(self.partner, ObjectPartner) and self.objects == "keys":
            for row in self._list_rows(call):
                given_up = {"key.id": row.key, "state": {"$in": ["failed", "discarded"]}, "claims": {"$gt": 0}}
                if row.method == "POST" and self.database.records.find_one(given_up):
                    self.partner.excused.add(row.key)

    @staticmethod
    def _list_rows(call: WaitingCall) -> Sequence[LoggedCall]:
        rows: Any = call.bulk.call
        return list(rows)

    def _check_may_send(self, record: Record, token: str) -> None:
        """Judge a call at the moment when it reaches the partner, as long as its batch is held."""
        stored = self.oracle.holds(record.id, token)
        if stored is None:
            return
        assert stored["claims"] == record.attempt, f"{record} is sent under another number than {stored} (invariant 4)"
        accepted = [
            entry
            for entry in stored.get("history", ())
            if entry.get("outcome") == "accepted" and not entry.get("late") and "lookup" not in entry
        ]
        assert record.idempotency_key not in [entry["idempotency_key"] for entry in accepted], (
            f"{record.id} is sent again after it was accepted under the same key (invariant 7)"
        )
        if self.order == "none" or self.append_only:
            return
        key = self.database.keys.find_one({"_id": f"orders:{stored['key_id']}"})
        assert key.get("delivered_seq", 0) <= record.seq, f"{record.id} is sent after a newer version (invariant 5)"
        if self.order == "strict":
            self.strictness.check_call(stored, key)

    def rescue(self) -> None:
        """Bring back the records of batches whose lease ran out."""
        stream, partner = self.testbed.stream, self.testbed.partner
        rescue_leases(ledger=self.ledger, streams={stream.name: stream}, partners={partner.name: partner})

    def maintain(self) -> None:
        """Do the stream's maintenance, and leave a wake-up if records are due."""
        self.testbed.maintain(wake=lambda: int(self.ledger.records.has_due("orders") and self.wake()))

    def replay(self, states: tuple[str, ...]) -> None:
        """Send finished records again."""
        streams = {self.testbed.stream.name: self.testbed.stream}
        replay_records(ledger=self.ledger, selection=Selection(states=states), streams=streams, who="$operator")

    def discard(self) -> None:
        """Give up failed records."""
        selection = Selection(states=("failed",))
        discard_records(ledger=self.ledger, selection=selection, reason="$given up", who="$operator")

    def clean_up(self, states: Sequence[State] = TERMINAL) -> None:
        """Remove some finished records of each state, and the keys of rows that were deleted long ago."""
        tomorrow = datetime.now(UTC) + timedelta(days=1)
        for state in states:
            self.ledger.operations.remove_finished("orders", state, tomorrow, limit=2)
        forget_deleted_rows(self.ledger, "orders")

    def rewind(self, *, resend: bool) -> None:
        """Set the cursor back to the beginning."""
        start = self._make_reader().start_cursor()
        if self.mode == "change_tracking":
            # With a new first load, deletes that no poll has seen would be lost, as the docs say.
            start = {"mode": self.mode, "at": "0", "phase": "changes"}
            start |= {LINES: 0} if self.has_lines else {}
        self.oracle.resends = self.oracle.resends or resend
        plan = Plan(stream="orders", before=None, after=start, rows_before=None, rows=None)
        try:
            rewind_stream(
                ledger=self.ledger, plan=plan, resend=resend, who="$operator", worker="$operator",
                lease_seconds=LONG_SECONDS,
            )  # fmt: skip
        except LeaseHeld:
            return

    # Their failures, and the passing of time.

    def kill_delivery(self, process: Process, *, on_the_wire: bool) -> None:
        """Kill a process.

        Args:
            on_the_wire: Whether the calls that it was sending still reach the partner, a little later.
        """
        if on_the_wire:
            for call, is_expected in process.under_way.items():
                if is_expected():
                    self.partner.delayed += self._list_rows(call)
        process.kill()

    def pass_time(self, share: float, processes: Sequence[Process] | None = None) -> None:
        """Let a share of a lease's length pass for some processes, or for all including dead ones."""
        self.shift_leases(share, None if processes is None else [process.name for process in processes])
        for process in self.processes if processes is None else processes:
            process.clock += share * LONG_SECONDS

    def shift_leases(self, share: float, workers: Sequence[str] | None = None) -> None:
        """Let the leases of batches end earlier by MongoDB's clock, by a share of their length; and permits by as much.

        That is longer than any call takes.
        """
        query = {} if workers is None else {"worker": {"$in": workers}}
        milliseconds = round(share * LONG_SECONDS * 1000)
        self.database.batches.update_many(query, [{"$set": {"until": {"$subtract": ["$until", milliseconds]}}}])
        ended = {"$mergeObjects": ["$$this", {"until": {"$subtract": ["$$this.until", milliseconds]}}]}
        if workers is not None:
            ended = {"$cond": [{"$in": ["$$this.token", {"$literal": workers}]}, ended, "$$this"]}
        permits = {"$map": {"input": "$permits", "in": ended}}
        self.database.partners.update_many({"permits": {"$exists": True}}, [{"$set": {"permits": permits}}])
        self.oracle.let_calls_end(workers)

    def end_stream_lease(self, kind: str) -> None:
        """Let the lease of the poll or of the dispatch end, or the time in which one rescue has a batch to itself."""
        if kind == "rescue":
            passed = {"$set": {"seized_until": passing_time.PAST}}
            self.database.batches.update_many({"seized_until": {"$exists": True}}, passed)
        else:
            passing_time.expire_stream_lease(self.database, kind)

    def age_deletes(self) -> None:
        """Make every noted delete old, unless a poll is still running that may have begun before it."""
        if not any(actor.kind == "poll" for actor in self.list_running()):
            passed = {"$set": {"gone.at": passing_time.PAST}}
            self.database["keys"].update_many({"gone": {"$exists": True}}, passed)

    def end_pauses(self) -> None:
        """Make every pause old enough for a probe, and end the right of every current probe."""
        self.make_probes_due()
        self._move_dates("probe.until")
        self.oracle.forget_probes()

    def make_probes_due(self) -> None:
        """Make an open circuit and syncctl's own pauses old enough for a probe, and the last acceptance long ago."""
        self._move_dates("until")
        for collection in (self.database.streams, self.database.partners):
            passed = {"$set": {"accepted_at": passing_time.PAST}}
            collection.update_many({"accepted_at": {"$exists": True}}, passed)

    def _move_dates(self, name: str) -> None:
        for collection, pause in PAUSES:
            date = f"{pause}.{name}"
            self.database[collection].update_many({date: {"$exists": True}}, {"$set": {date: passing_time.PAST}})

    def make_write_backs_due(self) -> None:
        """Make the outcomes due again that the source refused when they were written back."""
        refused = {"write_back.error": {"$exists": True}}
        self.database.records.update_many(refused, {"$set": {"write_back.due_at": passing_time.PAST}})

    def lift_pauses(self) -> None:
        """Lift everything that keeps records from being sent, as operators do with `resume`."""
        self.ledger.streams.resume("orders")
        self.ledger.partners.resume("default")
        self.ledger.breakers.reset("orders")

    def list_pauses(self) -> list[str]:
        """Return the pauses in force, which let only probes through: `stream`, `circuit`, `partner`."""
        stream = self.database.streams.find_one({}, {"paused": True, "breaker.state": True}) or {}
        partner = self.database.partners.find_one({}, {"paused": True}) or {}
        pauses = {
            "stream": "paused" in stream,
            "circuit": stream.get("breaker", {}).get("state") == "open",
            "partner": "paused" in partner,
        }
        return [name for name, is_paused in pauses.items() if is_paused]

    def settle_calls(self) -> None:
        """Let enough time pass for every call in progress to land, or never to land."""
        while self.partner.delayed:
            self.partner.land(self.partner.delayed.pop(0))
        self.settles += 1
        # All recorded times move back by the same amount, so that their order stays.
        milliseconds = round((2 * SETTLE_SECONDS + 1) * 1000)
        earlier = {"$mergeObjects": ["$$this", {"until": {"$subtract": ["$$this.until", milliseconds]}}]}
        unsettled = [{"$set": {"unsettled": {"$map": {"input": "$unsettled", "in": earlier}}}}]
        self.database["keys"].update_many({"unsettled": {"$exists": True}}, unsettled)
        claimed = [{"$set": {"lease.at": {"$subtract": ["$lease.at", milliseconds]}}}]
        self.database.records.update_many({"lease": {"$exists": True}}, claimed)
        passing_time.make_retries_due(self.database)

    # The end.

    def quiesce(self) -> None:
        """Let everything run out without further faults, until nothing is on its way."""
        self.partner.answers = []
        self.page_budget = 1000
        for unit in [*self.actors, *self.processes]:
            unit.finish()
        for transaction in list(self.source.open):
            self.source.commit(transaction)
        self.ledger.streams.resume("orders")
        self.ledger.partners.resume("default")
        unfinished = {"state": {"$in": [state.value for state in UNFINISHED]}}
        for _ in range(ROUNDS_TO_QUIET):
            self.end_stream_lease("poll")
            self.end_stream_lease("dispatch")
            self.end_stream_lease("rescue")
            self.end_pauses()
            self.pass_time(2.0)
            self.settle_calls()
            if self.writes_back:
                self.make_write_backs_due()
            # The first poll may only finish a round through the table.
            self.run("poll", self.poll)
            self.run("poll", self.poll)
            # Wake-ups may all have been lost: maintenance alone must see what is due.
            self.messages = 0
            # From the first of them: an earlier run may have stopped in the middle.
            self.database.streams.update_many({}, {"$unset": {"swept": True}})
            self.run("upkeep", self.maintain)
            while self.database.streams.find_one({"swept": {"$exists": True}}):
                # One run judges only some of the records that wait for others.
                self.run("upkeep", self.maintain)
            if self.messages:
                self.start_delivery().finish()
            left = self.database.records.count_documents(unfinished)
            if not left and not self.database.batches.count_documents({}) and not self._has_marks():
                return
            if left and self.order == "strict":
                self.strictness.check_waiting()
                if not self.database.records.count_documents({**unfinished, "waits_for": {"$exists": False}}):
                    # The other records wait for failed ones until an operator replays those.
                    self.run("replay failed", lambda: self.replay(("failed",)))
        stuck = list(self.database.records.find(unfinished))
        raise AssertionError(
            f"{len(stuck)} records never finish: {stuck[:2]}, keys {list(self.database.keys.find())}, "
            f"batches {list(self.database.batches.find())}"
        )

    def _has_marks(self) -> bool:
        return self.writes_back and self.database.records.find_one({"write_back": {"$exists": True}}) is not None

    def check_account(self) -> None:
        """Judge the end: the partner holds what the source holds, and every version and call is accounted for."""
        self._check_rows()
        self._check_versions()
        if self.order == "strict":
            self.strictness.check_account()
        self._check_attempts()
        if self.writes_back:
            self._check_written()
        if self.ambiguous == "fail":
            self._check_not_repeated()

    def _check_rows(self) -> None:
        if self.append_only:
            logged = {document["key"]["id"] for document in self.database.records.find()}
            missing = self.source.rows.keys() - logged
            assert not missing or self.oracle.removed, f"rows {missing} were never logged (invariant 1)"
            return
        keys = {document["key"]["id"]: document for document in self.database.keys.find()}
        for key in self.source.rows:
            known = keys.get(key)
            assert known is not None, f"row {key} was never logged (invariant 1)"
            self._check_newest(key, self.source.show(key, with_line=self.has_lines), known)
        if self.mode in ("change_tracking", "snapshot"):
            for key in keys.keys() - self.source.rows.keys():
                assert keys[key]["op"] == "delete", f"row {key} is gone, and its key does not know: {keys[key]}"
                self._check_newest(key, None, keys[key])

    def _check_newest(self, key: int, content: str | None, known: dict[str, Any]) -> None:
        newest = self.database.records.find_one({"_id": known["version"]})
        if newest is not None:
            stored = None if newest["payload"] is None else show_payload(newest["payload"])
            assert stored == content, f"the ledger's newest {key} is {stored} and not the source's {content}"
        removed = self.oracle.removed.get(known["version"])
        state = newest["state"] if newest is not None else removed.state if removed is not None else "never logged"
        assert state != "superseded", f"the newest version of row {key} is superseded: {newest}"
        if state == "delivered" and isinstance(self.partner, ObjectPartner):
            self._check_object(key, content, known, self.partner)
            if key in self.partner.excused:
                return
        if state == "delivered" and self.order != "none":
            assert self.partner.holds.get(key) == content, (
                f"row {key} is {content} and the partner holds {self.partner.holds.get(key)}: "
                f"{newest}, {known}, {[call for call in self.partner.log if call.key == key]}"
            )
        if newest is not None and state == "delivered" and content is not None and self.order != "none":
            body = f"{newest['mapping_hash'].removeprefix('mapping-')}:{content}"
            assert self.partner.bodies[key] == body, f"row {key} was sent as {body} and the partner holds other bytes"

    @staticmethod
    def _check_object(key: int, content: str | None, known: dict[str, Any], partner: ObjectPartner) -> None:
        """The partner has one object of a row, whose id the key knows, and none of a deleted row."""
        if key in partner.excused:
            return
        objects = partner.find(key)
        assert len(objects) == (content is not None), f"row {key} is {content}, and has the objects {objects}: {known}"
        remote = known.get("remote", {})
        if content is not None and "id" in remote.get("values", {}):
            assert remote["values"]["id"] == objects[0], f"row {key} is {objects[0]}, and its key says {remote}"

    def _check_written(self) -> None:
        """Each row ends with the outcome of its newest version, and with the partner's id."""
        keys = {document["key"]["id"]: document for document in self.database.keys.find()}
        for key in self.source.rows:
            record = self.database.records.find_one({"_id": keys[key]["version"]})
            written = self.source.written.get(key)
            if record is None or (written is None and key in self.source.reborn):
                continue
            assert written is not None, f"row {key} has no outcome, and its record is {record}"
            error = None if record["state"] == "delivered" else record.get("reason") or record["error"]["message"]
            expected = {"record_id": record["_id"], "state": record["state"], "error": error}
            if record["state"] == "delivered" and "id" in keys[key].get("remote", {}).get("values", {}):
                expected["remote.id"] = keys[key]["remote"]["values"]["id"]
            assert expected.items() <= written.items(), f"row {key} has {written} and not {expected}: {record}"

    def _check_versions(self) -> None:
        """Every version that was logged has ended for a known reason, and none is in flight."""
        assert not self.database.batches.count_documents({}), list(self.database.batches.find())
        landed = {call.record_id for call in self.partner.log}
        there = {document["_id"]: document for document in self.database.records.find()}
        for record_id in self.oracle.logged - there.keys():
            assert record_id in self.oracle.removed, f"{record_id} is gone, and nobody has removed it"
        for record in there.values():
            left = {"lease", "in_flight_key", "in_flight_retry"} & record.keys()
            assert not left, f"{record} still has {left}"
            if record["state"] == "delivered":
                assert record["_id"] in landed, f"{record} is delivered and never reached the partner"
            elif record["state"] == "failed":
                assert record.get("error"), f"{record} has failed without a reason"
            elif record["state"] == "superseded":
                known = self.database["keys"].find_one({"_id": f"orders:{record['key_id']}"})
                assert known["version"] != record["_id"], f"{record} is superseded and the newest"
            else:
                assert record["state"] == "discarded", f"{record} never came to an end"
                assert record["reason"], f"{record} was discarded without a reason"

    def _check_attempts(self) -> None:
        """Invariant 4: each call is in the history under its own number, as an attempt or as one that was lost."""
        numbers: dict[str, set[int]] = {}
        for record in self.database.records.find():
            numbers[record["_id"]] = {entry["n"] for entry in record.get("history", ()) if "n" in entry}
        seen: set[tuple[str, int]] = set()
        for call in self.partner.log:
            assert (call.record_id, call.attempt) not in seen, f"attempt {call.attempt} of {call.record_id} came twice"
            seen.add((call.record_id, call.attempt))
            known = numbers.get(call.record_id)
            assert known is None or call.attempt in known, (
                f"attempt {call.attempt} of {call.record_id} is not on record"
            )

    def _check_not_repeated(self) -> None:
        """With `ambiguous = "fail"`, only operators repeat a call that the partner may have acted on."""
        replayed = {document["_id"] for document in self.database.records.find({"replays": {"$exists": True}})}
        landed = Counter(call.idempotency_key for call in self.partner.log if call.record_id not in replayed)
        repeated = [key for key, times in landed.items() if times > 1]
        assert not repeated, f"{repeated} came to the partner more than once"
