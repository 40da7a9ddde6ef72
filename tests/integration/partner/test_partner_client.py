"""One call and its connection, against real servers."""

import json
import os
import socket
import threading
import time
from decimal import Decimal

import pytest

from syncctl.core.outcome import Verdict
from syncctl.local.mock_partner import MockPartner, PartnerConfig
from tests.harness.cases import TOKEN, make_client, make_record
from tests.harness.hostile_partner import HostilePartner, Peer, Script, answering

pytestmark = pytest.mark.timeout(60)


def test_a_record_arrives_with_its_bytes_and_headers(partner: MockPartner) -> None:
    client = make_client(partner.url + "/v1", "PUT /orders/{id}")
    record = make_record(payload={"id": "a/b", "total": Decimal("10.00")}, attempt=2)
    outcome = client.send(client.prepare(record))
    client.close()
    assert (outcome.verdict, outcome.status, outcome.error) == (Verdict.ACCEPTED, 201, None)
    assert outcome.latency_ms > 0
    assert outcome.excerpt == '{"status":"ok"}'
    (call,) = partner.calls()
    assert (call.method, call.path, call.key, call.attempt) == ("PUT", "/v1/orders/a%2Fb", record.id, 2)
    assert partner.rows() == {"a/b": b'{"id":"a/b","total":10.00}'}


def test_every_header_is_on_the_wire_once() -> None:
    with HostilePartner(answering("204 No Content")) as server:
        client = make_client(server.url, headers={"X-Api-Key": "k-998877"})
        client.send(client.prepare(make_record(attempt=4)))
        client.close()
    head = server.requests[0].partition(b"\r\n\r\n")[0].decode().split("\r\n")
    assert head[0] == "POST /orders HTTP/1.1"
    names = [line.partition(":")[0].lower() for line in head[1:]]
    assert len(names) == len(set(names))
    wanted = {
        f"Authorization: Bearer {TOKEN}",
        "X-Api-Key: k-998877",
        f"Idempotency-Key: {make_record().id}",
        "Syncctl-Attempt: 4",
        "Content-Type: application/json",
        f"Host: 127.0.0.1:{server.port}",
    }
    assert wanted <= set(head)


@pytest.mark.parametrize("endpoint", ["POST /orders", "PUT /orders/{id}", "DELETE /orders/{id}"])
@pytest.mark.parametrize("cut", [lambda _: None, Peer.reset])
def test_a_connection_that_ends_without_an_answer_is_ambiguous_and_never_sent_twice(cut: Script, endpoint: str) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        cut(peer)

    with HostilePartner(script) as server:
        client = make_client(server.url, endpoint)
        outcome = client.send(client.prepare(make_record()))
        client.close()
    assert outcome.verdict is Verdict.AMBIGUOUS
    assert outcome.error == f"127.0.0.1:{server.port} closed the connection without an answer"
    assert len(server.requests) == 1


def test_nothing_was_sent_to_a_closed_port() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        client = make_client(f"http://127.0.0.1:{port}")
        outcome = client.send(client.prepare(make_record()))
        client.close()
    assert (outcome.verdict, outcome.status) == (Verdict.RETRY_LATER, None)
    assert outcome.error == f"127.0.0.1:{port} refused the connection"


def test_nothing_was_sent_to_an_unknown_name() -> None:
    client = make_client("http://no-such-host.invalid", timeout_seconds=5.0)
    outcome = client.send(client.prepare(make_record()))
    client.close()
    assert outcome.verdict is Verdict.RETRY_LATER


def test_an_early_answer_to_a_large_body_is_read() -> None:
    def script(peer: Peer) -> None:
        peer.sock.recv(1000)
        peer.answer("413 Too Large", b"too large", "Connection: close")
        peer.sock.shutdown(socket.SHUT_WR)
        peer.read_request()

    with HostilePartner(script) as server:
        client = make_client(server.url)
        outcome = client.send(client.prepare(make_record(payload={"text": "x" * 3_000_000})))
        client.close()
    assert (outcome.verdict, outcome.error) == (Verdict.REJECTED, "HTTP 413: too large")


def test_a_partner_that_accepts_early_gets_the_whole_request() -> None:
    """Fails where the answer ends the call: the record would be delivered, and its body cut off."""
    has_all = threading.Event()

    def script(peer: Peer) -> None:
        for _ in range(2):
            peer.sock.recv(1000, socket.MSG_PEEK)
            peer.answer("200 OK", b"{}")
            time.sleep(0.2)
            peer.read_request()
        has_all.set()

    with HostilePartner(script) as server:
        client = make_client(server.url)
        outcomes = [client.send(client.prepare(make_record(n, payload={"text": "x" * 8_000_000}))) for n in (1, 2)]
        has_all.wait(30)
        client.close()
    assert [outcome.verdict for outcome in outcomes] == [Verdict.ACCEPTED] * 2
    assert all(len(request) > 8_000_000 for request in server.requests)
    assert (server.connections, len(server.requests)) == (1, 2)


def test_connections_are_kept_between_calls() -> None:
    with HostilePartner(answering("200 OK", b"fine")) as server:
        client = make_client(server.url)
        for number in range(20):
            assert client.send(client.prepare(make_record(number))).verdict is Verdict.ACCEPTED
        client.close()
    assert (server.connections, len(server.requests)) == (1, 20)


def test_a_kept_connection_that_dies_under_a_call_is_ambiguous_and_never_sent_twice() -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.answer("200 OK")
        peer.read_request()

    with HostilePartner(script) as server:
        client = make_client(server.url)
        outcomes = [client.send(client.prepare(make_record(number))) for number in (1, 2, 3)]
        client.close()
    assert [outcome.verdict for outcome in outcomes] == [Verdict.ACCEPTED, Verdict.AMBIGUOUS, Verdict.ACCEPTED]
    assert len(server.requests) == 3


def test_a_kept_connection_that_is_dead_already_is_replaced() -> None:
    hung_up = threading.Event()

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.answer("200 OK")
        peer.sock.close()
        hung_up.set()

    with HostilePartner(script) as server:
        client = make_client(server.url)
        for number in range(5):
            assert client.send(client.prepare(make_record(number))).verdict is Verdict.ACCEPTED
            assert hung_up.wait(30)
            hung_up.clear()
        client.close()
    assert server.connections == 5


@pytest.mark.parametrize("unasked", [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", b"HTTP/1.1 2", b"{}"])
def test_what_a_partner_sends_unasked_is_not_the_answer_to_the_next_call(unasked: bytes) -> None:
    """Fails where a connection is kept that has spoken between two calls: a refused row would be delivered."""
    spoke = threading.Event()

    def script(peer: Peer) -> None:
        if not peer.read_request():
            return
        if len(server.requests) == 1:
            peer.answer("503 Service Unavailable")
            time.sleep(0.1)
            peer.send(unasked)
            spoke.set()
            if not peer.read_request():
                return
        peer.answer("422 Unprocessable Content")

    with HostilePartner(script) as server:
        client = make_client(server.url)
        first = client.send(client.prepare(make_record(1)))
        assert spoke.wait(10)
        time.sleep(0.1)
        second = client.send(client.prepare(make_record(2)))
        client.close()
    assert (first.status, second.status) == (503, 422)
    assert server.connections == 2


def test_a_connection_is_not_kept_longer_than_the_partner_says() -> None:
    with HostilePartner(answering("200 OK", b"", "Keep-Alive: timeout=1, max=100")) as server:
        client = make_client(server.url)
        for number in range(3):
            assert client.send(client.prepare(make_record(number))).verdict is Verdict.ACCEPTED
        client.close()
    assert server.connections == 3


def test_the_environment_does_not_reroute_calls(partner: MockPartner, monkeypatch: pytest.MonkeyPatch) -> None:
    with HostilePartner(answering("200 OK")) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        client = make_client(partner.url)
        assert client.send(client.prepare(make_record())).verdict is Verdict.ACCEPTED
        client.close()
    assert proxy.connections == 0
    assert len(partner.calls()) == 1


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_uses_connections_of_its_own() -> None:
    with HostilePartner(answering("200 OK")) as server:
        client = make_client(server.url)
        calls = [client.prepare(make_record(number)) for number in range(3)]
        assert client.send(calls[0]).verdict is Verdict.ACCEPTED
        child = os.fork()
        if child == 0:
            os._exit(0 if client.send(calls[1]).verdict is Verdict.ACCEPTED else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert client.send(calls[2]).verdict is Verdict.ACCEPTED
        client.close()
    assert server.connections == 2


def test_after_close_nothing_is_sent(partner: MockPartner) -> None:
    client = make_client(partner.url)
    client.send(client.prepare(make_record(1)))
    client.close()
    client.close()
    outcome = client.send(client.prepare(make_record(2)))
    assert (outcome.verdict, outcome.error) == (Verdict.RETRY_LATER, "the client was closed before the call began")
    assert len(partner.calls()) == 1


def test_a_probe_changes_nothing(partner: MockPartner) -> None:
    client = make_client(partner.url)
    probe = client.probe()
    client.close()
    assert (probe.reachable, probe.status) == (True, 204)
    assert partner.url.removeprefix("http://") in probe.detail
    assert partner.calls() == []


def test_a_probe_asks_for_the_base_url_with_the_credentials() -> None:
    with HostilePartner(answering("401 Unauthorized")) as server:
        client = make_client(server.url + "/v1")
        probe = client.probe()
        client.close()
    assert server.requests[0].startswith(b"OPTIONS /v1 HTTP/1.1\r\n")
    assert f"Authorization: Bearer {TOKEN}".encode() in server.requests[0]
    assert b"Idempotency-Key" not in server.requests[0]
    assert (probe.reachable, probe.status) == (True, 401)
    assert "credentials" in probe.detail


def test_a_probe_of_a_closed_port_says_so(free_port: int) -> None:
    client = make_client(f"http://127.0.0.1:{free_port}")
    probe = client.probe()
    client.close()
    assert (probe.reachable, probe.status) == (False, None)
    assert probe.detail == f"127.0.0.1:{free_port} refused the connection"


@pytest.fixture
def free_port() -> int:
    """A closed port."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_the_partners_account_agrees_with_the_outcomes() -> None:
    config = PartnerConfig(seed=3, too_many_rate=0.2, error_rate=0.2, drop_before_rate=0.2, drop_after_rate=0.2)
    with MockPartner(config) as partner:
        client = make_client(partner.url)
        seen: set[Verdict] = set()
        for number in range(40):
            for attempt in range(1, 60):
                outcome = client.send(client.prepare(make_record(number, attempt=attempt)))
                seen.add(outcome.verdict)
                if outcome.verdict is Verdict.ACCEPTED:
                    break
        client.close()
        stats = partner.stats()
    assert seen == {Verdict.ACCEPTED, Verdict.RETRY_LATER, Verdict.AMBIGUOUS}
    assert (stats["distinct_keys"], stats["rows"], stats["violation"]) == (40, 40, 0)
    assert stats["repeated"] > 0
    assert json.loads(partner.rows()["0"])["id"] == 0
