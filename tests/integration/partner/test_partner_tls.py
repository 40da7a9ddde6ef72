"""TLS to the partner: trust, and the meaning of a failure."""

import ssl
from pathlib import Path

import pytest
import trustme

from syncctl.core.outcome import Outcome, Verdict
from tests.harness.cases import make_client, make_record
from tests.harness.hostile_partner import HostilePartner, Peer

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A certificate authority of one's own."""
    return trustme.CA()


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the system trust the authority."""
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    monkeypatch.setenv("SSL_CERT_FILE", str(path))


def serve_as(authority: trustme.CA, name: str) -> ssl.SSLContext:
    """Return a server's context with a certificate for this name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def answer(peer: Peer) -> None:
    while peer.read_request():
        peer.answer("200 OK", b"fine")


def send_to(url: str, count: int = 1, **partner: object) -> list[Outcome]:
    """Send records and return their outcomes."""
    client = make_client(url, **partner)
    outcomes = [client.send(client.prepare(make_record(number))) for number in range(count)]
    client.close()
    return outcomes


@pytest.mark.usefixtures("trusted")
def test_calls_go_through_tls_on_one_connection(authority: trustme.CA) -> None:
    with HostilePartner(answer, tls=serve_as(authority, "127.0.0.1")) as server:
        outcomes = send_to(server.url, 5)
    assert {outcome.verdict for outcome in outcomes} == {Verdict.ACCEPTED}
    assert (server.connections, len(server.requests)) == (1, 5)


def test_an_unknown_authority_is_not_trusted_and_gets_nothing(authority: trustme.CA) -> None:
    with HostilePartner(answer, tls=serve_as(authority, "127.0.0.1")) as server:
        (outcome,) = send_to(server.url)
    assert (outcome.verdict, outcome.status) == (Verdict.RETRY_LATER, None)
    assert f"the certificate of 127.0.0.1:{server.port} is not trusted" in (outcome.error or "")
    assert server.requests == []


@pytest.mark.usefixtures("trusted")
def test_another_hosts_certificate_is_not_trusted_and_gets_nothing(authority: trustme.CA) -> None:
    with HostilePartner(answer, tls=serve_as(authority, "other.example")) as server:
        (outcome,) = send_to(server.url)
    assert outcome.verdict is Verdict.RETRY_LATER
    assert "127.0.0.1" in (outcome.error or "")
    assert "not trusted" in (outcome.error or "")
    assert server.requests == []


def test_a_server_without_tls_gets_nothing() -> None:
    with HostilePartner(answer) as server:
        (outcome,) = send_to(server.url.replace("http:", "https:"), timeout_seconds=1.0)
    assert (outcome.verdict, outcome.status) == (Verdict.RETRY_LATER, None)


@pytest.mark.usefixtures("trusted")
def test_the_deadline_holds_over_tls(authority: trustme.CA) -> None:
    def drip_headers(peer: Peer) -> None:
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\n")
        peer.drip(b"X-A: b\r\n")

    with HostilePartner(drip_headers, tls=serve_as(authority, "127.0.0.1")) as server:
        (outcome,) = send_to(server.url, timeout_seconds=1.5)
    assert (outcome.verdict, outcome.status) == (Verdict.AMBIGUOUS, None)
    assert outcome.error == f"no full answer from 127.0.0.1:{server.port} within 1.5 s"


@pytest.mark.usefixtures("trusted")
def test_the_deadline_holds_over_tls_for_a_server_that_never_reads(authority: trustme.CA) -> None:
    with HostilePartner(Peer.hold, tls=serve_as(authority, "127.0.0.1"), receive_buffer=4096) as server:
        client = make_client(server.url, timeout_seconds=1.5)
        outcome = client.send(client.prepare(make_record(payload={"text": "x" * 12_000_000})))
        client.close()
    assert (outcome.verdict, outcome.status) == (Verdict.AMBIGUOUS, None)
