"""pause and resume: stop delivering streams or calling partners, and let them go on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from syncctl.ledger.ledger import Ledger


@dataclass(frozen=True, kw_only=True, slots=True)
class Resumed:
    """The streams and partners that had been paused, or whose circuit was open, until now."""

    streams: tuple[str, ...]
    partners: tuple[str, ...]


def pause_delivery(
    *, ledger: Ledger, streams: Sequence[str], partners: Sequence[str] = (), who: str, reason: str
) -> None:
    """Stop delivering these streams, and calling these partners; rows are still read."""
    for name in streams:
        ledger.streams.pause(name, who=who, reason=reason)
    for name in partners:
        ledger.partners.pause(name, who=who, reason=reason)
    detail = {"streams": list(streams), "partners": list(partners), "reason": reason}
    ledger.audit.add(action="pause", who=who, count=len(streams) + len(partners), detail=detail)


def resume_delivery(
    *,
    ledger: Ledger,
    streams: Sequence[str],
    partners: Sequence[str] = (),
    configured: Mapping[str, str],
    wake: Callable[[str], object],
    who: str,
) -> Resumed:
    """Deliver these streams again, and call these partners again, also where their circuit is open.

    Args:
        configured: The partner's name of each configured stream.
        wake: Called with each configured stream that may go on, once all of them may.
    """
    again = {name: partner for name, partner in configured.items() if name in streams or partner in partners}
    closed = {name for name in again if ledger.breakers.reset(name)}
    paused = {name for name in streams if ledger.streams.resume(name)}
    refused = {name for name in partners if ledger.partners.resume(name)}
    detail = {"streams": list(streams), "partners": list(partners)}
    ledger.audit.add(action="resume", who=who, count=len(closed | paused) + len(refused), detail=detail)
    for name in again:
        wake(name)
    back = refused | {again[name] for name in closed}
    return Resumed(
        streams=tuple(name for name in streams if name in paused | closed),
        partners=tuple(name for name in partners if name in back),
    )
