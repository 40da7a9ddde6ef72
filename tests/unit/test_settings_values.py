"""The values that settings become; a missing one is an error only where it is needed."""

import subprocess
import sys
from pathlib import Path

import pytest

from syncctl.core.stream import Credentials, Partner, RetrySchedule, Source, Stream
from syncctl.errors import ConfigurationError, UsageError
from syncctl.settings import Settings, load_settings

TOML = """\
[sources.crm]
url = "mssql+pyodbc://reader:${CRM_PASSWORD}@crm:1433/crm"
login_timeout = "3s"
query_timeout = "2m"

[partners.depot]
url = "${DEPOT_URL}"
auth = { type = "bearer", token = "${DEPOT_TOKEN}" }
timeout_seconds = 12.5
rate = "600/minute"
max_in_flight = 4

[streams.stock]
source = "crm"
partner = "depot"
query = "select * from stock"
start = "0x00000000000007D1"
key = ["id", "place"]
mode = "increasing"
cursor = "changed_at"
lookback = "0s"
poll_every = "1m"
page_size = 10
endpoint = "put /stock/{id}"
order = "none"
retry = { schedule = ["500ms", "2h"], jitter = 0 }
batch_size = 5
window = 50
lease = "26s"
append_only = true
"""
SECRETS = {"CRM_PASSWORD": "one", "DEPOT_URL": "https://depot.example/api", "DEPOT_TOKEN": "two"}


def load(directory: Path, toml: str = "", environment: dict[str, str] | None = None) -> Settings:
    (directory / "syncctl.toml").write_text(toml)
    return load_settings(directory=directory, environment=environment or {})


def test_every_setting_is_loaded(tmp_path: Path) -> None:
    settings = load(tmp_path, TOML, SECRETS)
    assert settings.source("crm") == Source(
        name="crm",
        url="mssql+pyodbc://reader:one@crm:1433/crm",
        login_timeout_seconds=3.0,
        query_timeout_seconds=120.0,
    )
    assert settings.partner("depot") == Partner(
        name="depot",
        url="https://depot.example/api",
        auth=Credentials(kind="bearer", values={"token": "two"}),
        timeout_seconds=12.5,
        rate=(600, 60.0),
        max_in_flight=4,
    )
    assert settings.stream("stock") == Stream(
        name="stock",
        source="crm",
        partner="depot",
        query="select * from stock",
        key=("id", "place"),
        mode="increasing",
        cursor="changed_at",
        start="0x00000000000007D1",
        lookback_seconds=0.0,
        poll_every_seconds=60.0,
        page_size=10,
        method="PUT",
        path="/stock/{id}",
        order="none",
        retry=RetrySchedule(delays_seconds=(0.5, 7200.0), jitter=0.0),
        batch_size=5,
        window=50,
        lease_seconds=26.0,
        append_only=True,
    )
    assert settings.stream_names == ("stock",)
    assert set(settings.streams) == {"stock"}
    settings.check()


@pytest.mark.parametrize(
    ("written", "start"),
    [
        ('"Beginning"', "beginning"),
        ('" NOW "', "now"),
        ("41100", "41100"),
        ('"00041"', "00041"),
        ("2026-01-31T08:00:00Z", "2026-01-31T08:00:00+00:00"),
        ("2026-01-31", "2026-01-31"),
        ('"2026-01-31 08:00:00.1234567"', "2026-01-31 08:00:00.1234567"),
    ],
)
def test_start_is_text_to_the_last_digit(tmp_path: Path, written: str, start: str) -> None:
    settings = load(tmp_path, f'[streams.a]\ntable = "t"\nstart = {written}\n')
    assert settings.stream("a").start == start


@pytest.mark.parametrize(
    ("url", "database"),
    [
        ("mongodb://h:27017/celery_logs", "celery_logs"),
        ("mongodb://h:27017", "celery_logs"),
        ("mongodb://h:27017/", "celery_logs"),
        ("mongodb://h:27017/?replicaSet=rs0", "celery_logs"),
        ("mongodb://u:p%40@a:1,b:2/led%2Dger?replicaSet=rs0", "led-ger"),
        ("mongodb+srv://cluster.example/ledger", "ledger"),
    ],
)
def test_the_path_names_the_database(tmp_path: Path, url: str, database: str) -> None:
    assert load(tmp_path, environment={"MONGO_URL": url}).mongo_database == database


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("REDIS_URL", "redis://h"),
        ("REDIS_URL", "rediss://u:p@h:6380/1"),
        ("REDIS_URL", "rediss://:p@h:6380/1?ssl_ca_certs=/etc/ssl/redis.pem&ssl_cert_reqs=required"),
        ("MONGO_URL", "mongodb://%2Ftmp%2Fm.sock/db"),
        ("SOURCE_URL", "sqlite:////tmp/source.db"),
        ("SOURCE_URL", "Driver={ODBC Driver 18 for SQL Server};Server=h;Database=d"),
        ("PARTNER_URL", "http://127.0.0.1:8080"),
    ],
)
def test_valid_urls_are_accepted(tmp_path: Path, name: str, url: str) -> None:
    assert getattr(load(tmp_path, environment={name: url}), name.lower()) == url


def test_a_missing_secret_matters_only_where_it_is_used(tmp_path: Path) -> None:
    settings = load(tmp_path, TOML, {})
    assert settings.stream("stock").page_size == 10
    with pytest.raises(ConfigurationError) as source:
        settings.source("crm")
    assert source.value.why == (
        "sources.crm.url (syncctl.toml line 2): ${CRM_PASSWORD} is not set; "
        "set CRM_PASSWORD in the environment or in .env, or name a file in CRM_PASSWORD_FILE"
    )
    with pytest.raises(ConfigurationError) as partner:
        settings.partner("depot")
    assert [line.split(":")[0] for line in partner.value.why.splitlines()] == [
        "partners.depot.url (syncctl.toml line 7)",
        "partners.depot.auth.token (syncctl.toml line 8)",
    ]
    with pytest.raises(ConfigurationError) as everything:
        settings.check()
    assert everything.value.why.splitlines() == [source.value.why, *partner.value.why.splitlines()]
    assert everything.value.exit_code == 2


def test_a_stronger_layer_makes_a_missing_reference_harmless(tmp_path: Path) -> None:
    environment = {**SECRETS, "SOURCES__CRM__URL": "sqlite:///x.db"}
    del environment["CRM_PASSWORD"]
    assert load(tmp_path, TOML, environment).source("crm").url == "sqlite:///x.db"


def test_the_default_source_and_partner_come_from_the_shared_variables(tmp_path: Path) -> None:
    environment = {"SOURCE_URL": "sqlite:///x.db", "PARTNER_URL": "https://p.example", "PARTNER_TOKEN": "abc"}
    settings = load(tmp_path, environment=environment)
    assert settings.source("default").url == "sqlite:///x.db"
    assert (settings.partner("default").url, settings.partner("default").auth.values) == (
        "https://p.example",
        {"token": "abc"},
    )


def test_a_missing_value_of_the_default_is_named_by_its_variable(tmp_path: Path) -> None:
    settings = load(tmp_path, '[streams.a]\ntable = "t"\nstart = "now"\n')
    with pytest.raises(ConfigurationError) as caught:
        settings.check()
    assert caught.value.why.splitlines() == [
        "sources.default.url (default): is not set; set SOURCE_URL in .env or the environment",
        "partners.default.url (default): is not set; set PARTNER_URL in .env or the environment",
    ]


def test_a_missing_value_of_the_default_is_not_placed_at_another_partner(tmp_path: Path) -> None:
    settings = load(tmp_path, environment={"PARTNERS__ACME__URL": "https://acme.example"})
    with pytest.raises(ConfigurationError, match=r"partners\.default\.url \(default\): is not set"):
        settings.partner("default")


def test_a_broken_reference_in_env_matters_only_where_it_is_used(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SOURCE_URL='mssql://u:${PW}@h/db'\n")
    settings = load(tmp_path)
    with pytest.raises(ConfigurationError) as caught:
        settings.source("default")
    assert caught.value.why.startswith("source_url (.env line 1): ${PW} is not set; set PW")


def test_without_streams_nothing_is_missing(tmp_path: Path) -> None:
    load(tmp_path).check()


def test_a_named_source_without_url_is_missing_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, "[sources.crm]\n", {"SOURCE_URL": "sqlite:///x.db"}).source("crm")
    assert caught.value.why == (
        "sources.crm.url (syncctl.toml line 1): is not set; set SOURCES__CRM__URL in .env or the environment"
    )


@pytest.mark.parametrize(
    ("auth", "environment", "token"),
    [
        ("", {"PARTNER_TOKEN": "abc"}, "abc"),
        ("", {}, ""),
        ('auth = { type = "none" }', {"PARTNER_TOKEN": "abc"}, ""),
        ('auth = { token = "${MINE}" }', {"PARTNER_TOKEN": "abc", "MINE": "mine"}, "mine"),
        ('auth = { type = "Bearer", token = "${PARTNER_TOKEN}" }', {"PARTNER_TOKEN": ""}, ""),
        ('auth = { type = "bearer", token = "${PARTNER_TOKEN}" }', {}, None),
        ('auth = { type = "bearer" }', {}, None),
        ('auth = { type = "bearer" }', {"PARTNER_TOKEN": "abc"}, "abc"),
    ],
)
def test_the_token_is_the_partners_own_or_the_shared_one(
    tmp_path: Path, auth: str, environment: dict[str, str], token: str | None
) -> None:
    settings = load(tmp_path, f"[partners.default]\n{auth}\n", {"PARTNER_URL": "https://p.example", **environment})
    if token is not None:
        assert settings.partner("default").auth.values.get("token", "") == token
        return
    with pytest.raises(ConfigurationError) as caught:
        settings.partner("default")
    assert caught.value.why.startswith("partners.default.auth.token (syncctl.toml line 2): ")
    assert "set PARTNER_TOKEN in " in caught.value.why


def test_the_shared_token_is_for_the_default_partner_alone(tmp_path: Path) -> None:
    settings = load(tmp_path, '[partners.acme]\nurl = "https://acme.example"\n', {"PARTNER_TOKEN": "abc"})
    assert settings.partner("acme").auth == Credentials()


@pytest.mark.parametrize("kind", ["source", "partner", "stream"])
def test_an_unknown_name_is_a_usage_error(tmp_path: Path, kind: str) -> None:
    settings = load(tmp_path, TOML, SECRETS)
    near = {"source": "cmr", "partner": "depto", "stream": "stok"}[kind]
    right = {"source": "crm", "partner": "depot", "stream": "stock"}[kind]
    with pytest.raises(UsageError) as caught:
        getattr(settings, kind)(near)
    assert not isinstance(caught.value, ConfigurationError)
    assert caught.value.what == f"there is no {kind} '{near}'"
    assert right in caught.value.why
    assert caught.value.hint == f"did you mean {right}?"


def test_an_unknown_stream_is_refused_where_none_is_configured(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load(tmp_path).stream("orders")
    assert caught.value.why == "no stream is configured"
    assert "[streams.orders]" in caught.value.hint


def test_settings_do_not_change(tmp_path: Path) -> None:
    settings = load(tmp_path)
    with pytest.raises(ValueError, match="frozen"):
        settings.redis_prefix = "x"  # type: ignore[misc]


def test_importing_settings_loads_no_driver() -> None:
    code = (
        "import sys, syncctl.settings\n"
        "heavy = {'celery', 'kombu', 'pymongo', 'sqlalchemy', 'pyodbc', 'requests', 'redis', 'rich', 'typer'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (loaded.returncode, loaded.stderr) == (0, "")


@pytest.mark.parametrize("form", ['mask = { Email = "HASH" }', "{}"])
def test_a_mask_needs_the_secret_of_its_hashes_only_where_rows_are_read(tmp_path: Path, form: str) -> None:
    stream = '[streams.orders]\ntable = "t"\nstart = "now"\n'
    urls = {"SOURCE_URL": "sqlite:///x.db", "PARTNER_URL": "https://p.example"}
    if form == "{}":
        urls["STREAMS__ORDERS__MASK"] = '{"Email": "hash"}'
    toml = stream if form == "{}" else f"{stream}{form}\n"
    settings = load(tmp_path, toml, urls)
    assert (dict(settings.stream("orders").mask), settings.stream("orders").mask_secret) == ({"Email": "hash"}, "")
    with pytest.raises(ConfigurationError) as caught:
        settings.check()
    assert "mask_secret: is not set" in caught.value.why
    assert "openssl rand -hex 32" in caught.value.why
    complete = load(tmp_path, toml, {**urls, "MASK_SECRET": "s" * 32})
    complete.check()
    assert complete.stream("orders").mask_secret == "s" * 32
    assert "s" * 32 in complete.secrets()
