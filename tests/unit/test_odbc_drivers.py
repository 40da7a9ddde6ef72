"""The choice of an ODBC driver, and the keywords that it gets."""

import struct
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from syncctl.core.stream import Source
from syncctl.errors import ConfigurationError
from syncctl.sources.engines import open_source
from syncctl.sources.odbc import (
    Driver,
    choose_driver,
    complete,
    find_packaged_driver,
    format_pairs,
    load_pyodbc,
    locate,
    parse_pairs,
    read_datetimeoffset,
    read_encryption,
    read_url,
)
from tests.harness.cases import make_source

PACKAGED = Path("/packages/libmsodbcsql-18.6.so.2.1")
SECRET = "canary;{}=@:/ 7"


def source(url: str) -> Source:
    return make_source(url)


@pytest.mark.parametrize(
    ("named", "installed", "packaged", "expected"),
    [
        ("My Driver", ["ODBC Driver 18 for SQL Server"], PACKAGED, "My Driver"),
        (
            None,
            [
                "FreeTDS",
                "ODBC Driver 9 for SQL Server",
                "ODBC Driver 18 for SQL Server",
                "ODBC Driver 13.1 for SQL Server",
            ],
            PACKAGED,
            "ODBC Driver 18 for SQL Server",
        ),
        (None, ["FreeTDS", "SQLite3"], PACKAGED, str(PACKAGED)),
        (None, ["SQLite3", "FreeTDS"], None, "FreeTDS"),
    ],
)
def test_the_best_driver_is_taken(
    named: str | None, installed: list[str], packaged: Path | None, expected: str
) -> None:
    assert choose_driver(named, installed=installed, packaged=packaged).name == expected


def test_only_freetds_comes_with_a_warning() -> None:
    assert "pip install 'syncctl[mssql]'" in choose_driver(None, installed=["FreeTDS"], packaged=None).warning
    assert choose_driver(None, installed=[], packaged=PACKAGED).warning == ""
    assert choose_driver("FreeTDS", installed=[], packaged=PACKAGED).is_freetds
    assert not Driver(name="/home/tds/libmsodbcsql.so", origin="").is_freetds


def test_without_any_driver_the_error_names_the_command() -> None:
    with pytest.raises(ConfigurationError) as caught:
        choose_driver(None, installed=["SQLite3"], packaged=None)
    assert caught.value.hint == "run: pip install 'syncctl[mssql]'"


@pytest.mark.skipif(sys.platform != "linux", reason="the package's folders differ by system")
def test_the_packaged_driver_is_found_for_this_machine() -> None:
    pytest.importorskip("mssql_python_odbc", reason="the extra mssql is not installed")
    found = find_packaged_driver()
    assert found is not None
    assert found.is_file()
    assert found.name.startswith("libmsodbcsql-18")


def test_a_missing_odbc_library_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyodbc", None)
    with pytest.raises(ConfigurationError) as caught:
        load_pyodbc()
    assert "unixodbc" in caught.value.hint


VALUES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20).map(str.strip)


@given(st.dictionaries(st.from_regex(r"[a-z]{3,8}", fullmatch=True), VALUES, min_size=1))
def test_a_connection_string_reads_back_what_was_written(pairs: dict[str, str]) -> None:
    pairs = {name: value for name, value in pairs.items() if name not in ("server", "user", "addr", "address")}
    if pairs:
        assert parse_pairs(format_pairs(pairs)) == {{"password": "pwd"}.get(n, n): v for n, v in pairs.items()}


def test_url_and_connection_string_say_the_same() -> None:
    url = sa.URL.create("mssql+pyodbc", username="reader", password=SECRET, host="sqlserver", port=1433, database="erp")
    raw = "Server=tcp:sqlserver,1433;Initial Catalog=erp;User Id=reader;Password={canary;{}}=@:/ 7};"
    from_url, from_raw = read_url(sa.make_url(url.render_as_string(hide_password=False))), parse_pairs(raw)
    assert from_url == {"server": "sqlserver,1433", "database": "erp", "uid": "reader", "pwd": SECRET}
    assert from_raw == from_url | {"server": "tcp:sqlserver,1433"}
    assert locate(from_url, source(""), "SOURCE_URL") == locate(from_raw, source(""), "SOURCE_URL")
    assert locate(from_raw, source(""), "SOURCE_URL").title == "SQL Server at sqlserver:1433"


def test_an_odbc_connect_url_is_read_as_its_connection_string() -> None:
    url = sa.make_url("mssql+pyodbc:///?odbc_connect=DSN%3Derp%3BUID%3Dreader")
    assert read_url(url) == {"dsn": "erp", "uid": "reader"}


def test_a_host_without_a_database_is_a_dsn() -> None:
    assert read_url(sa.make_url("mssql+pyodbc://reader:pw@erp")) == {"dsn": "erp", "uid": "reader", "pwd": "pw"}


@pytest.mark.parametrize(
    ("server", "title", "port"),
    [
        ("sqlserver", "SQL Server at sqlserver:1433", 1433),
        ("sqlserver,1500", "SQL Server at sqlserver:1500", 1500),
        ("tcp:sqlserver, 1500", "SQL Server at sqlserver:1500", 1500),
        ("sqlserver\\ERP", "SQL Server at sqlserver\\ERP", 0),
    ],
)
def test_a_server_is_named_as_people_write_it(server: str, title: str, port: int) -> None:
    address = locate({"server": server}, source(""), "SOURCE_URL")
    assert (address.title, address.host, address.port) == (title, "sqlserver", port)


def test_encryption_and_name_are_added_and_never_overridden() -> None:
    driver = Driver(name="ODBC Driver 18 for SQL Server", origin="")
    added = complete({"server": "s"}, driver)
    assert (added["encrypt"], added["app"], added["driver"]) == ("yes", "syncctl", driver.name)
    kept = complete(parse_pairs("SERVER=s;Encrypt=no;Application Name=mine"), driver)
    assert (kept["encrypt"], kept["app"]) == ("no", "mine")


def test_freetds_gets_its_own_keywords() -> None:
    pairs = complete({"server": "s,1500"}, Driver(name="FreeTDS", origin=""))
    assert (pairs["server"], pairs["port"], pairs["tds_version"]) == ("s", "1500", "7.4")
    assert (pairs["encryption"], pairs["app"]) == ("require", "syncctl")


@pytest.mark.parametrize(
    ("given", "encryption"),
    [
        ("", "require"),
        ("Encrypt=yes", "require"),
        ("Encrypt=Mandatory", "require"),
        ("Encrypt=strict", "strict"),
        ("Encrypt=no", "request"),
        ("Encrypt=optional", "request"),
        ("Encryption=off", "off"),
        ("Encryption=request;Encrypt=yes", "request"),
    ],
)
def test_freetds_encrypts_unless_the_url_says_otherwise(given: str, encryption: str) -> None:
    pairs = complete(parse_pairs(f"Server=s;{given}"), Driver(name="FreeTDS", origin=""))
    assert pairs["encryption"] == encryption


@pytest.mark.parametrize(
    ("given", "is_asked", "is_checked", "setting"),
    [
        ("", True, True, ""),
        ("Encrypt=no", False, True, "Encrypt=no"),
        ("Encrypt=optional;TrustServerCertificate=yes", False, False, "Encrypt=optional"),
        ("TrustServerCertificate=yes", True, False, "TrustServerCertificate=yes"),
        ("Encrypt=yes;TrustServerCertificate=no", True, True, "TrustServerCertificate=no"),
        ("Encrypt=strict;TrustServerCertificate=yes", True, True, "TrustServerCertificate=yes"),
    ],
)
def test_the_encryption_that_a_connection_string_asks_for_is_known(
    given: str, is_asked: bool, is_checked: bool, setting: str
) -> None:
    found = read_encryption(parse_pairs(f"Server=s;{given}"), is_freetds=False, is_dsn=False)
    assert (found.is_asked, found.is_certificate_checked, found.setting) == (is_asked, is_checked, setting)


def test_a_dsn_decides_itself_and_freetds_checks_no_certificate() -> None:
    assert read_encryption({"dsn": "erp"}, is_freetds=False, is_dsn=True).is_asked is None
    assert not read_encryption({"server": "s"}, is_freetds=True, is_dsn=False).is_certificate_checked


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("mssql+pyodbc://u:canary@h:port/db", "must be percent-encoded"),
        ("mssql+pyodbc://u:first@canary@h:1433/db", "must be percent-encoded"),
        ("mssql+pyodbc:///db", "names neither a server nor a DSN"),
        ("PWD=canary;UID=u", "names neither a server nor a DSN"),
        ("Server=s;canary", "keyword 2 is not written like"),
        ("postgresql://u:canary@h/db", "postgresql is neither"),
        ("", "it is empty"),
        ("sqlite://", "empty for every program"),
    ],
)
def test_a_wrong_url_is_reported_without_its_secret(url: str, reason: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_source(source(url))
    error = caught.value
    assert "SOURCE_URL" in error.what
    assert reason in error.why
    assert "canary" not in f"{error.what} {error.why} {error.hint} {error!r} {error.__cause__!r}"
    assert error.__suppress_context__ or error.__context__ is None


def test_datetimeoffset_keeps_seven_digits_and_its_offset() -> None:
    raw = struct.pack("<6hI2h", 2026, 1, 31, 23, 59, 59, 123456700, -9, -30)
    assert read_datetimeoffset(raw) == "2026-01-31T23:59:59.1234567-09:30"
    assert read_datetimeoffset(None) is None
