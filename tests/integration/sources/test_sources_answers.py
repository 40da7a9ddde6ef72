"""Microsoft's own driver against a server that falls silent, or refuses, after a successful login."""

import importlib
from contextlib import AbstractContextManager

import pytest

from syncctl.errors import ServiceUnavailable, SourceError, SyncctlError
from syncctl.sources.driver_errors import is_transient
from syncctl.sources.odbc import load_pyodbc
from syncctl.sources.reader import StreamReader
from tests.harness.cases import make_source, make_stream
from tests.harness.tds_server import AFTER_LOGIN, Refusal, needs_driver, tds_server

# The deadline that a hanging driver would break; those under test are a second or two.
pytestmark = [needs_driver, pytest.mark.timeout(60)]


def refuse(server: AbstractContextManager[int]) -> SyncctlError:
    """Open a stream at a server and return the error that this must raise."""
    with server as port:
        url = f"Server=127.0.0.1,{port};Database=erp;Uid=reader;Pwd=canary-1;Encrypt=no"
        source = make_source(url, login_timeout_seconds=1.0, query_timeout_seconds=1.0)
        with pytest.raises(SyncctlError) as caught:
            StreamReader(source, make_stream())
    return caught.value


def test_a_query_that_is_never_answered_is_given_up_after_the_query_timeout() -> None:
    error = refuse(tds_server())
    assert isinstance(error, ServiceUnavailable)
    assert error.what.endswith("did not answer a query in time")
    assert error.why == "the query was canceled after 1 s"
    assert "sources.default.query_timeout" in error.hint
    assert not is_transient(error)


def test_a_server_that_falls_silent_after_the_login_is_given_up() -> None:
    error = refuse(tds_server(silent_at=AFTER_LOGIN))
    assert isinstance(error, ServiceUnavailable)
    assert error.what.startswith("cannot reach SQL Server at 127.0.0.1:")
    assert error.why.startswith("login timed out after 1 s")


@pytest.mark.parametrize(
    ("refusal", "what"),
    [
        (Refusal(number=1205, severity=13, message="You are the deadlock victim. Rerun it."), "to resolve a deadlock"),
        (Refusal(number=40501, message="The service is currently busy."), "is overloaded"),
        (
            Refusal(number=40613, message="Database 'erp' is not available.", of_login=True),
            "is moving to another server",
        ),
        (Refusal(number=40197, message="The service met an error.", severity=20), "is moving to another server"),
        (Refusal(number=3960, message="Snapshot transaction aborted."), "rows changed under its snapshot"),
        (Refusal(number=1222, message="Lock request time out."), "held a lock for too long"),
    ],
)
def test_transient_errors_are_told_apart_from_wrong_settings(refusal: Refusal, what: str) -> None:
    error = refuse(tds_server(refusal))
    assert isinstance(error, ServiceUnavailable)
    assert what in error.what
    assert error.why == refusal.message.rstrip(".")
    assert is_transient(error)


def test_a_right_that_is_missing_is_named_with_its_object() -> None:
    message = "The SELECT permission was denied on the object 'orders', database 'erp', schema 'dbo'."
    error = refuse(tds_server(Refusal(number=229, severity=14, message=message)))
    assert isinstance(error, SourceError)
    assert error.hint == "let an administrator run in erp: GRANT SELECT ON dbo.orders TO [reader]"


def test_pyodbc_keeps_no_connections_of_its_own() -> None:
    load_pyodbc()
    assert importlib.import_module("pyodbc").pooling is False
