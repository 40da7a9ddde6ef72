"""The channels of alerts against real servers: what arrives, and what is said of one that takes nothing."""

import json
import ssl
import time
from pathlib import Path

import pytest
import trustme

from syncctl.channels.mail import MailChannel
from syncctl.channels.webhook import ANSWER_AT_MOST_BYTES, WebhookChannel
from syncctl.core.alert_channels import MailTarget, SendResult, WebhookTarget
from syncctl.errors import ConfigurationError
from syncctl.pipeline.monitoring.alert_sending import make_test_text
from tests.harness.alert_receivers import MailServer, WebhookReceiver
from tests.harness.hostile_partner import HostilePartner, Peer, answering

pytestmark = pytest.mark.timeout(60)
TEXT = make_test_text("erp")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def bundle(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


def serve_as(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def try_post(url: str, *, path: str = "/services/a-secret-path-42", **options: object) -> SendResult:
    channel = WebhookChannel(WebhookTarget(url=url + path, **options))  # type: ignore[arg-type]
    try:
        return channel.send(TEXT)
    finally:
        channel.close()


def post(url: str, **options: object) -> str | None:
    return try_post(url, **options).error  # type: ignore[arg-type]


def try_mail(url: str, **options: object) -> SendResult:
    target = MailTarget(url=url, sender="s@example.com", recipients=("a@b.c", "d@e.f"), **options)  # type: ignore[arg-type]
    return MailChannel(target).send(TEXT)


def mail(url: str, **options: object) -> str | None:
    return try_mail(url, **options).error


def test_a_webhook_gets_json() -> None:
    with WebhookReceiver() as receiver:
        assert post(receiver.url) is None
    (document,) = receiver.taken
    assert document == TEXT.to_document()


def test_teams_gets_a_card() -> None:
    with WebhookReceiver() as receiver:
        assert post(receiver.url, format="teams") is None
    assert receiver.taken[0]["type"] == "message"


def test_a_redirect_is_not_followed_and_an_endless_answer_not_read() -> None:
    with WebhookReceiver() as elsewhere:
        answer = answering("307 Temporary Redirect", b"", f"Location: {elsewhere.url}")
        with HostilePartner(answer) as server:
            error = post(server.url)
    assert error is not None
    assert "redirects are never followed" in error
    assert elsewhere.taken == []
    with HostilePartner(answering("200 OK", b"x" * (100 * ANSWER_AT_MOST_BYTES))) as server:
        assert post(server.url) is None


def test_a_webhook_that_hangs_ends_at_its_deadline_and_its_address_is_not_shown() -> None:
    def hang(peer: Peer) -> None:
        peer.read_request()
        time.sleep(5)

    with HostilePartner(hang) as server:
        error = post(server.url, timeout_seconds=0.5)
    assert error is not None
    assert "within 0.5 s" in error
    with HostilePartner(
        answering("404 Not Found", b'{"message": "no such hook: /services/a-secret-path-42"}')
    ) as server:
        error = post(server.url)
    assert error is not None
    assert "HTTP 404: no such hook" in error
    assert "secret" not in error
    assert "secret" not in (post("http://127.0.0.1:1") or "")


def test_a_webhook_of_a_private_authority_needs_its_certificate(authority: trustme.CA, bundle: str) -> None:
    with HostilePartner(answering("200 OK", b""), tls=serve_as(authority, "127.0.0.1")) as server:
        assert "is not trusted" in (post(server.url) or "")
        assert post(server.url, ca=bundle) is None


def test_a_file_that_cannot_be_used_is_named_by_its_setting(tmp_path: Path) -> None:
    for kind, target in (
        (WebhookChannel, WebhookTarget(url="https://h/x", ca=str(tmp_path / "none.pem"))),
        (MailChannel, MailTarget(url="smtp://h", sender="a@b.c", recipients=(), ca=str(tmp_path / "none.pem"))),
    ):
        with pytest.raises(ConfigurationError, match=r"alerts\.ca cannot be used"):
            kind(target)  # type: ignore[operator]


def test_a_mail_goes_over_starttls_with_the_password(authority: trustme.CA, bundle: str) -> None:
    with MailServer(tls=serve_as(authority, "127.0.0.1")) as server:
        assert mail(f"smtp://syncctl:secret-word@{server.address}", ca=bundle) is None
    (text,) = server.mails
    assert "Subject: [syncctl] TEST: test (erp)" in text
    assert server.secured == [True]
    assert [command for command in map(str.upper, server.commands) if command.startswith("RCPT")] == [
        "RCPT TO:<A@B.C>",
        "RCPT TO:<D@E.F>",
    ]


def test_no_password_goes_in_the_clear_nor_to_a_server_that_is_not_trusted(authority: trustme.CA) -> None:
    with MailServer() as server:
        error = mail(f"smtp://syncctl:secret-word@{server.address}")
        assert error is not None
        assert "offers no STARTTLS" in error
        assert mail(f"smtp://{server.address}") is None
    with MailServer(tls=serve_as(authority, "127.0.0.1")) as impostor:
        assert "is not trusted" in (mail(f"smtp://syncctl:secret-word@{impostor.address}") or "")
    assert not [command for command in (*server.commands, *impostor.commands) if command.upper().startswith("AUTH")]
    assert impostor.mails == []


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        ("400 Bad Request", "rejected"),
        ("413 Too Large", "rejected"),
        ("401 Unauthorized", "misconfigured"),
        ("404 Not Found", "misconfigured"),
        ("302 Found", "misconfigured"),
        ("429 Too Many", "unavailable"),
        ("503 Unavailable", "unavailable"),
        ("504 Gateway Timeout", "ambiguous"),
    ],
)
def test_what_an_answer_means_for_the_message_and_its_channel(status: str, outcome: str) -> None:
    with HostilePartner(answering(status, b"")) as server:
        assert try_post(server.url).outcome == outcome


def test_a_webhook_that_may_have_taken_a_message_is_told_from_one_that_has_not() -> None:
    def cut(peer: Peer) -> None:
        peer.read_request()

    with HostilePartner(cut) as server:
        assert try_post(server.url).outcome == "ambiguous"
    assert try_post("http://127.0.0.1:1").outcome == "unavailable"


@pytest.mark.parametrize(
    "path", ["/hook/ab12", "/hook/secr", "/hook/x9", "/hook/Zq", "/hook?key=ab12", "/hook?ab12", "/hook/%61b12"]
)
def test_a_short_secret_in_the_address_of_a_webhook_is_not_repeated(path: str) -> None:
    token = path.replace("/hook", "").replace("?key=", "").strip("/?")
    answer = {"message": f"there is no {token} here, nor {path}, {token}!"}
    with HostilePartner(answering("404 Not Found", json.dumps(answer).encode())) as server:
        error = try_post(server.url, path=path).error
    assert error is not None
    assert "HTTP 404" in error
    assert token not in error
    assert "ab12" not in error


@pytest.mark.parametrize(
    ("replies", "outcome", "words"),
    [
        ({"RCPT": "550 no such user"}, "misconfigured", "refused every recipient: 550 no such user"),
        ({"RCPT": "451 come back"}, "unavailable", "451 come back"),
        ({"MAIL": "553 not you"}, "misconfigured", "553 not you"),
        ({"DATA": "554 spam"}, "rejected", "554 spam"),
        ({"DATA": "452 full"}, "unavailable", "452 full"),
    ],
)
def test_what_a_mail_server_says_is_for_good_or_not(replies: dict[str, str], outcome: str, words: str) -> None:
    with MailServer(replies=replies) as server:
        result = try_mail(f"smtp://{server.address}")
    assert result.outcome == outcome
    assert words in (result.error or "")


def test_a_recipient_that_is_refused_is_named_and_the_others_get_the_mail() -> None:
    with MailServer(replies={"RCPT TO:<D@E.F>": "550 no such user"}) as server:
        result = try_mail(f"smtp://{server.address}")
    assert (result.outcome, result.error, result.refused) == ("accepted", None, {"d@e.f": "550 no such user"})
    assert len(server.mails) == 1


def test_a_mail_server_that_hangs_or_is_away_is_named() -> None:
    with MailServer(hang=True) as server:
        assert mail(f"smtp://{server.address}", timeout_seconds=0.5) == (
            f"no full answer from {server.address} within 0.5 s"
        )
    assert mail("smtp://127.0.0.1:1") == "cannot connect to 127.0.0.1:1: Connection refused"
