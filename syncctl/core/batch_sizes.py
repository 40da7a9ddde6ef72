"""The sizes of batches and windows: how many records are taken at once, and how many may be in flight."""

from dataclasses import dataclass, replace

from syncctl.core.stream import Partner, Stream

TAKEN_UNDER_A_RATE_SECONDS = 5.0
"""Under a rate limit, a batch holds no more records than the rate allows in this many seconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """The sizes of one stream."""

    #: Records taken at once.
    batch: int
    #: Records in flight altogether.
    window: int
    #: The most retries among those in flight: half of the window is kept for first attempts.
    retries: int
    #: Rows per call.
    rows: int = 1

    def at_most(self, records: int) -> "Sizes":
        """Return the sizes, with at most this many records in flight."""
        window = max(1, min(self.window, records))
        return replace(self, window=window, batch=min(self.batch, window), retries=max(1, min(self.retries, window)))


def decide_sizes(stream: Stream, partner: Partner) -> Sizes:
    """Decide how many records of a stream are taken at once, and how many may be in flight."""
    rows = stream.batching.size
    window = max(stream.window, rows)
    batch = max(min(stream.batch_size, window), min(rows, window))
    if partner.rate is not None:
        calls, seconds = partner.rate
        batch = min(batch, max(1, int(TAKEN_UNDER_A_RATE_SECONDS * calls / seconds)) * rows)
    return Sizes(batch=batch, window=window, retries=max(1, window // 2), rows=rows)
