"""The gate before each call of a batch: pauses, the circuit breaker, and the partner's permits."""

import threading
import time
from datetime import datetime

from syncctl.core.breaker import BreakerState
from syncctl.core.stream import Partner, Stream
from syncctl.ledger.ledger import Ledger

CHECKED_EVERY_SECONDS = 1.0
PERMIT_MARGIN_SECONDS = 5.0
"""How much longer a permit lasts than the deadline of a call that began a second after its renewal."""


class DeliveryGate:
    """Decides whether further calls of a batch may begin, and holds its permits.

    The gate shuts when the stream or its partner is paused, when the circuit opens, and when outcomes cannot be
    written. Permits are renewed at most a second before a call begins, and last for a whole call.

    Args:
        token: The batch's token; the batch that holds the probe of an open circuit may call.
        only_record: The record of a batch of one, which may become the probe; None where the batch has several.
    """

    def __init__(
        self, ledger: Ledger, stream: Stream, partner: Partner, *, token: str, only_record: str | None
    ) -> None:
        self._ledger = ledger
        self._stream = stream
        self._partner = partner
        self._only_record = only_record
        self._permit_seconds = partner.timeout_seconds + PERMIT_MARGIN_SECONDS
        self._is_shut = False
        self._is_circuit_open = False
        self._checked_at = time.monotonic()
        self._lock = threading.Lock()
        self.token = token
        #: Whether this batch is the probe of an open circuit.
        self.is_probe = False
        #: Whether any call was made; if so, its outcome has been reported to the circuit breaker.
        self.has_called = False
        #: How many records may be sent at once while the circuit is half-open; None: no limit.
        self.records_at_most: int | None = None
        #: When calls were last allowed again after a pause or an outage.
        self.back_at: datetime | None = None

    def open(self) -> bool:
        """Return whether calls may be made at all; a batch of one record may become the probe of an open circuit."""
        if self._is_calling_allowed():
            return self._only_record is None or not self.is_probe or self._hold_probe()
        return self._is_circuit_open and self._only_record is not None and self._hold_probe()

    def shut(self) -> None:
        """Let no further call begin."""
        self._is_shut = True

    def is_shut(self) -> bool:
        """Return whether no further call may begin; once a second, ask the ledger what other workers found.

        No call begins on an older answer: other threads wait for the one that asks.
        """
        if not self._is_shut and self._is_outdated():
            with self._lock:
                if self._is_outdated():
                    self._check()
        return self._is_shut

    def _is_outdated(self) -> bool:
        return time.monotonic() - self._checked_at > CHECKED_EVERY_SECONDS

    def _check(self) -> None:
        asked_at = time.monotonic()
        # Shut also where MongoDB does not answer: the threads that wait here must not ask it one after another.
        may_go_on = False
        try:
            may_go_on = self._is_calling_allowed() and self._renew_permits()
        finally:
            self._is_shut = self._is_shut or not may_go_on
        self._checked_at = asked_at

    def _is_calling_allowed(self) -> bool:
        stream = self._ledger.streams.load_gate(self._stream.name)
        partner = self._ledger.partners.load_gate(self._stream.partner)
        is_open = stream.breaker.state is BreakerState.OPEN
        is_half_open = stream.breaker.state is BreakerState.HALF_OPEN
        is_paused = stream.paused or partner.paused
        self.is_probe = is_open and stream.breaker.probe == self.token
        self.records_at_most = stream.breaker.allowed if is_half_open else None
        self.back_at = max(filter(None, (stream.back_at, partner.back_at)), default=None)
        self._is_circuit_open = is_open and not is_paused
        return not is_paused and stream.breaker.admits(self.token)

    def _hold_probe(self) -> bool:
        self.is_probe = self._ledger.breakers.begin_probe(
            self._stream.name, token=self.token, record=self._only_record or "", seconds=self._permit_seconds
        )
        return self.is_probe

    def take_permits(self, wanted: int) -> int:
        """Take permits for calls at the same time, at most `wanted`; return how many."""
        self._checked_at = time.monotonic()
        return self._ledger.partners.acquire_permits(
            self._partner.name,
            token=self.token,
            wanted=wanted,
            at_most=self._partner.max_in_flight,
            seconds=self._permit_seconds,
        )

    def _renew_permits(self) -> bool:
        return self._ledger.partners.renew_permits(self._partner.name, token=self.token, seconds=self._permit_seconds)

    def release(self) -> None:
        """Give back the permits, and the probe where no call was made; every call has ended by now."""
        self._ledger.partners.release_permits(self._partner.name, token=self.token)
        if not self.has_called:
            self._ledger.breakers.release_probe(self._stream.name, token=self.token)
