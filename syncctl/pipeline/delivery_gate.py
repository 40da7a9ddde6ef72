"""Whether the calls of a batch may go on, and the permits that they are made under."""

import threading
import time
from datetime import datetime

from syncctl.core.breaker import BreakerState
from syncctl.core.stream import Partner, Stream
from syncctl.ledger.ledger import Ledger

PAUSE_SEEN_WITHIN_SECONDS = 1.0
PERMIT_MARGIN_SECONDS = 5.0
"""What a permit lasts beyond the deadline of a call that was begun a second after its renewal."""


class DeliveryGate:
    """Whether calls may go on.

    Not once the stream or its partner is paused, nor once the partner counts as down, nor when outcomes cannot be
    written.

    It also holds the batch's permits: each call begins within a second of their renewal, and they last for a whole
    call.

    Args:
        token: The batch's: the one that asks whether a partner is back goes on.
        alone: The only record of the batch; None where there are several. One alone may ask.
    """

    def __init__(self, ledger: Ledger, stream: Stream, partner: Partner, *, token: str, alone: str | None) -> None:
        self._ledger = ledger
        self._stream = stream
        self._partner = partner
        self.token = token
        self._alone = alone
        self._permits_seconds = partner.timeout_seconds + PERMIT_MARGIN_SECONDS
        self.is_probe = False
        """Whether this batch asks if a partner that counts as down is back."""
        self.has_called = False
        """Whether any call was made: one that was has told the breaker what came of it."""
        self.allowed: int | None = None
        """How many records may go at once to a partner that is coming back."""
        self.back_at: datetime | None = None
        """When the partner was last called again after a pause or an outage."""
        self._halted = False
        self._is_down = False
        self._renewed_at = time.monotonic()
        self._lock = threading.Lock()

    def set(self) -> None:
        """Let no further call begin."""
        self._halted = True

    def is_set(self) -> bool:
        """Tell whether calls are to stop; looks once a second whether others have said so.

        No call begins while the last look is older: whoever asks meanwhile waits for the one who looks.
        """
        if not self._halted and self._is_old():
            with self._lock:
                if self._is_old():
                    self._look()
        return self._halted

    def _is_old(self) -> bool:
        return time.monotonic() - self._renewed_at > PAUSE_SEEN_WITHIN_SECONDS

    def _look(self) -> None:
        asked_at = time.monotonic()
        # Also where MongoDB does not answer: those who wait here are not to ask it one after the other.
        goes_on = False
        try:
            goes_on = self.may_begin() and self._renew_permits()
        finally:
            self._halted = self._halted or not goes_on
        self._renewed_at = asked_at

    def begin(self) -> bool:
        """Look whether calls may be made at all; a record that is alone asks whether a partner that is down is back."""
        if self.may_begin():
            return self._alone is None or not self.is_probe or self._hold_probe()
        return self._is_down and self._alone is not None and self._hold_probe()

    def _hold_probe(self) -> bool:
        self.is_probe = self._ledger.breakers.begin_probe(
            self._stream.name, token=self.token, record=self._alone or "", seconds=self._permits_seconds
        )
        return self.is_probe

    def take_permits(self, wanted: int) -> int:
        """Take the right to so many calls at once, or to fewer; return how many."""
        self._renewed_at = time.monotonic()
        return self._ledger.partners.acquire_permits(
            self._partner.name,
            token=self.token,
            wanted=wanted,
            at_most=self._partner.max_in_flight,
            seconds=self._permits_seconds,
        )

    def _renew_permits(self) -> bool:
        return self._ledger.partners.renew_permits(self._partner.name, token=self.token, seconds=self._permits_seconds)

    def close(self) -> None:
        """Give back what the batch holds; every call has ended."""
        self._ledger.partners.release_permits(self._partner.name, token=self.token)
        if not self.has_called:
            self._ledger.breakers.release_probe(self._stream.name, token=self.token)

    def may_begin(self) -> bool:
        """Look whether the stream and its partner are to be called."""
        gate = self._ledger.streams.load_gate(self._stream.name)
        partner = self._ledger.partners.load_gate(self._stream.partner)
        is_open = gate.breaker.state is BreakerState.OPEN
        self.is_probe = is_open and gate.breaker.probe == self.token
        self.allowed = gate.breaker.allowed if gate.breaker.state is BreakerState.HALF_OPEN else None
        self.back_at = max(filter(None, (gate.back_at, partner.back_at)), default=None)
        is_paused = gate.paused or partner.paused
        self._is_down = is_open and not is_paused
        return not is_paused and gate.breaker.admits(self.token)
