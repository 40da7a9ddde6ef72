"""replay: send existing records again. discard: give them up, with a reason."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from syncctl.core.states import State
from syncctl.core.stream import Stream
from syncctl.ledger.ledger import Ledger
from syncctl.pipeline.selection import Selection, select_records
from syncctl.pipeline.strict_order import find_overtaken

DISCARDABLE = (State.FAILED, State.PENDING)


@dataclass(frozen=True, kw_only=True, slots=True)
class Replayed:
    """What a replay did, or would do. `skipped`: overtaken by a newer version, never sendable, or changed meanwhile."""

    matched: int
    replayed: int
    skipped: int
    dry_run: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Discarded:
    """What a discard did, or would do."""

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
) -> Replayed:
    """Make finished records due again, the oldest first; safe to repeat and to interrupt.

    Under `latest`, a record that a newer version has overtaken is skipped: sending it would make the partner stale.
    Under `strict` one is overtaken once a newer version was delivered.

    Args:
        new_key: Also what was never delivered goes under a new `Idempotency-Key`.
        replayed_ids: Gets the ids of what was replayed, for a caller that waits for them.
    """
    matched = replayed = 0
    replay = ledger.operations.replay
    for found in select_records(ledger, selection):
        matched += len(found)
        sendable = [each for each in found if not (each["no_payload"] and each["op"] == "upsert")]
        ids = current_ids(ledger, sendable, streams)
        changed = len(ids) if dry_run else replay(ids, states=selection.states, who=who, new_key=new_key)
        replayed += changed
        if replayed_ids is not None:
            replayed_ids += ids
    if not dry_run and matched:
        detail = _describe(selection) | {"skipped": matched - replayed} | ({"new_key": True} if new_key else {})
        ledger.audit.add(action="replay", who=who, count=replayed, detail=detail)
    return Replayed(matched=matched, replayed=replayed, skipped=matched - replayed, dry_run=dry_run)


def current_ids(ledger: Ledger, found: Sequence[Mapping[str, Any]], streams: Mapping[str, Stream]) -> list[str]:
    """Return the ids of the records that may be sent again by their stream's order rule."""
    by_stream: dict[str, list[Mapping[str, Any]]] = {}
    for each in found:
        by_stream.setdefault(each["stream"], []).append(each)
    ids: list[str] = []
    for name, records in by_stream.items():
        stream = streams.get(name)
        if stream is None:
            # It left the configuration: nobody would ever send what became due.
            continue
        if stream.order == "none" or stream.append_only:
            ids += [each["_id"] for each in records]
            continue
        known = ledger.keys.load(name, [each["key_id"] for each in records])
        if stream.order == "strict":
            versions = [(each["_id"], each["key_id"], int(each["seq"])) for each in records]
            overtaken = find_overtaken(ledger, versions, known)
            ids += [each["_id"] for each in records if each["_id"] not in overtaken]
            continue
        for each in records:
            key = known.get(each["key_id"])
            if key is None or key.version == each["_id"] or each["seq"] > key.seq:
                ids.append(each["_id"])
    return ids


def discard_records(*, ledger: Ledger, selection: Selection, reason: str, who: str, dry_run: bool = False) -> Discarded:
    """Give records up: failed ones, and waiting ones that nobody is sending; safe to repeat."""
    matched = discarded = 0
    for found in select_records(ledger, selection, DISCARDABLE):
        matched += len(found)
        if not dry_run:
            ids = [each["_id"] for each in found]
            discarded += ledger.operations.discard(ids, states=selection.states, who=who, reason=reason)
            for stream in {each["stream"] for each in found}:
                # What waited for them is due. A record that was not discarded after all holds it anew.
                ledger.sequencing.release(stream, [each["_id"] for each in found if each["stream"] == stream])
    if not dry_run and matched:
        detail = _describe(selection) | {"reason": reason}
        ledger.audit.add(action="discard", who=who, count=discarded, detail=detail)
    return Discarded(matched=matched, discarded=matched if dry_run else discarded, dry_run=dry_run)


def _describe(selection: Selection) -> dict[str, Any]:
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name in selection.__slots__
        if (value := getattr(selection, name))
    }
