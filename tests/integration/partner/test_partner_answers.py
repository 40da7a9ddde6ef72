"""The answers of a partner, and the outcome of each."""

import gzip
import time
import zlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from syncctl.core.outcome import Outcome, Verdict
from syncctl.partner.client import PartnerClient
from syncctl.partner.response import unpack_body
from tests.harness.cases import TOKEN, make_client, make_partner, make_record, make_stream
from tests.harness.hostile_partner import HostilePartner, Peer, Script, answering, sending

pytestmark = pytest.mark.timeout(60)


def send_to(script: Script, **partner: object) -> tuple[Outcome, HostilePartner]:
    """Send one record to a server with this script."""
    with HostilePartner(script) as server:
        client = make_client(server.url, **partner)
        outcome = client.send(client.prepare(make_record()))
        client.close()
    return outcome, server


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        ("200 OK", Verdict.ACCEPTED),
        ("202 Accepted", Verdict.ACCEPTED),
        ("408 Request Timeout", Verdict.RETRY_LATER),
        ("429 Too Many Requests", Verdict.RETRY_LATER),
        ("503 Service Unavailable", Verdict.RETRY_LATER),
        ("401 Unauthorized", Verdict.RETRY_LATER),
        ("409 Conflict", Verdict.REJECTED),
        ("422 Unprocessable Entity", Verdict.REJECTED),
    ],
)
def test_the_status_decides_the_outcome(status: str, verdict: Verdict) -> None:
    outcome, server = send_to(answering(status, b'{"message":"as it is"}'))
    number = int(status[:3])
    assert (outcome.verdict, outcome.status) == (verdict, number)
    assert outcome.error == (None if verdict is Verdict.ACCEPTED else f"HTTP {number}: as it is")
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
def test_a_redirect_is_never_followed(status: str) -> None:
    with HostilePartner(answering("200 OK")) as target:
        location = f"Location: http://127.0.0.1:{target.port}/elsewhere?session=s3cr3t"
        outcome, _ = send_to(answering(status, b"", location))
    assert outcome.verdict is Verdict.REJECTED
    assert outcome.error == f"HTTP {status[:3]}: points to 127.0.0.1; redirects are never followed"
    assert target.requests == []


@pytest.mark.parametrize(
    ("location", "said"), [("/login", "the same host"), ("http://[", "cannot be read"), ("", "nowhere")]
)
def test_a_strange_redirect_is_reported_too(location: str, said: str) -> None:
    outcome, _ = send_to(answering("302 Found", b"", f"Location: {location}"))
    assert said in (outcome.error or "")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error":{"code":7,"message":"no such customer"}}', "no such customer"),
        (b'{"errors":[{"detail":"total is negative"}]}', "total is negative"),
        (b'{"type":"about:blank","title":"Invalid","detail":"total is negative"}', "total is negative"),
        (b'{"errors":["first","second"]}', "first"),
        (b'{"code":17}', '{"code":17}'),
        (b"<html><title>Bad Gateway</title><body>x</body></html>", "Bad Gateway"),
        (b"plain words\r\nin two lines", "plain words in two lines"),
        (b'{"message":' + b"[" * 5000, '{"message":' + "[" * 189),
        (b"", ""),
    ],
)
def test_a_refusal_is_reported_in_the_partners_words(body: bytes, said: str) -> None:
    outcome, _ = send_to(answering("422 No", body))
    assert outcome.error == (f"HTTP 422: {said}" if said else "HTTP 422")


def test_retry_after_is_read_in_seconds_and_as_a_date() -> None:
    outcome, _ = send_to(answering("429 Slow", b"", "Retry-After: 17"))
    assert outcome.retry_after_seconds == 17.0
    partners_clock = datetime(2001, 1, 1, tzinfo=UTC)
    dates = (
        f"Date: {format_datetime(partners_clock, usegmt=True)}",
        f"Retry-After: {format_datetime(partners_clock + timedelta(minutes=2), usegmt=True)}",
    )
    outcome, _ = send_to(answering("503 Down", b"", *dates))
    assert outcome.retry_after_seconds == 120.0


def test_an_excerpt_is_capped_and_clean_and_holds_no_secret() -> None:
    echo = f"\x00\x1b[31m{TOKEN} Bearer {TOKEN} k-998877\u202ebad\r\nline ".encode() + b"\xff" + b"x" * 10_000
    outcome, _ = send_to(answering("422 No", echo), headers={"X-Api-Key": "k-998877", "X-Version": "2"})
    assert outcome.excerpt.startswith("[31m*** Bearer *** *** bad line \ufffdxxx")
    assert len(outcome.excerpt) == 500
    assert TOKEN not in (outcome.error or "")


def test_a_secret_across_the_end_of_the_excerpt_is_not_cut_in_half() -> None:
    outcome, _ = send_to(answering("200 OK", b"x" * 495 + TOKEN.encode()))
    assert outcome.excerpt == "x" * 495 + "***"


def gzipped(body: bytes) -> bytes:
    return gzip.compress(body)


def raw_deflated(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


@pytest.mark.parametrize(
    ("pack", "coding"),
    [
        (gzipped, "gzip"),
        (gzipped, "X-GZIP"),
        (gzipped, ""),
        (zlib.compress, "deflate"),
        (raw_deflated, "deflate"),
        (lambda body: gzip.compress(body[:9]) + gzip.compress(body[9:]), "gzip"),
        (lambda body: body, "gzip"),
        (lambda body: body, "br"),
    ],
    ids=["gzip", "x-gzip", "no header", "deflate", "raw deflate", "two members", "plain", "plain in spite of br"],
)
def test_an_answer_that_is_compressed_unasked_is_read(pack: Callable[[bytes], bytes], coding: str) -> None:
    headers = [f"Content-Encoding: {coding}"] if coding else []
    outcome, _ = send_to(answering("422 No", pack(b'{"message":"total is negative"}'), *headers))
    assert outcome.error == "HTTP 422: total is negative"
    assert outcome.excerpt == '{"message":"total is negative"}'


@pytest.mark.parametrize("padding", [b"\0" * 512, b"\n", b"PAD"])
def test_padding_behind_a_compressed_answer_is_left_out(padding: bytes) -> None:
    assert unpack_body(gzipped(b"{}") + padding, "gzip", at_most=1000) == (b"{}", "", False)
    assert unpack_body(zlib.compress(b"{}") + padding, "deflate", at_most=1000) == (b"{}", "", False)
    assert unpack_body(gzipped(b"") + padding, "gzip", at_most=1000) == (b"", "", False)


def test_an_answer_in_many_small_members_is_read_as_far_as_a_bound() -> None:
    """Each begins anew: a body of 16 MiB could hold 800,000, on the loop that all calls share."""
    begun = time.monotonic()
    body = unpack_body(gzipped(b"") * 200_000, "gzip", at_most=16 * 1024 * 1024)
    assert time.monotonic() - begun < 1
    assert body.coding == "gzip"
    assert unpack_body(gzipped(b"x") * 17, "gzip", at_most=1000).is_broken
    assert unpack_body(gzipped(b"x") * 16, "gzip", at_most=1000) == (b"x" * 16, "", False)


@pytest.mark.parametrize(
    ("status", "verdict"), [("200 OK", Verdict.ACCEPTED), ("422 No", Verdict.AMBIGUOUS)], ids=["accepted", "refused"]
)
def test_a_compressed_answer_that_ends_early_has_broken_off(status: str, verdict: Verdict) -> None:
    body = gzipped(b'{"message":"total is negative"}' * 40)[:-9]
    outcome, _ = send_to(answering(status, body, "Content-Encoding: gzip"))
    assert outcome.verdict is verdict
    assert outcome.excerpt.startswith('{"message":"total')
    assert "broke off" in (outcome.error or "broke off")
    assert unpack_body(body, "gzip", at_most=2000).is_broken


def test_of_a_compressed_answer_no_more_is_unpacked_than_is_read() -> None:
    body, coding, _ = unpack_body(gzip.compress(b"0" * 50_000_000), "gzip", at_most=1000)
    assert (len(body), coding) == (1001, "")
    outcome, _ = send_to(answering("200 OK", gzip.compress(b"0" * 10_000_000), "Content-Encoding: gzip"))
    assert (outcome.verdict, outcome.excerpt) == (Verdict.ACCEPTED, "0" * 500)


@pytest.mark.parametrize(("coding", "body"), [("br", b"\x8b\x01\x80"), ("gzip, br", b"\x8b\x01"), ("deflate", b"<a>")])
def test_a_coding_that_cannot_be_read_is_named(coding: str, body: bytes) -> None:
    outcome, _ = send_to(answering("422 No", body, f"Content-Encoding: {coding}"))
    assert outcome.excerpt == f"({coding}-encoded, {len(body)} bytes)"
    with HostilePartner(answering("200 OK", body, f"Content-Encoding: {coding}")) as server:
        client = PartnerClient(make_partner(server.url), make_stream(accepted_when="ok"))
        outcome = client.send(client.prepare(make_record()))
        client.close()
    assert outcome.verdict is Verdict.AMBIGUOUS
    assert f"its answer is {coding}-encoded, which was not asked for; ok cannot be judged" in (outcome.error or "")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"result":{"status":"locked"}}', 'its JSON does not meet result.status=ok: it has "locked" there'),
        (b"{}", "its JSON does not meet result.status=ok: it has nothing there"),
        (b"<html>", "its answer is not JSON, so it does not meet result.status=ok"),
        (b'{"result":{"status":"%s"}}' % TOKEN.encode(), 'it has "***" there'),
    ],
)
def test_what_came_in_place_of_an_acceptance_is_said(body: bytes, said: str) -> None:
    with HostilePartner(answering("200 OK", body)) as server:
        client = PartnerClient(make_partner(server.url), make_stream(accepted_when="result.status=ok"))
        outcome = client.send(client.prepare(make_record()))
        client.close()
    assert outcome.verdict is Verdict.RETRY_LATER
    assert said in (outcome.error or "")


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ('{"ok":false,"message":"Müller"}'.encode("iso-8859-1"), "application/json; charset=iso-8859-1"),
        ('{"ok":false,"message":"Müller"}'.encode("iso-8859-1"), "application/json; charset=latin1"),
        ('{"ok":false,"message":"Müller"}'.encode("utf-16"), "application/json"),
        ('{"ok":false,"message":"Müller"}'.encode("utf-16-le"), "application/json; charset=utf-16"),
        ('{"ok":false,"message":"Müller"}'.encode("utf-16-be"), "application/json"),
        ('{"ok":false,"message":"Müller"}'.encode("utf-8-sig"), "application/json; charset=klingon"),
        ('{"ok":false,"message":"Müller","rate":NaN,"most":-Infinity}'.encode(), "application/json"),
        (
            '{"ok":false,"message":"Müller","note":"\xff"}'.encode("cp1250", "replace"),
            "text/json; charset=windows-1250",
        ),
    ],
)
def test_the_json_of_an_answer_is_read_in_its_encoding(body: bytes, content_type: str) -> None:
    with HostilePartner(answering("200 OK", body, f"Content-Type: {content_type}")) as server:
        for conditions in ({"rejected_when": "ok=false"}, {"accepted_when": "ok=false", "rejected_when": "!message"}):
            client = PartnerClient(make_partner(server.url), make_stream(**conditions))
            outcome = client.send(client.prepare(make_record()))
            client.close()
            assert outcome.verdict is (Verdict.ACCEPTED if "accepted_when" in conditions else Verdict.REJECTED)
            assert outcome.verdict is Verdict.ACCEPTED or outcome.error is not None
            assert "Müller" in (outcome.error or "Müller")


@pytest.mark.parametrize("conditions", [{"rejected_when": "error"}, {"accepted_when": "!error"}])
def test_the_beginning_of_a_secret_in_a_refusal_with_a_2xx_is_not_kept(conditions: dict[str, str]) -> None:
    body = b'{"error":"no such token: %s..."}' % TOKEN[:9].encode()
    with HostilePartner(answering("200 OK", body)) as server:
        client = PartnerClient(make_partner(server.url), make_stream(**conditions))
        outcome = client.send(client.prepare(make_record()))
        client.close()
    assert outcome.verdict is not Verdict.ACCEPTED
    assert outcome.excerpt == '{"error":"no such token: ***..."}'


@pytest.mark.parametrize("status", ["200 OK", "500 Broken"])
def test_an_endless_answer_is_dropped_at_the_cap(status: str) -> None:
    def script(peer: Peer) -> None:
        while peer.read_request():
            peer.send(f"HTTP/1.1 {status}\r\nContent-Length: 100000000\r\n\r\n".encode())
            # The client hangs up long before all of this was written.
            peer.send(b"y" * 100_000_000)

    with HostilePartner(script) as server:
        client = make_client(server.url)
        outcomes = [client.send(client.prepare(make_record(number))) for number in (1, 2)]
        client.close()
    assert {outcome.excerpt for outcome in outcomes} == {"y" * 500}
    expected = Verdict.ACCEPTED if status.startswith("2") else Verdict.RETRY_LATER
    assert {outcome.verdict for outcome in outcomes} == {expected}
    assert server.connections == 2


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Le",
    ],
)
def test_a_success_whose_body_breaks_off_is_accepted(data: bytes) -> None:
    outcome, _ = send_to(sending(data))
    assert (outcome.verdict, outcome.status, outcome.error) == (Verdict.ACCEPTED, 200, None)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 500 Broken\r\nContent-Length: 100\r\n\r\npart",
        b"HTTP/1.1 422 No\r\nTransfer-Encoding: chunked\r\n\r\nff\r\npart",
    ],
)
def test_a_refusal_whose_body_breaks_off_is_ambiguous(data: bytes) -> None:
    outcome, server = send_to(sending(data))
    assert outcome.verdict is Verdict.AMBIGUOUS
    assert outcome.excerpt == "part"
    assert outcome.error == f"HTTP {outcome.status}: part (the answer of 127.0.0.1:{server.port} broke off)"


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"HTTP/1.1 2",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000,
        b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 5000,
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    ],
)
def test_an_answer_that_is_not_http_is_ambiguous(data: bytes) -> None:
    outcome, _ = send_to(sending(data))
    assert (outcome.verdict, outcome.status) == (Verdict.AMBIGUOUS, None)
    assert outcome.error


def test_several_hundred_header_lines_are_read() -> None:
    outcome, _ = send_to(sending(b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 800 + b"Content-Length: 4\r\n\r\nfine"))
    assert (outcome.verdict, outcome.status, outcome.excerpt) == (Verdict.ACCEPTED, 200, "fine")


@pytest.mark.parametrize(
    ("data", "status", "excerpt"),
    [
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n{}", 204, ""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine, thanks", 200, "fine"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfine\r\n0\r\n\r\n, thanks", 200, "fine"),
    ],
    ids=["a body where there is none", "a longer body", "more than the last chunk"],
)
def test_bytes_behind_a_whole_answer_take_nothing_from_it(data: bytes, status: int, excerpt: str) -> None:
    outcome, _ = send_to(sending(data))
    assert (outcome.verdict, outcome.status, outcome.excerpt) == (Verdict.ACCEPTED, status, excerpt)


def test_interim_answers_are_not_taken_for_the_answer() -> None:
    def script(peer: Peer) -> None:
        while request := peer.read_request():
            peer.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n")
            peer.send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
            peer.answer("422 No" if b'"id":1' in request else "200 OK")

    with HostilePartner(script) as server:
        client = make_client(server.url)
        outcomes = [client.send(client.prepare(make_record(number))) for number in (1, 2)]
        client.close()
    assert [outcome.status for outcome in outcomes] == [422, 200]
    assert server.connections == 1
