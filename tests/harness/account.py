"""The account: source, ledger and partner compared with each other, row by row and call by call."""

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

from syncctl.ledger.codec import decode_values
from syncctl.local.mock_partner import ReceivedCall
from tests.harness.holding_partner import name_object
from tests.harness.written_source import Line, Version

Doc = Mapping[str, Any]
Lines = Mapping[tuple[int, int], Sequence[Line]]
"""The committed versions of each line, by the row that it belongs to and its number."""
TERMINAL = {"delivered", "failed", "superseded", "discarded"}
HISTORY_LENGTH = 50
SHOWN_AT_MOST = 30
APPLIED = {"applied", "dropped_after"}
_NEVER = {"violation", "keyless", "unauthorized"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Documents:
    """The results of a run with documents, beside its rows.

    Args:
        written: The outcomes that were written back, by row.
    """

    lines: Lines
    written: Mapping[int, Doc]


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """The figures of a run whose account is exact.

    Args:
        repeats: Calls under a key that the partner had applied before.
        lost: Times a record's worker died or stalled while it held the record.
        late: Outcomes that came after their lease.
        unanswered: Calls without an answer, which may have been applied.
        resent: Records sent again because an older call may have landed after them.
    """

    rows: int
    records: int
    states: Mapping[str, int]
    calls: int
    distinct_keys: int
    repeats: int
    lost: int
    late: int
    resent: int
    unanswered: int

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in asdict(self).items())


def take_account(
    *,
    records: Sequence[Doc],
    keys: Sequence[Doc],
    streams: Sequence[Doc],
    batches: Sequence[Doc],
    versions: Mapping[int, Sequence[Version]],
    calls: Sequence[ReceivedCall],
    bodies: Mapping[str, bytes],
    order: str,
    failed_allowed: bool,
    documents: Documents | None = None,
) -> Account:
    """Compare source, ledger and partner with each other, and return the figures.

    Raises:
        AssertionError: with every violation.
    """
    lines = documents.lines if documents is not None else None
    violations = [
        *check_states(records, order=order, failed_allowed=failed_allowed),
        *check_leases(records, streams, batches),
        *check_versions(records, keys, versions, lines),
        *check_calls(calls),
        *check_attempts(records, calls),
        *(check_sequence(records, calls) if order == "strict" else ()),
        *check_partner(bodies, versions, order=order, given_up=find_given_up(records, keys), lines=lines),
        *(check_documents(documents, records, keys, calls) if documents is not None else ()),
    ]
    account = Account(
        rows=len(versions),
        records=len(records),
        states=dict(Counter(record["state"] for record in records)),
        calls=len(calls),
        distinct_keys=len({call.key for call in calls}),
        repeats=count_repeats(calls),
        lost=sum(1 for entry in entries(records, "lost")),
        late=sum(1 for entry in entries(records, "attempt") if entry.get("late")),
        resent=sum(1 for entry in entries(records, "resent")),
        unanswered=sum(1 for entry in entries(records, "attempt") if entry["outcome"] == "ambiguous"),
    )
    shown = [
        *violations[:SHOWN_AT_MOST],
        *([f"and {len(violations) - SHOWN_AT_MOST} more"] if len(violations) > SHOWN_AT_MOST else []),
    ]
    assert not violations, "\n".join([f"the account is not exact: {account}", *shown])
    return account


def entries(records: Sequence[Doc], action: str) -> Iterator[Doc]:
    """Yield the history entries of one kind."""
    return (entry for record in records for entry in record.get("history", ()) if entry["action"] == action)


def check_states(records: Sequence[Doc], *, order: str, failed_allowed: bool) -> Iterator[str]:
    """Every record is terminal; none has failed, except, under `latest`, one that a newer version has overtaken.

    Such a record stays failed when it is replayed, because sending it would make the partner stale.
    """
    newest: dict[str, int] = {}
    for record in records:
        if record["state"] == "delivered":
            newest[record["key_id"]] = max(newest.get(record["key_id"], 0), record["seq"])
    for record in records:
        if record["state"] not in TERMINAL:
            yield f"{record['_id']} is {record['state']}"
        overtaken = order == "latest" and record["seq"] < newest.get(record["key_id"], 0)
        if record["state"] == "failed" and not overtaken and not failed_allowed:
            yield f"{record['_id']} has failed: {record.get('error')}"


def check_leases(records: Sequence[Doc], streams: Sequence[Doc], batches: Sequence[Doc]) -> Iterator[str]:
    """No lease is left, of a record, a batch, a poll or a dispatch."""
    for record in records:
        left = {"lease", "in_flight_key", "in_flight_retry"} & set(record)
        if left:
            yield f"{record['_id']} ({record['state']}) still has {sorted(left)}"
    for batch in batches:
        yield f"a batch is still in flight: {batch}"
    for stream in streams:
        for kind in ("poll", "dispatch"):
            if "token" in stream.get(kind, {}):
                yield f"stream {stream['_id']} still has the lease of a {kind}: {stream[kind]}"


def check_versions(
    records: Sequence[Doc],
    keys: Sequence[Doc],
    versions: Mapping[int, Sequence[Version]],
    lines: Lines | None = None,
) -> Iterator[str]:
    """Each record is a committed version, no version is there twice, and the newest version of each row is there.

    A version that another followed before the next poll is not in the ledger, because no poll could have seen it. With
    lines, a row is there once more for each change of its lines that a poll has found.
    """
    newest_by_row = {int(key["key"]["id"]): key["version"] for key in keys}
    committed = {version.changed: version for history in versions.values() for version in history}
    logged: dict[int, Doc] = {}
    for record in records:
        payload = decode_values(record["payload"])
        changed = int(str(payload["changed"]))
        if lines is not None:
            yield from check_lines(record, payload.pop("lines"), lines)
            if newest_by_row.get(int(str(payload["id"]))) != record["_id"] and changed in logged:
                continue
        elif changed in logged:
            yield f"version {changed} is in the ledger twice: {record['_id']} and {logged[changed]['_id']}"
        logged[changed] = record
        if changed not in committed:
            yield f"{record['_id']} is a version that was never committed: {record['payload']}"
        elif differences := list(compare(committed[changed], payload)):
            yield f"{record['_id']} differs from the source: {differences}"
    known = {int(key["key"]["id"]): key for key in keys}
    for row, history in versions.items():
        newest = logged.get(history[-1].changed)
        if newest is None:
            yield f"the newest version of row {row} ({history[-1].changed}) is not in the ledger"
        elif row not in known or known[row]["version"] != newest["_id"]:
            yield f"the key of row {row} does not know its newest version: {known.get(row)}"
        elif newest["state"] == "delivered" and known[row].get("delivered_seq") != newest["seq"]:
            yield f"the key of row {row} does not know that its newest version was delivered: {known[row]}"
        elif newest["state"] == "superseded":
            yield f"the newest version of row {row} is superseded by {newest.get('superseded_by')}"


def check_lines(record: Doc, logged: Any, lines: Lines) -> Iterator[str]:
    """Each line of a record is a committed version of that line, and the lines are in order."""
    if [line["line"] for line in logged] != sorted({line["line"] for line in logged}):
        yield f"{record['_id']} has its lines in another order: {logged}"
    for line in logged:
        row = int(record["key"]["id"])
        if show_line(line) not in [show_line(asdict(version)) for version in lines.get((row, line["line"]), ())]:
            yield f"{record['_id']} has a line that was never committed: {line}"


def show_line(line: Doc) -> tuple[Any, ...]:
    """Return the fields of a line that are sent."""
    return line["line"], line["sku"], line["changed"]


def list_newest_lines(row: int, lines: Lines) -> list[tuple[Any, ...]]:
    """Return the newest versions of a row's lines."""
    return sorted(show_line(asdict(versions[-1])) for (order, _), versions in lines.items() if order == row)


def check_documents(
    documents: Documents, records: Sequence[Doc], keys: Sequence[Doc], calls: Sequence[ReceivedCall]
) -> Iterator[str]:
    """Each update went under the partner's own id, and each row has its newest outcome and that id."""
    for call in calls:
        if call.method == "PUT" and call.path != f"/orders/{name_object(call.row)}":
            yield f"an update of row {call.row} went to {call.path}"
    known = {record["_id"]: record for record in records}
    for key in keys:
        row, record = int(key["key"]["id"]), known.get(key["version"], {"state": None})
        logged = [show_line(line) for line in decode_values(record["payload"] or {}).get("lines", ())]  # type: ignore[union-attr]
        if logged != list_newest_lines(row, documents.lines):
            yield f"the newest record of row {row} has other lines than its row: {logged}"
        if record["state"] != "delivered":
            continue
        captured = decode_values(key.get("remote", {}).get("values", {}))
        if captured != {"id": name_object(row)}:
            yield f"the key of row {row} knows the partner's id as {captured}"
        expected = {"remote.id": name_object(row), "error": None, "record_id": record["_id"], "state": "delivered"}
        if documents.written.get(row) != expected:
            yield f"row {row} was written back as {documents.written.get(row)} and not as {expected}"


def compare(version: Version, values: Doc) -> Iterator[str]:
    """Yield each column whose value is not the source's."""
    expected = asdict(version)
    for name in expected.keys() | values.keys():
        value = values.get(name)
        exact = Decimal(str(value)) if name == "amount" and value is not None else value
        if exact != expected.get(name):
            yield f"{name} is {value!r} and was {expected.get(name)!r}"


def check_calls(calls: Sequence[ReceivedCall]) -> Iterator[str]:
    """Every call of a key has the same bytes and its own attempt number (invariants 4 and 7)."""
    bodies: dict[str, str] = {}
    seen: set[tuple[str, int]] = set()
    for call in calls:
        if call.fate in _NEVER:
            yield f"the partner saw a call that must never be: {call}"
        if bodies.setdefault(call.key, call.body_hash) != call.body_hash:
            yield f"other bytes under the key {call.key}"
        if (call.key, call.attempt) in seen:
            yield f"attempt {call.attempt} of {call.key} was made twice"
        seen.add((call.key, call.attempt))


def check_attempts(records: Sequence[Doc], calls: Sequence[ReceivedCall]) -> Iterator[str]:
    """The ledger's attempts are the partner's calls, by key and number, except for those open at a crash."""
    made = {(call.key, call.attempt): call for call in calls}
    noted: dict[tuple[str, int], Doc] = {}
    open_at_crash: set[tuple[str, int]] = set()
    truncated: set[str] = set()
    for record in records:
        history = record.get("history", ())
        if len(history) >= HISTORY_LENGTH:
            truncated.add(record["_id"])
            continue
        attempts = [event for event in history if event["action"] == "attempt"]
        if len(attempts) != record["attempts"]:
            yield f"{record['_id']} counts {record['attempts']} attempts and remembers {len(attempts)}"
        if record["state"] == "delivered" and not any(
            attempt["outcome"] == "accepted" and not attempt.get("late") for attempt in attempts
        ):
            yield f"{record['_id']} is delivered, and no call of it was accepted in time"
        for attempt in attempts:
            noted[attempt["idempotency_key"], attempt["n"]] = attempt
        open_at_crash |= {(record["_id"], event["n"]) for event in history if event["action"] == "lost"}
    for (key, number), call in made.items():
        record_id = base_of(key)
        if (key, number) not in noted and (record_id, number) not in open_at_crash and record_id not in truncated:
            yield f"the ledger knows nothing of {call}"
    for (key, number), entry in noted.items():
        seen = made.get((key, number))
        if entry["status"] is not None and (seen is None or seen.status != entry["status"]):
            yield f"the partner knows nothing of attempt {number} of {key}: {entry}, {seen}"
    yield from check_nothing_after_success(noted, made)


def check_nothing_after_success(
    noted: Mapping[tuple[str, int], Doc], made: Mapping[tuple[str, int], ReceivedCall]
) -> Iterator[str]:
    """Once an accepted call was recorded in time, its key is never called again (invariant 7)."""
    numbers: dict[str, list[int]] = defaultdict(list)
    for key, number in made:
        numbers[key].append(number)
    for (key, number), entry in noted.items():
        if entry["outcome"] == "accepted" and not entry.get("late") and max(numbers[key], default=0) > number:
            yield f"{key} was called again after attempt {number} was accepted"


def check_sequence(records: Sequence[Doc], calls: Sequence[ReceivedCall]) -> Iterator[str]:
    """The partner has applied every logged version of a row, in order of first application (invariant 5, `strict`)."""
    known = {record["_id"]: record for record in records}
    reached: dict[str, int] = {}
    applied: set[str] = set()
    for call in calls:
        record = known.get(base_of(call.key))
        if record is None or call.fate not in APPLIED or record["_id"] in applied:
            continue
        applied.add(record["_id"])
        if record["seq"] < reached.get(record["key_id"], 0):
            yield f"{record['_id']} was applied for the first time after a newer version of its row"
        reached[record["key_id"]] = max(record["seq"], reached.get(record["key_id"], 0))
    for missing in known.keys() - applied:
        # A version that only an interrupted poll had seen may be passed over; no worker ever claimed it.
        is_passed_over = known[missing]["state"] == "superseded" and not known[missing].get("claims")
        if not is_passed_over and known[missing]["state"] != "discarded":
            yield f"{missing} ({known[missing]['state']}) never reached the partner"


def base_of(key: str) -> str:
    """Return the record's id in an `Idempotency-Key`: the key without the number of its generation."""
    return "-".join(key.split("-")[:2])


def find_given_up(records: Sequence[Doc], keys: Sequence[Doc]) -> set[int]:
    """Return the rows whose newest version an operator has given up."""
    discarded = {record["_id"] for record in records if record["state"] == "discarded"}
    return {int(key["key"]["id"]) for key in keys if key["version"] in discarded}


def check_partner(
    bodies: Mapping[str, bytes],
    versions: Mapping[int, Sequence[Version]],
    *,
    order: str,
    given_up: Collection[int],
    lines: Lines | None = None,
) -> Iterator[str]:
    """The partner holds every row, in its newest version if the stream has an order, value by value.

    If the newest version of a row was given up, the partner holds an older one, or none.
    """
    for strange in bodies.keys() - {str(version) for version in versions}:
        yield f"the partner has a row that the source never had: {strange}"
    for row, history in versions.items():
        body = bodies.get(str(row))
        if body is None:
            if row not in given_up:
                yield f"the partner never got row {row}"
            continue
        allowed = history if order == "none" or row in given_up else history[-1:]
        values = json.loads(body, parse_float=Decimal)
        if lines is not None:
            sent = [show_line(line) for line in values.pop("lines")]
            if order != "none" and row not in given_up and sent != list_newest_lines(row, lines):
                yield f"the partner holds other lines of row {row}: {sent}"
        if all(list(compare(version, values)) for version in allowed):
            yield f"the partner holds another row {row}: {list(compare(history[-1], values))}"


def count_repeats(calls: Sequence[ReceivedCall]) -> int:
    """Return how many calls came under a key that had been applied before."""
    applied: set[str] = set()
    repeats = 0
    for call in calls:
        repeats += call.key in applied
        if call.fate in APPLIED:
            applied.add(call.key)
    return repeats
