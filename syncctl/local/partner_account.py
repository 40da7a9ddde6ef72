"""What the demo's partner decides, applies and remembers: its own account of every call."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from syncctl.local.partner_http import DROPPED, Reply, Request

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
]
"""What became of a call. `dropped_after` was applied (or was a repeat), and its answer never left."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PartnerConfig:
    """How the partner behaves. A rate is a share of calls, from 0 to 1; the same seed gives the same failures.

    Args:
        port: 0 takes a free one.
        latency_seconds: Between a request and its answer.
        too_many_rate: Answered 429 with `Retry-After: retry_after_seconds`.
        error_rate: Answered 500.
        drop_before_rate: Connections cut before the call is applied.
        drop_after_rate: Connections cut after the call was applied.
        reject_rate: Share of rows answered 422 each time, until `fix`.
        token: The bearer token that is asked for; empty asks for none.
        require_key: Refuse a call without an `Idempotency-Key`.
    """

    port: int = 0
    seed: int = 0
    latency_seconds: float = 0.0
    too_many_rate: float = 0.0
    retry_after_seconds: int = 1
    error_rate: float = 0.0
    drop_before_rate: float = 0.0
    drop_after_rate: float = 0.0
    reject_rate: float = 0.0
    token: str = field(default="", repr=False)
    require_key: bool = True


class ReceivedCall(NamedTuple):
    """One call as the partner saw it; `status` is None where it cut the connection."""

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
    """The partner's memory. Written by the server's thread alone; reading it from another is safe."""

    def __init__(self, config: PartnerConfig) -> None:
        self.config = config
        self.fixed = False
        self.calls: list[ReceivedCall] = []
        self.rows: dict[str, bytes] = {}
        self._fates: Counter[str] = Counter()
        self._seen: dict[str, str] = {}
        self._applied: dict[str, int] = {}

    def receive(self, request: Request) -> Reply:
        """Decide a call, remember it, and return what goes back."""
        digest = hashlib.sha256(request.body).hexdigest()[:16]
        row = find_row(request)
        key = request.headers.get("idempotency-key", "")
        attempt = request.headers.get("syncctl-attempt", "1")
        fate, status = self._decide(request, key=key, attempt=attempt, row=row, digest=digest)
        self._fates[fate] += 1
        number = int(attempt) if attempt.isdecimal() else 0
        self.calls.append(
            ReceivedCall(time.time(), request.method, request.target, key, number, row, digest, status or None, fate)
        )
        return self._reply(fate, status)

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

    def _decide(self, request: Request, *, key: str, attempt: str, row: str, digest: str) -> tuple[Fate, int]:
        config = self.config
        if config.token and request.headers.get("authorization") != f"Bearer {config.token}":
            return "unauthorized", 401
        if not key:
            if config.require_key:
                return "keyless", 400
            key = f"{row} {len(self.calls)}"
        if self._seen.setdefault(key, digest) != digest:
            return "violation", 422
        fate = "applied" if self.fixed else self._draw(key, attempt, row)
        if fate not in {"applied", "dropped_after"}:
            return fate, {"rejected": 422, "too_many": 429, "error": 500}.get(fate, DROPPED)
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
        """Draw lots from the seed and the call, so that a run can be had again."""
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

    def _reply(self, fate: Fate, status: int) -> Reply:
        headers: Mapping[str, str] = {}
        if fate == "too_many":
            headers = {"Retry-After": str(self.config.retry_after_seconds)}
        elif fate == "repeated":
            headers = {"Idempotent-Replayed": "true"}
        body = _BODIES.get(fate, b'{"status":"ok"}')
        return Reply(status=status, body=body, headers=headers, delay_seconds=self.config.latency_seconds)


_BODIES: Mapping[Fate, bytes] = {
    "rejected": b'{"message":"this row is not valid"}',
    "violation": b'{"message":"this Idempotency-Key came with another body before"}',
    "unauthorized": b'{"message":"the bearer token is missing or wrong"}',
    "keyless": b'{"message":"the Idempotency-Key is missing"}',
    "too_many": b'{"message":"slow down"}',
    "error": b'{"message":"something broke"}',
}


def find_row(request: Request) -> str:
    """Return which row a call is about: the body's `id`, else the path."""
    try:
        document = json.loads(request.body)
    except (ValueError, RecursionError):
        return request.target
    if isinstance(document, dict) and document.get("id") is not None:
        return str(document["id"])
    return request.target


def show_call(call: ReceivedCall) -> dict[str, Any]:
    """Return a call as JSON shows it."""
    at = datetime.fromtimestamp(call.at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {**call._asdict(), "at": at}


def show_rows(rows: Mapping[str, bytes]) -> bytes:
    """Return the rows as one JSON document, each body with exactly the digits it came with."""
    members = (json.dumps(row).encode() + b":" + _as_json(body) for row, body in dict(rows).items())
    return b"{" + b",".join(members) + b"}"


def _as_json(body: bytes) -> bytes:
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return json.dumps(body.decode("utf-8", "replace")).encode()
    return body
