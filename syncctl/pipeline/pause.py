"""pause and resume: stop delivering or polling streams, or calling partners, and let them continue."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from syncctl.core.durations import format_age
from syncctl.ledger.expressions import SYNCCTL
from syncctl.ledger.ledger import Ledger
from syncctl.logs import get_logger

log = get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Resumed:
    """The streams and partners that had been paused, or whose circuit was open, until now."""

    streams: tuple[str, ...]
    partners: tuple[str, ...]
    #: The streams whose polls had been paused.
    polls: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class PauseScope:
    """The parts of a stream that a pause stops, or its end lets continue."""

    deliveries: bool = True
    polls: bool = False

    def list_names(self) -> list[str]:
        """Return the names of the parts, as the audit log stores them."""
        return [name for name, is_in in (("deliveries", self.deliveries), ("polls", self.polls)) if is_in]


DELIVERIES = PauseScope()
POLLS = PauseScope(deliveries=False, polls=True)
EVERYTHING = PauseScope(polls=True)


def describe_pause(paused: Mapping[str, Any], now: datetime) -> str:
    """Return a line about a pause: who began it and when, when it ends, why, and when a probe may end it."""
    since = f" since {paused['at']:%Y-%m-%d %H:%M:%SZ}" if paused.get("at") else ""
    until = f" until {paused['ends_at']:%Y-%m-%d %H:%M:%SZ}" if paused.get("ends_at") else ""
    text = f"paused by {paused.get('by')}{since}{until}: {paused.get('reason') or 'no reason given'}"
    if paused.get("by") == SYNCCTL and paused.get("until"):
        text += f"; next probe in {format_age(max((paused['until'] - now).total_seconds(), 0.0))}"
    return text


def pause_streams(
    *,
    ledger: Ledger,
    streams: Sequence[str],
    partners: Sequence[str] = (),
    scope: PauseScope = DELIVERIES,
    ends_at: datetime | None = None,
    who: str,
    reason: str,
) -> None:
    """Stop delivering or polling these streams, and calling these partners.

    Args:
        ends_at: When the pauses end by themselves; None for never.
    """
    detail = {
        "streams": list(streams),
        "partners": list(partners),
        "reason": reason,
        "scope": scope.list_names(),
        "until": ends_at,
    }
    with ledger.audit.record(action="pause", who=who, detail=detail) as entry:
        entry.begin()
        for name in streams:
            if scope.deliveries:
                ledger.streams.pause(name, who=who, reason=reason, ends_at=ends_at)
            if scope.polls:
                ledger.streams.ensure(name)
                ledger.polls.pause(name, who=who, reason=reason, ends_at=ends_at)
            entry.add(1)
        for name in partners:
            ledger.partners.pause(name, who=who, reason=reason, ends_at=ends_at)
            entry.add(1)


def end_pauses_over(*, ledger: Ledger, stream: str, partner: str) -> None:
    """End the pauses whose time is over. Safe to repeat, also by several at once: one of them writes the audit log.

    Nothing waits for this: every process that a pause stops compares its end with MongoDB's clock (invariant 8).
    """
    over: list[dict[str, Any]] = []
    if ledger.streams.end_over(stream):
        over.append({"streams": [stream], "scope": DELIVERIES.list_names()})
    if ledger.polls.end_over(stream):
        over.append({"streams": [stream], "scope": POLLS.list_names()})
    if ledger.partners.end_over(partner):
        over.append({"partners": [partner]})
    for detail in over:
        log.info("pause.over", **detail)
        reason = "the pause has reached its end time"
        with ledger.audit.record(action="resume", who=SYNCCTL, detail={**detail, "reason": reason}) as entry:
            entry.add(1)


def resume_streams(
    *,
    ledger: Ledger,
    streams: Sequence[str],
    partners: Sequence[str] = (),
    scope: PauseScope = EVERYTHING,
    configured: Mapping[str, str],
    wake: Callable[[str], object],
    who: str,
) -> Resumed:
    """Deliver and poll these streams again, and call these partners again, even if their circuit is open.

    Args:
        scope: The parts that continue; the rest stays paused.
        configured: The name of each configured stream's partner.
        wake: Called with each configured stream that may continue, once all of them may.
    """
    delivered = streams if scope.deliveries else ()
    again = {name: partner for name, partner in configured.items() if name in delivered or partner in partners}
    detail = {"streams": list(streams), "partners": list(partners), "scope": scope.list_names()}
    with ledger.audit.record(action="resume", who=who, detail=detail) as entry:
        entry.begin()
        closed = {name for name in again if ledger.breakers.reset(name)}
        entry.add(len(closed))
        paused = {name for name in delivered if ledger.streams.resume(name)}
        entry.add(len(paused - closed))
        polls = {name for name in streams if scope.polls and ledger.polls.resume(name)}
        entry.add(len(polls - paused - closed))
        refused = {name for name in partners if ledger.partners.resume(name)}
        entry.add(len(refused))
    for name in again:
        wake(name)
    back = refused | {again[name] for name in closed}
    return Resumed(
        streams=tuple(name for name in streams if name in paused | closed),
        polls=tuple(name for name in streams if name in polls),
        partners=tuple(name for name in partners if name in back),
    )
