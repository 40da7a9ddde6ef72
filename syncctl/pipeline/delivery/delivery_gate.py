"""A batch in delivery, and whether its calls may begin: pauses, the circuit breaker, permits of a concurrency limit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from syncctl.core.clock import boot_time
from syncctl.core.states import BreakerState
from syncctl.core.stream import Partner, Stream
from syncctl.ledger.batches import Claim
from syncctl.ledger.keys import KnownKey
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.partners import PartnerGate
from syncctl.ledger.streams import Gate

LOOK_EVERY_SECONDS = 0.5
STALE_AFTER_SECONDS = 1.5
"""The age at which a look at the ledger is too old for a call to begin, counting time in which the machine slept; the
call waits for the next look."""
WAIT_FOR_SHARE_SECONDS = 3.0
"""How long a loop without permits waits for other loops to return permits beyond their share."""
PERMIT_MARGIN_SECONDS = 5.0
"""How much longer a permit lasts than the timeout of a call."""


class DeliveryGate:
    """One stream's pauses and circuit breaker, as a delivery loop last read them; all workers see the same.

    `is_stale` and `admits` may be called from a different thread than `look`.
    """

    def __init__(self, ledger: Ledger, stream: Stream) -> None:
        self._ledger = ledger
        self._stream = stream
        self._looked_at = float("-inf")
        self._is_closed = True
        self.of_stream = Gate()
        self.of_partner = PartnerGate()
        #: When this process last noted that the partner accepts calls, by the monotonic clock.
        self.noted_accepted_at = float("-inf")

    def look(self, *, at_once: bool = False) -> None:
        """Ask the ledger, at most every half second; with `at_once`, ask now."""
        if at_once or self.may_look:
            look_through(self._ledger, [self])

    @property
    def may_look(self) -> bool:
        """Whether it is time to ask the ledger again."""
        return boot_time() - self._looked_at >= LOOK_EVERY_SECONDS

    @property
    def names(self) -> tuple[str, str]:
        """The names of the stream and its partner."""
        return self._stream.name, self._stream.partner

    def note(self, of_stream: Gate, of_partner: PartnerGate, *, asked_at: float) -> None:
        """Store the ledger's answer.

        Args:
            asked_at: When the ledger was asked, by the clock that keeps running while the machine sleeps.
        """
        self.of_stream = of_stream
        self.of_partner = of_partner
        self._is_closed = of_stream.is_quiet(self._stream.quiet_hours)
        self._looked_at = asked_at

    def close(self) -> None:
        """Let no further call begin until the next look says otherwise."""
        self._is_closed = True

    @property
    def back_at(self) -> datetime | None:
        """When the partner was last called again after a pause or an outage."""
        return max(filter(None, (self.of_stream.back_at, self.of_partner.back_at)), default=None)

    @property
    def is_stale(self) -> bool:
        """Whether the last look is too long ago for a call to begin on it."""
        return boot_time() - self._looked_at > STALE_AFTER_SECONDS

    def admits(self, claim: Claim) -> bool:
        """Tell whether the calls of a batch may begin.

        Only the probe calls a partner that is down or paused. A recovering partner is called only by batches taken
        since it came back, whose size it can bear.
        """
        breaker, back_at = self.of_stream.breaker, self.back_at
        if self._is_closed or not all(
            barrier.admits(claim.token) for barrier in (breaker, self.of_stream.hold, self.of_partner.hold)
        ):
            return False
        return breaker.state is not BreakerState.HALF_OPEN or back_at is None or claim.clock.at >= back_at

    def is_probe(self, token: str) -> bool:
        """Tell whether a batch is the one record that probes whether a partner is back, or accepts calls again."""
        breaker = self.of_stream.breaker
        is_probe = breaker.state is BreakerState.OPEN and breaker.probe == token
        return is_probe or token in (self.of_stream.hold.probe, self.of_partner.hold.probe)


def look_through(ledger: Ledger, gates: Sequence[DeliveryGate]) -> None:
    """Read many gates from the ledger with two queries in all.

    With two queries for each of hundreds of streams, the first gate would be stale before the last one is read.
    """
    if not gates:
        return
    now = boot_time()
    of_streams = ledger.streams.load_gates({gate.names[0] for gate in gates})
    of_partners = ledger.partners.load_gates({gate.names[1] for gate in gates})
    for gate in gates:
        stream, partner = gate.names
        gate.note(of_streams[stream], of_partners[partner], asked_at=now)


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """A claimed batch and everything that its delivery needs."""

    ledger: Ledger
    stream: Stream
    partner: Partner
    claim: Claim
    #: The keys of the claimed records, by key id.
    known: Mapping[str, KnownKey]
    gate: DeliveryGate

    @property
    def is_probe(self) -> bool:
        """Whether the batch is the one record that probes whether a partner is back, or accepts calls again."""
        return self.gate.is_probe(self.claim.token)


class Permits:
    """One delivery loop's permits for calls to a partner with a `max_in_flight`, which is exact over all workers.

    A loop may use its share, and all permits that other loops leave. It returns those beyond its share once other loops
    lack some of theirs, or once it no longer needs them; a permit whose call may still be running is kept until the
    call ends.

    Args:
        token: Identifies the loop.
        share: How many permits the loop gets, however many loops there are.
    """

    def __init__(self, ledger: Ledger, partner: Partner, *, token: str, share: int) -> None:
        self._ledger = ledger
        self._partner = partner
        self._token = token
        self._share = share
        self._at_most = partner.max_in_flight or 1
        self._seconds = partner.timeout_seconds + PERMIT_MARGIN_SECONDS
        self._renewed_at = float("-inf")
        self._asked_at = float("-inf")
        self._asked_for = 0
        #: How many of the held permits other loops should get.
        self._owed = 0
        #: Whether the ledger may have permits of this loop: it was asked for some, whatever the answer was.
        self._has_asked = False
        #: Whether other loops have permits beyond their share.
        self._may_grow = False
        #: Since when this loop has asked in vain; None while it holds permits, or wants none.
        self._without_since: float | None = None
        self.held = 0

    @property
    def is_waiting(self) -> bool:
        """Whether no permits are held, and other loops will return some soon."""
        since = self._without_since
        return self._may_grow and since is not None and boot_time() - since < WAIT_FOR_SHARE_SECONDS

    @property
    def is_fresh(self) -> bool:
        """Whether a call that begins now ends before the permits do."""
        return self.held > 0 and boot_time() - self._renewed_at < STALE_AFTER_SECONDS

    def keep(self, *, wanted: int = 0, most_under_way: int | None = None, asks: bool = True) -> int:
        """Renew the permits that are held, ask for more, or give some back; return how many calls may be running.

        Args:
            wanted: How many calls there are to make.
            most_under_way: The most calls that can be running as long as no more are allowed; None if not known yet.
            asks: Whether to ask for more permits if there are too few.
        """
        # Read before MongoDB is asked, by a clock that keeps running while the machine sleeps, as permits do too.
        now = boot_time()
        wanted = min(self._at_most, max(wanted, self._share))
        if not asks:
            self._renew(now)
        elif now - self._asked_at > LOOK_EVERY_SECONDS or self._has_reason_to_ask(wanted, most_under_way):
            kept = self.held if most_under_way is None else min(self.held, most_under_way)
            self._asked_at, self._asked_for, self._has_asked = now, wanted, True
            grant = self._ledger.partners.acquire_permits(
                self._partner.name,
                token=self._token,
                wanted=wanted,
                at_most=self._at_most,
                seconds=self._seconds,
                share=self._share,
                kept=kept,
            )
            self._without_since = None if grant.calls else self._without_since or now
            self.held, self._owed, self._may_grow, self._renewed_at = grant.calls, grant.owed, grant.may_grow, now
        return min(self.held - self._owed, wanted)

    def _renew(self, now: float) -> None:
        if self.held and now - self._renewed_at > LOOK_EVERY_SECONDS:
            if not self._ledger.partners.renew_permits(self._partner.name, token=self._token, seconds=self._seconds):
                self.held = self._owed = 0
            self._renewed_at = now

    def _has_reason_to_ask(self, wanted: int, most_under_way: int | None) -> bool:
        """Tell whether permits can be returned now, or more are wanted than were last asked for and granted in full."""
        can_return = most_under_way is not None and most_under_way < self.held
        return can_return or self._asked_for <= self.held < wanted

    def release(self) -> None:
        """Return all permits; no call may be running."""
        self.held = self._owed = 0
        self._without_since = None
        if self._has_asked:
            self._ledger.partners.release_permits(self._partner.name, token=self._token)
            self._has_asked = False
