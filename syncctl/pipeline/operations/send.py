"""send: read one row now, log it as a poll does, and send it in this process through the ordinary claim."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from syncctl.core.batch_sizes import Sizes
from syncctl.core.outcome import Verdict
from syncctl.core.records import read_idempotency_key
from syncctl.core.rows import Row
from syncctl.core.states import TERMINAL, BreakerState, State, name_state
from syncctl.core.stream import Partner, Stream
from syncctl.errors import SourceError, SyncctlError, TroubleFound
from syncctl.ledger.batches import Claim
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.mongo_client import new_token
from syncctl.ledger.polls import PollLease
from syncctl.ledger.streams import Gate
from syncctl.pipeline.delivery.deliver import DeliveryLoop
from syncctl.pipeline.delivery.delivery_gate import DeliveryGate
from syncctl.pipeline.delivery.dispatch import LEASE_SECONDS as DISPATCH_LEASE_SECONDS
from syncctl.pipeline.delivery.dispatch import Taken
from syncctl.pipeline.delivery.stream_setup import StreamSetup
from syncctl.pipeline.delivery.version_order import split_by_order
from syncctl.pipeline.pause import describe_pause
from syncctl.pipeline.polling.identity import identify
from syncctl.pipeline.polling.page import PageLog
from syncctl.pipeline.polling.poll import LEASE_SECONDS, renew_in_background
from syncctl.pipeline.polling.wait_for_poll import wait_for_poll_lease
from syncctl.pipeline.selection import read_key

if TYPE_CHECKING:
    from syncctl.sources.reader import StreamReader

LOOK_EVERY_SECONDS = 0.5
_SENT_AGAIN_ALONE = (State.DELIVERED.value, State.DISCARDED.value)
"""The states in which a record is sent only if the operator explicitly asks to send it again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """The result of sending a row, as `syncctl send --json` prints it."""

    stream: str
    key: Mapping[str, Any]
    #: The record's id.
    id: str
    #: Whether the row was new or changed, so that a record was logged.
    logged: bool
    #: Whether a call was made for it.
    sent: bool
    #: Whether the partner has accepted this version of the row.
    accepted: bool
    state: str
    #: The outcome of the call, or of the last call of a record that was already delivered; None without such a call.
    outcome: str | None
    #: The HTTP status of the same call.
    status: int | None
    latency_ms: float | None
    #: The error of the call; if no call was made, the record's last error or the reason for its state.
    error: str | None
    #: The beginning of the partner's answer.
    excerpt: str | None
    idempotency_key: str
    #: When the record is tried again; None if it is not.
    due_at: Any
    #: Why no call was made.
    obstacle: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class LoggedRow:
    """A row as the ledger knows it after it was read."""

    id: str
    key_id: str
    key: Mapping[str, Any]
    is_new: bool
    #: How many calls had been made for the record before.
    attempts: int


@dataclass(kw_only=True)
class RowSending:
    """Takes one row from its source to its partner's answer.

    Safe to interrupt at any point: workers send a row that was logged like any other.
    """

    ledger: Ledger
    stream: Stream
    partner: Partner
    worker: str
    who: str
    #: Returns the parts that the stream's delivery needs.
    make_setup: Callable[[], StreamSetup]
    #: Returns how many delivery loops all workers run.
    count_slots: Callable[[], int]
    #: Called with the reason for which the row waits, each time that it changes.
    show: Callable[[str], object]
    should_stop: Callable[[], bool]
    #: Send the row again although this version was delivered or discarded.
    again: bool = False
    #: Send the row although the stream or its partner is paused, or the circuit is open.
    force: bool = False
    timeout_seconds: float = 60.0
    _obstacle: str | None = field(init=False, default=None)

    def run(self, reader: "StreamReader", text: str) -> Sent:
        """Read the row with this key, log it, send it, and return the partner's answer.

        Raises:
            TroubleFound: The source has no such row.
            LeaseHeld: A poll of the stream has not ended in time.
        """
        row = find_row(reader, text)
        detail = {"streams": [self.stream.name], "key": text}
        with self.ledger.audit.record(action="send", who=self.who, detail=detail) as entry:
            entry.begin()
            logged = self._log(reader, row)
            entry.add(0, record=logged.id, logged=logged.is_new)
            self._make_due(logged)
            sent = self._send(logged)
            entry.add(int(sent.sent), accepted=sent.accepted)
        return sent

    def _log(self, reader: "StreamReader", row: Row) -> LoggedRow:
        """Log a row as it is now, under the poll's lease, without moving the cursor."""
        ledger, name = self.ledger, self.stream.name
        lease = wait_for_poll_lease(ledger, name, worker=self.worker, lease_seconds=LEASE_SECONDS)
        # An operator asks for the row as it is now, so its version may have a name that the ledger already knows.
        resend_epoch = lease.epoch if self.again else lease.resend_epoch
        own = replace(lease, rewound_epoch=lease.epoch, resend_epoch=resend_epoch)
        pages = PageLog(ledger, self.stream, own, lease_seconds=LEASE_SECONDS)
        try:
            with renew_in_background(ledger, lease, pages.progress, seconds=LEASE_SECONDS):
                pages.log_rows([row], columns_fingerprint=reader.columns_fingerprint)
        except BaseException as error:
            self._leave_word(lease, error)
            raise
        ledger.polls.give_back(lease)
        return self._find_record(row, is_new=pages.progress.logged > 0)

    def _leave_word(self, lease: PollLease, error: BaseException) -> None:
        """Note for the next poll that records may have been written without their keys (invariant 8)."""
        why = str(error) if isinstance(error, SyncctlError) else "interrupted"
        self.ledger.polls.release(lease, error=f"sending one row: {why}", notes=lease.notes)

    def _find_record(self, row: Row, *, is_new: bool) -> LoggedRow:
        _, key_id = identify(row)
        records = self.ledger.records
        if self.stream.append_only:
            versions = records.find(stream=self.stream.name, key_id=key_id, limit=1)
        else:
            versions = records.find(record_id=self.ledger.keys.load(self.stream.name, [key_id])[key_id].version)
        if not versions:
            raise TroubleFound(
                "this version of the row was finished long ago, and cleanup has removed its record",
                why="the row has not changed since",
                hint="to send it once more, under a new Idempotency-Key: add --again",
            )
        (record,) = versions
        attempts = int(record.get("attempts") or 0)
        return LoggedRow(id=record["_id"], key_id=key_id, key=record["key"], is_new=is_new, attempts=attempts)

    def _make_due(self, logged: LoggedRow) -> None:
        """Make a record due that failed before, or that an operator wants to send again."""
        record = self._load(logged)
        state = record["state"]
        if logged.is_new or State(state) not in TERMINAL:
            return
        if state in _SENT_AGAIN_ALONE and not self.again:
            return
        if not (record["payload"] is None and record["op"] == "upsert"):
            self.ledger.operations.replay([logged.id], states=[state], who=self.who)

    def _load(self, logged: LoggedRow) -> dict[str, Any]:
        (record,) = self.ledger.records.find(record_id=logged.id)
        return record

    def _send(self, logged: LoggedRow) -> Sent:
        """Send the record, unless another process does; wait for obstacles to go away, up to the timeout."""
        until = time.monotonic() + self.timeout_seconds
        while True:
            record = self._load(logged)
            is_sent = int(record.get("attempts") or 0) > logged.attempts
            if State(record["state"]) in TERMINAL or (is_sent and not _goes_on(record)):
                return self._describe(logged, record, obstacle=None)
            if time.monotonic() >= until or self.should_stop():
                return self._describe(logged, record, obstacle=self._obstacle or "it was not sent in time")
            if record["state"] == State.SENDING:
                self._note("a worker is sending it")
            elif self._deliver(logged, until):
                continue
            time.sleep(LOOK_EVERY_SECONDS)

    def _deliver(self, logged: LoggedRow, until: float) -> bool:
        """Claim the record and make its call; return False if there is an obstacle."""
        turn = _Turn(sending=self, logged=logged)
        setup = replace(self.make_setup(), take=turn.take)
        if self.force:
            setup = replace(setup, open_gate=OpenGate)
        loop = DeliveryLoop(
            ledger=self.ledger,
            streams={},
            partners={self.partner.name: self.partner},
            make_setup=lambda _: setup,
            worker=self.worker,
            is_stopping=lambda: time.monotonic() >= until or self.should_stop(),
            count_slots=self.count_slots,
        )
        done = loop.run(self.stream.name).get(self.stream.name, {})
        if turn.obstacle is None and not turn.is_taken:
            turn.obstacle = "the partner's rate or max_in_flight leaves no room for a call"
        elif set(done) == {"returned"}:
            rate = "its rate left no room, or Redis is away, which the rate needs"
            turn.obstacle = "no call began in time" if setup.rate is None else rate
        self._note(turn.obstacle)
        return turn.obstacle is None

    def _note(self, obstacle: str | None) -> None:
        if obstacle is not None and obstacle != self._obstacle:
            self.show(obstacle)
        self._obstacle = obstacle

    def find_obstacle(self, gate: Gate) -> str | None:
        """Return what keeps the stream's records from being sent; None if nothing does, or `force` overrules it."""
        if self.force:
            return None
        ledger, name, partner = self.ledger, self.stream.name, self.partner.name
        now = ledger.streams.server_time()
        if gate.hold.paused:
            paused = ledger.streams.load_all().get(name, {}).get("paused") or {}
            return f"stream {name} is {describe_pause(paused, now)}"
        if ledger.partners.load_gate(partner).hold.paused:
            paused = ledger.partners.load_all().get(partner, {}).get("paused") or {}
            return f"partner {partner} is {describe_pause(paused, now)}"
        quiet_hours = self.stream.quiet_hours
        if quiet_hours is not None and (end := quiet_hours.find_end(now)) is not None:
            return f"stream {name} is in its quiet hours ({quiet_hours}) until {end:%Y-%m-%d %H:%MZ}"
        if gate.breaker.state is BreakerState.OPEN:
            breaker = ledger.streams.load_all().get(name, {}).get("breaker", {})
            return f"the endpoint of stream {name} is down (circuit open): {breaker.get('reason') or 'no answer'}"
        return None

    def _describe(self, logged: LoggedRow, record: Mapping[str, Any], *, obstacle: str | None) -> Sent:
        is_sent = int(record.get("attempts") or 0) > logged.attempts
        calls = [entry for entry in record.get("history") or () if entry["action"] == "attempt"]
        call = calls[-1] if calls and (is_sent or record["state"] == State.DELIVERED) else {}
        error = record.get("error") or {}
        return Sent(
            stream=self.stream.name,
            key=logged.key,
            id=logged.id,
            logged=logged.is_new,
            sent=is_sent,
            accepted=record["state"] == State.DELIVERED or call.get("outcome") == Verdict.ACCEPTED.value,
            state=name_state(record["state"], fresh=record.get("fresh")),
            outcome=call.get("outcome"),
            status=call.get("status"),
            latency_ms=call.get("latency_ms"),
            error=call.get("error") if is_sent else error.get("message") or record.get("reason"),
            excerpt=call.get("excerpt"),
            idempotency_key=read_idempotency_key(record),
            due_at=record.get("due_at"),
            obstacle=obstacle,
        )


def _goes_on(record: Mapping[str, Any]) -> bool:
    """Tell whether the last call only leads to the next one: it was a lookup, or the partner's object was gone."""
    calls = [entry for entry in record.get("history") or () if entry["action"] == "attempt"]
    if not calls or State(record["state"]) in TERMINAL:
        return False
    return calls[-1].get("lookup") in ("found", "not found") or bool(record.get("recreates"))


@dataclass(kw_only=True)
class _Turn:
    """One try to take one specific record into flight."""

    sending: RowSending
    logged: LoggedRow
    is_taken: bool = False
    obstacle: str | None = None

    def take(
        self,
        *,
        ledger: Ledger,
        stream: Stream,
        partner: Partner,  # noqa: ARG002 - as `take_batch`
        sizes: Sizes,  # noqa: ARG002
        mapping_hash: str,
        worker: str,
        with_suspects: bool = True,  # noqa: ARG002
    ) -> Taken:
        """Take the record under the dispatch lease, by the rules that apply to every record."""
        if self.is_taken or self.obstacle is not None:
            return Taken()
        lease = ledger.streams.acquire_dispatch(stream.name, seconds=DISPATCH_LEASE_SECONDS, worker=worker)
        if lease is None:
            return Taken(is_contended=True)
        try:
            claim = self._claim(ledger, stream, mapping_hash, worker)
        finally:
            ledger.streams.release_dispatch(lease)
        self.is_taken = claim is not None
        return Taken(claim=claim)

    def _claim(self, ledger: Ledger, stream: Stream, mapping_hash: str, worker: str) -> Claim | None:
        gate = ledger.streams.load_gate(stream.name)
        self.obstacle = self.sending.find_obstacle(gate) or self._find_unsettled(ledger, stream)
        if self.obstacle is not None:
            return None
        # A retry does not wait for its time: an operator asks for it now.
        ledger.operations.make_due(self.logged.id)
        due = ledger.records.find_due_record(self.logged.id)
        split = split_by_order(ledger, stream, [due] if due is not None else [], gate)
        if not split.sendable:
            self.obstacle = _describe_order(split.superseded, split.held)
            return None
        claim = ledger.batches.take(
            stream.name,
            [self.logged.id],
            token=new_token(),
            mapping_hash=mapping_hash,
            seconds=stream.lease_seconds,
            worker=worker,
            exclusive=stream.order != "none",
        )
        if claim is None:
            self.obstacle = "another version of the row is in flight"
        return claim

    def _find_unsettled(self, ledger: Ledger, stream: Stream) -> str | None:
        """Return an obstacle if an earlier call may still take effect (invariant 5): this one must not overtake it."""
        key_id = self.logged.key_id
        key = None if stream.append_only else ledger.keys.load(stream.name, [key_id]).get(key_id)
        now = ledger.streams.server_time()
        ends = [call.until for call in key.unsettled if call.until > now] if key is not None else []
        return f"an earlier call may still take effect, until {max(ends):%H:%M:%SZ}" if ends else None


def _describe_order(superseded: Sequence[tuple[Any, str]], held: Mapping[str, str]) -> str:
    if superseded:
        return f"a newer version of the row is {superseded[0][1]}"
    if held:
        return f"it waits for an older version of the row: syncctl show {next(iter(held.values()))}"
    return "another process has it"


class OpenGate(DeliveryGate):
    """A gate that lets an operator's calls begin even if the stream or its partner is paused."""

    def admits(self, claim: Claim) -> bool:  # noqa: ARG002 - the same for every batch
        """Tell that the calls may begin."""
        return True


def find_row(reader: "StreamReader", text: str) -> Row:
    """Return the row with a key (`5`, or `a=1,b=2`) as it is now.

    Raises:
        TroubleFound: The source has no such row.
        UsageError: The text does not name the stream's key columns.
    """
    error: SourceError | None = None
    for key in read_key(text, reader.key_columns):
        try:
            rows = reader.find_rows([key])
        except SourceError as caught:
            # A key read as a whole number may not fit a text column, and the other way round.
            error = error or caught
            continue
        if rows:
            return rows[0]
    if error is not None:
        raise error
    raise TroubleFound(
        f"the source has no row with the key {text}",
        why="it was deleted, or the stream's conditions leave it out",
        hint="check the key; what the ledger knows of it: syncctl records --key KEY",
    )
