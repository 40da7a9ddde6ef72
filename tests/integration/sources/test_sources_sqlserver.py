"""A SQL Server that does not answer, does not listen, or refuses: Microsoft's own driver over loopback."""

import socket
import traceback
from collections.abc import Iterator
from contextlib import closing

import pytest
from sqlalchemy import exc

from syncctl.errors import ConfigurationError, ServiceUnavailable, SourceError, SyncctlError
from syncctl.sources.driver_errors import Address, explain
from syncctl.sources.reader import StreamReader
from tests.harness.cases import make_source, make_stream
from tests.harness.tds_server import needs_driver

CANARY = "canary-7Zq!"
ADDRESS = Address(
    title="SQL Server at sqlserver:1433",
    setting="SOURCE_URL",
    user="reader",
    secrets=frozenset({CANARY}),
)


@pytest.fixture
def mute_port() -> Iterator[int]:
    """A port that accepts and never answers."""
    with closing(socket.create_server(("127.0.0.1", 0), backlog=20)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return int(server.getsockname()[1])


def open_at(server: str) -> SyncctlError:
    url = f"Server={server};Database=erp;Uid=reader;Pwd={CANARY}"
    with pytest.raises(SyncctlError) as caught:
        StreamReader(make_source(url, login_timeout_seconds=1.0), make_stream())
    assert CANARY not in "".join(traceback.format_exception(caught.value))
    return caught.value


@needs_driver
@pytest.mark.timeout(12)  # The driver's own login timeout is 15 s.
def test_a_server_that_never_answers_is_given_up_after_the_login_timeout(mute_port: int) -> None:
    error = open_at(f"127.0.0.1,{mute_port}")
    assert isinstance(error, ServiceUnavailable)
    assert error.service == "source"
    assert error.what == f"cannot reach SQL Server at 127.0.0.1:{mute_port}"
    assert error.why == "login timed out after 1 s; something listens there, but it does not answer as SQL Server does"
    assert error.hint == "check SOURCE_URL, then run: syncctl doctor source"


@needs_driver
def test_a_closed_port_is_told_from_a_server_that_is_slow(closed_port: int) -> None:
    error = open_at(f"127.0.0.1,{closed_port}")
    assert isinstance(error, ServiceUnavailable)
    assert error.why == "login timed out after 1 s; nothing listens there: connection refused"


@needs_driver
def test_a_url_takes_the_same_way_as_a_connection_string(closed_port: int) -> None:
    url = f"mssql+pyodbc://reader:{CANARY}@127.0.0.1:{closed_port}/erp"
    with pytest.raises(ServiceUnavailable) as caught:
        StreamReader(make_source(url, login_timeout_seconds=1.0), make_stream())
    assert caught.value.what == f"cannot reach SQL Server at 127.0.0.1:{closed_port}"
    assert CANARY not in "".join(traceback.format_exception(caught.value))


@needs_driver
def test_a_driver_that_is_not_there_is_a_wrong_setting() -> None:
    url = f"Driver=/no/such/driver.so;Server=127.0.0.1;Pwd={CANARY}"
    with pytest.raises(ConfigurationError) as caught:
        StreamReader(make_source(url), make_stream())
    assert "/no/such/driver.so" in caught.value.why
    assert CANARY not in "".join(traceback.format_exception(caught.value))


@needs_driver
def test_a_keyword_that_the_driver_refuses_is_a_wrong_setting() -> None:
    url = f"Server=127.0.0.1,1;Encrypt=perhaps;Pwd={CANARY}"
    with pytest.raises(ConfigurationError) as caught:
        StreamReader(make_source(url, login_timeout_seconds=1.0), make_stream())
    assert "'ENCRYPT'" in caught.value.why


def explain_odbc(state: str, message: str, *, connecting: bool = False) -> SyncctlError:
    """Return our error for one that pyodbc raises; its words are the driver's."""
    text = f"[{state}] [Microsoft][ODBC Driver 18 for SQL Server]{message}"
    error = exc.DBAPIError("select 1", {}, Exception(state, text))
    return explain(error, ADDRESS, "stream orders cannot be read", connecting=connecting)


LOGIN_FAILED = f"[SQL Server]Login failed for user 'reader' ({CANARY}). (18456) (SQLDriverConnect)"


@pytest.mark.parametrize(
    ("state", "message", "kind", "what", "hint"),
    [
        ("28000", LOGIN_FAILED, ConfigurationError, "refuses the login of reader", "user and the password"),
        (
            "42000",
            '[SQL Server]Cannot open database "erp" requested by the login. (4060) (SQLDriverConnect)',
            ConfigurationError,
            "does not open the database erp for reader",
            "check the database",
        ),
        (
            "08001",
            "SSL Provider: [error:0A000086:SSL routines::certificate verify failed] (-1) (SQLDriverConnect)",
            ServiceUnavailable,
            "cannot reach SQL Server at sqlserver:1433",
            "TrustServerCertificate=yes",
        ),
    ],
)
def test_a_refused_login_says_whose_and_never_the_password(
    state: str, message: str, kind: type[SyncctlError], what: str, hint: str
) -> None:
    error = explain_odbc(state, message, connecting=True)
    assert isinstance(error, kind)
    assert what in error.what
    assert hint in error.hint
    assert CANARY not in f"{error.what}{error.why}{error.hint}"
    assert "[Microsoft]" not in error.why
    assert "SQLDriverConnect" not in error.why


@pytest.mark.parametrize(
    ("state", "message", "kind", "words"),
    [
        ("HYT00", "Query timeout expired (0) (SQLExecDirectW)", ServiceUnavailable, "did not answer a query in time"),
        ("08S01", "TCP Provider: Error code 0x68 (104) (SQLFetch)", ServiceUnavailable, "was cut"),
        ("40001", "[SQL Server]... deadlocked ... (1205) (SQLExecDirectW)", ServiceUnavailable, "deadlock"),
        ("42S02", "[SQL Server]Invalid object name 'dbo.x'. (208) (SQLExecDirectW)", SourceError, "cannot be read"),
        ("42000", "[SQL Server]The SELECT permission was denied (229)", SourceError, "cannot be read"),
    ],
)
def test_the_errors_of_a_query_are_told_apart(state: str, message: str, kind: type[SyncctlError], words: str) -> None:
    error = explain_odbc(state, message)
    assert type(error) is kind
    assert words in error.what
    assert error.hint
