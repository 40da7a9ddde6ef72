"""The demo's account: the source's rows compared with the partner's rows, and the partner's calls counted."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

Rows = Mapping[str, Mapping[str, Any]]
SAMPLES = 3
VALUE_WIDTH = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class RowCounts:
    """The source's rows compared with the partner's."""

    source_rows: int
    #: Rows whose newest content the partner has, value by value.
    delivered: int
    #: Rows whose newest content the partner does not have.
    lost: int
    #: Lost rows of which the partner has older content.
    stale: int
    #: Rows that the partner has and the source does not.
    extra: int
    #: Descriptions of some rows that differ.
    samples: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class CallCounts:
    """The counts of the calls in the partner's log."""

    calls: int
    #: Idempotency-Keys that the partner has applied.
    distinct_keys: int
    #: Calls with the key of an earlier call.
    repeated_calls: int
    #: Repeated calls that had already been applied and so had no effect.
    applied_before: int
    #: Contents applied again under a new key, because an older version might have arrived after them.
    resent: int
    #: Calls whose bytes differ from those of an earlier call with the same key.
    violations: int
    #: Calls that were applied although their key had been applied before.
    duplicated_effects: int


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentCounts:
    """The objects of a partner with its own ids, compared with the rows that they were created from."""

    #: Lines of all orders in the source.
    lines: int
    #: Objects that the partner has created.
    created: int
    #: Objects beyond the first of their row.
    created_twice: int
    #: Updates that the partner has applied.
    updated: int
    #: Lookups of a row's object that the partner answered.
    lookups: int
    #: Lookups that the partner answered with an id.
    found: int
    #: Rows of the source that have the id of their object, and no error.
    written_back: int
    #: Descriptions of some rows that differ.
    samples: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """The demo's result, which `--json` prints. `differences` says why it is not exact."""

    rows: int
    source_rows: int
    changes: int
    records: int
    delivered: int
    distinct_keys: int
    calls: int
    repeated_calls: int
    applied_before: int
    resent: int
    violations: int
    duplicated_effects: int
    lost: int
    stale: int
    extra: int
    unfinished: int
    failed_before_fix: int
    replayed: int
    overtaken: int
    answers: Mapping[str, int]
    duration_ms: float
    rows_per_second: float
    #: Set only for a partner with its own ids.
    documents: Mapping[str, int] | None
    exact: bool
    differences: tuple[str, ...]
    directory: str | None


def compare_rows(source: Rows, partner: Rows) -> RowCounts:
    """Compare every value of every row of the source with the partner's rows."""
    missing = [row for row in source if row not in partner]
    stale = [row for row, values in source.items() if row in partner and partner[row] != values]
    extra = [row for row in partner if row not in source]
    samples = [f"the partner does not have row {row}" for row in missing[:SAMPLES]]
    samples += [f"row {row} differs in {_name_differences(source[row], partner[row])}" for row in stale[:SAMPLES]]
    samples += [f"the source does not have row {row}" for row in extra[:SAMPLES]]
    lost = len(missing) + len(stale)
    return RowCounts(
        source_rows=len(source),
        delivered=len(source) - lost,
        lost=lost,
        stale=len(stale),
        extra=len(extra),
        samples=tuple(samples),
    )


def count_calls(calls: Iterable[Mapping[str, Any]]) -> CallCounts:
    """Count the partner's calls by their keys, in order of arrival."""
    bodies: dict[str, str] = {}
    applied: set[str] = set()
    contents: Counter[tuple[str, str]] = Counter()
    counts: Counter[str] = Counter()
    for call in calls:
        key, body, fate = call["key"], call["body_hash"], call["fate"]
        counts["calls"] += 1
        if call["method"] == "GET":
            # A lookup changes nothing.
            continue
        counts["repeated_calls"] += key in bodies
        counts["applied_before"] += key in applied
        counts["violations"] += bodies.setdefault(key, body) != body
        counts["duplicated_effects"] += fate == "applied" and key in applied
        if fate in ("applied", "dropped_after") and key not in applied:
            applied.add(key)
            contents[call["row"], body] += 1
    names = [field.name for field in fields(CallCounts) if field.name not in ("distinct_keys", "resent")]
    resent = sum(count - 1 for count in contents.values())
    return CallCounts(distinct_keys=len(applied), resent=resent, **{name: counts[name] for name in names})


def count_documents(
    source: Rows, objects: Rows, calls: Iterable[Mapping[str, Any]], written: Mapping[str, Mapping[str, Any]]
) -> DocumentCounts:
    """Compare the ids in the source with those of the partner's objects, and count its calls.

    Args:
        objects: The partner's objects by its own ids.
        written: The values that were written back for each row: `partner_id` and `sync_error`.
    """
    ids: dict[str, list[str]] = {}
    for name, document in objects.items():
        ids.setdefault(str(document.get("id")), []).append(name)
    twice = {row: names for row, names in ids.items() if len(names) > 1}
    expected = {row: {"partner_id": names[-1], "sync_error": None} for row, names in ids.items()}
    wrong = [row for row in source if written[row] != expected.get(row)]
    calls = list(calls)
    fates = Counter((call["method"], call["fate"]) for call in calls)
    applied = [call for call in calls if call["fate"] in ("applied", "dropped_after")]
    samples = [f"the partner has created row {row} as {' and '.join(names)}" for row, names in twice.items()][:SAMPLES]
    samples += [f"row {row} has {written[row]}, not {expected.get(row)}" for row in wrong[:SAMPLES]]
    created = sum(call["method"] == "POST" for call in applied)
    return DocumentCounts(
        lines=sum(len(document["lines"]) for document in source.values()),
        created=created,
        created_twice=created - len(ids),
        updated=len({call["key"] for call in applied if call["method"] == "PUT"}),
        lookups=fates["GET", "found"] + fates["GET", "not_found"],
        found=fates["GET", "found"],
        written_back=len(source) - len(wrong),
        samples=tuple(samples),
    )


def find_document_differences(counts: DocumentCounts, *, rows: int) -> Sequence[str]:
    """Return a description of each error in the partner's objects and their ids."""
    checks = [
        (counts.created_twice, f"the partner has created {counts.created_twice} objects twice"),
        (counts.written_back != rows, f"{rows - counts.written_back} rows do not have the id of their object"),
    ]
    return [text for is_wrong, text in checks if is_wrong] + list(counts.samples)


def find_differences(
    *, rows: int, compared: RowCounts, called: CallCounts, keys_applied: int, unfinished: int, still_failed: int
) -> Sequence[str]:
    """Return a description of each difference that keeps the account from being exact.

    Args:
        keys_applied: The partner's own count of the keys it has applied.
        unfinished: Records that are not yet delivered, superseded or failed.
        still_failed: Failed records that are not superseded by a newer version.
    """
    checks = [
        (compared.source_rows != rows, f"the source has {compared.source_rows} rows, not {rows}"),
        (compared.lost, f"lost {compared.lost} rows, {compared.stale} of them stale"),
        (compared.extra, f"the partner has {compared.extra} rows that the source does not have"),
        (called.violations, f"{called.violations} calls had different bytes under the same Idempotency-Key"),
        (called.duplicated_effects, f"{called.duplicated_effects} calls were applied twice"),
        (
            called.distinct_keys != keys_applied,
            f"the partner counts {keys_applied} applied keys, but its log has {called.distinct_keys}",
        ),
        (unfinished, f"{unfinished} records are not finished"),
        (still_failed, f"{still_failed} records are failed, with no newer version"),
    ]
    return [text for is_wrong, text in checks if is_wrong] + list(compared.samples)


def _name_differences(source: Mapping[str, Any], partner: Mapping[str, Any]) -> str:
    names = [name for name in {**source, **partner} if source.get(name, ...) != partner.get(name, ...)]
    return ", ".join(f"{name} ({_shorten(partner.get(name))}, not {_shorten(source.get(name))})" for name in names)


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= VALUE_WIDTH else f"{text[:VALUE_WIDTH]}..."
