"""Credentials for a partner: the settings of each auth kind, their errors, and their secrets."""

from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from syncctl.core.stream import Credentials, Tls
from syncctl.errors import ConfigurationError
from syncctl.partner.auth import KINDS
from syncctl.partner.secrets import collect_secrets
from syncctl.settings import Settings, describe_settings, load_settings
from syncctl.settings.field_types import Kind, find_kind
from syncctl.settings.partner_section import AuthSettings, PartnerSettings
from syncctl.settings.schema_paths import is_credential, list_fields

NAMES = ("VALUE", "PASSWORD", "CLIENT_SECRET", "SECRET", "OLD_SECRET", "KEY_PASSWORD", "PROXY_PASSWORD", "TENANT")
ENVIRONMENT = {name: f"cAn4ry-{name.lower().replace('_', '-')}" for name in NAMES}
KIND_LINES = {
    "none": 'auth = { type = "none" }',
    "api_key": 'auth = { type = "api_key", name = "X-Key", in = "query", value = "${VALUE}" }',
    "basic": 'auth = { type = "Basic", user = "me", password = "${PASSWORD}" }',
    "oauth2": """auth.type = "oauth2"
auth.token_url = "https://login.example/token"
auth.client_id = "me"
auth.client_secret = "${CLIENT_SECRET}"
auth.client_auth = "body"
auth.scope = "orders"
""",
    "hmac": 'auth = { type = "hmac", secret = "${SECRET}", previous_secret = "${OLD_SECRET}" }',
}
HEAD = '[partners.acme]\nurl = "https://acme.example"\n'


def load(directory: Path, lines: str, environment: dict[str, str] | None = None, stream: bool = True) -> Settings:
    streams = '\n[streams.orders]\ntable = "t"\nstart = "now"\npartner = "acme"\n' if stream else ""
    (directory / "syncctl.toml").write_text(f"{HEAD}{lines}\n{streams}")
    environment = ENVIRONMENT if environment is None else environment
    return load_settings(directory=directory, environment={"SOURCE_URL": "sqlite:///x", **environment})


@pytest.mark.parametrize("kind", KIND_LINES)
def test_each_auth_kind_is_loaded_completely(tmp_path: Path, kind: str) -> None:
    settings = load(tmp_path, KIND_LINES[kind])
    settings.check()
    auth = settings.partner("acme").auth
    assert auth.kind == kind
    wanted = {"none": set(), "api_key": {"in"}, "oauth2": {"client_auth", "scope"}, "hmac": {"previous_secret"}}
    assert set(auth.values) == {*KINDS[kind].needs, *wanted.get(kind, set())}
    assert "${" not in str(dict(auth.values))


def test_the_network_settings_are_loaded(tmp_path: Path) -> None:
    lines = """ca = "/ca.pem"
client_cert = "/c.pem"
client_key = "/c.key"
client_key_password = "${KEY_PASSWORD}"
proxy = "http://me:${PROXY_PASSWORD}@proxy:3128"
headers = { X-Tenant = "${TENANT}", X-Region = "eu" }"""
    partner = load(tmp_path, lines).partner("acme")
    assert partner.tls == Tls(
        ca="/ca.pem", client_cert="/c.pem", client_key="/c.key", client_key_password="cAn4ry-key-password"
    )
    assert partner.proxy == "http://me:cAn4ry-proxy-password@proxy:3128"
    assert partner.headers == {"X-Tenant": "cAn4ry-tenant", "X-Region": "eu"}
    assert partner.auth == Credentials()


def test_headers_may_come_as_json_in_a_variable(tmp_path: Path) -> None:
    environment = {"PARTNERS__ACME__HEADERS": '{"X-Tenant": "acme"}', "PARTNERS__ACME__URL": "https://h"}
    assert load_settings(directory=tmp_path, environment=environment).partner("acme").headers == {"X-Tenant": "acme"}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if KINDS[kind].needs])
def test_a_missing_key_is_one_line_with_its_variable(tmp_path: Path, kind: str) -> None:
    settings = load(tmp_path, f'auth = {{ type = "{kind}" }}')
    with pytest.raises(ConfigurationError) as caught:
        settings.check()
    lines = caught.value.why.splitlines()
    assert [line.partition(" ")[0] for line in lines] == [f"partners.acme.auth.{key}" for key in KINDS[kind].needs]
    assert all("PARTNERS__ACME__AUTH__" in line and "syncctl.toml line" in line for line in lines)


WRONG = [
    ('auth = { user = "me" }', "partners.acme.auth.user", 'is for type basic; set type = "basic" or remove it'),
    ('auth = { type = "hmac", client_id = "me" }', "partners.acme.auth.client_id", "is for type oauth2"),
    ('auth = { type = "api_key", in = "cookie" }', "partners.acme.auth.in", 'must be one of "header", "query"'),
    ('auth = { type = "oauth2", token_url = "login" }', "partners.acme.auth.token_url", "must begin with https://"),
    ('auth = { type = "oauth1" }', "partners.acme.auth.type", 'must be one of "bearer", "api_key", "basic"'),
    ('auth = { type = "basic", inn = "x" }', "partners.acme.auth.inn", "is unknown; did you mean in?"),
    ('proxy = "socks5://h:1"', "partners.acme.proxy", "must begin with http://"),
    ('proxy = "http://h:1/path"', "partners.acme.proxy", "must end with the port"),
    ('client_key = "/k.pem"', "partners.acme.client_cert", "is required with client_key"),
    ('ca = "/ca.pem"\nverify = false', "partners.acme.verify", "is false, so ca has no effect"),
    ("headers = { X-A = 1 }", "partners.acme.headers.X-A", "must be text in quotes"),
    ('headers = "X-A: b"', "partners.acme.headers", "must be a table, as in { X-Tenant = "),
]


@pytest.mark.parametrize(("lines", "key", "text"), WRONG)
def test_a_wrong_key_is_one_line_with_the_fix(tmp_path: Path, lines: str, key: str, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, lines)
    (line,) = caught.value.why.splitlines()
    assert line.startswith(f"{key} (syncctl.toml line ")
    assert text in line


@pytest.mark.parametrize(
    ("lines", "key"),
    [
        (KIND_LINES["basic"], "partners.acme.auth.password"),
        ('headers = { X-Tenant = "${TENANT}" }', "partners.acme.headers.X-Tenant"),
        ('proxy = "http://me:${PROXY_PASSWORD}@proxy:3128"', "partners.acme.proxy"),
    ],
)
def test_a_name_that_is_set_nowhere_is_missed_where_the_partner_is_used(tmp_path: Path, lines: str, key: str) -> None:
    load(tmp_path, lines, {}, stream=False)
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, lines, {}).partner("acme")
    assert caught.value.why.startswith(f"{key} (syncctl.toml line ")
    assert "is not set" in caught.value.why


EVERYTHING = """client_cert = "/c.pem"
client_key_password = "${KEY_PASSWORD}"
proxy = "http://me:${PROXY_PASSWORD}@proxy:3128"
headers = { X-Tenant = "${TENANT}" }
"""


@pytest.mark.parametrize("kind", KIND_LINES)
def test_every_secret_is_known_and_none_is_shown(tmp_path: Path, kind: str) -> None:
    settings = load(tmp_path, EVERYTHING + KIND_LINES[kind])
    partner = settings.partner("acme")
    used = [value for name, value in ENVIRONMENT.items() if f"${{{name}}}" in EVERYTHING + KIND_LINES[kind]]
    assert set(used) <= settings.secrets()
    assert set(used) <= collect_secrets(partner)
    shown = f"{settings!r} {settings.layers!r} {partner!r} {describe_settings(settings)}"
    assert "cAn4ry" not in shown
    headers = next(entry.value for entry in describe_settings(settings) if entry.key == "partners.acme.headers")
    assert headers == {"X-Tenant": "***"}


@pytest.mark.parametrize(
    ("kind", "values", "secret"),
    [
        ("basic", {"user": "me", "password": "pässword"}, b64encode("me:pässword".encode()).decode()),
        ("oauth2", {"client_id": "me", "client_secret": "a/b"}, b64encode(b"me:a%2Fb").decode()),
        ("hmac", {"secret": "whsec_" + b64encode(b"a readable key").decode()}, "a readable key"),
        ("hmac", {"previous_secret": "whsec_AAAA/w=="}, "AAAA/w=="),
    ],
)
def test_a_secret_is_also_known_in_the_form_in_which_it_is_sent(kind: str, values: dict[str, Any], secret: str) -> None:
    assert secret in KINDS[kind].spell_secrets(values)


def test_each_credential_is_marked_and_each_kinds_keys_exist() -> None:
    for model, above in ((AuthSettings, ("partners", "a", "auth")), (PartnerSettings, ("partners", "a"))):
        for key, field in list_fields(model).items():
            marked = find_kind(field) is Kind.CREDENTIAL and key != "headers"
            assert is_credential(Settings, (*above, key)) == marked
            assert not (marked and field.repr)
    for kind in KINDS.values():
        assert {*kind.needs, *kind.takes} <= set(list_fields(AuthSettings))


def test_a_header_that_is_not_a_secret_may_be_written_out(tmp_path: Path) -> None:
    headers = 'headers = { X-Tenant = "acme", Authorization = "Negotiate ${TENANT}" }'
    partner = load(tmp_path, headers).partner("acme")
    assert partner.headers == {"X-Tenant": "acme", "Authorization": "Negotiate cAn4ry-tenant"}
