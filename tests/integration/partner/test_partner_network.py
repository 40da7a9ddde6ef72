"""A partner's own authorities, client certificate and proxy."""

import logging
import ssl
from base64 import b64encode
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from syncctl.core.outcome import Outcome, Verdict
from syncctl.core.stream import Tls
from syncctl.errors import ConfigurationError
from syncctl.partner import tls
from tests.harness.cases import TOKEN, make_client, make_record
from tests.harness.connect_proxy import ConnectProxy
from tests.harness.hostile_partner import HostilePartner, Peer, answering
from tests.harness.token_endpoint import TokenDesk

pytestmark = pytest.mark.timeout(60)

CANARY = "pr0xy-c4nary"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """The partner's own certificate authority."""
    return trustme.CA()


@pytest.fixture
def ca(authority: trustme.CA, tmp_path: Path) -> str:
    """Its certificate as a file."""
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


def serve_as(authority: trustme.CA, *, wants_clients_of: trustme.CA | None = None) -> ssl.SSLContext:
    """Return the context of a server on 127.0.0.1, which may require a client certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    if wants_clients_of is not None:
        wants_clients_of.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def send_to(url: str, count: int = 1, **partner: object) -> list[Outcome]:
    """Send records and return their outcomes."""
    client = make_client(url, **partner)
    outcomes = [client.send(client.prepare(make_record(number))) for number in range(count)]
    client.close()
    return outcomes


def test_a_private_authority_is_trusted_where_it_is_named(authority: trustme.CA, ca: str) -> None:
    with HostilePartner(answering("200 OK"), tls=serve_as(authority)) as server:
        outcomes = send_to(server.url, 3, tls=Tls(ca=ca))
    assert {outcome.verdict for outcome in outcomes} == {Verdict.ACCEPTED}
    assert server.connections == 1


def test_another_authority_is_not_trusted_and_the_error_says_certificate(ca: str) -> None:
    with HostilePartner(answering("200 OK"), tls=serve_as(trustme.CA())) as server:
        (outcome,) = send_to(server.url, tls=Tls(ca=ca))
    assert (outcome.verdict, outcome.status) == (Verdict.RETRY_LATER, None)
    assert f"the certificate of 127.0.0.1:{server.port} is not trusted" in (outcome.error or "")
    assert server.requests == []


def test_a_private_authority_replaces_those_of_the_system(
    authority: trustme.CA, ca: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = trustme.CA()
    other.cert_pem.write_to_path(str(tmp_path / "system.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "system.pem"))
    with HostilePartner(answering("200 OK"), tls=serve_as(other)) as server:
        assert send_to(server.url)[0].verdict is Verdict.ACCEPTED
        assert send_to(server.url, tls=Tls(ca=ca))[0].verdict is Verdict.RETRY_LATER


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_client_certificate_is_accepted(authority: trustme.CA, ca: str, tmp_path: Path, encrypted: bool) -> None:
    clients = trustme.CA()
    ours = clients.issue_cert("syncctl.example")
    certificate, key = tmp_path / "client.pem", tmp_path / "client.key"
    ours.cert_chain_pems[0].write_to_path(str(certificate))
    pem = ours.private_key_pem.bytes()
    if encrypted:
        lock = serialization.BestAvailableEncryption(b"0pen sesame")
        private = serialization.load_pem_private_key(pem, None)
        pem = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)
    key.write_bytes(pem)
    tls = Tls(
        ca=ca, client_cert=str(certificate), client_key=str(key), client_key_password="0pen sesame" if encrypted else ""
    )
    with HostilePartner(answering("200 OK"), tls=serve_as(authority, wants_clients_of=clients)) as server:
        assert send_to(server.url, tls=tls)[0].verdict is Verdict.ACCEPTED
        (without,) = send_to(server.url, tls=Tls(ca=ca))
    assert without.verdict is not Verdict.ACCEPTED
    assert len(server.requests) == 1
    if encrypted:
        with pytest.raises(ConfigurationError, match=r"partners\.default\.client_cert cannot be used") as caught:
            send_to(server.url, tls=Tls(ca=ca, client_cert=str(certificate), client_key=str(key)))
        assert "password" in caught.value.why


def test_a_certificate_that_is_refused_means_that_nothing_was_taken() -> None:
    from syncctl.partner.connection_errors import was_refused_in_handshake

    error = ssl.SSLError(1, "alert")
    error.reason = "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    assert was_refused_in_handshake(OSError(error))
    error.reason = "DECRYPTION_FAILED_OR_BAD_RECORD_MAC"
    assert not was_refused_in_handshake(OSError(error))


@pytest.mark.parametrize("key", ["ca", "client_cert", "client_key"])
@pytest.mark.parametrize("content", [None, "not a certificate"])
def test_a_file_that_is_missing_or_wrong_is_named_with_its_key(key: str, content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "file.pem"
    if content:
        path.write_text(content)
    files = {key: str(path)}
    if key == "client_key":
        certificate = tmp_path / "cert.pem"
        trustme.CA().issue_cert("a.example").cert_chain_pems[0].write_to_path(str(certificate))
        files["client_cert"] = str(certificate)
    named = "client_cert" if key == "client_key" and content else key
    with pytest.raises(ConfigurationError, match=rf"partners\.default\.{named} cannot be used"):
        make_client("https://127.0.0.1:1", tls=Tls(**files))


def test_without_verification_any_server_is_called_and_the_log_warns_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "_warned", set())
    with caplog.at_level(logging.WARNING), HostilePartner(answering("200 OK"), tls=serve_as(trustme.CA())) as server:
        for _ in range(2):
            assert send_to(server.url, tls=Tls(verify=False))[0].verdict is Verdict.ACCEPTED
    assert [record.message for record in caplog.records] == ["partner.unverified"]


def test_https_goes_through_a_tunnel_of_the_proxy(authority: trustme.CA, ca: str) -> None:
    with (
        HostilePartner(answering("200 OK"), tls=serve_as(authority)) as server,
        ConnectProxy(credentials=f"user:{CANARY}") as proxy,
    ):
        outcomes = send_to(server.url, 3, tls=Tls(ca=ca), proxy=proxy.url)
    assert {outcome.verdict for outcome in outcomes} == {Verdict.ACCEPTED}
    (head,) = proxy.heads
    assert head.startswith(f"CONNECT 127.0.0.1:{server.port} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n")
    assert TOKEN not in head
    assert not any(b"Proxy-Authorization" in request for request in server.requests)


def test_http_goes_to_the_proxy_with_its_whole_url() -> None:
    with HostilePartner(answering("200 OK")) as server, ConnectProxy(credentials=f"u:{CANARY}") as proxy:
        (outcome,) = send_to(server.url + "/v1", proxy=proxy.url)
    assert outcome.verdict is Verdict.ACCEPTED
    assert proxy.heads[0].startswith(f"POST {server.url}/v1/orders HTTP/1.1\r\n")
    assert f"Proxy-Authorization: Basic {b64encode(f'u:{CANARY}'.encode()).decode()}" in proxy.heads[0]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_does_not_know_us_costs_no_record(authority: trustme.CA, ca: str, scheme: str) -> None:
    tls = serve_as(authority) if scheme == "https" else None
    with HostilePartner(answering("200 OK"), tls=tls) as server, ConnectProxy(credentials="u:other") as proxy:
        url = f"http://u:{CANARY}@127.0.0.1:{proxy.port}"
        (outcome,) = send_to(server.url, tls=Tls(ca=ca), proxy=url)
    assert (outcome.verdict, outcome.status) == (Verdict.RETRY_LATER, None)
    assert f"the proxy 127.0.0.1:{proxy.port} refused" in (outcome.error or "")
    assert CANARY not in (outcome.error or "")
    assert server.requests == []


def hang_up(peer: Peer) -> None:
    peer.read_request()


@pytest.mark.parametrize(
    ("script", "text"),
    [
        (answering("502 Bad Gateway"), "refused 127.0.0.1:9 with HTTP 502"),
        (Peer.hold, "no answer from the proxy 127.0.0.1:{port} in time"),
        (lambda peer: peer.drip(b"HTTP/1.1 200 OK"), "no answer from the proxy 127.0.0.1:{port} in time"),
        (lambda peer: peer.send(b"x" * 100_000), "the proxy did not answer in HTTP"),
        (hang_up, "the proxy did not answer in HTTP"),
    ],
    ids=["refuses", "hangs", "drips", "babbles", "hangs up"],
)
def test_a_proxy_that_lets_nothing_through_is_named(script: object, text: str) -> None:
    with HostilePartner(script) as proxy:  # type: ignore[arg-type]
        (outcome,) = send_to("https://127.0.0.1:9", proxy=proxy.url, timeout_seconds=1.5)
    assert (outcome.verdict, outcome.status) == (Verdict.RETRY_LATER, None)
    assert text.format(port=proxy.port) in (outcome.error or "")


def test_a_proxy_that_is_not_there_is_named() -> None:
    (outcome,) = send_to("https://127.0.0.1:9", proxy="http://127.0.0.1:1")
    assert outcome.verdict is Verdict.RETRY_LATER
    assert outcome.error == "cannot connect to the proxy 127.0.0.1:1: Connection refused"


def test_the_token_endpoint_is_called_by_the_same_rules(authority: trustme.CA, ca: str) -> None:
    with (
        HostilePartner(answering("200 OK", b'{"access_token":"t0ken-1"}'), tls=serve_as(authority)) as endpoint,
        TokenDesk() as desk,
        ConnectProxy() as proxy,
    ):
        auth = desk.auth(token_url=f"{endpoint.url}/token")
        desk.good = "t0ken-1"
        (refused,) = send_to(desk.partner.url, auth=auth)
        (accepted,) = send_to(desk.partner.url, auth=auth, tls=Tls(ca=ca), proxy=proxy.url)
    assert refused.verdict is Verdict.RETRY_LATER
    assert "no token: the certificate of" in (refused.error or "")
    assert accepted.verdict is Verdict.ACCEPTED
    assert [head.split(" ")[0] for head in proxy.heads] == ["CONNECT", "POST"]
