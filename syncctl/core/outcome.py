"""The outcome of one attempt. A partner's response is a value, never an exception."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Literal

from syncctl.core.clock import boot_time
from syncctl.core.rows import Value

Pauses = Literal["partner", "stream"]
LookupResult = Literal["found", "not found", "failed"]

NOT_FOUND, CONFLICT, GONE, TOO_LARGE, TOO_MANY, UNAVAILABLE = 404, 409, 410, 413, 429, 503

GIVEN_UP_STATUSES = frozenset({408, 502, 504})
"""A proxy answers with these when it stops waiting; the server behind it may still be at work (RFC 9110)."""
RETRIED_STATUSES = frozenset({408, 425, TOO_MANY})
"""The 4xx that mean "later": request timeout, too early, too many requests (RFC 9110, 8470, 6585)."""
PAUSING_STATUSES: dict[int, Pauses] = {401: "partner", 403: "partner", GONE: "stream"}
"""Refused credentials, or an endpoint that no longer exists: every other record would get the same answer."""
GONE_STATUSES = frozenset({NOT_FOUND, GONE})
"""The answers for the address of a row that does not exist; they mean that a delete is done."""
CONTENT_STATUSES = frozenset({400, CONFLICT, TOO_LARGE, 422})
"""Refusals that are usually about the row itself, not about all rows."""


class Verdict(StrEnum):
    """The four outcomes of an attempt."""

    ACCEPTED = "accepted"
    RETRY_LATER = "retry_later"
    REJECTED = "rejected"
    AMBIGUOUS = "ambiguous"


NO_RULES: Mapping[int, Verdict] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True, slots=True)
class OutcomeRules:
    """A stream's own verdicts by status."""

    #: For every call.
    common: Mapping[int, Verdict] = field(default_factory=dict)
    #: For the calls of one operation (`upsert`, `delete`).
    by_operation: Mapping[str, Mapping[int, Verdict]] = field(default_factory=dict)

    def list_rules(self, operation: str | None, *, names_row: bool) -> Mapping[int, Verdict]:
        """Return the verdicts for calls of one operation.

        Args:
            operation: None for a call whose rows have several operations.
            names_row: Whether the answer is about one row, by its address or in a result: if that row does not exist,
                a delete is done. If the address of a list does not exist, this says nothing about the rows.
        """
        is_done = names_row and operation == "delete"
        gone = dict.fromkeys(GONE_STATUSES, Verdict.ACCEPTED) if is_done else {}
        return {**gone, **self.common, **self.by_operation.get(operation or "", {})}


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """The outcome of one attempt."""

    verdict: Verdict
    #: The whole call: connecting where needed, sending, and reading the response.
    latency_ms: float
    #: The HTTP status; None where no response came.
    status: int | None = None
    #: One line for people; None when accepted.
    error: str | None = None
    #: The beginning of the response body, capped and redacted.
    excerpt: str = ""
    #: The delay that the partner asked for, bounded; None where it did not ask.
    retry_after_seconds: float | None = None
    #: The `Idempotency-Key` of a call with many rows; None for a call with one.
    batch_key: str | None = None
    #: How the circuit breaker judges it; None: by the status. It judges only one outcome of a call with many rows.
    breaker_signal: Literal["up", "none"] | None = None
    #: How many rows share this outcome; one of them may be to blame, and it is unknown which.
    shared_by: int = 1
    #: The most rows per call, its own included, with which its row is sent from now on: 1 is alone; None: no change.
    rows_at_most: int | None = None
    #: The bytes of a body that was too large for the partner; None where it was not.
    too_large_bytes: int | None = None
    #: The stream's `outcomes` decide what its status means, so the outcome is about this record alone.
    has_own_rule: bool = False
    #: The result of a call that asked whether the partner has an object for the row; None for any other call.
    lookup: LookupResult | None = None
    #: The partner's values that were captured from an accepted answer, by name.
    captured: Mapping[str, Value] = field(default_factory=dict)
    #: Why a value of an accepted answer was not captured; None if all were.
    not_captured: str | None = None
    #: When the call ended, by this machine's `boot_time`.
    ended: float = field(default_factory=boot_time)

    @property
    def pauses(self) -> Pauses | None:
        """The one that this outcome may pause, partner or stream; a 401 or 403 that names a time is a limit instead."""
        is_usual = self.verdict is Verdict.RETRY_LATER and not self.has_own_rule
        pauses = PAUSING_STATUSES.get(self.status or 0) if is_usual else None
        return None if pauses == "partner" and self.retry_after_seconds is not None else pauses

    @property
    def is_limit(self) -> bool:
        """Whether the partner reports that it gets too many calls: by a 429, or a 401 or 403 that names a time."""
        names_time = PAUSING_STATUSES.get(self.status or 0) == "partner" and self.retry_after_seconds is not None
        return self.status == TOO_MANY or names_time

    @property
    def is_breaker_failure(self) -> bool:
        """Whether it shows that the partner is down: no answer, a 5xx, or a limit that names a time.

        Such a limit means that further calls are useless; one that names no time may be about this call alone.
        """
        if self.breaker_signal is not None or self.has_own_rule:
            return False
        is_named_limit = self.is_limit and self.retry_after_seconds is not None
        return self.status is None or self.status >= 500 or is_named_limit

    @property
    def may_be_of_another_row(self) -> bool:
        """Whether a single row may have spoiled the call for the others: the call got a 5xx, no answer, or an answer
        that accepts nothing. Limits and refused credentials are about the call itself.
        """
        is_limit = self.status in (None, *RETRIED_STATUSES - GIVEN_UP_STATUSES, *PAUSING_STATUSES)
        is_failure = self.verdict is Verdict.AMBIGUOUS or (self.verdict is Verdict.RETRY_LATER and not is_limit)
        return self.shared_by > 1 and is_failure

    @property
    def is_evidence(self) -> bool:
        """Whether it shows that the partner accepts records; a 404 or 410 does not, as a wrong address gets one too."""
        is_lookup = self.lookup is not None
        return self.verdict is Verdict.ACCEPTED and self.status not in GONE_STATUSES and not is_lookup

    @property
    def is_about_content(self) -> bool:
        """Whether the refusal is usually about the row itself; one that the stream finds in a 2xx is such a refusal."""
        return self.status in CONTENT_STATUSES or 200 <= (self.status or 0) <= 299

    @property
    def may_take_effect_later(self) -> bool:
        """Whether the partner may still act on this call: it did not answer, or a proxy in front of it gave up."""
        is_open = self.verdict is Verdict.AMBIGUOUS or self.status in GIVEN_UP_STATUSES
        return is_open and self.lookup is None

    @property
    def may_have_created(self) -> bool:
        """Whether the partner may have an object after this call, which was to create one: a new or an earlier one.

        Many partners answer 500 after they have inserted; a 503 means that they did not begin.
        """
        if self.lookup is not None or self.verdict is Verdict.ACCEPTED:
            return False
        status = self.status or 0
        is_failure = 500 <= status <= 599 and status != UNAVAILABLE
        return self.may_take_effect_later or is_failure or status == CONFLICT or 200 <= status <= 299


def decide_verdict(
    status: int | None, *, sent: bool, complete: bool, rules: Mapping[int, Verdict] = NO_RULES
) -> Verdict:
    """Decide the verdict of an attempt.

    A 2xx whose body broke off is accepted: a server writes its status line once it has decided, so the status
    is the answer and the body a remark. Any other status needs a complete response: a broken one may come from
    a proxy in front of a partner that did the work. Sending again is safe, because the key and the bytes stay
    the same (invariant 7).

    Args:
        status: The final HTTP status, None where none came.
        sent: Whether a byte of the request may have left this machine.
        complete: Whether the response was read to its end, or up to the cap on its size.
        rules: The stream's own verdicts by status.
    """
    if status is None:
        return Verdict.AMBIGUOUS if sent else Verdict.RETRY_LATER
    if 200 <= status <= 299:
        return rules.get(status, Verdict.ACCEPTED)
    if not complete or not 300 <= status <= 599:
        return Verdict.AMBIGUOUS
    if status in rules:
        return rules[status]
    if status >= 500 or status in RETRIED_STATUSES or status in PAUSING_STATUSES:
        return Verdict.RETRY_LATER
    return Verdict.REJECTED
