"""The headers and parameters that each auth kind adds, and the parts of a call that it leaves alone."""

import hmac
import json
from base64 import b64decode, b64encode
from typing import Any

import pytest

from syncctl.core.outcome import Outcome, Verdict
from syncctl.core.stream import Credentials
from syncctl.errors import ConfigurationError
from syncctl.partner.auth import KINDS
from tests.harness.cases import make_client, make_record
from tests.harness.hostile_partner import HostilePartner, Peer, answering

pytestmark = pytest.mark.timeout(60)

KEY = b"a key of thirty-two bytes, no less"
WHSEC = f"whsec_{b64encode(KEY).decode()}"


def with_auth(kind: str, **values: str) -> Credentials:
    return Credentials(kind=kind, values={name.rstrip("_"): value for name, value in values.items()})


def split_request(request: bytes) -> tuple[str, dict[str, str], bytes]:
    """Return the request line, the headers by lower-case name, and the body."""
    head, _, body = request.partition(b"\r\n\r\n")
    line, *fields = head.decode("latin-1").split("\r\n")
    return line, {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}, body


def send_with(auth: Credentials, endpoint: str = "POST /orders", **changes: Any) -> tuple[str, dict[str, str], bytes]:
    """Send one record and return the request that arrived."""
    with HostilePartner(answering("200 OK")) as server:
        client = make_client(server.url, endpoint, auth=auth, **changes)
        outcome = client.send(client.prepare(make_record()))
        client.close()
    assert outcome.verdict is Verdict.ACCEPTED, outcome
    return split_request(server.requests[0])


def test_without_auth_nothing_is_added() -> None:
    _, headers, _ = send_with(Credentials())
    assert "authorization" not in headers


def test_a_bearer_token_is_sent_in_the_authorization_header() -> None:
    _, headers, _ = send_with(with_auth("bearer", token="tok-1"))
    assert headers["authorization"] == "Bearer tok-1"


def test_an_api_key_is_sent_in_a_header() -> None:
    line, headers, _ = send_with(with_auth("api_key", name="X-Api-Key", value="k-998877"))
    assert (line, headers["x-api-key"]) == ("POST /orders HTTP/1.1", "k-998877")


@pytest.mark.parametrize(
    ("endpoint", "target"),
    [("POST /orders", "/orders?api%20key=a%2Fb%26c"), ("POST /orders?v=2", "/orders?v=2&api%20key=a%2Fb%26c")],
)
def test_an_api_key_is_sent_in_the_query(endpoint: str, target: str) -> None:
    line, headers, _ = send_with(with_auth("api_key", name="api key", value="a/b&c", in_="query"), endpoint)
    assert line == f"POST {target} HTTP/1.1"
    assert "a/b&c" not in headers.values()


def test_basic_credentials_are_encoded_in_utf_8() -> None:
    _, headers, _ = send_with(with_auth("basic", user="søren", password="pa:ss wörd"))
    scheme, _, encoded = headers["authorization"].partition(" ")
    assert (scheme, b64decode(encoded).decode()) == ("Basic", "søren:pa:ss wörd")


def test_a_user_with_a_colon_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"auth\.user holds a colon"):
        make_client("http://localhost", auth=with_auth("basic", user="a:b", password="c"))


def check_signature(headers: dict[str, str], body: bytes, key: bytes, position: int = 0) -> bool:
    """Check as the specification requires of a receiver."""
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = "v1," + b64encode(hmac.digest(key, content, "sha256")).decode()
    return headers["webhook-signature"].split(" ")[position] == expected


@pytest.mark.parametrize(("secret", "key"), [(WHSEC, KEY), ("plain text", b"plain text")])
def test_hmac_signs_id_time_and_body(secret: str, key: bytes) -> None:
    _, headers, body = send_with(with_auth("hmac", secret=secret))
    assert headers["webhook-id"] == headers["idempotency-key"] == make_record().id
    assert check_signature(headers, body, key)
    assert " " not in headers["webhook-signature"]
    assert not check_signature(headers, body + b" ", key)


def test_the_signature_is_that_of_the_specification(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of https://github.com/standard-webhooks/standard-webhooks, made with its own libraries."""
    from syncctl.partner.auth.webhook_signature import WebhookSignature
    from syncctl.partner.call import Call
    from tests.harness.cases import make_partner

    auth = with_auth("hmac", secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    monkeypatch.setattr("syncctl.partner.auth.webhook_signature.read_time", lambda: 1614265330.9)
    call = Call(
        method="POST",
        url="",
        target="",
        headers={"Idempotency-Key": "msg_p5jXN8AQM9LWM0D4loKWxJek"},
        body=b'{"test": 2432232314}',
    )
    auth_headers = WebhookSignature(make_partner("http://localhost", auth=auth), str).sign(call)
    assert auth_headers.headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_while_keys_rotate_either_is_signed_with() -> None:
    _, headers, body = send_with(with_auth("hmac", secret="the new one", previous_secret=WHSEC))
    assert check_signature(headers, body, b"the new one", 0)
    assert check_signature(headers, body, KEY, 1)


def test_each_attempt_has_its_own_time_and_the_same_id_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1_700_000_000.0, 1_700_000_060.0])
    monkeypatch.setattr("syncctl.partner.auth.webhook_signature.read_time", lambda: next(times))
    with HostilePartner(answering("503 Later")) as server:
        client = make_client(server.url, auth=with_auth("hmac", secret=WHSEC))
        call = client.prepare(make_record())
        for _ in range(2):
            client.send(call)
        client.close()
    (_, first, body), (_, second, again) = map(split_request, server.requests)
    assert (first["webhook-timestamp"], second["webhook-timestamp"]) == ("1700000000", "1700000060")
    assert (first["webhook-id"], body) == (second["webhook-id"], again)
    assert check_signature(second, body, KEY)


def test_a_secret_that_is_not_base64_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigurationError, match=r"auth\.previous_secret is not a key") as caught:
        make_client("http://localhost", auth=with_auth("hmac", secret="fine", previous_secret="whsec_n*t base64"))
    assert "n*t" not in str(caught.value)


SAMPLES: dict[str, dict[str, str]] = {
    "none": {},
    "bearer": {"token": "canary-0001"},
    "api_key": {"name": "X-Key", "value": "canary-0002"},
    "basic": {"user": "u", "password": "canary-0003"},
    "oauth2": {"token_url": "http://localhost:1/", "client_id": "c", "client_secret": "canary-0004"},
    "hmac": {"secret": "canary-0005", "previous_secret": "canary-0006"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_changes_the_mapping_or_shows_a_secret(kind: str) -> None:
    auth = Credentials(kind=kind, values=SAMPLES[kind])
    client = make_client("http://localhost:1", auth=auth)
    assert client.mapping_hash == make_client("http://localhost:1", auth=Credentials()).mapping_hash
    call = client.prepare(make_record())
    shown = client.show(call)
    assert "canary" not in f"{shown.url} {shown.target} {dict(shown.headers)} {auth!r} {call!r}"
    assert (shown.body, shown.headers["Idempotency-Key"]) == (call.body, make_record().id)
    client.close()


def test_a_header_that_auth_sets_cannot_be_set_twice() -> None:
    for auth in (with_auth("basic", user="u", password="p"), with_auth("api_key", name="authorization", value="v")):
        with pytest.raises(ConfigurationError, match=r"headers\.Authorization is set by auth"):
            make_client("http://localhost", auth=auth, headers={"Authorization": "Basic abcdefgh"})


def echo(peer: Peer) -> None:
    """Answer with all that was sent, as a debug page does."""
    while request := peer.read_request():
        peer.answer("422 No", json.dumps({"message": request.decode("latin-1")}).encode())


@pytest.mark.parametrize(
    ("auth", "secrets"),
    [
        (with_auth("bearer", token="c4nary/+=1"), ["c4nary"]),
        (with_auth("api_key", name="key", value="c4nary/&?", in_="query"), ["c4nary"]),
        (with_auth("basic", user="u", password="c4nary"), ["c4nary", b64encode(b"u:c4nary").decode()]),
        (with_auth("hmac", secret=WHSEC), ["v1,=", WHSEC]),
    ],
    ids=["bearer", "api_key", "basic", "hmac"],
)
def test_an_echo_of_a_secret_is_not_kept(auth: Credentials, secrets: list[str]) -> None:
    with HostilePartner(echo) as server:
        client = make_client(server.url, auth=auth, headers={"X-Tenant": "t3nant-canary"})
        outcome: Outcome = client.send(client.prepare(make_record(payload={"id": 1})))
        client.close()
    assert outcome.verdict is Verdict.REJECTED
    kept = f"{outcome.error} {outcome.excerpt}"
    assert "POST" in kept
    assert not any(secret in kept for secret in [*secrets, "t3nant-canary"])
    if auth.kind == "hmac":
        signature = split_request(server.requests[0])[1]["webhook-signature"].removeprefix("v1,")
        assert signature not in kept
        assert signature in server.requests[0].decode()
