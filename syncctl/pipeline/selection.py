"""Which records an operator means."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from syncctl.core.states import TERMINAL, State
from syncctl.errors import UsageError
from syncctl.ledger.ledger import Ledger

AT_ONCE = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Records by id, stream, state, error fingerprint, and time of their end (aware; `until` not included)."""

    ids: tuple[str, ...] = ()
    streams: tuple[str, ...] = ()
    states: tuple[str, ...] = (State.FAILED.value,)
    since: datetime | None = None
    until: datetime | None = None
    error: str | None = None

    def choose_states(self, allowed: Sequence[State] = TERMINAL) -> list[State]:
        """Return the states.

        Raises:
            UsageError: A state is not one that this may be done to.
        """
        names = [state.value for state in allowed]
        for state in self.states:
            if state not in names:
                raise UsageError(f"state {state!r} is not one of {', '.join(names)}", hint="see --help")
        return [State(state) for state in self.states]

    def to_criteria(self) -> dict[str, Any]:
        """Return what a record must meet beside its stream and state."""
        criteria: dict[str, Any] = {}
        ended = ends_between(self.since, self.until)
        if ended:
            criteria["finished_at"] = ended
        if self.error:
            criteria["error.fingerprint"] = self.error
        return criteria


def ends_between(since: datetime | None, until: datetime | None) -> dict[str, Any]:
    """Return the bounds of a time; empty where there are none."""
    return {name: at for name, at in (("$gte", since), ("$lt", until)) if at is not None}


def select_records(
    ledger: Ledger, selection: Selection, allowed: Sequence[State] = TERMINAL
) -> Iterator[list[dict[str, Any]]]:
    """Yield the records that are meant, in pages; those that come to their end after the first page are not.

    Raises:
        UsageError: A state is not one that this may be done to, or can be chosen only by id.
    """
    states = selection.choose_states(allowed)
    criteria = selection.to_criteria()
    if selection.ids:
        criteria["state"] = {"$in": [state.value for state in states]}
        if selection.streams:
            criteria["stream"] = {"$in": list(selection.streams)}
        for start in range(0, len(selection.ids), AT_ONCE):
            yield ledger.selections.load_ids(selection.ids[start : start + AT_ONCE], criteria)
        return
    if any(state not in TERMINAL for state in states):
        raise UsageError(
            "records that wait can be chosen only by their id", hint="name them, or choose a finished state"
        )
    # Without an end, a replay of what keeps failing would never be done.
    now = ledger.streams.server_time()
    until = now if selection.until is None else min(now, selection.until)
    criteria["finished_at"] = {**criteria.get("finished_at", {}), "$lt": until}
    for stream in selection.streams or sorted(ledger.streams.load_all()):
        for state in states:
            yield from _pages(ledger, stream, state, criteria)


def _pages(ledger: Ledger, stream: str, state: State, criteria: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
    after: tuple[datetime, str] | None = None
    while found := ledger.selections.load_finished(stream, state, criteria, after=after, limit=AT_ONCE):
        yield found
        after = (found[-1]["finished_at"], found[-1]["_id"])
