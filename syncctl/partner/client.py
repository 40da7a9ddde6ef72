"""The partner's client: one record becomes one call, and one call one outcome."""

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from requests import PreparedRequest

from syncctl import __version__
from syncctl.core.outcome import Outcome, Verdict, decide_verdict
from syncctl.core.records import Record
from syncctl.core.retry import parse_retry_after
from syncctl.core.stream import Partner, Stream
from syncctl.errors import ConfigurationError
from syncctl.partner.answer import Answer, describe_refusal, make_excerpt, read_answer
from syncctl.partner.call import Call, Unsendable
from syncctl.partner.encoding import encode_body
from syncctl.partner.endpoint import Endpoint
from syncctl.partner.redaction import collect_secrets, make_redact
from syncctl.partner.transport import PartnerAdapter, trip
from syncctl.partner.troubles import explain_trouble

__all__ = ["Call", "PartnerClient", "Probe", "Unsendable"]

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?")
_OUR_HEADERS = {"idempotency-key", "syncctl-attempt", "content-length", "transfer-encoding", "connection"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """Whether a partner can be reached. Any HTTP answer counts; `detail` is one line for people."""

    reachable: bool
    status: int | None
    detail: str
    duration_ms: float


class PartnerClient:
    """Sends the records of one stream to its partner; safe to use from many threads, and after a fork.

    Args:
        max_connections: Connections kept open between calls: as many as there are threads.

    Raises:
        ConfigurationError: a URL, endpoint, token or header that no call could be made with.
    """

    def __init__(self, partner: Partner, stream: Stream, *, max_connections: int) -> None:
        self._endpoint = Endpoint(partner, stream)
        self._decimals = stream.decimals
        self._partner = partner
        self._max_connections = max_connections
        self._redact = make_redact(collect_secrets(partner))
        self._headers = make_headers(partner)
        self._adapter: PartnerAdapter | None = None
        self._pid = 0
        self._closed = False
        base = self._endpoint.base
        port = base.port or (443 if base.scheme == "https" else 80)
        name = base.hostname or ""
        self._host = f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
        self._origin = f"{base.scheme}://{base.netloc}"

    @property
    def mapping_hash(self) -> str:
        """Name everything that shapes a call for the same record; holds no secret."""
        return self._endpoint.mapping_hash

    def prepare(self, record: Record) -> Call:
        """Turn a record into a call. Safe to repeat: the same record gives the same bytes under the same key.

        Raises:
            Unsendable: the record cannot be turned into a call; sending it again would not help.
        """
        if _HEADER_VALUE.fullmatch(record.idempotency_key) is None:
            raise Unsendable("the record's id holds characters that a header has no form for")
        target = self._endpoint.fill(record)
        body = encode_body(record, self._decimals)
        headers = {
            **self._headers,
            "Idempotency-Key": record.idempotency_key,
            "Syncctl-Attempt": str(record.attempt),
            "Content-Length": str(len(body)),
        }
        url = self._origin + target
        return Call(method=self._endpoint.method, url=url, target=target, headers=headers, body=body)

    def send(self, call: Call) -> Outcome:
        """Make a call and return what it came to, within the partner's deadline for the whole of it.

        Never raises for what a partner or a network does. Never sends anything twice.
        """
        started = time.monotonic()
        answer, error = self._exchange(call.method, call.target, call.headers, call.body)
        latency_ms = (time.monotonic() - started) * 1000
        if answer is None:
            verdict = decide_verdict(None, sent=trip.sent, complete=False)
            return Outcome(verdict=verdict, latency_ms=latency_ms, error=error)
        verdict = decide_verdict(answer.status, sent=True, complete=answer.error is None)
        excerpt = make_excerpt(answer, self._redact)
        if verdict is Verdict.ACCEPTED:
            return Outcome(verdict=verdict, latency_ms=latency_ms, status=answer.status, excerpt=excerpt)
        refusal = describe_refusal(answer, excerpt, self._redact)
        return Outcome(
            verdict=verdict,
            latency_ms=latency_ms,
            status=answer.status,
            error=f"{refusal} ({error})" if error else refusal,
            excerpt=excerpt,
            retry_after_seconds=parse_retry_after(
                answer.headers.get("Retry-After"),
                answered_at=answer.headers.get("Date"),
                now=datetime.now(UTC),
            ),
        )

    def probe(self) -> Probe:
        """Ask whether the partner can be reached, with an OPTIONS to its base URL: nothing changes there."""
        started = time.monotonic()
        headers = {name: value for name, value in self._headers.items() if name.lower() != "content-type"}
        answer, error = self._exchange("OPTIONS", self._endpoint.root, headers, None)
        duration_ms = (time.monotonic() - started) * 1000
        if answer is None:
            return Probe(reachable=False, status=None, detail=error or "no answer", duration_ms=duration_ms)
        detail = f"{self._host} answered HTTP {answer.status} to OPTIONS"
        if answer.status in {401, 403}:
            detail += "; it may not accept the credentials"
        return Probe(reachable=True, status=answer.status, detail=detail, duration_ms=duration_ms)

    def close(self) -> None:
        """Close the idle connections; a call that is under way ends by itself."""
        self._closed = True
        if self._adapter is not None and self._pid == os.getpid():
            self._adapter.close()

    def _exchange(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None
    ) -> tuple[Answer | None, str | None]:
        """Send a request; return the answer, if one came, and what went wrong, if anything did."""
        request = PreparedRequest()
        request.method, request.url, request.body = method, target, body
        request.headers = dict(headers)  # type: ignore[assignment]
        seconds = self._partner.timeout_seconds
        answer: Answer | None = None
        error: Exception | None = None
        trip.begin(seconds)
        try:
            response = self._open_adapter().send_now(request)
            answer = read_answer(response.raw, response.status_code)
            error = answer.error
        except Exception as cause:  # noqa: BLE001 - whatever it is, it is told as an outcome
            error = cause
        if error is None:
            return answer, None
        return answer, explain_trouble(error, host=self._host, seconds=seconds, sent=trip.sent)

    def _open_adapter(self) -> PartnerAdapter:
        """Return this process's adapter: connections are never shared with a parent process.

        Two threads may both make one in the same instant; the one that loses serves a call and is gone.
        """
        adapter = self._adapter
        if adapter is None or self._pid != os.getpid():
            adapter = PartnerAdapter(self._endpoint.base, max_connections=self._max_connections)
            if self._closed:
                adapter.close()
            self._adapter, self._pid = adapter, os.getpid()
        return adapter


def make_headers(partner: Partner) -> dict[str, str]:
    """Return what every call to a partner carries; the partner's own headers replace ours of the same name.

    Raises:
        ConfigurationError: a header that HTTP does not allow, or that is ours to set. Never shows a value.
    """
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json, */*;q=0.5",
        "User-Agent": f"syncctl/{__version__}",
    }
    if partner.token:
        headers["Authorization"] = f"Bearer {partner.token}"
        _check_header(f"partners.{partner.name}.auth.token", "Authorization", headers["Authorization"])
    ours = {name.lower(): name for name in headers}
    for name, value in partner.headers.items():
        key = f"partners.{partner.name}.headers.{name}"
        _check_header(key, name, value)
        if name.lower() in _OUR_HEADERS or (name.lower() == "authorization" and partner.token):
            why = "two values would contradict each other"
            raise ConfigurationError(f"{key} is set by syncctl", why=why, hint="remove it")
        headers.pop(ours.get(name.lower(), ""), None)
        headers[name] = value
    return headers


def _check_header(key: str, name: str, value: str) -> None:
    if _HEADER_NAME.fullmatch(name) and _HEADER_VALUE.fullmatch(value):
        return
    raise ConfigurationError(
        f"{key} cannot be sent as a header",
        why="it is empty, or holds a line break, a character beyond ASCII, or a blank at an end",
        hint="look for a line break or a blank at the end of the value, or of the file it comes from",
    )
