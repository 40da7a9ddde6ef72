"""The partner's client: turn one record into one call, and one call into one outcome."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from syncctl.core.outcome import NO_RULES, Outcome, Verdict, decide_verdict
from syncctl.core.records import Record
from syncctl.core.redaction import REDACTED, Redact
from syncctl.core.remote_values import find_remote_names
from syncctl.core.retry import parse_retry_after
from syncctl.core.stream import Partner, Stream
from syncctl.partner.auth import AuthError, AuthHeaders, TokenCache, make_auth
from syncctl.partner.bulk import (
    BulkCall,
    PlannedCall,
    ResultReader,
    combine_calls,
    hash_bulk_mapping,
    limit_response_bytes,
    refuse_second_key,
)
from syncctl.partner.call import Call, Unsendable, add_auth_headers
from syncctl.partner.call_deadline import call_deadline
from syncctl.partner.captured_values import RESPONSE_AT_MOST_BYTES, Capture, LookupReader, make_failed_lookup
from syncctl.partner.endpoint import Endpoints
from syncctl.partner.event_loop import WaitingRoom, run_on_loop
from syncctl.partner.request.builder import RequestBuilder
from syncctl.partner.request.row_time import row_time
from syncctl.partner.request_headers import check_auth_headers, is_header_value, make_common_headers
from syncctl.partner.response import Response, describe_refusal, judge_json, make_excerpt
from syncctl.partner.secrets import collect_secrets
from syncctl.partner.tls import warn_unverified
from syncctl.partner.transport import Transport

__all__ = ["Call", "PartnerClient", "Probe", "Unsendable"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """The result of testing whether a partner can be reached."""

    #: Whether any HTTP response came back.
    reachable: bool
    status: int | None
    #: One line for people.
    detail: str
    duration_ms: float
    #: Whether the auth could sign the call; if not, the partner was not called.
    is_signed: bool = True


class PartnerClient:
    """Sends the records of one stream to its partner; safe to use from many threads, and after a fork.

    Args:
        token_cache: Shares OAuth2 tokens between processes.

    Raises:
        ConfigurationError: a URL, endpoint, header, credential or certificate with which no call could be made.
    """

    def __init__(self, partner: Partner, stream: Stream, *, token_cache: TokenCache | None = None) -> None:
        self._endpoints = Endpoints(partner, stream)
        self._builder = RequestBuilder(self._endpoints, stream)
        self._capture = stream.capture
        self._lookup = stream.lookup
        self._needed_names = frozenset(
            find_remote_names(stream.update_path if stream.update_method is not None else stream.path)
        ) | frozenset(find_remote_names(stream.delete_path))
        self._partner = partner
        self._batching = stream.batching
        self._accepted_when = stream.accepted_when
        self._rejected_when = stream.rejected_when
        self._outcomes = stream.outcomes
        self._redact = Redact(collect_secrets(partner))
        self._auth = make_auth(partner, self._redact, token_cache)
        self._waiting = WaitingRoom(f"auth of {partner.name}")
        check_auth_headers(partner, self._auth)
        common = make_common_headers(partner)
        self._headers = self._builder.add_content_type(common, auth_headers=self._auth.show().headers)
        base = self._endpoints.send.base
        response_at_most = limit_response_bytes(stream.batching)
        if stream.keeps_remote:
            response_at_most = max(response_at_most, RESPONSE_AT_MOST_BYTES)
        self._transport = Transport(partner, base, response_at_most=response_at_most)
        self._origin = f"{base.scheme}://{base.netloc}"
        self.mapping_hash = hash_bulk_mapping(self._builder.mapping_hash, stream.batching)
        """A hash of everything that shapes a call for the same record; contains no secret."""
        self.codec = self._builder.codec
        """The text encoding of the bodies."""
        warn_unverified([partner])

    def hash_remote(self, record: Record) -> str:
        """Return a hash of the remote values that shape a record's call; empty if none do."""
        return self._builder.hash_remote(record)

    def prepare(self, record: Record) -> Call:
        """Turn a record into a call. Safe to repeat: the same record gives the same bytes under the same key.

        Raises:
            Unsendable: the record cannot be turned into a call, or not in the time that a row may take (invariant 14);
                trying again would not help.
        """
        row_time.begin()
        try:
            return self._prepare(record)
        finally:
            row_time.end()

    def _prepare(self, record: Record) -> Call:
        if not is_header_value(record.idempotency_key):
            raise Unsendable("the record's id holds characters that a header cannot hold")
        endpoint = self._endpoints.choose(record)
        target = endpoint.fill(record)
        if record.step == "look_up":
            return self._prepare_lookup(record, target)
        body = self._builder.make_body(record)
        refuse_second_key(body or b"", self._batching)
        headers = self._builder.make_headers(record, self._headers, has_body=body is not None)
        headers["Idempotency-Key"] = record.idempotency_key
        headers["Syncctl-Attempt"] = str(record.attempt)
        if body is not None:
            headers["Content-Length"] = str(len(body))
        return Call(
            method=endpoint.method,
            url=self._origin + target,
            target=target,
            headers=headers,
            body=body or b"",
            goes_alone=record.step == "update" and endpoint.names_row,
        )

    def _prepare_lookup(self, record: Record, target: str) -> Call:
        """Return the call that asks for the partner's object of a row; it changes nothing there."""
        headers = self._builder.make_headers(record, self._headers, has_body=False)
        headers["Syncctl-Attempt"] = str(record.attempt)
        return Call(method="GET", url=self._origin + target, target=target, headers=headers, body=b"", goes_alone=True)

    def send(self, call: Call) -> Outcome:
        """Make a call and return its outcome, within the partner's deadline for a whole call.

        Never raises for errors of the partner or the network. Sends nothing twice, except after a 401 that new
        credentials may fix: once, with the same bytes.
        """
        return run_on_loop(self._send(call))[0]

    def combine(self, planned: Sequence[PlannedCall], *, bytes_at_most: int | None = None) -> list[BulkCall]:
        """Combine calls into bulk calls; without `rows_per_call` each stays alone. See `combine_calls`."""
        return list(combine_calls(planned, self._batching, bytes_at_most=bytes_at_most))

    async def send_bulk(self, bulk: BulkCall) -> list[Outcome]:
        """Make a bulk call on the event loop and return the outcome of each row; see `send`."""
        operations = {record.op for record in bulk.records}
        rules = self._outcomes.list_rules(
            operations.pop() if len(operations) == 1 else None,
            names_row=not bulk.is_list and self._endpoints.choose(bulk.records[0]).names_row,
        )
        if bulk.records[0].step == "look_up":
            return [await self._look_up(bulk.call)]
        outcome, response, redact = await self._send(bulk.call, rules)
        capture = Capture(rules=self._capture, redact=redact) if self._capture else None
        if not bulk.is_list:
            record = bulk.records[0]
            if capture is None or response is None or record.op == "delete" or outcome.verdict is not Verdict.ACCEPTED:
                return [outcome]
            if record.step == "update" and self._batching.results is not None:
                # The paths of captured values begin at a row's result, and this answer has none.
                return [outcome]
            outcome = capture.add_to(outcome, response)
            is_known = record.step == "update" and self._capture.keys() <= record.remote.keys()
            return [replace(outcome, not_captured=None) if is_known else outcome]
        reader = ResultReader(batching=self._batching, redact=redact, outcomes=self._outcomes, capture=capture)
        return reader.split_outcome(bulk, outcome, response)

    async def _look_up(self, call: Call) -> Outcome:
        """Ask for the partner's object of a row. A lookup cannot take effect later, and is repeated if it fails."""
        outcome, response, redact = await self._send(call, is_lookup=True)
        lookup, endpoint = self._lookup, self._endpoints.lookup
        if lookup is None or endpoint is None or response is None:
            return make_failed_lookup(outcome)
        reader = LookupReader(
            capture=Capture(rules=lookup.capture, redact=redact),
            needed=self._needed_names,
            names_row_in_path=endpoint.names_row_in_path,
        )
        return reader.read(outcome, response)

    async def _send(
        self, call: Call, rules: Mapping[int, Verdict] = NO_RULES, *, is_lookup: bool = False
    ) -> tuple[Outcome, Response | None, Redact]:
        started = time.monotonic()
        call_deadline.begin(self._partner.timeout_seconds)
        try:
            response, error, auth_headers = await self._send_signed(call)
        except AuthError as cause:
            latency_ms = (time.monotonic() - started) * 1000
            outcome = Outcome(verdict=Verdict.RETRY_LATER, latency_ms=latency_ms, status=cause.status, error=cause.text)
            return outcome, None, self._redact
        latency_ms = (time.monotonic() - started) * 1000
        if response is None:
            verdict = decide_verdict(None, sent=call_deadline.sent, complete=False)
            return Outcome(verdict=verdict, latency_ms=latency_ms, error=error), None, self._redact
        redact = Redact(auth_headers.secrets, after=self._redact)
        outcome = self._judge(response, error, latency_ms, redact, rules, has_conditions=not is_lookup)
        return outcome, response, redact

    def _judge(
        self,
        response: Response,
        error: str | None,
        latency_ms: float,
        redact: Redact,
        rules: Mapping[int, Verdict],
        *,
        has_conditions: bool = True,
    ) -> Outcome:
        verdict = decide_verdict(response.status, sent=True, complete=response.error is None, rules=rules)
        if has_conditions and verdict is Verdict.ACCEPTED and 200 <= response.status <= 299:
            judgement = judge_json(
                response, accepted_when=self._accepted_when, rejected_when=self._rejected_when, redact=redact
            )
            verdict = judgement.verdict
            error = judgement.why or error
        # A 2xx response with results may refuse some of the rows.
        is_refusal = verdict is not Verdict.ACCEPTED or self._batching.results is not None
        excerpt = make_excerpt(response, redact, is_refusal=is_refusal)
        if verdict is not Verdict.ACCEPTED:
            refusal = describe_refusal(response, excerpt, redact)
            error = f"{refusal} ({error})" if error else refusal
        return Outcome(
            verdict=verdict,
            latency_ms=latency_ms,
            status=response.status,
            error=None if verdict is Verdict.ACCEPTED else error,
            excerpt=excerpt,
            has_own_rule=response.status in rules,
            retry_after_seconds=parse_retry_after(
                response.headers.get("Retry-After"),
                answered_at=response.headers.get("Date"),
                now=datetime.now(UTC),
            ),
        )

    def probe(self) -> Probe:
        """Test whether the partner can be reached, by an OPTIONS request to its base URL, which changes nothing."""
        started = time.monotonic()
        headers = {name: value for name, value in self._headers.items() if name.lower() != "content-type"}
        target = self._endpoints.send.root
        call = Call(method="OPTIONS", url=self._origin + target, target=target, headers=headers, body=b"")
        call_deadline.begin(self._partner.timeout_seconds)
        try:
            response, error, _ = run_on_loop(self._send_signed(call))
        except AuthError as cause:
            duration_ms = (time.monotonic() - started) * 1000
            return Probe(reachable=False, status=None, detail=cause.text, duration_ms=duration_ms, is_signed=False)
        duration_ms = (time.monotonic() - started) * 1000
        if response is None:
            return Probe(reachable=False, status=None, detail=error or "no answer", duration_ms=duration_ms)
        detail = f"{self._transport.host} answered HTTP {response.status} to OPTIONS"
        if response.status in {401, 403}:
            detail += "; it may not accept the credentials"
        return Probe(reachable=True, status=response.status, detail=detail, duration_ms=duration_ms)

    def show(self, call: Call) -> Call:
        """Return a call for display: as it would be sent, with its secrets replaced."""
        own = {name.lower() for name in self._partner.headers}
        headers = {name: REDACTED if name.lower() in own else value for name, value in call.headers.items()}
        return add_auth_headers(replace(call, headers=headers), self._auth.show())

    def close(self) -> None:
        """Close the idle connections; a call in progress ends by itself."""
        self._transport.close()
        self._waiting.close()

    async def _send_signed(self, call: Call) -> tuple[Response | None, str | None, AuthHeaders]:
        """Sign a call and send it; do so once more if the partner refused the credentials and there may be others.

        Raises:
            AuthError: the call cannot be signed; nothing was sent, or only a call that the partner answered with 401.
        """
        auth_headers = await self._sign(call)
        response, error = await self._exchange(add_auth_headers(call, auth_headers))
        if response is not None and response.status == 401 and await self._may_repeat(auth_headers):
            auth_headers = await self._sign(call)
            response, error = await self._exchange(add_auth_headers(call, auth_headers))
        return response, error, auth_headers

    async def _sign(self, call: Call) -> AuthHeaders:
        """Sign on the event loop, or in a thread if signing may wait for a token endpoint."""
        return await self._waiting.run(self._auth.sign, call) if self._auth.may_wait() else self._auth.sign(call)

    async def _may_repeat(self, auth_headers: AuthHeaders) -> bool:
        refused = self._auth.refused
        return await self._waiting.run(refused, auth_headers) if self._auth.waits else refused(auth_headers)

    async def _exchange(self, call: Call) -> tuple[Response | None, str | None]:
        return await self._transport.exchange_soon(call.method, call.target, call.headers, call.body or None)
