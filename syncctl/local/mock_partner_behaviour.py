"""The mock partner's decisions and memory: the fate of each call, and the rows it has applied."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from syncctl.local.mock_partner_http import DROPPED, Reply, Request

Fate = Literal[
    "applied",
    "repeated",
    "rejected",
    "violation",
    "unauthorized",
    "keyless",
    "too_many",
    "error",
    "dropped_before",
    "dropped_after",
    "found",
    "not_found",
    "unknown",
]
"""The fate of a call. A `dropped_after` call was applied (or was a repeat), but its answer was never sent.

The last three occur only at a partner with its own ids: a lookup that found an object, one that found none, and a call
for an object that the partner does not have.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class PartnerConfig:
    """The behaviour of the mock partner. A rate is a share of calls, from 0 to 1."""

    #: The port to listen on; 0 picks a free one.
    port: int = 0
    #: The same seed produces the same failures.
    seed: int = 0
    #: The time between a request and its answer.
    latency_seconds: float = 0.0
    #: Calls answered 429 with `Retry-After: retry_after_seconds`.
    too_many_rate: float = 0.0
    retry_after_seconds: int = 1
    #: Calls answered 500.
    error_rate: float = 0.0
    #: Connections cut before the call is applied.
    drop_before_rate: float = 0.0
    #: Connections cut after the call was applied.
    drop_after_rate: float = 0.0
    #: Share of rows answered 422 every time, until `fix`.
    reject_rate: float = 0.0
    #: The bearer token every call must carry; empty accepts any call.
    token: str = field(default="", repr=False)
    #: Reject calls without an `Idempotency-Key`.
    require_key: bool = True
    #: The fields of a body that together identify a row.
    row_key: tuple[str, ...] = ("id",)
    #: Give each object an id, and ignore the `Idempotency-Key`.
    own_ids: bool = False


class ReceivedCall(NamedTuple):
    """One call as the mock partner saw it; `status` is None if it cut the connection."""

    at: float
    method: str
    path: str
    key: str
    attempt: int
    row: str
    body_hash: str
    status: int | None
    fate: Fate


class Account:
    """The mock partner's memory. Only the server's thread writes it; any thread may read it."""

    def __init__(self, config: PartnerConfig) -> None:
        self.config = config
        self.fixed = False
        self.calls: list[ReceivedCall] = []
        self.rows: dict[str, bytes] = {}
        self._fates: Counter[str] = Counter()
        self._seen: dict[str, str] = {}
        self._applied: dict[str, int] = {}

    def receive(self, request: Request) -> Reply:
        """Decide a call, record it, and return the reply."""
        row = find_row(request, self.config.row_key)
        fate, status = self._decide(request, row=row)
        headers = {"Idempotent-Replayed": "true"} if fate == "repeated" else {}
        return self._finish(request, row, fate, status, headers=headers)

    def stats(self) -> dict[str, Any]:
        """Return the counts; `distinct_keys` and `applied` are equal unless a call came without a key."""
        fates = dict(self._fates)
        return {
            "calls": len(self.calls),
            "distinct_keys": len(self._applied),
            "rows": len(self.rows),
            **{name: fates.get(name, 0) for name in Fate.__args__},  # type: ignore[attr-defined]
            "fixed": self.fixed,
        }

    def _is_authorized(self, request: Request) -> bool:
        return not self.config.token or request.headers.get("authorization") == f"Bearer {self.config.token}"

    def _decide(self, request: Request, *, row: str) -> tuple[Fate, int]:
        if not self._is_authorized(request):
            return "unauthorized", _STATUSES["unauthorized"]
        key = _read_key(request)
        if not key:
            if self.config.require_key:
                return "keyless", _STATUSES["keyless"]
            key = f"{row} {len(self.calls)}"
        digest = _hash_body(request)
        if self._seen.setdefault(key, digest) != digest:
            return "violation", _STATUSES["violation"]
        fate = "applied" if self.fixed else self._draw(key, _read_attempt(request), row)
        if fate not in {"applied", "dropped_after"}:
            return fate, _STATUSES[fate]
        status = self._applied.get(key)
        repeated = status is not None
        if status is None:
            status = 200 if row in self.rows else 201
            self._applied[key] = status
            self.rows[row] = request.body
        if fate == "dropped_after":
            return fate, DROPPED
        return ("repeated" if repeated else "applied"), status

    def _draw(self, key: str, attempt: str, row: str) -> Fate:
        """Choose a fate by the seed and the call, so that a run can be repeated."""
        config = self.config
        if self._chance("row", row) < config.reject_rate:
            return "rejected"
        chance = self._chance("call", key, attempt)
        rates: Iterable[tuple[Fate, float]] = (
            ("too_many", config.too_many_rate),
            ("error", config.error_rate),
            ("dropped_before", config.drop_before_rate),
            ("dropped_after", config.drop_after_rate),
        )
        for fate, rate in rates:
            if chance < rate:
                return fate
            chance -= rate
        return "applied"

    def _chance(self, *parts: str) -> float:
        text = "\x1f".join((str(self.config.seed), *parts))
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) / 2**64

    def _finish(
        self,
        request: Request,
        row: str,
        fate: Fate,
        status: int | None = None,
        *,
        body: bytes = b'{"status":"ok"}',
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Record a call with its fate, and return its reply.

        Args:
            status, body, headers: The answer to a call that was applied; other calls get that of their fate.
        """
        status = _STATUSES.get(fate, status)
        attempt = _read_attempt(request)
        number = int(attempt) if attempt.isdecimal() else 0
        digest = _hash_body(request)
        method, path, key = request.method, request.target, _read_key(request)
        self._fates[fate] += 1
        self.calls.append(ReceivedCall(time.time(), method, path, key, number, row, digest, status or None, fate))
        if fate == "too_many":
            headers = {"Retry-After": str(self.config.retry_after_seconds)}
        return Reply(
            status=status or DROPPED,
            body=_BODIES.get(fate, body),
            headers=headers or {},
            delay_seconds=self.config.latency_seconds,
        )


_STATUSES: Mapping[Fate, int] = {
    "rejected": 422,
    "violation": 422,
    "unauthorized": 401,
    "keyless": 400,
    "too_many": 429,
    "error": 500,
    "dropped_before": DROPPED,
    "dropped_after": DROPPED,
}
_BODIES: Mapping[Fate, bytes] = {
    "rejected": b'{"message":"this row is not valid"}',
    "violation": b'{"message":"this Idempotency-Key came with another body before"}',
    "unauthorized": b'{"message":"the bearer token is missing or wrong"}',
    "keyless": b'{"message":"the Idempotency-Key is missing"}',
    "too_many": b'{"message":"slow down"}',
    "error": b'{"message":"something broke"}',
}


def _read_key(request: Request) -> str:
    return request.headers.get("idempotency-key", "")


def _read_attempt(request: Request) -> str:
    return request.headers.get("syncctl-attempt", "1")


def _hash_body(request: Request) -> str:
    return hashlib.sha256(request.body).hexdigest()[:16]


def find_row(request: Request, fields: Sequence[str] = ("id",)) -> str:
    """Return the row that a call is about: the values of its body's key fields.

    Without these fields it is the path, or for a POST the `Idempotency-Key`: all rows share the path of a POST, and
    rows with one name would all share the fate of the first.
    """
    try:
        document = json.loads(request.body)
    except (ValueError, RecursionError):
        document = None
    values = [document.get(field) for field in fields] if isinstance(document, dict) else [None]
    if None not in values:
        return ",".join(map(str, values))
    key = request.headers.get("idempotency-key") if request.method == "POST" else None
    return key or request.target


def show_call(call: ReceivedCall) -> dict[str, Any]:
    """Return a call as a JSON document."""
    at = datetime.fromtimestamp(call.at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {**call._asdict(), "at": at}


def show_rows(rows: Mapping[str, bytes]) -> bytes:
    """Return the rows as one JSON document, each body exactly as it was received."""
    members = (json.dumps(row).encode() + b":" + _as_json(body) for row, body in dict(rows).items())
    return b"{" + b",".join(members) + b"}"


def _as_json(body: bytes) -> bytes:
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return json.dumps(body.decode("utf-8", "replace")).encode()
    return body
