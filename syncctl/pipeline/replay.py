"""replay: send existing records again. discard: give them up, with a reason. And the selection of the records."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from syncctl.core.states import TERMINAL, State
from syncctl.core.stream import Stream
from syncctl.errors import UsageError
from syncctl.ledger.ledger import Ledger
from syncctl.pipeline.strict_order import find_overtaken

RECORDS_AT_ONCE = 1000
DISCARDABLE = (State.FAILED, State.PENDING)


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """The records that an operator selects."""

    ids: tuple[str, ...] = ()
    #: Empty: every stream.
    streams: tuple[str, ...] = ()
    states: tuple[str, ...] = (State.FAILED.value,)
    #: Only records that finished at this time or later; aware.
    since: datetime | None = None
    #: Only records that finished before this time; aware.
    until: datetime | None = None
    #: The fingerprint of their error.
    error: str | None = None

    def choose_states(self, allowed: Sequence[State] = TERMINAL) -> list[State]:
        """Return the states.

        Raises:
            UsageError: A state is not one of the allowed ones.
        """
        names = [state.value for state in allowed]
        for state in self.states:
            if state not in names:
                raise UsageError(f"state {state!r} is not one of {', '.join(names)}", hint="see --help")
        return [State(state) for state in self.states]


@dataclass(frozen=True, kw_only=True, slots=True)
class Replayed:
    """What a replay did, or would do."""

    matched: int
    replayed: int
    #: Overtaken by a newer version, not sendable at all, or changed meanwhile.
    skipped: int
    dry_run: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Discarded:
    """What a discard did, or would do."""

    matched: int
    discarded: int
    dry_run: bool


def select_records(
    ledger: Ledger, selection: Selection, allowed: Sequence[State] = TERMINAL
) -> Iterator[list[dict[str, Any]]]:
    """Yield the selected records, page by page; records that finish after the first page are not among them.

    Raises:
        UsageError: A state is not one of the allowed ones, or its records can be selected only by id.
    """
    states = selection.choose_states(allowed)
    operations = ledger.operations
    if selection.ids:
        for start in range(0, len(selection.ids), RECORDS_AT_ONCE):
            yield operations.select_ids(
                selection.ids[start : start + RECORDS_AT_ONCE],
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
                stream,
                state,
                since=selection.since,
                until=until,
                error=selection.error,
                after=after,
                limit=RECORDS_AT_ONCE,
            ):
                yield page
                after = (page[-1]["finished_at"], page[-1]["_id"])


def replay_records(
    *,
    ledger: Ledger,
    selection: Selection,
    streams: Mapping[str, Stream],
    who: str,
    dry_run: bool = False,
    new_key: bool = False,
    replayed_ids: list[str] | None = None,
) -> Replayed:
    """Make finished records due again, the oldest first; safe to repeat and to interrupt.

    A record that a newer version has overtaken is skipped (invariant 5): under `latest`, once the newer version exists;
    under `strict`, once it was delivered.

    Args:
        new_key: Records that were never delivered take a new `Idempotency-Key` too.
        replayed_ids: Receives the ids of the replayed records, for a caller that waits for them.
    """
    matched = replayed = 0
    detail = _describe(selection) | ({"new_key": True} if new_key else {})
    with ledger.audit.record(action="replay", who=who, detail=detail) as entry:
        for page in select_records(ledger, selection):
            matched += len(page)
            sendable = [record for record in page if not (record["no_payload"] and record["op"] == "upsert")]
            ids = find_current(ledger, sendable, streams)
            if dry_run:
                replayed += len(ids)
            elif page:
                entry.begin()
                done = ledger.operations.replay(ids, states=selection.states, who=who, new_key=new_key)
                replayed += done
                entry.add(done, skipped=matched - replayed)
            if replayed_ids is not None:
                replayed_ids += ids
    return Replayed(matched=matched, replayed=replayed, skipped=matched - replayed, dry_run=dry_run)


def find_current(ledger: Ledger, records: Sequence[Mapping[str, Any]], streams: Mapping[str, Stream]) -> list[str]:
    """Return the ids of the records that may be sent again by their stream's order rule."""
    by_stream: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        by_stream.setdefault(record["stream"], []).append(record)
    ids: list[str] = []
    for name, of_stream in by_stream.items():
        stream = streams.get(name)
        if stream is None:
            # It left the configuration: no worker would ever send its due records.
            continue
        if stream.order == "none" or stream.append_only:
            ids += [record["_id"] for record in of_stream]
            continue
        known = ledger.keys.load(name, [record["key_id"] for record in of_stream])
        if stream.order == "strict":
            versions = [(record["_id"], record["key_id"], int(record["seq"])) for record in of_stream]
            overtaken = find_overtaken(versions, known)
            ids += [record["_id"] for record in of_stream if record["_id"] not in overtaken]
            continue
        for record in of_stream:
            key = known.get(record["key_id"])
            if key is None or key.version == record["_id"] or record["seq"] > key.seq:
                ids.append(record["_id"])
    return ids


def discard_records(
    *,
    ledger: Ledger,
    selection: Selection,
    reason: str,
    who: str,
    dry_run: bool = False,
    written_back: Sequence[str] = (),
) -> Discarded:
    """Give up failed records, and pending ones that are not in flight; safe to repeat.

    Args:
        written_back: The streams whose outcomes are written back into the source.
    """
    matched = discarded = 0
    detail = _describe(selection) | {"reason": reason}
    with ledger.audit.record(action="discard", who=who, detail=detail) as entry:
        for page in select_records(ledger, selection, DISCARDABLE):
            matched += len(page)
            if dry_run or not page:
                continue
            entry.begin()
            ids = [record["_id"] for record in page]
            done = ledger.operations.discard(
                ids, states=selection.states, who=who, reason=reason, written_back=written_back
            )
            discarded += done
            entry.add(done)
            for stream in {record["stream"] for record in page}:
                # Records that waited for them are due. One that was not discarded after all holds others back anew.
                of_stream = [record["_id"] for record in page if record["stream"] == stream]
                ledger.sequencing.release(stream, of_stream)
    return Discarded(matched=matched, discarded=matched if dry_run else discarded, dry_run=dry_run)


def _describe(selection: Selection) -> dict[str, Any]:
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name in selection.__slots__
        if (value := getattr(selection, name))
    }
