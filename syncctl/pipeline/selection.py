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


def select_records(
    ledger: Ledger, selection: Selection, allowed: Sequence[State] = TERMINAL
) -> Iterator[list[dict[str, Any]]]:
    """Yield the records that are meant, in pages; those that come to their end after the first page are not.

    Raises:
        UsageError: A state is not one that this may be done to, or can be chosen only by id.
    """
    states = selection.choose_states(allowed)
    operations = ledger.operations
    if selection.ids:
        for start in range(0, len(selection.ids), AT_ONCE):
            yield operations.select_ids(
                selection.ids[start : start + AT_ONCE],
                states=states,
                streams=selection.streams,
                since=selection.since,
                until=selection.until,
                error=selection.error,
            )
        return
    if any(state not in TERMINAL for state in states):
        raise UsageError(
            "records that wait can be chosen only by their id", hint="name them, or choose a finished state"
        )
    # Without an end, a replay of records that fail again at once would never be done.
    now = ledger.streams.server_time()
    until = now if selection.until is None else min(now, selection.until)
    for stream in selection.streams or sorted(ledger.streams.load_all()):
        for state in states:
            after: tuple[datetime, str] | None = None
            while page := operations.select_finished(
                stream, state, since=selection.since, until=until, error=selection.error, after=after, limit=AT_ONCE
            ):
                yield page
                after = (page[-1]["finished_at"], page[-1]["_id"])
