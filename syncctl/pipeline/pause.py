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
    detail = {"streams": list(streams), "partners": list(partners), "reason": reason}
    with ledger.audit.record(action="pause", who=who, detail=detail) as entry:
        entry.begin()
        for name in streams:
            ledger.streams.pause(name, who=who, reason=reason)
            entry.add(1)
        for name in partners:
            ledger.partners.pause(name, who=who, reason=reason)
            entry.add(1)


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
    detail = {"streams": list(streams), "partners": list(partners)}
    with ledger.audit.record(action="resume", who=who, detail=detail) as entry:
        entry.begin()
        closed = {name for name in again if ledger.breakers.reset(name)}
        entry.add(len(closed))
        paused = {name for name in streams if ledger.streams.resume(name)}
        entry.add(len(paused - closed))
        refused = {name for name in partners if ledger.partners.resume(name)}
        entry.add(len(refused))
    for name in again:
        wake(name)
    back = refused | {again[name] for name in closed}
    return Resumed(
        streams=tuple(name for name in streams if name in paused | closed),
        partners=tuple(name for name in partners if name in back),
    )
