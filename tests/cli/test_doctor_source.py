"""`syncctl doctor source`: a source and its streams, from facts to findings, and the command on a real SQLite file."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from syncctl.core.stream import Batching, Stream
from syncctl.doctor.check import Finding
from syncctl.doctor.source import check_gaps, find_shared_addresses
from syncctl.doctor.sql_server import (
    check_clock,
    check_encryption,
    check_index,
    check_isolation,
    check_rights,
    check_role,
    check_server,
    check_tracking,
    check_transactions,
)
from syncctl.sources.catalog import sqlserver_catalog as sql
from syncctl.sources.diagnostics import Diagnostics, Unavailable
from syncctl.sources.odbc import Encryption
from tests.harness.cases import make_stream
from tests.harness.commands import Completed
from tests.harness.servers import connect
from tests.harness.settings_files import NOWHERE
from tests.harness.source_db import SourceDb

Run = Callable[..., Completed]
GRANT = "in master: GRANT VIEW SERVER STATE TO [reader]"
UNSEEN = Unavailable(why="VIEW SERVER STATE permission was denied", grant=GRANT)
SAFE = Encryption(is_asked=True, is_certificate_checked=True)
TRUSTING = Encryption(is_asked=True, is_certificate_checked=False, setting="TrustServerCertificate=yes")
PLAIN = Encryption(is_asked=False, is_certificate_checked=True, setting="Encrypt=no")
DSN = Encryption(is_asked=None, is_certificate_checked=True)


class Answers(Diagnostics):
    """A SQL Server that is not here: the rows that it would answer to each statement."""

    driver = "the driver"
    encryption = SAFE

    def __init__(self, answers: dict[str, Any] | None = None, **others: Any) -> None:
        self.answers = answers or {}
        self.rights: dict[str, int] = {}
        self.clock = datetime(2026, 1, 1, tzinfo=UTC)
        self.__dict__.update(others)

    def ask(self, statement: str, /, **values: Any) -> Any:
        if statement == sql.PERMISSION:
            return [(self.rights.get(values["right"], 0), *self.answers[statement])]
        return self.answers[statement]

    def try_ask(self, statement: str, /, **values: Any) -> Any:
        return self.ask(statement, **values)

    def ask_index(self, *_: Any) -> Any:
        return self.answers["index"]

    def read_clock(self) -> datetime:
        return self.clock


@dataclass(frozen=True, kw_only=True)
class Transaction:
    """A row of the oldest transaction."""

    age_seconds: float
    began: str = "2026-01-01T00:00:00"
    session_id: int | None = 52
    login_name: str | None = "erp"
    host_name: str | None = "app1"
    program_name: str | None = "import"


def look(run_syncctl: Run, settings_dir: Path, *words: str) -> dict[str, dict[str, Any]]:
    done = run_syncctl("doctor", *words, "--json", cwd=settings_dir)
    return {check["name"]: check for check in json.loads(done.stdout)["checks"]}


def test_a_sqlite_source_is_checked_for_all_that_it_has(
    run_syncctl: Run, settings_dir: Path, source_db: SourceDb
) -> None:
    source_db.create_orders(3)
    checks = look(run_syncctl, settings_dir, "source")
    assert list(checks) == ["source default server", "source orders", "source orders index", "source orders gaps"]
    assert {check["status"] for check in checks.values()} == {"ok"}
    assert checks["source default server"]["detail"].startswith("SQLite 3.")
    assert checks["source orders index"]["detail"] == "an index begins with id"


def test_one_check_and_the_checks_of_one_stream_are_asked_for_by_name(
    run_syncctl: Run, settings_dir: Path, source_db: SourceDb
) -> None:
    source_db.create_orders(1)
    assert list(look(run_syncctl, settings_dir, "source", "orders", "index")) == ["source orders index"]
    assert list(look(run_syncctl, settings_dir, "source", "default")) == ["source default server"]
    orders = ["source orders", "source orders index", "source orders gaps"]
    assert list(look(run_syncctl, settings_dir, "source orders")) == orders


def test_gaps_given_up_are_shown_from_the_ledger(
    run_syncctl: Run, settings_dir: Path, source_db: SourceDb, mongo_url: str
) -> None:
    source_db.create_orders(1)
    cursor = {"mode": "increasing", "column": "id", "gaps_given_up": {"count": 2, "last": [[3, 3], [7, 9]]}}
    with connect(mongo_url) as client:
        client.get_default_database().streams.insert_one({"_id": "orders", "cursor": cursor})
    check = look(run_syncctl, settings_dir, "source", "orders", "gaps")["source orders gaps"]
    assert check["status"] == "warn"
    assert "gave up 2 gaps, the last ones: 3, 7-9" in check["detail"]
    assert check["hint"] == "run: syncctl reconcile orders --repair"


def judge_gaps(cursor: dict[str, Any]) -> Finding:
    streams = SimpleNamespace(load_all=lambda: {"orders": {"cursor": cursor}})
    services: Any = SimpleNamespace(ledger=SimpleNamespace(streams=streams))
    return check_gaps(services, make_stream())


def test_gaps_that_are_waited_for_are_not_a_warning() -> None:
    found = judge_gaps({"gaps": [{"numbers": "4:6", "at": "2026-01-01T00:00:00+00:00", "exact": False}]})
    assert (found.status, found.detail) == ("ok", "waits for 4-6")
    assert judge_gaps({}).status == "ok"


@pytest.mark.parametrize(
    ("answer", "status", "title"),
    [
        (("12.0.6024.0", "Standard Edition", 2), "warn", "SQL Server 2014 (12.0.6024.0), Standard Edition"),
        (("16.0.1000.6", "Developer Edition", 3), "ok", "SQL Server 2022 (16.0.1000.6), Developer Edition"),
        (("99.0.1.1", "Developer Edition", 3), "ok", "SQL Server (99.0.1.1), Developer Edition"),
        (("12.0.2000.8", "SQL Azure", 5), "ok", "Azure SQL Database (12.0.2000.8)"),
    ],
)
def test_an_old_server_is_a_warning(answer: tuple[Any, ...], status: str, title: str) -> None:
    found = check_server(Answers({sql.SERVER: [answer]}))
    assert (found.status, found.detail) == (status, f"{title}; the driver")


@pytest.mark.parametrize(
    ("seen", "asked", "status", "detail"),
    [
        ("TRUE", SAFE, "ok", "the connection is encrypted"),
        ("TRUE", TRUSTING, "warn", "the server's certificate is not checked (TrustServerCertificate=yes)"),
        ("FALSE", PLAIN, "warn", "rows are sent unencrypted (Encrypt=no)"),
        ("FALSE", SAFE, "warn", "rows are sent unencrypted"),
        (UNSEEN, SAFE, "ok", "the connection string asks for encryption"),
        (UNSEEN, TRUSTING, "warn", "the server's certificate is not checked"),
        (UNSEEN, PLAIN, "warn", "rows are sent unencrypted"),
        (UNSEEN, DSN, "skip", "the DSN decides"),
        ("TRUE", DSN, "ok", "the connection is encrypted"),
    ],
)
def test_encryption_is_what_the_server_says_or_else_what_was_asked_for(
    seen: str | Unavailable, asked: Encryption, status: str, detail: str
) -> None:
    answer = seen if isinstance(seen, Unavailable) else [(seen,)]
    found = check_encryption(Answers({sql.IS_ENCRYPTED: answer}, encryption=asked), "SOURCE_URL")
    assert found.status == status
    assert detail in found.detail
    assert ("permission was denied" in found.detail) == isinstance(seen, Unavailable)
    assert found.hint or status == "ok"


def test_a_connection_that_the_server_does_not_list_is_judged_by_what_was_asked_for() -> None:
    found = check_encryption(Answers({sql.IS_ENCRYPTED: []}), "SOURCE_URL")
    assert (found.status, "does not list this connection" in found.detail) == ("ok", True)


def test_isolation_names_the_statement_that_turns_it_on() -> None:
    off = Answers({sql.ISOLATION: [("er]p", False, 0)]})
    found = check_isolation(off, [])
    assert found.status == "warn"
    assert "ALTER DATABASE [er]]p] SET READ_COMMITTED_SNAPSHOT ON" in found.hint
    assert "ALLOW_SNAPSHOT_ISOLATION" not in found.hint
    on = Answers({sql.ISOLATION: [("erp", True, 0)]})
    assert check_isolation(on, [make_stream()]).status == "ok"
    tracking = check_isolation(on, [make_stream(), make_stream(mode="change_tracking")])
    assert (tracking.status, "ALLOW_SNAPSHOT_ISOLATION ON" in tracking.hint) == ("warn", True)


@pytest.mark.parametrize(
    ("secondary", "frozen", "mode", "status"),
    [
        (0, False, "rowversion", "ok"),
        (0, True, "rowversion", "ok"),
        (1, False, "increasing", "warn"),
        (1, False, "rowversion", "fail"),
    ],
)
def test_a_read_only_copy_is_refused_by_mode_rowversion_alone(
    secondary: int, frozen: bool, mode: str, status: str
) -> None:
    found = check_role(Answers({sql.ROLE: [("erp", frozen, secondary)]}), [make_stream(mode=mode)])
    assert found.status == status


@pytest.mark.parametrize(
    ("behind", "took", "status"), [(0, 0, "ok"), (10, 0, "ok"), (11, 0, "warn"), (-11, 0, "warn"), (12, 6, "ok")]
)
def test_clocks_are_compared_without_the_way_there_and_back(behind: float, took: float, status: str) -> None:
    before = datetime(2026, 1, 1, tzinfo=UTC)
    ledger = iter([before, before + timedelta(seconds=took)])
    source = Answers(clock=before + timedelta(seconds=took / 2 - behind))
    assert check_clock(source, lambda: next(ledger)).status == status


def hold(held_back: Any, oldest: Any) -> Finding:
    return check_transactions(
        Answers(
            {
                sql.ROWVERSIONS_HELD_BACK: held_back if isinstance(held_back, Unavailable) else [(held_back,)],
                sql.OLDEST_TRANSACTION: oldest,
            }
        )
    )


@pytest.mark.parametrize(
    ("held", "age", "status"),
    [(0, 99_999.0, "ok"), (5, 59.0, "ok"), (5, 60.0, "warn"), (5, 3599.0, "warn"), (5, 3600.0, "fail")],
)
def test_a_transaction_that_holds_rowversions_back_is_judged_by_its_age(held: int, age: float, status: str) -> None:
    found = hold(held, [Transaction(age_seconds=age)])
    assert found.status == status
    assert all(word in found.detail for word in ("session 52", "login erp", "host app1", "program import"))
    assert ("session 52" in found.hint) == (status != "ok")
    assert ("KILL 52" in found.hint) == (status != "ok")


def test_a_transaction_without_a_session_is_ended_by_its_unit_of_work() -> None:
    found = hold(
        5, [Transaction(age_seconds=60.0, session_id=None, login_name=None, host_name=None, program_name=None)]
    )
    assert (found.status, "(no session)" in found.detail, "request_owner_guid" in found.hint) == ("warn", True, True)


def test_a_transaction_that_cannot_be_seen_names_the_right_that_would_show_it() -> None:
    found = hold(5, UNSEEN)
    assert (found.status, found.hint) == ("skip", GRANT)
    assert "holds the last 5 rowversions back" in found.detail
    assert hold(UNSEEN, []).status == "skip"
    assert hold(0, UNSEEN).status == "ok"
    assert hold(5, []).status == "ok"


def allow(number: int | None, rights: dict[str, int], unreadable: list[str], **settings: Any) -> Finding:
    answers = {sql.PERMISSION: (number, "reader"), sql.UNREADABLE_COLUMNS: [(name,) for name in unreadable]}
    return check_rights(Answers(answers, rights=rights), make_stream(table="dbo.orders", **settings))


def test_each_right_that_is_missing_is_a_failure_with_its_statement() -> None:
    found = allow(7, {}, ["id"], mode="change_tracking")
    assert found.status == "fail"
    assert found.detail == (
        "user reader has no SELECT on dbo.orders\nuser reader has no VIEW CHANGE TRACKING on dbo.orders"
    )
    grants = ("GRANT SELECT ON dbo.orders TO [reader]", "GRANT VIEW CHANGE TRACKING ON dbo.orders TO [reader]")
    assert all(grant in found.hint for grant in grants)
    assert allow(None, {}, []).detail.endswith("or there is no such table")
    assert allow(7, {"SELECT": 1}, []).status == "ok"
    assert allow(7, {"SELECT": 1, "VIEW CHANGE TRACKING": 1}, [], mode="change_tracking").status == "ok"
    assert check_rights(Answers(), make_stream(table="crm.dbo.orders")).status == "skip"


@pytest.mark.parametrize(
    ("unreadable", "settings", "status"),
    [
        (["secret"], {"columns": ("total",)}, "ok"),
        (["Total"], {"columns": ("total",)}, "fail"),
        (["ID"], {"columns": ("total",), "key": ("id",)}, "fail"),
        (["secret"], {"exclude": ("Secret",)}, "ok"),
        (["secret", "other"], {"exclude": ("secret",)}, "fail"),
    ],
)
def test_a_right_on_the_columns_that_are_read_is_enough(
    unreadable: list[str], settings: dict[str, Any], status: str
) -> None:
    assert allow(7, {}, unreadable, **settings).status == status


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ([(1, 10**9, 1)], "ok"),
        ([(1, 10_000, 0)], "ok"),
        ([(1, 10_001, 0)], "warn"),
        ([(1, None, 0)], "warn"),
        ([(0, None, 0)], "skip"),
        ([], "skip"),
        (UNSEEN, "skip"),
    ],
)
def test_a_large_table_without_an_index_is_a_warning(answer: Any, status: str) -> None:
    found = check_index(Answers({"index": answer}), make_stream(table="dbo.orders"), ["at", "id"])
    assert found.status == status
    assert ("CREATE INDEX ix_orders_at ON dbo.orders (at, id)" in found.hint) == (status == "warn")


CHANGES = {"mode": "change_tracking", "at": "70", "phase": "changes"}
LOADING = {"mode": "change_tracking", "at": "900", "phase": "load", "since": 70}
KEPT = int(timedelta(days=2).total_seconds())


def track(
    oldest: Any, cursor: dict[str, Any] | None, age: float | None, *retention: tuple[str, bool, int, int]
) -> Finding:
    answers = {
        sql.TRACKING_RETENTION: list(retention),
        sql.DATABASE_NAME: [("erp",)],
        sql.OLDEST_CHANGE: oldest if isinstance(oldest, Unavailable) else [(oldest,)],
    }
    stream = make_stream(table="dbo.orders", mode="change_tracking")
    return check_tracking(Answers(answers), stream, cursor, age)


@pytest.mark.parametrize(
    ("oldest", "cursor", "days", "status"),
    [
        (70, CHANGES, 0.9, "ok"),
        (70, CHANGES, 1.1, "warn"),
        (70, CHANGES, 2.1, "fail"),
        (71, CHANGES, 0.1, "fail"),
        (71, LOADING, 0.1, "fail"),
        (70, LOADING, 0.1, "ok"),
        (71, None, None, "ok"),
        (UNSEEN, CHANGES, 0.1, "skip"),
        (UNSEEN, CHANGES, 1.1, "warn"),
        (None, CHANGES, 0.1, "skip"),
    ],
)
def test_changes_that_were_cleaned_up_are_a_failure_and_a_late_poll_a_warning(
    oldest: int | Unavailable | None, cursor: dict[str, Any] | None, days: float | None, status: str
) -> None:
    age = None if days is None else timedelta(days=days).total_seconds()
    found = track(oldest, cursor, age, ("erp", True, KEPT, 1))
    assert found.status == status
    assert ("syncctl rewind orders --to beginning" in found.hint) == (status == "fail")


def test_changes_that_are_never_cleaned_up_are_known_however_late_the_poll() -> None:
    assert track(70, CHANGES, 10**9, ("erp", False, KEPT, 1)).status == "ok"


@pytest.mark.parametrize("retention", [[], [("erp", True, KEPT, 0)]])
def test_change_tracking_that_is_off_names_both_statements(retention: list[tuple[str, bool, int, int]]) -> None:
    found = track(UNSEEN, None, None, *retention)
    assert found.status == "fail"
    assert "ALTER DATABASE [erp] SET CHANGE_TRACKING = ON" in found.hint
    assert "ALTER TABLE dbo.orders ENABLE CHANGE_TRACKING" in found.hint


def test_a_first_row_that_could_not_be_sent_is_a_warning_with_the_reason_and_no_mongodb(
    run_syncctl: Run, settings_dir: Path, source_db: SourceDb
) -> None:
    source_db.create_orders(2)

    def examine(**environment: str) -> dict[str, Any]:
        away = {"MONGO_URL": "mongodb://127.0.0.1:1/ledger"}
        done = run_syncctl("doctor", "source", "orders", "--json", cwd=settings_dir, env=environment | away)
        (check,) = [each for each in json.loads(done.stdout)["checks"] if each["name"] == "source orders"]
        return dict(check)

    fields = json.dumps({"order.id": "id", "order.total": "totl"})
    check = examine(STREAMS__ORDERS__FIELDS=fields)
    assert check["status"] == "warn"
    reason = "field order.total needs column totl, which the row does not have"
    assert f"its first row could not be sent: {reason}" in check["detail"].splitlines()
    (settings_dir / "orders.schema.json").write_text(json.dumps({"required": ["nothing"]}))
    check = examine(STREAMS__ORDERS__BODY_SCHEMA="orders.schema.json")
    assert "its first row could not be sent: the body does not fit the schema: $ lacks nothing" in check["detail"]
    assert examine()["status"] == "ok"


@pytest.mark.parametrize(
    ("endpoint", "setting", "whole"),
    [
        ("PUT /garden/{bed}", "endpoint", "PUT /garden/{bed}/{slot}"),
        ("PUT /garden/{Bed}/", "endpoint", "PUT /garden/{Bed}/{slot}"),
        ("PUT /garden/{slot}/soil?dry=1", "endpoint", "PUT /garden/{slot}/soil/{bed}?dry=1"),
        ("PATCH /garden?bed={bed}", "endpoint", "PATCH /garden?bed={bed}&slot={slot}"),
        ("PUT /garden/{bed}", "update_endpoint", "PUT /garden/{bed}/{slot}"),
        ("DELETE /garden/{bed}", "delete_endpoint", "DELETE /garden/{bed}/{slot}"),
    ],
)
def test_an_address_with_a_part_of_the_key_is_a_warning_with_the_whole_one(
    endpoint: str, setting: str, whole: str
) -> None:
    (found,) = find_shared_addresses(to_address(setting, endpoint), ("bed", "slot"))
    assert found.status == "warn"
    assert found.detail.startswith(f"{setting} {endpoint} leaves out ")
    assert found.hint == f'set streams.orders.{setting} to an address with the whole key, such as "{whole}"'


@pytest.mark.parametrize(
    ("endpoint", "setting"),
    [
        ("PUT /garden/{bed}/{SLOT}", "endpoint"),
        ("PUT /garden?bed={bed}&slot={slot}", "endpoint"),
        ("PUT /garden", "endpoint"),
        ("PUT /garden/{number}", "endpoint"),
        ("POST /garden", "endpoint"),
        ("POST /beds/{bed}/slots", "endpoint"),
        ("PATCH /garden", "endpoint"),
        ("PUT /beds/{bed}/slots/{remote.id}", "update_endpoint"),
        ("DELETE /beds/{bed}/slots/{remote.id}", "delete_endpoint"),
    ],
)
def test_an_address_of_one_row_or_of_a_collection_is_no_warning(endpoint: str, setting: str) -> None:
    assert not list(find_shared_addresses(to_address(setting, endpoint), ("bed", "slot")))


def test_the_address_of_bulk_calls_is_no_warning() -> None:
    stream = make_stream("PUT /beds/{bed}", batching=Batching(size=2))
    assert not list(find_shared_addresses(stream, ("bed", "slot")))


def test_a_key_column_that_no_address_can_hold_needs_a_query() -> None:
    (found,) = find_shared_addresses(make_stream("PUT /garden/{bed}"), ("bed", "row/slot"))
    assert found.hint.endswith("to an address with the whole key, read by a query that renames its columns")


def to_address(setting: str, endpoint: str) -> Stream:
    """Return a stream with this endpoint as the one that is set."""
    if setting == "endpoint":
        return make_stream(endpoint)
    method, _, path = endpoint.partition(" ")
    kind = setting.removesuffix("_endpoint")
    return make_stream(**{f"{kind}_method": method, f"{kind}_path": path})


def test_a_layout_by_default_points_to_the_safer_mode(
    run_syncctl: Run, make_settings: Callable[..., Path], source_db: SourceDb
) -> None:
    source_db.create_orders(2)
    directory = make_settings(**NOWHERE, stream={"mode": None, "cursor": None})
    check = look(run_syncctl, directory, "source", "orders")["source orders"]
    assert check["status"] == "warn"
    assert check["hint"].endswith("see which mode is safer: syncctl inspect orders")


def test_children_are_checked_with_their_indexes_and_what_is_not_found(
    run_syncctl: Run, make_settings: Callable[..., Path], source_db: SourceDb
) -> None:
    source_db.create_orders(2)
    source_db.execute("create table lines (order_id int, line int, note text)")
    lines = {"table": "lines", "on": {"order_id": "id"}, "sort": ["line"]}
    directory = make_settings(stream={"children": {"lines": lines}})
    checks = look(run_syncctl, directory, "source")
    assert checks["source orders children"]["detail"] == (
        "lines: no index begins with order_id; the table is small (0 rows)"
    )
    assert "a change of lines alone is not found" in checks["source orders"]["detail"]
    source_db.execute("create index by_order on lines (order_id)")
    checks = look(run_syncctl, directory, "source", "orders", "children")
    assert checks["source orders children"]["detail"] == "lines: an index begins with order_id"
    source_db.execute("drop table lines")
    checks = look(run_syncctl, directory, "source", "orders")
    assert checks["source orders"]["status"] == "fail"
    assert "streams.orders.children.lines.table" in checks["source orders"]["hint"]
