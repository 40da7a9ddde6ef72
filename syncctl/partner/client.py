"""The partner's client: one record becomes one call, and one call one outcome."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from syncctl.core.outcome import Outcome, Verdict, decide_verdict, list_rules
from syncctl.core.records import Record
from syncctl.core.redaction import REDACTED, Redact, extend_redact, make_redact
from syncctl.core.retry import parse_retry_after
from syncctl.core.stream import Partner, Stream
from syncctl.partner.auth import AuthHeaders, AuthTrouble, TokenCache, make_auth
from syncctl.partner.bulk import Bulk, Planned, count_answer_bytes, make_groups, name_mapping
from syncctl.partner.call import Call, Unsendable, add_proof
from syncctl.partner.deadline import call_deadline
from syncctl.partner.headers import check_auth_headers, is_header_value, make_common_headers
from syncctl.partner.request.builder import RequestBuilder
from syncctl.partner.response import Answer, describe_refusal, make_excerpt, says_accepted
from syncctl.partner.results import Reading
from syncctl.partner.secrets import collect_secrets
from syncctl.partner.unverified import warn_unverified
from syncctl.partner.wire import Wire

__all__ = ["Call", "PartnerClient", "Probe", "Unsendable"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """Whether a partner can be reached. Any HTTP answer counts; `detail` is one line for people.

    Without `is_signed` there was nothing to show who we are with, and the partner was not called.
    """

    reachable: bool
    status: int | None
    detail: str
    duration_ms: float
    is_signed: bool = True


class PartnerClient:
    """Sends the records of one stream to its partner; safe to use from many threads, and after a fork.

    Args:
        max_connections: Connections kept open between calls: as many as there are threads.
        token cache: Where all processes find a token that one of them was given.

    Raises:
        ConfigurationError: a URL, endpoint, header, credential or certificate that no call could be made with.
    """

    def __init__(
        self, partner: Partner, stream: Stream, *, max_connections: int, token_cache: TokenCache | None = None
    ) -> None:
        self._builder = RequestBuilder(partner, stream)
        self._endpoint = self._builder.endpoint
        self._partner = partner
        self._batching = stream.batching
        self._mapping_hash = name_mapping(self._builder.mapping_hash, stream.batching)
        self._outcomes = stream.outcomes
        self._accepted_when = stream.accepted_when
        self._redact = make_redact(collect_secrets(partner))
        self._auth = make_auth(partner, self._redact, token_cache)
        check_auth_headers(partner, self._auth)
        self._headers = self._builder.add_content_type(
            make_common_headers(partner), auth_headers=self._auth.show().headers
        )
        base = self._endpoint.base
        answer_at_most = count_answer_bytes(stream.batching)
        self._wire = Wire(partner, base, max_connections=max_connections, answer_at_most=answer_at_most)
        self._host = self._wire.host
        self._origin = f"{base.scheme}://{base.netloc}"
        warn_unverified([partner])

    @property
    def mapping_hash(self) -> str:
        """Name everything that shapes a call for the same record; holds no secret."""
        return self._mapping_hash

    def prepare(self, record: Record) -> Call:
        """Turn a record into a call. Safe to repeat: the same record gives the same bytes under the same key.

        Raises:
            Unsendable: the record cannot be turned into a call; sending it again would not help.
        """
        if not is_header_value(record.idempotency_key):
            raise Unsendable("the record's id holds characters that a header has no form for")
        endpoint = self._builder.choose_endpoint(record)
        target = endpoint.fill(record)
        body = self._builder.make_body(record)
        headers = self._builder.make_headers(record, self._headers, has_body=body is not None)
        headers["Idempotency-Key"] = record.idempotency_key
        headers["Syncctl-Attempt"] = str(record.attempt)
        if body is not None:
            headers["Content-Length"] = str(len(body))
        url = self._origin + target
        return Call(method=endpoint.method, url=url, target=target, headers=headers, body=body or b"")

    def send(self, call: Call) -> Outcome:
        """Make a call and return what it came to, within the partner's deadline for the whole of it.

        Never raises for what a partner or network does. Sends nothing twice, except after a 401 that new credentials of
        who we are may mend: once, with the same bytes.
        """
        return self._send(call)[0]

    def group(self, planned: Sequence[Planned]) -> list[Bulk]:
        """Put the calls together that go in one; each is a group of its own where the stream has no batches."""
        return list(make_groups(planned, self._batching))

    def send_group(self, group: Bulk) -> list[Outcome]:
        """Make one call for a group and return what it came to for each of its rows; see `send`."""
        deletes = all(each.op == "delete" for each in group.records)
        outcome, answer, redact = self._send(group.call, deletes=deletes)
        if not group.is_joined:
            return [outcome]
        reading = Reading(self._batching, redact=redact, outcomes=self._outcomes)
        return reading.split_outcome(group, outcome, answer)

    def _send(self, call: Call, *, deletes: bool = False) -> tuple[Outcome, Answer | None, Redact]:
        started = time.monotonic()
        call_deadline.begin(self._partner.timeout_seconds)
        try:
            answer, error, auth_headers = self._send_signed(call)
        except AuthTrouble as trouble:
            latency_ms = (time.monotonic() - started) * 1000
            outcome = Outcome(
                verdict=Verdict.RETRY_LATER, latency_ms=latency_ms, status=trouble.status, error=trouble.text
            )
            return outcome, None, self._redact
        latency_ms = (time.monotonic() - started) * 1000
        if answer is None:
            verdict = decide_verdict(None, sent=call_deadline.sent, complete=False)
            return Outcome(verdict=verdict, latency_ms=latency_ms, error=error), None, self._redact
        complete = answer.error is None
        rules = list_rules(self._outcomes, deletes=deletes)
        verdict = decide_verdict(answer.status, sent=True, complete=complete, rules=rules)
        redact = extend_redact(self._redact, auth_headers.secrets)
        excerpt = make_excerpt(answer, redact)
        said = says_accepted(answer, self._accepted_when) if verdict is Verdict.ACCEPTED else None
        if verdict is Verdict.ACCEPTED and not said:
            # Where it could not be read to its end, the partner may have the record.
            verdict = Verdict.AMBIGUOUS if said is None else Verdict.RETRY_LATER
            error = f"its JSON does not say {self._accepted_when}"
        if verdict is not Verdict.ACCEPTED:
            refusal = describe_refusal(answer, excerpt, redact)
            error = f"{refusal} ({error})" if error else refusal
        outcome = Outcome(
            verdict=verdict,
            latency_ms=latency_ms,
            status=answer.status,
            error=None if verdict is Verdict.ACCEPTED else error,
            excerpt=excerpt,
            has_own_rule=answer.status in rules,
            retry_after_seconds=parse_retry_after(
                answer.headers.get("Retry-After"),
                answered_at=answer.headers.get("Date"),
                now=datetime.now(UTC),
            ),
        )
        return outcome, answer, redact

    def probe(self) -> Probe:
        """Ask whether the partner can be reached, with an OPTIONS to its base URL: nothing changes there."""
        started = time.monotonic()
        headers = {name: value for name, value in self._headers.items() if name.lower() != "content-type"}
        target = self._endpoint.root
        call = Call(method="OPTIONS", url=self._origin + target, target=target, headers=headers, body=b"")
        call_deadline.begin(self._partner.timeout_seconds)
        try:
            answer, error, _ = self._send_signed(call)
        except AuthTrouble as trouble:
            duration_ms = (time.monotonic() - started) * 1000
            return Probe(reachable=False, status=None, detail=trouble.text, duration_ms=duration_ms, is_signed=False)
        duration_ms = (time.monotonic() - started) * 1000
        if answer is None:
            return Probe(reachable=False, status=None, detail=error or "no answer", duration_ms=duration_ms)
        detail = f"{self._host} answered HTTP {answer.status} to OPTIONS"
        if answer.status in {401, 403}:
            detail += "; it may not accept the credentials"
        return Probe(reachable=True, status=answer.status, detail=detail, duration_ms=duration_ms)

    def show(self, call: Call) -> Call:
        """Return a call as it would be sent, with stars in place of secrets: for people."""
        own = {name.lower() for name in self._partner.headers}
        headers = {name: REDACTED if name.lower() in own else value for name, value in call.headers.items()}
        return add_proof(replace(call, headers=headers), self._auth.show())

    def close(self) -> None:
        """Close the idle connections; a call that is under way ends by itself."""
        self._wire.close()

    def _send_signed(self, call: Call) -> tuple[Answer | None, str | None, AuthHeaders]:
        """Sign a call and send it; once more where its auth headers were refused and another one can be had.

        Raises:
            AuthTrouble: it cannot be signed; nothing was sent, or a 401 is all that came of it.
        """
        auth_headers = self._auth.sign(call)
        answer, error = self._exchange(add_proof(call, auth_headers))
        if answer is not None and answer.status == 401 and self._auth.refused(auth_headers):
            auth_headers = self._auth.sign(call)
            answer, error = self._exchange(add_proof(call, auth_headers))
        return answer, error, auth_headers

    def _exchange(self, call: Call) -> tuple[Answer | None, str | None]:
        return self._wire.exchange(call.method, call.target, call.headers, call.body or None)
