"""The deadline of a whole call, against servers that never finish. Without it, each of these tests hangs."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from syncctl.core.outcome import Outcome, Verdict
from syncctl.partner import transport
from tests.harness.cases import make_client, make_record
from tests.harness.hostile_partner import HostilePartner, Peer

pytestmark = pytest.mark.timeout(60)

SECONDS = 1.0


def send_within(url: str, *, size: int = 10, seconds: float = SECONDS) -> Outcome:
    """Send a record of about this size with a short deadline."""
    client = make_client(url, timeout_seconds=seconds)
    outcome = client.send(client.prepare(make_record(payload={"text": "x" * size})))
    client.close()
    return outcome


def never_answer(peer: Peer) -> None:
    peer.read_request()
    peer.hold()


def drip_status_line(peer: Peer) -> None:
    peer.read_request()
    peer.send(b"HTTP/1.1 200 ")
    peer.drip(b"H" * 100_000)


def drip_headers(peer: Peer) -> None:
    peer.read_request()
    peer.send(b"HTTP/1.1 200 OK\r\n")
    peer.drip(b"X-A: b\r\n")


def drip_interim_answers(peer: Peer) -> None:
    peer.read_request()
    peer.drip(b"HTTP/1.1 102 Processing\r\n\r\n")


@pytest.mark.parametrize("script", [never_answer, drip_status_line, drip_headers, drip_interim_answers])
def test_an_answer_that_never_comes_is_ambiguous(script: object) -> None:
    with HostilePartner(script) as server:  # type: ignore[arg-type]
        outcome = send_within(server.url)
    assert (outcome.verdict, outcome.status) == (Verdict.AMBIGUOUS, None)
    assert outcome.error == f"no full answer from 127.0.0.1:{server.port} within {SECONDS:g} s"
    assert outcome.latency_ms >= SECONDS * 1000
    assert len(server.requests) == 1


def test_a_body_that_never_ends_leaves_the_status() -> None:
    def drip_body(peer: Peer) -> None:
        request = peer.read_request()
        status = b"200 OK" if b"POST /fine" in request else b"500 Broken"
        peer.send(b"HTTP/1.1 " + status + b"\r\nContent-Length: 100000\r\n\r\n")
        peer.drip(b"z")

    with HostilePartner(drip_body) as server:
        fine, broken = send_within(server.url + "/fine"), send_within(server.url + "/broken")
    assert (fine.verdict, fine.status, fine.error) == (Verdict.ACCEPTED, 200, None)
    assert (broken.verdict, broken.status) == (Verdict.AMBIGUOUS, 500)
    assert "no full answer" in (broken.error or "")
    assert set(broken.excerpt) == {"z"}


def test_a_body_in_endless_chunks_leaves_the_status() -> None:
    def drip_chunks(peer: Peer) -> None:
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        peer.drip(b"1\r\nz\r\n")

    with HostilePartner(drip_chunks) as server:
        outcome = send_within(server.url)
    assert (outcome.verdict, outcome.status) == (Verdict.ACCEPTED, 200)


def test_a_server_that_never_reads_is_ambiguous() -> None:
    with HostilePartner(Peer.hold, receive_buffer=4096) as server:
        outcome = send_within(server.url, size=12_000_000)
    assert (outcome.verdict, outcome.status) == (Verdict.AMBIGUOUS, None)


def test_a_server_that_reads_no_second_call_is_ambiguous() -> None:
    def read_once(peer: Peer) -> None:
        peer.read_request()
        peer.answer("200 OK")
        peer.hold()

    with HostilePartner(read_once, receive_buffer=4096) as server:
        client = make_client(server.url, timeout_seconds=SECONDS)
        first = client.send(client.prepare(make_record(1)))
        second = client.send(client.prepare(make_record(2, payload={"text": "x" * 12_000_000})))
        client.close()
    assert (first.verdict, second.verdict) == (Verdict.ACCEPTED, Verdict.AMBIGUOUS)
    assert server.connections == 1


def test_a_kept_connection_gets_the_deadline_of_its_new_call() -> None:
    def answer_once(peer: Peer) -> None:
        peer.read_request()
        peer.answer("200 OK")
        drip_headers(peer)

    with HostilePartner(answer_once) as server:
        client = make_client(server.url, timeout_seconds=SECONDS)
        outcomes = [client.send(client.prepare(make_record(number))) for number in (1, 2)]
        client.close()
    assert [outcome.verdict for outcome in outcomes] == [Verdict.ACCEPTED, Verdict.AMBIGUOUS]
    assert server.connections == 1


def test_a_connection_that_outlives_one_deadline_serves_the_next_call() -> None:
    def answer_always(peer: Peer) -> None:
        while peer.read_request():
            peer.answer("200 OK")

    with HostilePartner(answer_always) as server:
        client = make_client(server.url, timeout_seconds=SECONDS)
        first = client.send(client.prepare(make_record(1)))
        time.sleep(SECONDS)
        second = client.send(client.prepare(make_record(2)))
        client.close()
    assert (first.verdict, second.verdict) == (Verdict.ACCEPTED, Verdict.ACCEPTED)
    assert server.connections == 1


@contextlib.contextmanager
def serve_full_backlog() -> Iterator[int]:
    """Yield a port on which no further connection is accepted."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def test_a_connection_that_is_never_accepted_was_not_sent_anything() -> None:
    with serve_full_backlog() as port:
        outcome = send_within(f"http://127.0.0.1:{port}")
    assert (outcome.verdict, outcome.status) == (Verdict.RETRY_LATER, None)
    assert outcome.error == f"no connection to 127.0.0.1:{port} within {SECONDS:g} s"


@pytest.mark.parametrize("hello", [b"", b"\x16\x03\x03\x3f\xff" + b"\x02"])
def test_a_tls_handshake_that_never_ends_was_not_sent_anything(hello: bytes) -> None:
    def drip_hello(peer: Peer) -> None:
        peer.sock.recv(65536)
        peer.send(hello)
        peer.drip(b"\x00") if hello else peer.hold()

    with HostilePartner(drip_hello) as server:
        outcome = send_within(server.url.replace("http:", "https:"))
    assert (outcome.verdict, outcome.status) == (Verdict.RETRY_LATER, None)
    assert outcome.error == f"no connection to 127.0.0.1:{server.port} within {SECONDS:g} s"


def test_a_name_lookup_that_never_ends_was_not_sent_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    finished = threading.Event()

    def look_up(host: str, port: int) -> list[Any]:
        released.wait()
        finished.set()
        return []

    monkeypatch.setattr(transport, "_look_up", look_up)
    outcome = send_within("http://partner.example")
    released.set()
    assert finished.wait(10)
    assert (outcome.verdict, outcome.status) == (Verdict.RETRY_LATER, None)
    assert outcome.error == f"no connection to partner.example:80 within {SECONDS:g} s"


def test_an_address_that_swallows_everything_leaves_time_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(peer: Peer) -> None:
        peer.read_request()
        peer.answer("200 OK")

    with HostilePartner(answer) as server, serve_full_backlog() as deaf:
        addresses = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in (deaf, server.port)]
        monkeypatch.setattr(transport, "_look_up", lambda *_: addresses)
        outcome = send_within("http://partner.example", seconds=2 * SECONDS)
    assert outcome.verdict is Verdict.ACCEPTED
