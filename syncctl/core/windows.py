"""How much may be on its way at once, so that no lease runs out."""

from dataclasses import dataclass, replace

from syncctl.core.stream import Partner, Stream

THREADS_AT_MOST = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """Records per message, records in flight, retries among them at most, threads per batch, rows per call.

    `messages` is how many may wait in the queue, which all streams share, before no more are sent.
    """

    batch: int
    window: int
    retries: int
    threads: int
    messages: int
    rows: int = 1

    def count_threads(self, records: int) -> int:
        """Return how many threads so many records have use for."""
        return min(self.threads, -(-records // self.rows))

    def at_most(self, records: int) -> "Sizes":
        """Return sizes with no more records in flight than these."""
        window = max(1, min(self.window, records))
        batch = min(self.batch, window)
        return replace(self, window=window, batch=batch, retries=max(1, min(self.retries, window)))


def decide_sizes(stream: Stream, partner: Partner, *, processes: int, streams: int = 1) -> Sizes:
    """Size batch and window so that the deadline and the rate let a batch finish in half a lease.

    Args:
        processes: How many of a worker's processes deliver at once; they share the partner's `max_in_flight`.
        streams: How many streams share the queue.
    """
    half = stream.lease_seconds / 2
    rows = stream.batching.size
    threads = max(1, min(THREADS_AT_MOST, partner.max_in_flight // max(1, processes)))
    calls = threads * max(1, int(half // partner.timeout_seconds))
    window = stream.window
    if partner.rate is not None:
        per_span, seconds = partner.rate
        in_half_a_lease = max(1, int(half * per_span / seconds))
        calls = min(calls, max(1, in_half_a_lease // max(1, processes)))
        window = min(window, max(calls, in_half_a_lease) * rows)
    batch = min(stream.batch_size, calls * rows, window)
    return Sizes(
        batch=batch,
        window=window,
        retries=max(1, window // 2),
        threads=min(threads, -(-batch // rows)),
        messages=max(1, -(-window // batch)) * max(1, streams),
        rows=rows,
    )


def decide_margin_seconds(lease_seconds: float) -> float:
    """Return what a lease must leave beyond a call's deadline, to write its outcome."""
    return min(2.0, lease_seconds / 10)


@dataclass(frozen=True, kw_only=True, slots=True)
class Slots:
    """How many batches one worker delivers at once: in all, and to one partner."""

    all: int
    per_partner: int


def decide_slots(*, concurrency: int, partners: int, max_in_flight: int) -> Slots:
    """Keep one of a worker's processes for polls and upkeep, and share the others out among the partners.

    Whatever all partners but one hold, one is left for that one, as far as there are as many as partners: several may
    hang at once, or wait for their rate.

    Args:
        concurrency: The worker's processes or threads.
        partners: How many partners the streams have.
        max_in_flight: The partner's; each batch makes one call at least.
    """
    for_all = max(1, concurrency - 1)
    for_one = max(1, (for_all - 1) // (partners - 1)) if partners > 1 else for_all
    return Slots(all=for_all, per_partner=min(for_one, max_in_flight))


BATCH_UNDER_A_RATE_SECONDS = 5.0


def shorten_batch(sizes: Sizes, stream: Stream, rate: tuple[int, float] | None) -> Sizes:
    """Let a batch hold no more than a rate lets through in a few seconds: then its place in a worker is another's.

    A rate of less than a call a second is not waited for in a worker, so its batches take no time.
    """
    if rate is None or rate[0] < rate[1]:
        return sizes
    calls = max(1, int(BATCH_UNDER_A_RATE_SECONDS * rate[0] / rate[1]))
    return replace(sizes, batch=min(sizes.batch, calls * stream.batching.size))
