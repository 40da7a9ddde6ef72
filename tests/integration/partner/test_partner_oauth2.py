"""OAuth2 client credentials: one token for all, renewed before its end and after a refusal."""

import gzip
import json
import os
import threading
import zlib
from base64 import b64decode
from collections.abc import Iterator
from typing import Any

import pytest

from syncctl.core.outcome import Outcome, Verdict
from syncctl.partner.auth import token_renewal
from syncctl.partner.client import PartnerClient
from tests.harness.cases import make_client, make_partner, make_record, make_stream
from tests.harness.hostile_partner import HostilePartner, Peer, answering
from tests.harness.token_endpoint import CLIENT_SECRET, TokenDesk

NO_TOKEN = "its answer holds no access_token that could be sent"
TOKEN_ANSWER = b'{"access_token":"t0ken-x-abcdef"}'

pytestmark = pytest.mark.timeout(60)


class Clock:
    """A clock that a test moves forward."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that tokens end by."""
    clock = Clock()
    monkeypatch.setattr(token_renewal, "read_clock", clock)
    return clock


@pytest.fixture
def desk() -> Iterator[TokenDesk]:
    with TokenDesk() as desk:
        yield desk


def send(client: PartnerClient, number: int = 1) -> Outcome:
    return client.send(client.prepare(make_record(number)))


def client_of(desk: TokenDesk, **changes: Any) -> PartnerClient:
    return make_client(desk.partner.url, auth=desk.auth(), **changes)


def test_one_token_serves_all_calls_and_all_streams(desk: TokenDesk) -> None:
    partner = make_partner(desk.partner.url, auth=desk.auth(scope="orders.write", audience="https://api"))
    clients = [PartnerClient(partner, make_stream(name=name)) for name in ("orders", "stock")]
    for client in clients:
        for number in range(3):
            assert send(client, number).verdict is Verdict.ACCEPTED
        client.close()
    assert desk.given == 1
    assert desk.tokens_used == ["t0ken-1-abcdef"] * 6
    assert desk.forms == [{"grant_type": "client_credentials", "scope": "orders.write", "audience": "https://api"}]
    assert desk.endpoint.requests[0].startswith(b"POST /oauth2/token HTTP/1.1\r\n")


def test_the_client_shows_itself_in_the_header_each_part_encoded(desk: TokenDesk) -> None:
    client = client_of(desk)
    send(client)
    client.close()
    (line,) = (part for part in desk.endpoint.requests[0].split(b"\r\n") if part.startswith(b"Authorization: Basic "))
    assert b64decode(line.split()[2]) == b"sync+ctl:cl1ent%2Fs%2Bcret"


def test_the_client_shows_itself_in_the_body_where_the_endpoint_wants_it(desk: TokenDesk) -> None:
    client = make_client(desk.partner.url, auth=desk.auth(client_auth="body"))
    assert send(client).verdict is Verdict.ACCEPTED
    client.close()
    assert b"Authorization" not in desk.endpoint.requests[0]
    assert desk.forms[0] == {
        "grant_type": "client_credentials",
        "client_id": "sync ctl",
        "client_secret": CLIENT_SECRET,
    }


@pytest.mark.parametrize(
    ("expires_in", "good_for", "renewed_after"),
    [
        (3600, 3539, 3541),
        ("3600", 3539, 3541),
        (100, 79, 81),
        (None, 239, 241),
        ("soon", 239, 241),
        ("nan", 239, 241),
        (10**400, 239, 241),
        ("9" * 400, 239, 241),
    ],
)
def test_a_token_is_renewed_before_it_ends(
    clock: Clock, expires_in: object, good_for: float, renewed_after: float
) -> None:
    with TokenDesk(expires_in=expires_in) as desk:
        client = client_of(desk)
        send(client)
        for seconds, given in ((good_for, 1), (renewed_after, 2)):
            clock.now = 1000.0 + seconds
            assert send(client).verdict is Verdict.ACCEPTED
            assert desk.given == given
        client.close()


def test_a_renewal_that_fails_leaves_the_old_token_in_use_until_its_end(clock: Clock, desk: TokenDesk) -> None:
    client = client_of(desk)
    send(client)
    desk.answer = lambda peer: peer.answer("503 Later")
    clock.now += 3550
    assert [send(client).verdict for _ in range(3)] == [Verdict.ACCEPTED] * 3
    assert len(desk.endpoint.requests) == 2  # asked again only after a while
    clock.now += 60
    outcome = send(client)
    client.close()
    assert (outcome.verdict, outcome.status) == (Verdict.RETRY_LATER, None)
    assert len(desk.partner.requests) == 4


def test_a_refused_token_is_replaced_once_with_the_same_bytes(desk: TokenDesk) -> None:
    client = client_of(desk)
    send(client, 1)
    desk.revoke()
    assert send(client, 2).verdict is Verdict.ACCEPTED
    client.close()
    assert desk.tokens_used == ["t0ken-1-abcdef", "t0ken-1-abcdef", "t0ken-2-abcdef"]
    first, second = (request.partition(b"Authorization")[0] for request in desk.partner.requests[1:])
    assert first == second
    bodies = {request.partition(b"\r\n\r\n")[2] for request in desk.partner.requests[1:]}
    assert len(bodies) == 1


def test_a_partner_that_takes_no_token_is_not_asked_twice_and_the_endpoint_not_for_each_call(clock: Clock) -> None:
    with TokenDesk(unwanted=True) as desk:
        client = client_of(desk)
        outcomes = [send(client, number) for number in range(4)]
        asked, called = desk.given, len(desk.partner.requests)
        clock.now += 61
        send(client)
        asked_later = desk.given
        client.close()
    assert {(outcome.verdict, outcome.status) for outcome in outcomes} == {(Verdict.RETRY_LATER, 401)}
    assert (asked, called, asked_later) == (2, 5, 3)
    assert not any("t0ken" in f"{outcome.error} {outcome.excerpt}" for outcome in outcomes)


def test_many_threads_share_one_token_and_one_renewal(desk: TokenDesk) -> None:
    client = client_of(desk)
    start = threading.Barrier(8)
    verdicts: list[Verdict] = []

    def run(number: int) -> None:
        start.wait(30)
        verdicts.append(send(client, number).verdict)

    for expected in (1, 2):
        threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert desk.given == expected
        desk.revoke()
    client.close()
    assert verdicts == [Verdict.ACCEPTED] * 16


@pytest.mark.parametrize(
    ("status", "body", "outcome_status", "text"),
    [
        ("401 Unauthorized", b'{"error":"invalid_client"}', 401, "HTTP 401: invalid_client"),
        ("400 Bad Request", b'{"error":"invalid_scope"}', 401, "HTTP 400: invalid_scope"),
        ("503 Later", b"", None, "HTTP 503"),
        ("302 Found", b"", None, "HTTP 302: points to nowhere; redirects are never followed"),
        ("200 OK", b"<html>", None, f"{NO_TOKEN}: 6 bytes of no content type"),
        ("200 OK", b'{"access_token":"a b"}', None, f"{NO_TOKEN}: JSON with access_token"),
        ("200 OK", b'{"errorCode":"x","error":{}}', None, f"{NO_TOKEN}: JSON with errorCode, error"),
        ("200 OK", b"{}", None, f"{NO_TOKEN}: JSON without a field"),
        (
            "200 OK",
            b'{"access_token":"a","token_type":"DPoP"}',
            None,
            "its token is of the type DPoP, which needs a proof with each call",
        ),
        ("200 OK", b"[" * 50_000, None, f"{NO_TOKEN}: 50000 bytes of no content type"),
    ],
)
def test_without_a_token_nothing_is_sent(status: str, body: bytes, outcome_status: int | None, text: str) -> None:
    with TokenDesk(answer=lambda peer: peer.answer(status, body)) as desk:
        client = client_of(desk)
        outcome, probe = send(client), client.probe()
        client.close()
    assert (outcome.verdict, outcome.status) == (Verdict.RETRY_LATER, outcome_status)
    assert outcome.error == f"no token from 127.0.0.1:{desk.endpoint.port}: {text}"
    assert (probe.reachable, probe.detail) == (False, outcome.error)
    assert desk.partner.requests == []


@pytest.mark.parametrize(
    "kind", ["Bearer", "BearerToken", "bearer ", "jwt-bearer", "Application Access Token", "N_A", "", None, 7, []]
)
def test_a_token_is_sent_whatever_its_type_is_called(kind: object) -> None:
    """Apigee, Azure and others have names of their own for it, and write numbers as text."""
    body = json.dumps({"access_token": "t0ken-x-abcdef", "token_type": kind, "expires_in": "3599"}).encode()
    with TokenDesk(answer=lambda peer: peer.answer("200 OK", body)) as desk:
        desk.good = "t0ken-x-abcdef"
        client = client_of(desk)
        assert send(client).verdict is Verdict.ACCEPTED
        client.close()


@pytest.mark.parametrize("expires_in", ['"NaN"', "1e999", "-5", "0", '""', "null", "[]", '"a while"'])
def test_a_lifetime_that_means_nothing_is_assumed(clock: Clock, expires_in: str) -> None:
    body = f'{{"access_token":"t0ken-x-abcdef","expires_in":{expires_in}}}'.encode()
    with TokenDesk(answer=lambda peer: peer.answer("200 OK", body)) as desk:
        desk.good = "t0ken-x-abcdef"
        client = client_of(desk)
        for now, asked in ((1000.0, 1), (1239.0, 1), (1241.0, 2)):
            clock.now = now
            assert send(client).verdict is Verdict.ACCEPTED
            assert len(desk.endpoint.requests) == asked
        client.close()


@pytest.mark.parametrize(
    ("body", "coding"),
    [
        (b"\xef\xbb\xbf" + TOKEN_ANSWER, ""),
        (gzip.compress(TOKEN_ANSWER), "gzip"),
        (gzip.compress(TOKEN_ANSWER), ""),
        (zlib.compress(TOKEN_ANSWER), "deflate"),
    ],
    ids=["byte order mark", "gzip", "gzip that is not named", "deflate"],
)
def test_a_token_in_a_packed_answer_is_read(body: bytes, coding: str) -> None:
    headers = [f"Content-Encoding: {coding}"] if coding else []
    with TokenDesk(answer=lambda peer: peer.answer("200 OK", body, *headers)) as desk:
        desk.good = "t0ken-x-abcdef"
        client = client_of(desk)
        assert send(client).verdict is Verdict.ACCEPTED
        client.close()


def test_a_token_answer_in_an_unknown_coding_is_named() -> None:
    with TokenDesk(answer=lambda peer: peer.answer("200 OK", b"\x8b\x01", "Content-Encoding: br")) as desk:
        client = client_of(desk)
        outcome = send(client)
        client.close()
    assert (outcome.error or "").endswith(f"{NO_TOKEN}: 2 br-encoded bytes")


def test_the_deadline_holds_for_the_token_and_the_call_together(desk: TokenDesk) -> None:
    desk.answer = Peer.hold
    client = client_of(desk, timeout_seconds=1.0)
    outcome = send(client)
    desk.endpoint.stop()
    client.close()
    assert outcome.verdict is Verdict.RETRY_LATER
    assert outcome.error == f"no token: no full answer from 127.0.0.1:{desk.endpoint.port} within 1 s"
    assert desk.partner.requests == []


@pytest.mark.parametrize("client_auth", ["header", "body"])
@pytest.mark.parametrize("form", ['{{"error_description":"{}"}}', "{}"])
def test_an_endpoint_that_echoes_leaves_no_secret_in_the_error(client_auth: str, form: str) -> None:
    def echo(peer: Peer) -> None:
        head, _, body = desk.endpoint.requests[-1].decode().partition("\r\n\r\n")
        sent = [line for line in head.split("\r\n") if line.startswith("Authorization")]
        peer.answer("400 Bad", form.format(" ".join([*sent, body])).encode())

    with TokenDesk(answer=echo) as desk:
        client = make_client(desk.partner.url, auth=desk.auth(client_auth=client_auth))
        error = send(client).error or ""
        client.close()
    assert "grant_type" in error
    assert "***" in error
    assert not any(part in error for part in ("cl1ent", "2Bcret", "+cret", "c3luYytjdGw6Y2wx"))


def test_another_secret_is_another_token(desk: TokenDesk) -> None:
    for secret in ("first", "second"):
        client = make_client(desk.partner.url, auth=desk.auth(client_secret=secret))
        assert send(client).verdict is Verdict.ACCEPTED
        client.close()
    assert desk.given == 2


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_is_not_held_up_by_its_parents_renewal() -> None:
    values = {"client_secret": "parent"}
    store = token_renewal.find_store(values)
    with store._lock:
        child = os.fork()
        if child == 0:
            os._exit(0 if token_renewal.find_store(values) is not store else 1)
        assert os.waitpid(child, 0)[1] == 0


def test_a_wrong_token_url_is_refused() -> None:
    from syncctl.errors import ConfigurationError

    with HostilePartner(answering("200 OK")) as server, TokenDesk() as desk:
        for url in ("ftp://h/token", "http://u:c4nary@h/token", "https:///token"):
            with pytest.raises(
                ConfigurationError, match=r"auth\.token_url (must begin|contains a user|has no host)"
            ) as caught:
                make_client(server.url, auth=desk.auth(token_url=url))
            assert "c4nary" not in str(caught.value)
