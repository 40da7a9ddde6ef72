"""One stream's part of a delivery loop: its batches in hand, its calls, and the outcomes that wait to be written."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from syncctl.core.adaptive_limit import AdaptiveLimit
from syncctl.core.clock import boot_time
from syncctl.core.outcome import Outcome
from syncctl.core.records import Record
from syncctl.core.states import State
from syncctl.ledger.batches import Claim
from syncctl.ledger.delivery_state import Transition
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.rolling_rate import RollingRate
from syncctl.logs import get_logger
from syncctl.partner.call import Call, Unsendable
from syncctl.partner.call_runner import CallRunner, MayStart, WaitingCall
from syncctl.pipeline.delivery.delivery_gate import Batch
from syncctl.pipeline.delivery.dispatch import Taken
from syncctl.pipeline.delivery.outcome_writer import decide_transition, write_transitions
from syncctl.pipeline.delivery.remote_steps import choose_step, shape_by_remote
from syncctl.pipeline.delivery.stream_setup import StreamSetup
from syncctl.pipeline.delivery.version_order import find_overtaken_claims

log = get_logger(__name__)

WRITE_EVERY_RECORDS = 100
WRITE_EVERY_SECONDS = 0.5
BEGIN_AT_ONCE = 16
"""How many calls, at least, one write notes as beginning. If the process dies, only calls noted so are in doubt."""
BEGIN_WITHIN_SECONDS = 0.1
"""One write notes as many calls as end within this time at the current pace."""
LOOK_EVERY_SECONDS = 1.0
BYTES_IN_HAND_AT_MOST = 64 * 1024 * 1024
"""The total size of the bodies of waiting and running calls above which no more records are taken."""
NARROWED_BY = 10
"""A batch's list of records is shortened once this many times fewer are in flight, so that a few hanging calls do not
make each look at the batch slow."""
RENEW_AT_SHARE = 0.25
"""The part of a lease after which it is renewed."""
AHEAD_OF_RATE_SECONDS = 0.05
"""As many calls as the rate allows in this time may wait, with valid permits, for other calls to end."""
PREPARE_SECONDS = 0.02
"""How long one stream's requests are built before the other streams have their turn."""


@dataclass(kw_only=True, slots=True)
class BatchInHand:
    """A batch that was taken and is not finished."""

    lane: "DeliveryLane"
    batch: Batch
    #: Records without an outcome.
    left: set[str]
    #: How many records the batch names in the ledger.
    named: int
    #: Records whose requests are not built yet, in their order.
    unprepared: deque[Record] = field(default_factory=deque)
    #: Requests that wait for the others of the batch, to be sent with them in bulk calls.
    prepared: list[tuple[Record, Call]] = field(default_factory=list)
    #: Records whose calls the ledger notes as beginning.
    begun: set[str] = field(default_factory=set)
    transitions: list[Transition] = field(default_factory=list)
    waiting_since: float = 0.0
    returned: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    is_lost: bool = False

    def take_unplanned(self) -> list[Record]:
        """Return the records for which no call is planned, and forget them."""
        records = [*self.unprepared, *(record for record, _ in self.prepared)]
        self.unprepared.clear()
        self.prepared = []
        return records


class DeliveryLane:
    """The records of one stream that one delivery loop has in hand.

    Args:
        runner: Makes the calls; the streams of one partner share it.
        is_stopping: Whether the worker was asked to stop: unsent records are then returned.
        has_permit: Whether a call may begin under the partner's concurrency limit.
    """

    def __init__(
        self,
        ledger: Ledger,
        setup: StreamSetup,
        runner: CallRunner,
        limit: AdaptiveLimit | None,
        *,
        worker: str,
        is_stopping: Callable[[], bool],
        has_permit: Callable[[], bool],
    ) -> None:
        self.setup = setup
        self.gate = setup.open_gate(ledger, setup.stream)
        self.in_hand: dict[str, BatchInHand] = {}
        self.next_look_at = 0.0
        #: Whether the last look, made with nothing in hand, found nothing to take.
        self.is_dry = False
        #: Whether, at the last look, records may have been waiting for records of other streams.
        self.is_waiting = False
        #: How many batches are finished.
        self.batches_ended = 0
        #: Whether a lease was lost recently.
        self.has_lost_batch = False
        self.total: dict[str, int] = {}
        self._ledger = ledger
        self._runner = runner
        self._limit = limit
        self._worker = worker
        self._is_stopping = is_stopping
        self._has_permit = has_permit
        self._planned: deque[tuple[BatchInHand, WaitingCall]] = deque()
        self._bytes_in_hand = 0
        self._prepare_at = 0.0
        self._rate_at = 0.0
        self._has_rate_permit = False
        #: How many calls ended per second, as last counted; then how many have ended since, and since when.
        self._pace = 0.0
        self._ended, self._ended_since = 0, time.monotonic()

    @property
    def name(self) -> str:
        """The stream's name."""
        return self.setup.stream.name

    @property
    def is_idle(self) -> bool:
        """Whether nothing is in hand."""
        return not self.in_hand

    @property
    def may_look(self) -> bool:
        """Whether it is time to look for due records again."""
        return time.monotonic() >= self.next_look_at

    @property
    def backlog(self) -> int:
        """How many calls are planned, or will be."""
        return len(self._planned) + sum(len(held.unprepared) + len(held.prepared) for held in self.in_hand.values())

    def take(self) -> Taken:
        """Take a batch, if the stream has due records that can be taken now."""
        stream, sizes, was_idle = self.setup.stream, self.setup.sizes, self.is_idle
        has_suspect = any(len(held.batch.claim.records) == 1 for held in self.in_hand.values())
        taken = self.setup.take(
            ledger=self._ledger,
            stream=stream,
            sizes=sizes,
            partner=self.setup.partner,
            mapping_hash=self.setup.client.mapping_hash,
            worker=self._worker,
            with_suspects=not has_suspect,
        )
        if taken.claim is not None:
            # This comes first: whatever happens afterwards, the batch is in hand and will be ended.
            self._plan(taken.claim)
            self.gate.look(at_once=taken.is_probe)
        now = time.monotonic()
        self.is_dry = was_idle and taken.claim is None and not taken.is_contended
        wait = 0.05 if taken.is_contended else 0.0 if taken.claim is not None else LOOK_EVERY_SECONDS
        # A dry lane costs nothing until the loop, which checks all streams at once, finds due records.
        self.next_look_at = float("inf") if self.is_dry else now + wait
        self.is_waiting = taken.is_waiting
        return taken

    def wants_more(self) -> bool:
        """Whether another batch should be taken now: there is room for calls, and the rate lets them through."""
        if not self.may_look or self.gate.is_stale:
            return False
        if self._runner.limit == 0 or not self._has_near_permit():
            # Other loops use up all that the partner allows; they look at this stream too.
            self.is_dry = self.is_idle
            return False
        if self._bytes_in_hand > BYTES_IN_HAND_AT_MOST:
            return False
        return self.backlog < max(2 * self._runner.limit, self.setup.sizes.batch // 2)

    def _has_near_permit(self) -> bool:
        rate = self.setup.rate
        if not isinstance(rate, RollingRate):
            return True
        return self.is_idle and rate.is_permit_near()

    def _plan(self, claim: Claim) -> None:
        """Add a claimed batch to those in hand; records that need not be sent get their outcome at once."""
        stream = self.setup.stream
        batch = Batch(
            ledger=self._ledger, stream=stream, partner=self.setup.partner, claim=claim, known={}, gate=self.gate
        )
        ids = [record.id for record in claim.records]
        held = BatchInHand(lane=self, batch=batch, left=set(ids), named=len(ids))
        self.in_hand[claim.token] = held
        try:
            if not stream.append_only:
                held.batch = batch = replace(batch, known=self._ledger.keys.load(stream.name, claim.key_ids.values()))
            overtaken = find_overtaken_claims(batch)
            records = [record for record in claim.records if record.id not in overtaken]
            steps = self._choose_steps(batch, records) if stream.keeps_remote else records
        except BaseException:
            # Nothing was sent: all records are returned once MongoDB answers.
            held.left, held.returned = set(), ids
            raise
        held.unprepared.extend(step for step in steps if isinstance(step, Record))
        for step in steps:
            if isinstance(step, Transition):
                self._note(held, step)
        for record in claim.records:
            if record.id in overtaken:
                newer = overtaken[record.id]
                self._note(held, Transition(record=record, state=State.SUPERSEDED, superseded_by=newer))

    def _choose_steps(self, batch: Batch, records: Sequence[Record]) -> list[Record | Transition]:
        """Return each record with its next call, or the transition that ends it.

        A record whose bytes change with the partner's values goes under a new key (invariant 7).
        """
        steps: list[Record | Transition] = []
        changed: list[Record] = []
        for record in records:
            step = choose_step(batch.stream, record, batch.known.get(batch.claim.key_ids[record.id]))
            if isinstance(step, Record):
                shaped = shape_by_remote(step, self.setup.client.hash_remote(step))
                if shaped is not step:
                    changed.append(shaped)
                step = shaped
            steps.append(step)
        self._ledger.batches.note_remote_hashes(batch.claim, changed)
        return steps

    @property
    def may_prepare(self) -> bool:
        """Whether records wait for their requests to be built, and it is this stream's turn."""
        return time.monotonic() >= self._prepare_at and any(held.unprepared for held in self.in_hand.values())

    def prepare_calls(self) -> None:
        """Turn records in hand into calls, for a moment; a record that cannot be sent gets its outcome at once.

        A row whose request takes long to build delays the other streams for that time only; afterwards they have the
        loop to themselves for as long (invariant 12).
        """
        started = time.monotonic()
        if started < self._prepare_at:
            return
        for held in list(self.in_hand.values()):
            while held.unprepared and time.monotonic() - started < PREPARE_SECONDS:
                self._prepare(held, held.unprepared[0])
                held.unprepared.popleft()
            if held.prepared and (not held.unprepared or self.setup.stream.batching.size == 1):
                for bulk in self.setup.client.combine(held.prepared, bytes_at_most=self.gate.of_stream.body_at_most):
                    guard = self._make_guard(held)
                    call = WaitingCall(client=self.setup.client, bulk=bulk, may_start=guard, owner=held)
                    self._planned.append((held, call))
                    self._bytes_in_hand += len(bulk.call.body)
                held.prepared = []
        spent = time.monotonic() - started
        self._prepare_at = started + 2 * spent if spent > 2 * PREPARE_SECONDS else 0.0

    def _prepare(self, held: BatchInHand, record: Record) -> None:
        try:
            held.prepared.append((record, self.setup.client.prepare(record)))
        except Unsendable as error:
            # Invariant 9: this record does not keep others from being sent.
            self._note(held, Transition(record=record, state=State.FAILED, reason=error.reason))

    def _make_guard(self, held: BatchInHand) -> Callable[[], MayStart]:
        claim, gate = held.batch.claim, self.gate

        def may_start() -> MayStart:
            if self._is_stopping() or held.is_lost:
                return "return"
            if gate.is_stale:
                return "wait"
            if not gate.admits(claim):
                return "return"
            return "start" if claim.is_held and self._has_permit() else "wait"

        return may_start

    def begin_calls(self) -> None:
        """Note which calls begin next, before they do, and hand them to the runner.

        Raises:
            ServiceUnavailable: MongoDB cannot be reached; calls that were already noted are made anyway.
        """
        ready: list[WaitingCall] = []
        try:
            self._choose_calls(ready)
        finally:
            # They are no longer in the plan: without this their records would stay in hand for ever.
            self._runner.push(ready)

    def _choose_calls(self, ready: list[WaitingCall]) -> None:
        """Move the calls that may begin now from the plan to `ready`."""
        limit = self._runner.limit
        # About as many calls wait as may run: writing outcomes takes about as long as a call, and no slot stays empty.
        ahead = limit - 1
        if (rate := self.setup.rate) is not None:
            # A permit is meant for the moment in which it becomes valid: calls must not pile up before a slow partner.
            ahead = min(ahead, int(rate.calls_per_second * AHEAD_OF_RATE_SECONDS))
        while self._planned and limit and self._runner.waiting + len(ready) <= ahead:
            held, call = self._planned[0]
            if self._is_stopping() or not self._may_go_on(held):
                self._planned.popleft()
                self._give_back(held, call)
                continue
            if self.gate.is_stale:
                break
            if not self._take_rate_permit():
                break
            if call.bulk.records[0].id not in held.begun and not self._note_begun(held):
                self._has_rate_permit = rate is not None
                continue
            self._planned.popleft()
            ready.append(call)

    def _may_go_on(self, held: BatchInHand) -> bool:
        return self.gate.is_stale or self.gate.admits(held.batch.claim)

    def _note_begun(self, held: BatchInHand) -> bool:
        """Note in the ledger that the next calls of a batch begin; return False if its lease was lost."""
        at_once = max(BEGIN_AT_ONCE, self._runner.limit, int(self._count_pace() * BEGIN_WITHIN_SECONDS))
        if (rate := self.setup.rate) is not None:
            at_once = max(1, min(at_once, int(rate.calls_per_second)))
        ids: list[str] = []
        for other, call in islice(self._planned, at_once):
            if other is not held:
                break
            ids += [record.id for record in call.bulk.records]
        if not self._ledger.batches.begin(held.batch.claim, ids, seconds=self.setup.stream.lease_seconds):
            self._lose(held)
            return False
        held.begun.update(ids)
        return True

    def _count_pace(self) -> float:
        """Return how many calls a second have ended lately."""
        now = time.monotonic()
        if now - self._ended_since >= BEGIN_WITHIN_SECONDS:
            self._pace = self._ended / (now - self._ended_since)
            self._ended, self._ended_since = 0, now
        return self._pace

    def _take_rate_permit(self) -> bool:
        """Take a permit of the partner's rate limit; return False while the next one is not valid yet."""
        rate = self.setup.rate
        if rate is None:
            return True
        now = time.monotonic()
        if now < self._rate_at:
            return False
        if self._has_rate_permit:
            self._has_rate_permit = False
            return True
        answer = rate.try_take()
        if answer is None:
            # Redis cannot be reached and is not asked again for a while: without it the rate cannot be kept.
            return False
        taken, seconds = answer
        if taken and seconds <= 0:
            return True
        # A permit that was taken becomes valid a moment later; if none was taken, ask again then.
        self._has_rate_permit = taken
        self._rate_at = now + min(seconds, LOOK_EVERY_SECONDS)
        if isinstance(rate, RollingRate) and not taken and seconds > LOOK_EVERY_SECONDS:
            # Another stream or process was faster: no record waits here for a permit that is far off.
            self._rate_at = 0.0
            self.give_back_planned()
        return False

    @property
    def next_permit_at(self) -> float:
        """When the rate allows the next call, by the monotonic clock; 0 if it holds no call back."""
        return self._rate_at if self._planned else 0.0

    def give_back_planned(self) -> None:
        """Return all records that were taken and not handed to the runner."""
        while self._planned:
            held, call = self._planned.popleft()
            self._give_back(held, call)
        for held in self.in_hand.values():
            self._give_back_records(held, held.take_unplanned())

    def _give_back(self, held: BatchInHand, call: WaitingCall) -> None:
        self._give_back_records(held, call.bulk.records)
        self._bytes_in_hand -= len(call.bulk.call.body)

    def _give_back_records(self, held: BatchInHand, records: Sequence[Record]) -> None:
        held.returned += [record.id for record in records]
        held.left.difference_update(record.id for record in records)

    def note_result(self, call: WaitingCall, outcomes: Sequence[Outcome] | None) -> None:
        """Note the outcomes of a call; they are None if it was not made."""
        held: BatchInHand = call.owner
        if outcomes is None:
            self._give_back(held, call)
            return
        self._bytes_in_hand -= len(call.bulk.call.body)
        self._ended += 1
        if self._limit is not None:
            first = outcomes[0]
            self._limit.note(latency_ms=first.latency_ms, is_too_many=any(outcome.is_limit for outcome in outcomes))
        for record, outcome in zip(call.bulk.records, outcomes, strict=True):
            self._note(held, decide_transition(held.batch, record, outcome))

    def _note(self, held: BatchInHand, transition: Transition) -> None:
        if not held.transitions:
            held.waiting_since = time.monotonic()
        held.transitions.append(transition)
        held.left.discard(transition.record.id)

    def write_outcomes(self, *, all_of_them: bool = False) -> None:
        """Write the outcomes of batches that have enough of them, or have had some for long enough; end finished ones.

        Outcomes that cannot be written now are kept and written later: a call without a recorded outcome would be made
        again.

        Raises:
            ServiceUnavailable: MongoDB cannot be reached.
        """
        now = time.monotonic()
        for held in list(self.in_hand.values()):
            is_due = (
                all_of_them
                or not held.left
                or len(held.transitions) >= WRITE_EVERY_RECORDS
                or now - held.waiting_since > WRITE_EVERY_SECONDS
            )
            if held.transitions and is_due:
                held.counts = write_transitions(held.batch, held.transitions, held.counts)
                held.transitions = []
            if held.returned and (is_due or not held.transitions):
                self._ledger.batches.release(held.batch.claim, held.returned)
                held.counts["returned"] = held.counts.get("returned", 0) + len(held.returned)
                held.returned = []
            if held.transitions or held.returned:
                continue
            if not held.left:
                self._end(held)
            elif len(held.left) * NARROWED_BY <= held.named and not held.is_lost:
                self._ledger.batches.narrow(held.batch.claim, held.left)
                held.named = len(held.left)

    def _end(self, held: BatchInHand) -> None:
        claim = held.batch.claim
        if not held.is_lost:
            self._ledger.batches.end(claim.token)
        del self.in_hand[claim.token]
        self.batches_ended += 1
        self.is_dry = False
        if self.is_idle or len(claim.records) == 1:
            # The next record that must travel alone can be taken now.
            self.next_look_at = 0.0
        if held.batch.is_probe and not held.counts.keys() - {"returned"}:
            self._ledger.breakers.release_probe(self.name, token=claim.token)
            self._ledger.streams.release_probe(self.name, token=claim.token)
            self._ledger.partners.release_probe(self.setup.partner.name, token=claim.token)
        for name, count in held.counts.items():
            self.total[name] = self.total.get(name, 0) + count
        tell = log.warning if held.counts.get("failed") else log.info
        tell("deliver", stream=self.name, claimed=len(claim.records), **held.counts)

    def renew_leases(self) -> None:
        """Renew the leases that have used up a part of their time, with one write."""
        seconds = self.setup.stream.lease_seconds
        now = boot_time()
        old = [
            held
            for held in self.in_hand.values()
            if not held.is_lost and held.batch.claim.ends_at - now < seconds * (1 - RENEW_AT_SHARE)
        ]
        lost = self._ledger.batches.renew([held.batch.claim for held in old], seconds=seconds)
        for claim in lost:
            self._lose(self.in_hand[claim.token])

    def _lose(self, held: BatchInHand) -> None:
        """Send nothing more of a batch that another process has brought back; outcomes of running calls come late."""
        held.is_lost = True
        log.warning("deliver.lease_lost", stream=self.name, records=len(held.left))
        self.has_lost_batch = True
        mine = [call for other, call in self._planned if other is held]
        self._planned = deque((other, call) for other, call in self._planned if other is not held)
        for call in mine:
            self._give_back(held, call)
        self._give_back_records(held, held.take_unplanned())
