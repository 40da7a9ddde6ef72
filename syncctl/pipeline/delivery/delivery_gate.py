"""A batch in delivery, and whether its calls may begin: pauses, the circuit breaker, permits of a concurrency limit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from syncctl.core.breaker import BreakerState
from syncctl.core.clock import boot_time
from syncctl.core.stream import Partner, Stream
from syncctl.ledger.batches import Claim
from syncctl.ledger.keys import KnownKey
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.partners import PartnerGate
from syncctl.ledger.streams import Gate

LOOK_EVERY_SECONDS = 0.5
STALE_AFTER_SECONDS = 1.5
"""No call begins on what was seen longer ago, or before the machine slept; it waits for the next look."""
WAIT_FOR_SHARE_SECONDS = 3.0
"""How long a loop without permits waits for those that others have beyond their share."""
PERMIT_MARGIN_SECONDS = 5.0
"""How much longer a permit lasts than a call that begins at its last moment of use."""


class DeliveryGate:
    """What a delivery loop knows of one stream's pauses and circuit breaker; all workers see the same.

    `is_stale` and `admits` may be asked from another thread than the one that looks.
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
        """Ask the ledger, at most each half second; `at_once` asks now."""
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
        """Take over what the ledger said.

        Args:
            asked_at: When it was asked, by the clock that goes on while the machine sleeps.
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

        A partner that is down or paused is called by its probe alone; one that recovers, by the batches taken since,
        whose size it can bear.
        """
        breaker, back_at = self.of_stream.breaker, self.back_at
        if self._is_closed or not all(
            each.admits(claim.token) for each in (breaker, self.of_stream.hold, self.of_partner.hold)
        ):
            return False
        return breaker.state is not BreakerState.HALF_OPEN or back_at is None or claim.clock.at >= back_at

    def is_probe(self, token: str) -> bool:
        """Tell whether a batch is the one record that asks whether a partner is back, or accepts calls again."""
        breaker = self.of_stream.breaker
        is_probe = breaker.state is BreakerState.OPEN and breaker.probe == token
        return is_probe or token in (self.of_stream.hold.probe, self.of_partner.hold.probe)


def look_through(ledger: Ledger, gates: Sequence[DeliveryGate]) -> None:
    """Ask the ledger for many gates, with two questions in all: with two for each, hundreds of streams would have what
    they know of the first grow stale before the last has asked."""
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
        """Whether it is the one record that asks if a partner that is down is back."""
        return self.gate.is_probe(self.claim.token)


class Permits:
    """What one delivery loop may have under way at a partner with a `max_in_flight`, exact over all workers.

    A loop has use of its share, and of all that others leave. What it has beyond its share it returns once others lack
    some of theirs, or once it has no use for it; a permit under which a call may be under way is kept until that ends.

    Args:
        token: The loop's own.
        share: How many permits the loop gets however many loops there are.
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
        #: How many of those that are held others should get.
        self._owed = 0
        #: The ledger may have permits of this loop: it was asked for some, whatever it answered.
        self._has_asked = False
        #: Others have permits beyond their share.
        self._may_grow = False
        #: Since when it asks in vain; None while some are held, or none are wanted.
        self._without_since: float | None = None
        self.held = 0

    @property
    def is_waiting(self) -> bool:
        """Whether none are held, and others return some soon."""
        since = self._without_since
        return self._may_grow and since is not None and boot_time() - since < WAIT_FOR_SHARE_SECONDS

    @property
    def is_fresh(self) -> bool:
        """Whether a call that begins now ends before the permits do."""
        return self.held > 0 and boot_time() - self._renewed_at < STALE_AFTER_SECONDS

    def keep(self, *, wanted: int = 0, most_under_way: int | None = None, asks: bool = True) -> int:
        """Renew the permits that are held, ask for more, or return some; return how many calls may be under way.

        Args:
            wanted: For how many calls there is use.
            most_under_way: How many calls are under way at most, as long as no more are allowed; None: not known yet.
            asks: Ask for more where they are too few.
        """
        # Read before MongoDB is asked, by a clock that goes on while the machine sleeps: permits go on running out.
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
        """Tell whether more permits may be free than were asked for, or some can be returned now."""
        can_return = most_under_way is not None and most_under_way < self.held
        return can_return or self._asked_for <= self.held < wanted

    def release(self) -> None:
        """Give all permits back; no call is under way."""
        self.held = self._owed = 0
        self._without_since = None
        if self._has_asked:
            self._ledger.partners.release_permits(self._partner.name, token=self._token)
            self._has_asked = False
