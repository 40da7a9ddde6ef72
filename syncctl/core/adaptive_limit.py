"""The concurrency limit of a partner without `max_in_flight`: grows while it keeps up, shrinks on 429 or delay."""

from statistics import median

FIRST = 32
MOST = 256
GROWTH = 1.5
REST_SECONDS = 10.0
"""How long the limit stays where a 429 has put it, before it grows again, slowly."""
SLOWED_DOWN = 2.0
TOLERANCE_MS = 20.0


class AdaptiveLimit:
    """A concurrency limit that is found by additive increase and multiplicative decrease.

    Until the first 429 it grows by half each second in which it was reached and calls took no longer than before. A 429
    halves it; from then on it grows by one each second, after a rest (RFC 6585 leaves the pace to the client).
    """

    def __init__(self, *, first: int = FIRST, most: int = MOST) -> None:
        self.limit = first
        self._most = most
        self._latencies: list[float] = []
        self._too_many = 0
        self._best_ms: float | None = None
        self._judged_at: float | None = None
        self._rests_until = 0.0
        self._was_throttled = False

    def note(self, *, latency_ms: float, is_too_many: bool) -> None:
        """Count one call that has ended."""
        if is_too_many:
            self._too_many += 1
        else:
            self._latencies.append(latency_ms)

    def judge(self, *, now: float, was_reached: bool) -> int:
        """Return the limit that applies from now on; the calls of each second are judged once.

        Args:
            now: Seconds of a clock that only moves forward.
            was_reached: Whether calls have waited for others to end.
        """
        if self._judged_at is None:
            self._judged_at = now
        if now - self._judged_at < 1.0:
            return self.limit
        self._judged_at = now
        latencies, too_many = self._latencies, self._too_many
        self._latencies, self._too_many = [], 0
        if too_many:
            self.limit = max(1, self.limit // 2)
            self._rests_until = now + REST_SECONDS
            self._was_throttled = True
            return self.limit
        if not latencies:
            return self.limit
        usual = median(latencies)
        self._best_ms = usual if self._best_ms is None else min(self._best_ms, usual)
        if usual > SLOWED_DOWN * self._best_ms + TOLERANCE_MS:
            # The partner queues calls, so more at once would only wait there. Its normal latency may change over time.
            self._best_ms *= 1.1
            # A limit that a 429 has lowered further stays where it is.
            self.limit = min(self.limit, max(FIRST, int(self.limit * 0.9)))
        elif was_reached and now >= self._rests_until:
            grown = self.limit + 1 if self._was_throttled else int(self.limit * GROWTH) + 1
            self.limit = min(self._most, grown)
        return self.limit
