"""The metrics that `syncctl metrics` prints: their names, labels and meaning, in one table.

Names follow Prometheus' conventions: base units, `_total` for counters. Labels are bounded: streams, partners, states,
outcomes, jobs; never keys, messages or hosts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["gauge", "counter", "histogram"]

ATTEMPT_OUTCOMES = ("accepted", "http_429", "http_4xx", "http_5xx", "http_other", "no_answer")
"""The outcomes of an attempt: accepted, a class of the answer's status, or no answer (a cut connection, a timeout)."""
FINISHED_STATES = ("delivered", "failed", "superseded", "discarded")
CIRCUIT_STATES = ("closed", "half_open", "open")


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One metric."""

    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


_STREAM = ("stream",)
METRICS: Mapping[str, Metric] = {
    "syncctl_build_info": Metric(
        kind="gauge", help="The version of syncctl that answers; always 1.", labels=("version",)
    ),
    "syncctl_ledger_up": Metric(
        kind="gauge", help="1 if MongoDB answers; 0: only this metric and those of Redis and of the scrape are there."
    ),
    "syncctl_redis_up": Metric(kind="gauge", help="1 if Redis can be used."),
    "syncctl_scrape_duration_seconds": Metric(kind="gauge", help="How long it took to read these metrics."),
    "syncctl_records": Metric(
        kind="gauge",
        help="Records that wait (pending: for their first attempt, retrying: for another), are in flight (sending) or "
        "have failed, each counted up to 2,000,000.",
        labels=("stream", "state"),
    ),
    "syncctl_records_held": Metric(
        kind="gauge", help="Pending or retrying records that wait for an older version of their row.", labels=_STREAM
    ),
    "syncctl_oldest_due_age_seconds": Metric(
        kind="gauge", help="How long the oldest due record has been due; 0 if none is.", labels=_STREAM
    ),
    "syncctl_records_logged_total": Metric(
        kind="counter", help="Records that polls have logged, as of the last roll-up.", labels=_STREAM
    ),
    "syncctl_records_finished_total": Metric(
        kind="counter",
        help="Records that were delivered, failed, superseded or discarded, as of the last roll-up; a record "
        "that is sent again is counted again when it finishes.",
        labels=("stream", "state"),
    ),
    "syncctl_attempts_total": Metric(
        kind="counter",
        help="Calls to the partner by outcome, as of the last roll-up.",
        labels=("stream", "outcome"),
    ),
    "syncctl_retries_total": Metric(
        kind="counter", help="Calls that were not the first of their record, as of the last roll-up.", labels=_STREAM
    ),
    "syncctl_attempt_duration_seconds": Metric(
        kind="histogram", help="How long calls to the partner took, as of the last roll-up.", labels=_STREAM
    ),
    "syncctl_delivery_duration_seconds": Metric(
        kind="histogram",
        help="The time from logged to delivered of each record that was delivered, as of the last roll-up.",
        labels=_STREAM,
    ),
    "syncctl_polls_total": Metric(
        kind="counter", help="Polls that have begun, including repairs, rewinds and rows sent by hand.", labels=_STREAM
    ),
    "syncctl_last_poll_timestamp_seconds": Metric(
        kind="gauge", help="When the last poll ended; missing if none has.", labels=_STREAM
    ),
    "syncctl_poll_failed": Metric(kind="gauge", help="1 if the last poll ended with an error.", labels=_STREAM),
    "syncctl_schema_changes": Metric(
        kind="gauge",
        help="Columns of the source that appeared, went or changed their type in the last seven days.",
        labels=_STREAM,
    ),
    "syncctl_write_back_records": Metric(
        kind="gauge", help="Outcomes that are not written back to the source yet.", labels=_STREAM
    ),
    "syncctl_write_back_age_seconds": Metric(
        kind="gauge",
        help="How long the oldest outcome has been waiting to be written back; 0 if there is none.",
        labels=_STREAM,
    ),
    "syncctl_stream_paused": Metric(kind="gauge", help="1 if the stream is paused.", labels=_STREAM),
    "syncctl_polls_paused": Metric(kind="gauge", help="1 if the polls of the stream are paused.", labels=_STREAM),
    "syncctl_stream_quiet": Metric(kind="gauge", help="1 during the quiet hours of the stream.", labels=_STREAM),
    "syncctl_circuit_state": Metric(
        kind="gauge", help="1 for the state that the stream's circuit breaker has.", labels=("stream", "state")
    ),
    "syncctl_partner_paused": Metric(kind="gauge", help="1 if the partner is paused.", labels=("partner",)),
    "syncctl_permits_in_use": Metric(
        kind="gauge", help="Calls that have a permit of the partner's max_in_flight.", labels=("partner",)
    ),
    "syncctl_permits_limit": Metric(
        kind="gauge", help="The partner's max_in_flight; missing if it has none.", labels=("partner",)
    ),
    "syncctl_alerts_firing": Metric(
        kind="gauge",
        help="1 for each alert of syncctl's own that fires; stream, partner and source are empty where the alert "
        "is not about one.",
        labels=("rule", "stream", "partner", "source"),
    ),
    "syncctl_queue_messages": Metric(kind="gauge", help="Messages that wait in the queue; missing without Redis."),
    "syncctl_queue_dropped_total": Metric(
        kind="counter", help="Messages that were dropped, and keys that were removed, as not this project's own."
    ),
    "syncctl_workers": Metric(kind="gauge", help="Workers that have sent a heartbeat within 20 seconds."),
    "syncctl_worker_slots": Metric(kind="gauge", help="Processes of these workers that may deliver at the same time."),
    "syncctl_beat_last_seen_timestamp_seconds": Metric(
        kind="gauge", help="When Beat sent its last heartbeat; missing if it never has."
    ),
    "syncctl_maintenance_last_done_timestamp_seconds": Metric(
        kind="gauge", help="When a job of Beat's was last done.", labels=("job",)
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Distribution:
    """The value of a histogram."""

    #: In seconds.
    bounds: tuple[float, ...]
    #: How many values lie at or below each bound, and at the end how many there are.
    counts: tuple[int, ...]
    sum: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """A value of a metric."""

    name: str
    #: In the order of the metric's labels.
    labels: tuple[str, ...] = ()
    value: float | Distribution


@dataclass(slots=True)
class Samples:
    """The values of one scrape."""

    samples: list[Sample] = field(default_factory=list)

    def add(self, name: str, value: float | Distribution, *labels: str) -> None:
        """Add a value.

        Args:
            labels: The values of the metric's labels, in their order.
        """
        assert len(labels) == len(METRICS[name].labels), name  # noqa: S101
        self.samples.append(Sample(name=name, labels=labels, value=value))

    def of(self, name: str) -> Sequence[Sample]:
        """Return the values of one metric."""
        return [sample for sample in self.samples if sample.name == name]


def name_outcome(status: int | None, *, has_error: bool) -> str:
    """Return the one of `ATTEMPT_OUTCOMES` that an attempt had."""
    if not has_error:
        return "accepted"
    if status is None:
        return "no_answer"
    if status == 429:
        return "http_429"
    return f"http_{status // 100}xx" if status // 100 in (4, 5) else "http_other"
