"""The account: what the source holds against what the partner says it received, row by row and call by call."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

Rows = Mapping[str, Mapping[str, Any]]
SAMPLES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class RowCounts:
    """Source rows against the partner's rows.

    Args:
        delivered: Rows whose newest content the partner holds, value by value.
        lost: Rows whose newest content it does not hold; `stale` of them with older content.
        extra: Rows that it holds and the source does not.
        samples: Some rows that differ, in words.
    """

    source_rows: int
    delivered: int
    lost: int
    stale: int
    extra: int
    samples: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class CallCounts:
    """What the partner says of its calls.

    Args:
        distinct_keys: Idempotency-Keys that it has applied.
        repeated_calls: Calls that came under a key which a call before them had.
        applied_before: Those of them that had been applied already, and so did nothing.
        resent: Contents that were applied once more under a new key, since an older version might have landed later.
        violations: Calls whose bytes differ from an earlier call's under the same key.
        duplicated_effects: Calls that were applied although their key had been.
    """

    calls: int
    distinct_keys: int
    repeated_calls: int
    applied_before: int
    resent: int
    violations: int
    duplicated_effects: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """The demo's last word; `--json` prints it. `differences` says why it is not exact."""

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
    """Hold every value of every row of the source against what the partner holds."""
    missing = [row for row in source if row not in partner]
    stale = [row for row, values in source.items() if row in partner and partner[row] != values]
    extra = [row for row in partner if row not in source]
    samples = [f"row {row} is missing at the partner" for row in missing[:SAMPLES]]
    samples += [f"row {row} differs in {_name_differences(source[row], partner[row])}" for row in stale[:SAMPLES]]
    samples += [f"row {row} is not in the source" for row in extra[:SAMPLES]]
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
    """Count the partner's calls by their keys, in the order in which they came."""
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
    """Return, in words, everything that keeps the account from being exact.

    Args:
        keys_applied: The partner's own count of the keys it has applied.
        unfinished: Records that are still on their way.
        still_failed: Failed records that no newer version has overtaken.
    """
    found = [
        (compared.source_rows != rows, f"the source has {compared.source_rows} rows, not {rows}"),
        (compared.lost, f"lost {compared.lost} rows, {compared.stale} of them stale"),
        (compared.extra, f"the partner holds {compared.extra} rows that the source does not have"),
        (called.violations, f"{called.violations} calls had other bytes under the same Idempotency-Key"),
        (called.duplicated_effects, f"{called.duplicated_effects} calls were applied twice"),
        (
            called.distinct_keys != keys_applied,
            f"the partner counts {keys_applied} applied keys, and its log has {called.distinct_keys}",
        ),
        (unfinished, f"{unfinished} records are still on their way"),
        (still_failed, f"{still_failed} records are failed, and no newer version has overtaken them"),
    ]
    return [text for is_wrong, text in found if is_wrong] + list(compared.samples)


def _name_differences(source: Mapping[str, Any], partner: Mapping[str, Any]) -> str:
    names = [name for name in {**source, **partner} if source.get(name, ...) != partner.get(name, ...)]
    return ", ".join(f"{name} ({partner.get(name)!r}, not {source.get(name)!r})" for name in names)
