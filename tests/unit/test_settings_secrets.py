"""No secret in an error, a repr or a description; none in syncctl.toml."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncctl.core.redaction import find_secrets, mask_url, redact
from syncctl.errors import ConfigurationError, SyncctlError
from syncctl.settings import describe_settings, load_settings
from syncctl.settings.variables import find_literal_secret

CANARY = "cAn4ry-7f3e"
URLS = {
    "redis_url": f"redis://:{CANARY}@h:6379/0",
    "mongo_url": f"mongodb://u:{CANARY}@h1:1,h2:2/ledger?replicaSet=rs0",
    "source_url": f"mssql+pyodbc://reader:{CANARY}@sqlserver:1433/erp",
    "partner_token": CANARY,
    "mask_secret": f"{CANARY}-{CANARY}-{CANARY}",
    "sources.crm.url": f"Driver=x;Server=s;UID=u;PWD={CANARY};Encrypt=yes",
    "partners.acme.url": "https://acme.example/",
    "partners.acme.auth.token": CANARY,
}
STREAM = {"streams.orders.table": "dbo.orders", "streams.orders.start": "now"}


def variables(values: dict[str, Any]) -> dict[str, str]:
    return {key.upper().replace(".", "__"): value for key, value in values.items()}


def everything_shown(error: BaseException) -> str:
    shown = f"{error!r} {error}"
    if isinstance(error, SyncctlError):
        shown += f"{error.what} {error.why} {error.hint}"
    for below in (error.__cause__, error.__context__):
        shown += everything_shown(below) if below is not None else ""
    return shown


def test_no_repr_and_no_description_shows_a_secret(tmp_path: Path) -> None:
    settings = load_settings(directory=tmp_path, environment=variables({**URLS, **STREAM}))
    shown = f"{settings!r} {settings} {describe_settings(settings)} {settings.layers!r} {settings.stream('orders')!r}"
    shown += f"{settings.source('crm')!r} {settings.partner('acme')!r}"
    assert CANARY not in shown
    assert CANARY in settings.source("crm").url
    assert settings.partner("acme").auth.values["token"] == CANARY
    masked = {entry.key: entry.value for entry in describe_settings(settings)}
    assert masked["redis_url"] == "redis://:***@h:6379/0"
    assert masked["mongo_url"] == "mongodb://u:***@h1:1,h2:2/ledger?replicaSet=rs0"
    assert masked["source_url"] == "mssql+pyodbc://reader:***@sqlserver:1433/erp"
    assert masked["sources.crm.url"] == "Driver=x;Server=s;UID=u;PWD=***;Encrypt=yes"
    assert masked["partners.acme.auth.token"] == masked["partner_token"] == masked["mask_secret"] == "***"


def test_secrets_holds_everything_that_must_be_masked_and_nothing_else(tmp_path: Path) -> None:
    values = {key: value.replace(CANARY, f"{CANARY}-{at}") for at, (key, value) in enumerate(URLS.items())}
    settings = load_settings(directory=tmp_path, environment=variables(values))
    with_secret = {at for at, value in enumerate(URLS.values()) if CANARY in value}
    for at in with_secret:
        assert any(f"{CANARY}-{at}" in secret for secret in settings.secrets())
    assert len(with_secret) == 7
    assert all(CANARY in secret for secret in settings.secrets())
    assert load_settings(directory=tmp_path, environment={}).secrets() == frozenset()


def test_secrets_come_in_every_spelling(tmp_path: Path) -> None:
    environment = {"SOURCE_URL": "mssql://u:p%40ss%2Fword@h/db", "SOURCES__CRM__URL": "Server=s;PWD={a;b}}c}"}
    secrets = load_settings(directory=tmp_path, environment=environment).secrets()
    assert {"p%40ss%2Fword", "p@ss/word", "a;b}c"} <= secrets


BREAKERS = {
    "redis_url": [
        "x{}",
        "redis:/{}",
        "{}:6379",
        "redis://:{}@h:port/0",
        "redis://:{}@/0",
        "redis://:{}@[h/0",
        "redis://h/0?password={}",
    ],
    "mongo_url": [
        "{}",
        "mongodb://u:{}/x@h/db",
        "mongodb://u:{}@/db",
        "mongodb://u:a#{}@h/db",
        "mongodb://u:a?{}@h/db",
        "mongodb://u:a@b?{}@h/db",
        "http://u:{}@h",
    ],
    "source_url": [
        "{}",
        "PWD={}",
        "u:{}@h/db",
        "mssql+pyodbc://u:p@ss/{}@h/db",
        "mssql+pyodbc://u:p@ss?{}@h/db",
        "mssql+pyodbc://u:p@ss#{}@h/db",
        "mssql+pyodbc://u:1/{}@h/db",
        "Server=s;PWD=p@ss;{};Encrypt=yes",
    ],
    "partner_url": [
        "{}",
        "ftp://u:{}@h",
        "https://u:{}@",
        "https://u:{}@h/",
        "https://h/?api_key={}",
        "https://u:{}@h:x/",
        "https://u:{}@h:99999/",
    ],
    "partner_token_file": ["{}", "/{}/x"],
    "redis_url_file": ["{}"],
    "worker.concurrency": ["{}"],
    "log.level": ["{}"],
    "partners.default.rate": ["{}"],
    "streams.orders.lease": ["{}"],
    "streams.orders.endpoint": ["GET {}", "{}"],
    "streams.orders.mode": ["{}"],
    "streams.orders.retry": ["{{{}"],
}
BROKEN = [(key, form) for key, forms in BREAKERS.items() for form in forms]


@pytest.mark.parametrize("place", ["environment", "env", "reference"])
@pytest.mark.parametrize(("key", "form"), BROKEN)
def test_no_error_shows_a_secret(tmp_path: Path, key: str, form: str, place: str) -> None:
    """Secrets in their own place, and secrets that were put into the wrong one by ${NAME}."""
    name, value = key.upper().replace(".", "__"), form.format(CANARY)
    environment, env = {**variables(STREAM), "PARTNER_URL": "https://h", "PARTNER_TOKEN": CANARY}, ""
    if key == "partner_token_file":
        environment.pop("PARTNER_TOKEN")
    if place == "environment":
        environment[name] = value
    elif place == "env":
        env = f"{name}='{value}'\n"
    else:
        environment["OF_MINE"] = CANARY
        env = f"{name}='{form.format('${OF_MINE}')}'\n"
    environment.pop(name, None) if place != "environment" else None
    (tmp_path / ".env").write_text(env)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(directory=tmp_path, environment=environment)
    assert CANARY not in everything_shown(caught.value)
    assert key.removesuffix("_file") in caught.value.why


LITERALS = [
    (f'redis_url = "redis://:{CANARY}@h/0"', "redis_url", '"${REDIS_URL}"'),
    (f'redis_url = "redis://h/0?password={CANARY}"', "redis_url", '"${REDIS_URL}"'),
    (f'mongo_url = "mongodb://u:{CANARY}@h/db"', "mongo_url", '"${MONGO_URL}"'),
    (f'source_url = "mssql+pyodbc://u:{CANARY}@h/db"', "source_url", '"${SOURCE_URL}"'),
    (f'partner_url = "https://u:{CANARY}@h"', "partner_url", '"${PARTNER_URL}"'),
    (f'partner_token = "{CANARY}"', "partner_token", '"${PARTNER_TOKEN}"'),
    (f'[sources.default]\nurl = "Server=s;PWD={CANARY};"', "sources.default.url", '"${SOURCE_URL}"'),
    (f'[sources.crm-2]\nurl = "mssql://u:x${{A}}{CANARY}@h/d"', "sources.crm-2.url", '"${CRM_2_URL}"'),
    (
        f'[sources.crm]\nurl = "mssql+pyodbc:///?odbc_connect=Server%3Ds%3BPWD%3D{CANARY}"',
        "sources.crm.url",
        "${CRM_URL}",
    ),
    (f'[partners.acme]\nurl = "https://h/?token={CANARY}"', "partners.acme.url", '"${ACME_URL}"'),
    (f'[partners.acme]\nauth = {{ token = "{CANARY}" }}', "partners.acme.auth.token", '"${ACME_TOKEN}"'),
    (f'[partners.default.auth]\ntoken = "Bearer {CANARY}"', "partners.default.auth.token", '"${PARTNER_TOKEN}"'),
    *(
        (f'[partners.acme.auth]\n{key} = "{CANARY}"', f"partners.acme.auth.{key}", f'"${{ACME_{key.upper()}}}"')
        for key in ("value", "password", "client_secret", "secret", "previous_secret")
    ),
    (f'[partners.acme]\nclient_key_password = "{CANARY}"', "partners.acme.client_key_password", "ACME_CLIENT_KEY"),
    (f'[partners.acme]\nproxy = "http://u:{CANARY}@p:3128"', "partners.acme.proxy", '"${ACME_PROXY}"'),
    (
        f'[partners.acme]\nheaders = {{ X-Api-Key = "{CANARY}" }}',
        "partners.acme.headers.X-Api-Key",
        "${ACME_X_API_KEY}",
    ),
    (f'[partners.acme]\nheaders = {{ Cookie = "a={CANARY}" }}', "partners.acme.headers.Cookie", "${ACME_COOKIE}"),
]


@pytest.mark.parametrize(("toml", "key", "fix"), LITERALS)
def test_a_literal_secret_in_toml_is_an_error(tmp_path: Path, toml: str, key: str, fix: str) -> None:
    (tmp_path / "syncctl.toml").write_text(toml)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(directory=tmp_path, environment={"A": "a"})
    lines = caught.value.why.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"{key} (syncctl.toml line {toml.count(chr(10)) + 1}): the ")
    assert "is written out; write " in lines[0]
    assert fix in lines[0]
    assert CANARY not in everything_shown(caught.value)


@pytest.mark.parametrize(
    "toml",
    [
        'redis_url = "redis://:${PW}@h/0"',
        'mongo_url = "mongodb://${USER}:${PW}@h/db"',
        'source_url = "Server=s;UID=u;PWD={${PW}};"',
        'source_url = "Server=s;UID=u;PWD=${PW}"',
        'source_url = "sqlite:////var/a@b:c.db"',
        'partner_url = "https://h:8443/v1/@me"',
        'partner_url = "${URL}"',
        'partner_token = "${PW}"',
        'redis_url = "redis://user:${PW}@h/0"',
        '[sources.crm]\nurl = "mssql+pyodbc://reader:${PW}@h/db?driver=ODBC+Driver+18"',
    ],
)
def test_references_and_urls_without_secrets_are_fine_in_toml(tmp_path: Path, toml: str) -> None:
    (tmp_path / "syncctl.toml").write_text(toml)
    assert load_settings(directory=tmp_path, environment={"PW": "pw", "USER": "u", "URL": "https://h"})


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("redis://h/0", "redis://h/0"),
        ("redis://user:pass@h/0", "redis://user:***@h/0"),
        ("redis://user:p@ss@h/0", "redis://user:***@h/0"),
        ("redis://pass@h/0", "redis://***@h/0"),
        ("rediss://p@ss@h/0", "rediss://***@h/0"),
        ("mongodb://user@h/db", "mongodb://user@h/db"),
        ("mongodb://u:p/w@h/db", "mongodb://u:***@h/db"),
        ("mongodb://u:p?w#x@h/db", "mongodb://u:***@h/db"),
        ("https://h:8443/v1/@me", "https://h:8443/v1/@me"),
        ("https://h/?a=1&access_token=abc&b=2", "https://h/?a=1&access_token=***&b=2"),
        ("mongodb://h/?tlsCertificateKeyFilePassword=abc", "mongodb://h/?tlsCertificateKeyFilePassword=***"),
        ("mssql+pyodbc:///?odbc_connect=PWD%3Dabc", "mssql+pyodbc:///?odbc_connect=***"),
        ("Server=s;Pwd = abc ;Encrypt=no", "Server=s;Pwd = ***;Encrypt=no"),
        ("Server=s;Pwd=p@ss;word;Encrypt=no", "Server=s;Pwd=***;***;Encrypt=no"),
        ("Server=s;Pwd=a;b=c;Encrypt=no", "Server=s;Pwd=***;***;Encrypt=no"),
        ("Pwd=a://b;Server=s", "Pwd=***;Server=s"),
        ("mssql+pyodbc://u:p@ss/word@h/db", "mssql+pyodbc://u:***@h/db"),
        ("mssql+pyodbc://u:p@ss?word@h/db", "mssql+pyodbc://u:***@h/db"),
        ("mssql+pyodbc://u:p@ss#word@h/db", "mssql+pyodbc://u:***@h/db"),
        ("mssql+pyodbc://u:1/2@h/db", "mssql+pyodbc://u:***@h/db"),
        ("mssql+pyodbc://h/db?pwd=a;b#c&driver=x", "mssql+pyodbc://h/db?pwd=***&driver=x"),
        ("Server=s;PASSWORD={a;b}}c};X=1", "Server=s;PASSWORD=***;X=1"),
        ("sqlite:////tmp/a@b:c.db", "sqlite:////tmp/a@b:c.db"),
        ("nothing at all", "nothing at all"),
    ],
)
def test_a_secret_in_a_url_or_connection_string_is_masked(text: str, masked: str) -> None:
    assert mask_url(text) == masked


@pytest.mark.parametrize(
    "url",
    [
        "Driver=x;Server=s;PWD= secret;Database=d",
        "Driver=x;Server=s;Pwd = secret ;Database=d",
        "Driver=x;Server=s;PWD = {se;cret};Database=d",
        "mssql+pyodbc://host/db?Authentication=ActiveDirectoryInteractive&UID=me@example.com&driver=x",
    ],
)
def test_a_source_url_whose_parts_are_certain_is_taken(tmp_path: Path, url: str) -> None:
    settings = load_settings(directory=tmp_path, environment={"SOURCE_URL": url})
    assert settings.source_url == url


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("Driver=x;Server=s;PWD= se;cret", "has a password that contains a ;"),
        ("mssql+pyodbc://u:1/db?UID=me@example.com", "of user, password and parameters, @ as %40"),
        ("mssql+pyodbc://us/er:pw@h/db?driver=x", "of user, password and parameters, @ as %40"),
        ("mssql+pyodbc://us/er?:pw@h/db", "of user, password and parameters, @ as %40"),
        ("mssql+pyodbc://host?UID=me@example.com", "of user, password and parameters, @ as %40"),
    ],
)
def test_a_source_url_that_may_hold_a_part_of_a_password_elsewhere_is_refused(
    tmp_path: Path, url: str, why: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(directory=tmp_path, environment={"SOURCE_URL": url})
    assert why in caught.value.why


PASSWORD = st.text(
    st.characters(codec="ascii", exclude_characters="/?#@:;{}[]", exclude_categories=["C", "Z"]), min_size=8
)


@given(PASSWORD, st.sampled_from(["redis://u:{}@h:1/0", "mongodb://{{}}x:{}@a,b/d", "Server=tcp:h,1;UID=u;PWD={};"]))
def test_no_password_survives_the_mask(password: str, form: str) -> None:
    secret = f"{CANARY}{password}"
    text = form.format(secret)
    assert CANARY not in mask_url(text)
    assert secret in find_secrets(text)
    assert find_literal_secret(text) == secret
    assert secret not in redact(f"it said {secret}!", find_secrets(text))


@pytest.mark.parametrize(
    ("name", "url", "said"),
    [
        ("REDIS_URL", "redis://S3cret-w0rd@h/0", "redis://:password@host"),
        ("REDIS_URL", "redis://:S3cret-w0rd@zz9@h/0", "%40"),
        ("MONGO_URL", "mongodb://u:S3cret-w0rd@zz9@h/db", "%40"),
        ("MONGO_URL", "mongodb://u:S3cret-w0rd%zz9@h/db", "%25"),
        ("SOURCE_URL", "mssql+pyodbc://u:S3cret-w0rd@zz9@h/db", "%40"),
    ],
)
def test_a_password_that_is_not_encoded_is_refused_with_what_to_write(
    tmp_path: Path, name: str, url: str, said: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(directory=tmp_path, environment={name: url})
    assert said in caught.value.why
    assert "S3cret" not in caught.value.why
    assert "zz9" not in caught.value.why


def test_a_secret_within_another_value_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "syncctl.toml").write_text(
        '[streams.orders]\ntable = "orders"\nstart = "now"\nendpoint = "POST /x"\nwhere = "x = \'${PARTNER_TOKEN}\'"\n'
        '[partners.default]\nurl = "https://h/${PARTNER_TOKEN}/v1"\n'
    )
    settings = load_settings(directory=tmp_path, environment={"PARTNER_TOKEN": "tok-S3cret"})
    shown = {entry.key: entry.value for entry in describe_settings(settings)}
    assert shown["streams.orders.where"] == "x = '***'"
    assert shown["partners.default.url"] == "https://h/***/v1"
    assert "tok-S3cret" not in str(shown)
