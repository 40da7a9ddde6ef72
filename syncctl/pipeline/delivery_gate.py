"""Whether a stream's calls may begin: pauses, the circuit breaker, and the permits of a concurrency limit."""

import time
from datetime import datetime

from syncctl.core.breaker import BreakerState
from syncctl.core.stream import Partner, Stream
from syncctl.ledger.batches import Claim
from syncctl.ledger.breakers import BreakerGate
from syncctl.ledger.holds import Hold
from syncctl.ledger.ledger import Ledger

LOOK_EVERY_SECONDS = 0.5
STALE_AFTER_SECONDS = 1.5
"""No call begins on what was seen longer ago; it waits for the next look."""
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
        self._breaker = BreakerGate()
        self.stream_hold = Hold()
        self.partner_hold = Hold()
        #: The stream's records were refused since one was last accepted.
        self.has_refusals = False
        #: A run of refusals has ended within the last minutes.
        self.accepted_lately = False
        #: The partner refused the credentials of calls since it last accepted one.
        self.has_partner_refusals = False
        #: The partner accepted a call within the last minute, also one of another record.
        self.partner_accepted_lately = False
        #: When this process last noted that the partner accepts calls, by the monotonic clock.
        self.noted_accepted_at = float("-inf")
        #: When the partner was last called again after a pause or an outage.
        self.back_at: datetime | None = None

    def look(self, *, at_once: bool = False) -> None:
        """Ask the ledger, at most each half second; `at_once` asks now."""
        now = time.monotonic()
        if not at_once and now - self._looked_at < LOOK_EVERY_SECONDS:
            return
        gate = self._ledger.streams.load_gate(self._stream.name)
        partner = self._ledger.partners.load_gate(self._stream.partner)
        self._breaker = gate.breaker
        self.back_at = max(filter(None, (gate.back_at, partner.back_at)), default=None)
        self.stream_hold, self.partner_hold = gate.hold, partner.hold
        self.has_refusals, self.accepted_lately = gate.has_refusals, gate.accepted_lately
        self.has_partner_refusals = partner.has_refusals
        self.partner_accepted_lately = partner.accepted_lately
        self._is_closed = False
        self._looked_at = now

    def close(self) -> None:
        """Let no further call begin until the next look says otherwise."""
        self._is_closed = True

    @property
    def is_stale(self) -> bool:
        """Whether the last look is too long ago for a call to begin on it."""
        return time.monotonic() - self._looked_at > STALE_AFTER_SECONDS

    def admits(self, claim: Claim) -> bool:
        """Tell whether the calls of a batch may begin.

        A partner that is down or paused is called by its probe alone; one that recovers, by the batches taken since,
        whose size it can bear.
        """
        token = claim.token
        if self._is_closed or not all(
            each.admits(token) for each in (self._breaker, self.stream_hold, self.partner_hold)
        ):
            return False
        if self._breaker.state is not BreakerState.HALF_OPEN or self.back_at is None:
            return True
        return claim.clock.at >= self.back_at

    def is_probe(self, token: str) -> bool:
        """Tell whether a batch is the one record that asks whether a partner is back, or accepts calls again."""
        is_open = self._breaker.state is BreakerState.OPEN
        return (is_open and self._breaker.probe == token) or token in (self.stream_hold.probe, self.partner_hold.probe)


class Permits:
    """What one delivery loop may have under way at a partner with a `max_in_flight`, exact over all workers.

    Args:
        token: The loop's own.
        share: How many permits the loop takes at most, so that others get theirs.
    """

    def __init__(self, ledger: Ledger, partner: Partner, *, token: str, share: int) -> None:
        self._ledger = ledger
        self._partner = partner
        self._token = token
        self._share = share
        self._seconds = partner.timeout_seconds + PERMIT_MARGIN_SECONDS
        self._renewed_at = float("-inf")
        self._asked_at = float("-inf")
        self.held = 0

    @property
    def is_fresh(self) -> bool:
        """Whether a call that begins now ends before the permits do."""
        return self.held > 0 and time.monotonic() - self._renewed_at < STALE_AFTER_SECONDS

    def keep(self, wanted: int) -> int:
        """Renew the permits that are held and ask for more where they are too few; return how many are held."""
        now = time.monotonic()
        if self.held and now - self._renewed_at > LOOK_EVERY_SECONDS:
            if not self._ledger.partners.renew_permits(self._partner.name, token=self._token, seconds=self._seconds):
                self.held = 0
            self._renewed_at = now
        missing = min(wanted, self._share) - self.held
        if missing > 0 and now - self._asked_at > LOOK_EVERY_SECONDS:
            self._asked_at = now
            self.held = self._ledger.partners.acquire_permits(
                self._partner.name,
                token=self._token,
                wanted=missing,
                at_most=self._partner.max_in_flight or 1,
                seconds=self._seconds,
            )
            self._renewed_at = now
        return self.held

    def release(self) -> None:
        """Give all permits back; no call is under way."""
        if self.held:
            self.held = 0
            self._ledger.partners.release_permits(self._partner.name, token=self._token)
