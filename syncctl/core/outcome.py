"""What one attempt came to. A partner's answer is a value, never an exception."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Literal

Halts = Literal["partner", "stream"]

CONFLICT, GONE = 409, 410

GIVEN_UP_STATUSES = frozenset({408, 502, 504})
"""What a proxy answers that no longer waits: what stands behind it may still be at work (RFC 9110)."""
RETRIED_STATUSES = frozenset({408, 425, 429})
"""The 4xx that say "later": request timeout, too early, too many requests (RFC 9110, 8470, 6585)."""


HALTS: dict[int, Halts] = {401: "partner", 403: "partner", GONE: "stream"}
"""What no other record of the partner, or the stream, would fare better with: credentials, an endpoint that is gone."""


class Verdict(StrEnum):
    """The four outcomes of an attempt."""

    ACCEPTED = "accepted"
    RETRY_LATER = "retry_later"
    REJECTED = "rejected"
    AMBIGUOUS = "ambiguous"


NO_RULES: Mapping[int, Verdict] = MappingProxyType({})


def list_rules(outcomes: Mapping[int, Verdict], *, deletes: bool) -> Mapping[int, Verdict]:
    """Return what statuses mean, where not the usual: a 410 of a delete says that the row is gone, as it should be."""
    return {GONE: Verdict.ACCEPTED, **outcomes} if deletes else outcomes


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What one attempt came to.

    Args:
        verdict: What follows from it.
        status: The HTTP status, None where no answer came.
        latency_ms: The whole call: connecting where that was needed, sending, and reading the answer.
        error: One line for people; None when accepted.
        excerpt: The beginning of the response body, capped and redacted.
        retry_after_seconds: What the partner asked for, bounded; None where it did not.
        batch_key: The `Idempotency-Key` of a call of many rows; None for a call of one.
        speaks: What it says of the partner as a whole, where the status is not it: of a call of many rows one speaks.
        alone: It was refused together with others, and is to go alone the next time.
        is_ruled: The stream itself says what its status means: then it is about the record alone.
        ended: When the call ended, by this machine's monotonic clock.
    """

    verdict: Verdict
    latency_ms: float
    status: int | None = None
    error: str | None = None
    excerpt: str = ""
    retry_after_seconds: float | None = None
    batch_key: str | None = None
    speaks: Literal["up", "nothing"] | None = None
    alone: bool = False
    is_ruled: bool = False
    ended: float = field(default_factory=time.monotonic)

    @property
    def halts(self) -> Halts | None:
        """Say what has to stop until an operator looks, because of this answer."""
        is_usual = self.verdict is Verdict.RETRY_LATER and not self.is_ruled
        return HALTS.get(self.status or 0) if is_usual else None

    @property
    def may_land_later(self) -> bool:
        """Tell whether the partner may yet act on this call: it gave no answer, or something before it gave up."""
        return self.verdict is Verdict.AMBIGUOUS or self.status in GIVEN_UP_STATUSES


def decide_verdict(
    status: int | None, *, sent: bool, complete: bool, rules: Mapping[int, Verdict] = NO_RULES
) -> Verdict:
    """Decide what follows from an attempt.

    A 2xx whose body broke off is accepted: a server writes its status line once it has decided, so the status
    is the answer and the body a remark. Of any other status only a complete answer counts: what broke off may
    come from something between us and a partner that did the work. Sending that again is safe, because the
    key and the bytes stay the same.

    Args:
        status: The final HTTP status, None where none came.
        sent: Whether a byte of the request may have left this machine.
        complete: Whether the answer was read to its end, or up to the cap on its size.
        rules: What a stream has a status mean.
    """
    if status is None:
        return Verdict.AMBIGUOUS if sent else Verdict.RETRY_LATER
    if 200 <= status <= 299:
        return rules.get(status, Verdict.ACCEPTED)
    if not complete or not 300 <= status <= 599:
        return Verdict.AMBIGUOUS
    if status in rules:
        return rules[status]
    if status >= 500 or status in RETRIED_STATUSES or status in HALTS:
        return Verdict.RETRY_LATER
    return Verdict.REJECTED
