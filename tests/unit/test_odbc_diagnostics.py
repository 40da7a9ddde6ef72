"""The meaning of a driver's error: whether it is transient, and which right a login lacks."""

import pytest
from sqlalchemy import exc

from syncctl.errors import ServiceUnavailable, SourceError
from syncctl.sources.catalog.relation import quote_name
from syncctl.sources.driver_errors import Address, advise_grant, explain, grant, is_transient
from syncctl.sources.sqlserver import SqlServerDialect

ADDRESS = Address(title="SQL Server at sqlserver:1433", setting="SOURCE_URL", user="reader")
DENIED = "The SELECT permission was denied on the object 'orders', database 'erp', schema 'dbo'."


def make(state: str, message: str, number: int, call: str = "SQLExecDirectW") -> exc.DBAPIError:
    """Return an error of pyodbc as SQLAlchemy wraps it."""
    text = f"[{state}] [Microsoft][ODBC Driver 18 for SQL Server][SQL Server]{message} ({number}) ({call})"
    return exc.DBAPIError("select 1", {}, Exception(state, text))


@pytest.mark.parametrize(
    ("state", "number"),
    [
        ("40001", 1205),
        ("42000", 3960),
        ("42000", 1222),
        *(("42000", number) for number in (40197, 40501, 40613, 49918, 49919, 49920, 10928, 10929)),
        ("08S01", 104),
        ("08001", 10054),
        ("08001", 64),
        ("08001", 233),
    ],
)
def test_transient_errors_are_recognized(state: str, number: int) -> None:
    error = make(state, "some words", number)
    assert is_transient(error)
    ours = explain(error, ADDRESS, "stream orders cannot be read", connecting=state.startswith("08"))
    assert isinstance(ours, ServiceUnavailable)
    assert ours.hint
    assert not is_transient(ours)
    ours.__cause__ = error
    assert is_transient(ours)


@pytest.mark.parametrize(
    ("state", "number"),
    [
        ("42000", 229),
        ("42S02", 208),
        ("HYT00", 0),
        ("28000", 18456),
        ("08001", 2),
        ("42000", 4060),
        # Numbers of the network mean something else elsewhere.
        ("42000", 64),
    ],
)
def test_errors_that_would_come_again_are_not_transient(state: str, number: int) -> None:
    assert not is_transient(make(state, "some words", number))


def test_an_error_that_no_driver_raised_is_not_transient() -> None:
    assert not is_transient(ValueError("40001"))
    assert not is_transient(ServiceUnavailable("gone", service="source"))


def test_a_number_in_brackets_within_the_text_is_not_an_error_number() -> None:
    assert not is_transient(make("42000", "Invalid column (1205) name.", 207))


def test_a_call_with_brackets_in_its_name_hides_no_number() -> None:
    error = make("42000", "The service is currently busy.", 40501, "SQLSetConnectAttr(SQL_ATTR_AUTOCOMMIT)")
    assert is_transient(error)
    ours = explain(error, ADDRESS, "", connecting=False)
    assert ours.why == "The service is currently busy"


@pytest.mark.parametrize(
    ("state", "number"),
    [
        ("42000", 8114),
        ("42000", 8169),
        ("42000", 9420),
        ("42000", 13609),
        ("22018", 245),
        ("22003", 8115),
        ("HY106", 0),
    ],
)
def test_a_value_that_cannot_be_converted_is_an_error_of_its_row_alone(state: str, number: int) -> None:
    error = make(state, "Error converting data type varchar to numeric.", number)
    assert SqlServerDialect().is_row_data_error(error)
    # Where no row of its own can be told apart, the poll says what to do.
    assert "TRY_CONVERT" in explain(error, ADDRESS, "stream orders cannot be read", connecting=False).hint


@pytest.mark.parametrize(("state", "number"), [("42000", 229), ("42S02", 208), ("42000", 468), ("40001", 1205)])
def test_an_error_of_the_whole_query_is_none_of_a_row(state: str, number: int) -> None:
    assert not SqlServerDialect().is_row_data_error(make(state, "some words", number))


def test_texts_of_different_collations_are_reported_with_a_way_out() -> None:
    message = 'Cannot resolve the collation conflict between "A" and "B" in the equal to operation.'
    ours = explain(make("42000", message, 468), ADDRESS, "stream orders cannot be read", connecting=False)
    assert "COLLATE" in ours.hint


def test_a_snapshot_conflict_is_not_a_deadlock() -> None:
    ours = explain(make("40001", "aborted due to update conflict", 3960), ADDRESS, "", connecting=False)
    assert "under its snapshot" in ours.what


@pytest.mark.parametrize(
    ("number", "message", "statement"),
    [
        (229, DENIED, "in erp: GRANT SELECT ON dbo.orders TO [reader]"),
        (
            229,
            "The VIEW CHANGE TRACKING permission was denied on the object 'order', database 'erp', schema 'sales eu'.",
            "in erp: GRANT VIEW CHANGE TRACKING ON [sales eu].[order] TO [reader]",
        ),
        (
            230,
            "The SELECT permission was denied on the column 'x' of the object 'orders', database 'erp', schema 'dbo'.",
            "in erp: GRANT SELECT ON dbo.orders (x) TO [reader]",
        ),
        (229, "The SELECT permission was denied on the object 'x'.", "GRANT SELECT ON x TO [reader]"),
        (
            300,
            "VIEW SERVER STATE permission was denied on object 'server', database 'master'.",
            "in master: GRANT VIEW SERVER STATE TO [reader]",
        ),
        (
            262,
            "VIEW DATABASE STATE permission denied in database 'erp'.",
            "in erp: GRANT VIEW DATABASE STATE TO [reader]",
        ),
        (
            916,
            'The server principal "reader" is not able to access the database "crm" under the security context.',
            "in crm: CREATE USER [reader] FOR LOGIN [reader], and let it read the table",
        ),
    ],
)
def test_a_missing_right_is_reported_with_the_statement_that_grants_it(
    number: int, message: str, statement: str
) -> None:
    error = explain(make("42000", message, number), ADDRESS, "stream orders cannot be read", connecting=False)
    assert isinstance(error, SourceError)
    assert error.what == "stream orders cannot be read"
    assert error.hint == f"let an administrator run {statement}"


@pytest.mark.parametrize("message", ["Die SELECT-Berechtigung wurde verweigert.", "You may not perform this action."])
def test_a_right_that_is_not_named_in_english_is_reported_in_general(message: str) -> None:
    error = explain(make("42000", message, 297), ADDRESS, "", connecting=False)
    assert error.hint == "let the login reader read it: GRANT SELECT ON ... TO [reader]"


def test_names_are_quoted_where_they_must_be() -> None:
    assert quote_name("dbo", "orders") == "dbo.orders"
    assert quote_name("a.b", "x]y") == "[a.b].[x]]y]"
    assert grant("SELECT", "DOM\\svc]1", on="dbo.orders") == "GRANT SELECT ON dbo.orders TO [DOM\\svc]]1]"
    assert advise_grant(DENIED, "").endswith("TO [login]")
