"""replay: send existing records again. discard: give them up, with a reason."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from syncctl.core.states import RETRYING, State, stored_state
from syncctl.core.stream import Stream
from syncctl.ledger.ledger import Ledger
from syncctl.pipeline.delivery.version_order import find_overtaken
from syncctl.pipeline.selection import Selection, select_records

DISCARDABLE = (State.FAILED.value, State.PENDING.value, RETRYING)


@dataclass(frozen=True, kw_only=True, slots=True)
class Replayed:
    """The result of a replay, or of its dry run, as numbers of records."""

    matched: int
    replayed: int
    #: Records that a newer version has overtaken, that cannot be sent at all, or that have changed in the meantime.
    skipped: int
    dry_run: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Discarded:
    """The result of a discard, or of its dry run, as numbers of records."""

    matched: int
    discarded: int
    dry_run: bool


def replay_records(
    *,
    ledger: Ledger,
    selection: Selection,
    streams: Mapping[str, Stream],
    who: str,
    dry_run: bool = False,
    new_key: bool = False,
    replayed_ids: list[str] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    show: Callable[[int], None] = lambda _: None,
) -> Replayed:
    """Make finished records due again, the oldest first; safe to repeat and to interrupt.

    A record that a newer version has overtaken is skipped (invariant 5): under `latest`, once the newer version exists;
    under `strict`, once it was delivered.

    Args:
        new_key: Whether records that were never delivered also get a new `Idempotency-Key`.
        replayed_ids: Receives the ids of the replayed records, for a caller that waits for them.
        should_stop: Called between pages.
        show: Called with the number of records replayed so far.
    """
    matched = replayed = 0
    detail = selection.describe() | ({"new_key": True} if new_key else {})
    with ledger.audit.record(action="replay", who=who, detail=detail) as entry:
        for page in select_records(ledger, selection):
            sendable = [record for record in page if not (record["no_payload"] and record["op"] == "upsert")]
            ids = find_current(ledger, sendable, streams)
            if selection.limit is not None:
                page, ids = _cut(page, ids, at_most=selection.limit - replayed)  # noqa: PLW2901
            matched += len(page)
            if dry_run:
                replayed += len(ids)
            elif page:
                entry.begin()
                done = ledger.operations.replay(ids, states=selection.states, who=who, new_key=new_key)
                replayed += done
                entry.add(done, skipped=matched - replayed)
            if replayed_ids is not None:
                replayed_ids += ids
            show(replayed)
            if (selection.limit is not None and replayed >= selection.limit) or should_stop():
                break
    return Replayed(matched=matched, replayed=replayed, skipped=matched - replayed, dry_run=dry_run)


def _cut(page: list[dict[str, Any]], ids: Sequence[str], *, at_most: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the beginning of a page with at most `at_most` of the records in `ids`, and the ids that it holds."""
    if len(ids) <= at_most:
        return page, list(ids)
    chosen = set(ids)
    kept = [record["_id"] for record in page if record["_id"] in chosen][:at_most]
    end = next((number for number, record in enumerate(page, 1) if record["_id"] == kept[-1]), 0) if kept else 0
    return page[:end], kept


def find_current(ledger: Ledger, records: Sequence[Mapping[str, Any]], streams: Mapping[str, Stream]) -> list[str]:
    """Return the ids of the records that may be sent again by their stream's order rule."""
    by_stream: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        by_stream.setdefault(record["stream"], []).append(record)
    ids: list[str] = []
    for name, of_stream in by_stream.items():
        stream = streams.get(name)
        if stream is None:
            # The stream left the configuration: no worker would ever send its due records.
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
    should_stop: Callable[[], bool] = lambda: False,
    show: Callable[[int], None] = lambda _: None,
) -> Discarded:
    """Give up failed records, and pending ones that are not in flight; safe to repeat.

    Args:
        written_back: The streams whose outcomes are written back into the source.
        should_stop: Called between pages.
        show: Called with the number of records discarded so far.
    """
    matched = discarded = 0
    detail = selection.describe() | {"reason": reason}
    states = list(dict.fromkeys(stored_state(state) for state in selection.states))
    with ledger.audit.record(action="discard", who=who, detail=detail) as entry:
        for page in _limit(select_records(ledger, selection, DISCARDABLE), selection.limit):
            if should_stop():
                break
            matched += len(page)
            if dry_run or not page:
                show(matched)
                continue
            entry.begin()
            ids = [record["_id"] for record in page]
            done = ledger.operations.discard(ids, states=states, who=who, reason=reason, written_back=written_back)
            discarded += done
            entry.add(done)
            show(discarded)
            for stream in {record["stream"] for record in page}:
                # Records that waited for them become due. A record that was not discarded holds others back again.
                of_stream = [record["_id"] for record in page if record["stream"] == stream]
                ledger.sequencing.release(stream, of_stream)
    return Discarded(matched=matched, discarded=matched if dry_run else discarded, dry_run=dry_run)


def _limit(pages: Iterator[list[dict[str, Any]]], limit: int | None) -> Iterator[list[dict[str, Any]]]:
    """Yield pages until they have held `limit` records in all."""
    left = limit
    for page in pages:
        if left is None:
            yield page
            continue
        yield page[:left]
        left -= len(page[:left])
        if left <= 0:
            return
