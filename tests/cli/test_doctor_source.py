"""`syncctl doctor source`: a source and its streams, from facts to findings, and the command on a real SQLite file."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from syncctl.doctor.cursor import judge_gaps, judge_index, judge_rights, judge_tracking
from syncctl.doctor.server import (
    judge_clock,
    judge_isolation,
    judge_link,
    judge_role,
    judge_server,
    judge_transactions,
)
from syncctl.sources.diagnostics import (
    Indexed,
    Isolation,
    Link,
    OpenTransaction,
    Rights,
    Role,
    Server,
    Tracking,
    Transactions,
    Unseen,
)
from syncctl.sources.encryption import Encryption
from tests.harness.commands import Completed
from tests.harness.servers import connect
from tests.harness.settings_files import NOWHERE
from tests.harness.source_db import SourceDb

Run = Callable[..., Completed]
GRANT = "in master: GRANT VIEW SERVER STATE TO [reader]"
UNSEEN = Unseen(why="VIEW SERVER STATE permission was denied", grant=GRANT)
SAFE = Encryption(is_asked=True, is_certificate_checked=True)
TRUSTING = Encryption(is_asked=True, is_certificate_checked=False, setting="TrustServerCertificate=yes")
PLAIN = Encryption(is_asked=False, is_certificate_checked=True, setting="Encrypt=no")
DSN = Encryption(is_asked=None, is_certificate_checked=True)


def look(run_syncctl: Run, settings_dir: Path, *words: str) -> dict[str, dict[str, Any]]:
    done = run_syncctl("doctor", *words, "--json", cwd=settings_dir)
    return {check["name"]: check for check in json.loads(done.stdout)["checks"]}


def test_a_sqlite_source_is_asked_what_it_can_tell(run_syncctl: Run, settings_dir: Path, source_db: SourceDb) -> None:
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


def test_gaps_that_are_waited_for_are_no_trouble() -> None:
    found = judge_gaps({"gaps": [{"from": 4, "to": 6, "at": "2026-01-01T00:00:00+00:00"}]}, "orders")
    assert (found.status, found.detail) == ("ok", "waits for 4-6")
    assert judge_gaps({}, "orders").status == "ok"


def test_an_old_server_is_a_warning() -> None:
    assert judge_server(Server(title="SQL Server 2014", driver="d", is_old=True)).status == "warn"
    assert judge_server(Server(title="SQL Server 2022", driver="d")).detail == "SQL Server 2022; d"


@pytest.mark.parametrize(
    ("seen", "asked", "status", "told"),
    [
        (True, SAFE, "ok", "the connection is encrypted"),
        (True, TRUSTING, "warn", "nobody checks whose certificate it is (TrustServerCertificate=yes)"),
        (False, PLAIN, "warn", "rows travel unencrypted (Encrypt=no)"),
        (False, SAFE, "warn", "rows travel unencrypted"),
        (UNSEEN, SAFE, "ok", "the connection string asks for encryption"),
        (UNSEEN, TRUSTING, "warn", "nobody checks whose certificate it is"),
        (UNSEEN, PLAIN, "warn", "rows travel unencrypted"),
        (UNSEEN, DSN, "skip", "the DSN decides"),
        (True, DSN, "ok", "the connection is encrypted"),
    ],
)
def test_encryption_is_what_the_server_says_or_else_what_was_asked_for(
    seen: bool | Unseen, asked: Encryption, status: str, told: str
) -> None:
    found = judge_link(Link(is_encrypted=seen, asked=asked), "SOURCE_URL")
    assert found.status == status
    assert told in found.detail
    assert ("permission was denied" in found.detail) == isinstance(seen, Unseen)
    assert found.hint or status == "ok"


def test_isolation_names_the_statement_that_turns_it_on() -> None:
    off = Isolation(database="er]p", reads_versions=False, allows_snapshots=False)
    found = judge_isolation(off, tracks=False)
    assert found.status == "warn"
    assert "ALTER DATABASE [er]]p] SET READ_COMMITTED_SNAPSHOT ON" in found.hint
    assert "ALLOW_SNAPSHOT_ISOLATION" not in found.hint
    on = Isolation(database="erp", reads_versions=True, allows_snapshots=False)
    assert judge_isolation(on, tracks=False).status == "ok"
    tracking = judge_isolation(on, tracks=True)
    assert (tracking.status, "ALLOW_SNAPSHOT_ISOLATION ON" in tracking.hint) == ("warn", True)


@pytest.mark.parametrize(
    ("secondary", "frozen", "streams", "status"),
    [(False, False, ["a"], "ok"), (False, True, ["a"], "ok"), (True, False, [], "warn"), (True, False, ["a"], "fail")],
)
def test_a_read_only_copy_is_refused_by_mode_rowversion_alone(
    secondary: bool, frozen: bool, streams: list[str], status: str
) -> None:
    found = judge_role(Role(database="erp", is_secondary=secondary, is_frozen=frozen), streams)
    assert found.status == status


@pytest.mark.parametrize(
    ("behind", "took", "status"), [(0, 0, "ok"), (10, 0, "ok"), (11, 0, "warn"), (-11, 0, "warn"), (12, 6, "ok")]
)
def test_clocks_are_compared_without_the_way_there_and_back(behind: float, took: float, status: str) -> None:
    before = datetime(2026, 1, 1, tzinfo=UTC)
    there = before + timedelta(seconds=took / 2 - behind)
    assert judge_clock(before, there, before + timedelta(seconds=took)).status == status


@pytest.mark.parametrize(
    ("held", "age", "status"),
    [(0, 99_999.0, "ok"), (5, 59.0, "ok"), (5, 60.0, "warn"), (5, 3599.0, "warn"), (5, 3600.0, "fail")],
)
def test_a_transaction_that_holds_rowversions_back_is_judged_by_its_age(held: int, age: float, status: str) -> None:
    oldest = OpenTransaction(
        age_seconds=age, began="2026-01-01T00:00:00", session=52, login="erp", host="app1", program="import"
    )
    found = judge_transactions(Transactions(held_back=held, oldest=oldest))
    assert found.status == status
    assert all(word in found.detail for word in ("session 52", "login erp", "host app1", "program import"))
    assert ("session 52" in found.hint) == (status != "ok")


def test_a_transaction_that_cannot_be_seen_names_the_right_that_would_show_it() -> None:
    found = judge_transactions(Transactions(held_back=5, oldest=UNSEEN))
    assert (found.status, found.hint) == ("skip", GRANT)
    assert "holds the last 5 rowversions back" in found.detail
    assert judge_transactions(UNSEEN).status == "skip"
    assert judge_transactions(Transactions(held_back=0, oldest=UNSEEN)).status == "ok"
    assert judge_transactions(Transactions(held_back=5, oldest=None)).status == "ok"


def test_each_right_that_is_missing_is_a_failure_with_its_statement() -> None:
    grants = ("GRANT SELECT ON dbo.orders TO [reader]", "GRANT VIEW CHANGE TRACKING ON dbo.orders TO [reader]")
    found = judge_rights(Rights(table="dbo.orders", user="reader", grants=grants))
    assert found.status == "fail"
    assert found.detail == (
        "user reader has no SELECT on dbo.orders\nuser reader has no VIEW CHANGE TRACKING on dbo.orders"
    )
    assert all(grant in found.hint for grant in grants)
    hidden = judge_rights(Rights(table="dbo.x", user="reader", grants=grants[:1], is_visible=False))
    assert hidden.detail.endswith("or there is no such table")
    assert judge_rights(Rights(table="dbo.orders", user="reader", grants=())).status == "ok"


@pytest.mark.parametrize(
    ("served", "rows", "status"),
    [
        (True, 10**9, "ok"),
        (False, 10_000, "ok"),
        (False, 10_001, "warn"),
        (False, None, "warn"),
        (None, None, "skip"),
    ],
)
def test_a_large_table_without_an_index_is_a_warning(served: bool | None, rows: int | None, status: str) -> None:
    create = "CREATE INDEX ix_orders_at ON dbo.orders (at, id)"
    found = judge_index(Indexed(is_served=served, rows=rows, create=create, why="a view"), "at")
    assert found.status == status
    assert (create in found.hint) == (status == "warn")


CHANGES = {"mode": "change_tracking", "at": "70", "phase": "changes"}
LOADING = {"mode": "change_tracking", "at": "900", "phase": "load", "since": 70}


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
    ],
)
def test_changes_that_were_cleaned_up_are_a_failure_and_a_late_poll_a_warning(
    oldest: int | Unseen, cursor: dict[str, Any] | None, days: float | None, status: str
) -> None:
    kept = timedelta(days=2).total_seconds()
    tracking = Tracking(database="erp", table="dbo.orders", is_on=True, retention_seconds=kept, oldest=oldest)
    age = None if days is None else timedelta(days=days).total_seconds()
    found = judge_tracking(tracking, "orders", cursor, age)
    assert found.status == status
    assert ("syncctl rewind orders --to beginning" in found.hint) == (status == "fail")


def test_change_tracking_that_is_off_names_both_statements() -> None:
    off = Tracking(database="erp", table="dbo.orders", is_on=False, retention_seconds=None, oldest=UNSEEN)
    found = judge_tracking(off, "orders", None, None)
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


def test_a_layout_that_nobody_chose_points_to_what_is_safer(
    run_syncctl: Run, make_settings: Callable[..., Path], source_db: SourceDb
) -> None:
    source_db.create_orders(2)
    directory = make_settings(**NOWHERE, stream={"mode": None, "cursor": None})
    check = look(run_syncctl, directory, "source", "orders")["source orders"]
    assert check["status"] == "warn"
    assert check["hint"].endswith("see which mode is safer: syncctl inspect orders")
