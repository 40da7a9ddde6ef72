"""The demo's account: the source's rows compared with the partner's rows, and the partner's calls counted."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

Rows = Mapping[str, Mapping[str, Any]]
SAMPLES = 3


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
    """The calls in the partner's log, counted."""

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


def find_differences(
    *, rows: int, compared: RowCounts, called: CallCounts, keys_applied: int, unfinished: int, still_failed: int
) -> Sequence[str]:
    """Return a description of everything that keeps the account from being exact.

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
    return ", ".join(f"{name} ({partner.get(name)!r}, not {source.get(name)!r})" for name in names)
