"""Bad input: an error of three lines and its exit code, or a `failed` record; the stream continues; no secret shown."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from syncctl.local.mock_partner import MockPartner
from syncctl.local.mongod import Mongod
from syncctl.local.redis_server import RedisServer
from tests.harness.commands import Completed, run_syncctl
from tests.harness.source_db import SourceDb

CANARY = "canary-5d0c-secret"
MakeDirectory = Callable[..., Path]


@pytest.fixture
def make_directory(make_settings: MakeDirectory) -> MakeDirectory:
    """Write settings with a token and something that differs: `make_directory(redis_url="...")`."""
    return partial(make_settings, partner_token=CANARY)


def run(directory: Path, *args: str) -> Completed:
    """Run a command; whatever happens, it shows no secret and no traceback."""
    done = run_syncctl(*args, cwd=directory)
    for text in (done.stdout, done.stderr):
        assert CANARY not in text
        assert "Traceback" not in text
    return done


def expect_error(done: Completed, exit_code: int, *words: str) -> None:
    """Check that stdout is empty, and that the error, cause and hint on stderr contain these words."""
    lines = done.stderr.splitlines()
    assert (done.exit_code, done.stdout) == (exit_code, ""), done.stderr
    assert [line.partition(":")[0].strip() for line in lines] == ["error", "cause", "hint"], done.stderr
    assert all(line.partition(":")[2].strip() for line in lines)
    for word in words:
        assert word in done.stderr


def expect_failed_run(done: Completed, *words: str) -> None:
    """The stream could not be read: exit code 1, the reason in the table and in three lines, and the next command."""
    assert done.exit_code == 1, done.stderr
    *_, error, cause, hint, last = done.stderr.splitlines()
    assert error == "error: cannot poll stream orders"
    assert hint.startswith("   hint: ")
    assert last == "next: syncctl doctor source orders"
    for word in words:
        assert word in cause
        assert word in done.stdout


@pytest.mark.parametrize("command", [("status",), ("poll", "--once"), ("worker",), ("beat",), ("add", "2", "3")])
def test_an_unknown_key_stops_every_command(make_directory: MakeDirectory, command: tuple[str, ...]) -> None:
    done = run(make_directory(stream={"tabel": "orders"}), *command)
    expect_error(done, 2, "streams.orders.tabel", "syncctl.toml", "did you mean table?")


def test_broken_toml_names_its_line(make_directory: MakeDirectory) -> None:
    directory = make_directory()
    (directory / "syncctl.toml").write_text('[streams.orders]\ntable = "orders"\nstart = beginning\n')
    expect_error(run(directory, "poll", "--once"), 2, "syncctl.toml", "line 3")


def test_a_stream_without_a_start_posts_nothing(make_directory: MakeDirectory) -> None:
    expect_error(run(make_directory(stream={"start": None}), "poll", "--once"), 2, "streams.orders.start", "required")


@pytest.mark.parametrize(
    ("setting", "url"),
    [
        ("redis_url", f"reddis://:{CANARY}@localhost:6379/0"),
        ("mongo_url", f"mongo://user:{CANARY}@localhost/logs"),
        ("source_url", f"there is no database here {CANARY}"),
        ("partner_url", f"ftp://user:{CANARY}@partner.example/"),
    ],
)
def test_a_wrong_url_is_named_and_not_shown(make_directory: MakeDirectory, setting: str, url: str) -> None:
    expect_error(run(make_directory(**{setting: url}), "poll", "--once"), 2, setting, ".env")


def test_a_database_that_is_not_read_is_named(make_directory: MakeDirectory) -> None:
    done = run(make_directory(source_url=f"postgresql://user:{CANARY}@localhost/erp"), "poll", "--once")
    expect_failed_run(done, "SOURCE_URL", "postgresql")


@pytest.mark.parametrize(
    ("stream", "words"),
    [
        ({"table": "no_such_table"}, ("no_such_table",)),
        ({"cursor": "no_such_column"}, ("streams.orders.cursor", "no_such_column")),
        ({"key": ["no_such_column"]}, ("streams.orders.key", "no_such_column")),
    ],
    ids=["table", "cursor", "key"],
)
def test_a_missing_table_or_column_fails_the_stream(
    make_directory: MakeDirectory, source_db: SourceDb, stream: dict[str, Any], words: tuple[str, ...]
) -> None:
    source_db.create_orders(1)
    expect_failed_run(run(make_directory(stream=stream), "poll", "--once"), *words)


def test_a_table_without_a_key_asks_for_one(make_directory: MakeDirectory, source_db: SourceDb) -> None:
    source_db.execute("create table orders (id integer, note text)")
    expect_failed_run(run(make_directory(stream={"key": None}), "poll", "--once"), "primary key")


def test_a_stream_that_fails_keeps_no_other_waiting(make_directory: MakeDirectory, source_db: SourceDb) -> None:
    source_db.create_orders(3, table="invoices")
    invoices = {"table": "invoices", "start": "beginning", "key": ["id"], "mode": "increasing", "cursor": "id"}
    done = run(make_directory(sections={"streams": {"invoices": invoices}}), "poll", "--once", "--json")
    runs = {each["stream"]: each for each in done.json["runs"]}
    assert done.exit_code == 1
    assert "orders" in runs["orders"]["error"]
    assert (runs["invoices"]["logged"], runs["invoices"]["error"]) == (3, None)


def test_a_closed_port_of_mongodb_is_exit_code_69(make_directory: MakeDirectory) -> None:
    directory = make_directory(mongo_url=f"mongodb://user:{CANARY}@127.0.0.1:1/logs")
    expect_error(run(directory, "poll", "--once"), 69, "MongoDB", "127.0.0.1:1", "MONGO_URL")


def test_a_closed_port_of_redis_leaves_the_rows_in_the_ledger(
    make_directory: MakeDirectory, source_db: SourceDb
) -> None:
    source_db.create_orders(3)
    directory = make_directory(redis_url=f"redis://:{CANARY}@127.0.0.1:1/0")
    done = run(directory, "poll", "--once", "--json")
    assert (done.exit_code, done.json["runs"][0]["logged"], done.json["runs"][0]["dispatched"]) == (0, 3, 0)
    assert "cannot reach Redis at 127.0.0.1:1" in done.stderr
    expect_error(run(directory, "add", "2", "3"), 69, "broker", "127.0.0.1:1", "REDIS_URL")


def test_a_closed_port_of_the_source_fails_the_stream(make_directory: MakeDirectory) -> None:
    pytest.importorskip("pyodbc", reason="needs libodbc.so.2", exc_type=ImportError)
    url = f"mssql+pyodbc://reader:{CANARY}@127.0.0.1:1/erp"
    directory = make_directory(source_url=url, sections={"sources": {"default": {"login_timeout": "2s"}}})
    expect_failed_run(run(directory, "poll", "--once"), "cannot reach SQL Server at 127.0.0.1:1")


def test_a_closed_port_of_the_partner_is_a_retry_with_its_reason(
    make_directory: MakeDirectory,
    source_db: SourceDb,
    start_syncctl: Callable[..., Any],
    eventually: Callable[..., Any],
) -> None:
    source_db.create_orders(1)
    directory = make_directory(partner_url="http://127.0.0.1:1/", stream={"retry": {"schedule": ["100ms"]}})
    worker = start_syncctl("worker", "--pool", "solo", "--beat", cwd=directory)
    groups = eventually(lambda: run(directory, "failures", "--json").json["groups"], 60)
    assert [(group["status"], group["count"]) for group in groups] == [(None, 1)]
    assert "127.0.0.1:1" in groups[0]["message"]
    shown = run(directory, "show", "orders", "1", "--json").json["records"][0]
    assert [event["outcome"] for event in shown["history"]] == ["retry_later"] * 2
    assert CANARY not in worker.log


@pytest.mark.parametrize("service", ["mongodb", "redis", "source", "partner"])
def test_doctor_names_the_closed_port_of_each(make_directory: MakeDirectory, service: str) -> None:
    urls = {
        "mongodb": ("mongo_url", f"mongodb://user:{CANARY}@127.0.0.1:1/logs"),
        "redis": ("redis_url", f"redis://:{CANARY}@127.0.0.1:1/0"),
        "source": ("source_url", f"mssql+pyodbc://reader:{CANARY}@127.0.0.1:1/erp"),
        "partner": ("partner_url", "http://127.0.0.1:1/"),
    }
    setting, url = urls[service]
    done = run(make_directory(**{setting: url}), "doctor", service, "--timeout", "5s", "--json")
    failed = [check for check in done.json["checks"] if check["status"] == "fail"]
    assert (done.exit_code, done.json["ok"]) == (1, False)
    assert failed
    assert all(record["name"].startswith(service) and record["hint"] for record in failed)


def test_a_wrong_password_of_redis_is_reported_without_it(
    own_redis: RedisServer, make_directory: MakeDirectory
) -> None:
    from redis import Redis

    with Redis.from_url(own_redis.url()) as redis:
        redis.config_set("requirepass", "the right one")
    directory = make_directory(redis_url=own_redis.url().replace("redis://", f"redis://:{CANARY}@"))
    expect_error(run(directory, "add", "2", "3"), 69, "broker", "password", "REDIS_URL")
    done = run(directory, "doctor", "redis", "--json")
    assert done.exit_code == 1
    assert "password" in done.json["checks"][0]["detail"]
    assert done.json["checks"][0]["hint"] == "check the user and password in REDIS_URL"
    without = make_directory(redis_url=own_redis.url())
    expect_error(
        run(without, "add", "2", "3"), 69, "refuses the login", "REDIS_URL has no password", "redis://:PASSWORD@"
    )


def test_a_wrong_password_of_mongodb_is_reported_without_it(own_mongod: Mongod, make_directory: MakeDirectory) -> None:
    url = own_mongod.url("logs").replace("mongodb://", f"mongodb://reader:{CANARY}@") + "?authSource=admin"
    done = run(make_directory(mongo_url=url), "poll", "--once")
    expect_error(done, 2, "refuses the login", "MONGO_URL")


def test_without_a_worker_add_says_which_hop_broke(make_directory: MakeDirectory) -> None:
    done = run(make_directory(), "add", "2", "3", "--timeout", "1s")
    expect_error(done, 69, "broker: reached", "worker: did not take the task", "syncctl worker")


def test_rows_that_cannot_be_sent_are_failed_and_the_rest_arrives(
    make_directory: MakeDirectory,
    source_db: SourceDb,
    partner: MockPartner,
    start_syncctl: Callable[..., Any],
    eventually: Callable[..., Any],
) -> None:
    source_db.execute("create table orders (id integer primary key, ratio real, picture blob)")
    too_large = b"x" * (13 * 2**20)
    rows = [(1, 0.1, b"\x00\xff"), (2, 9e999, b""), (3, -9e999, b""), (4, 0.4, too_large), (5, 0.5, None)]
    source_db.execute_many("insert into orders values (?, ?, ?)", rows)
    directory = make_directory()
    done = run(directory, "poll", "--once", "--json")
    polled = done.json["runs"][0]
    assert (done.exit_code, polled["read"], polled["logged"], polled["failed"]) == (1, 5, 5, 3)
    assert polled["cursor_after"] == "5"
    messages = [group["message"] for group in run(directory, "failures", "--json").json["groups"]]
    assert len(messages) == 3
    for row, word in ((2, "ratio: the number is Infinity"), (3, "ratio: the number is -Infinity"), (4, "bytes")):
        record = run(directory, "show", "orders", str(row), "--json").json["records"][0]
        assert (record["state"], record["attempts"]) == ("failed", 0)
        assert word in record["error"]["message"]
    start_syncctl("worker", "--pool", "solo", "--beat", cwd=directory)
    eventually(lambda: len(partner.rows()) == 2, 60)
    assert partner.rows() == {
        "1": b'{"id":1,"ratio":0.1,"picture":"AP8="}',
        "5": b'{"id":5,"ratio":0.5,"picture":null}',
    }


def test_a_key_that_is_null_fails_its_row_and_no_other(make_directory: MakeDirectory, source_db: SourceDb) -> None:
    source_db.execute("create table orders (id integer, code text)")
    rows = [(1, "a"), (2, None), (3, "c"), (4, None), (5, "e")]
    source_db.execute_many("insert into orders values (?, ?)", rows)
    directory = make_directory(stream={"key": ["code"]})
    done = run(directory, "poll", "--once", "--json")
    polled = done.json["runs"][0]
    assert (polled["read"], polled["error"], polled["cursor_after"]) == (5, None, "5")
    assert (done.exit_code, polled["logged"], polled["failed"]) == (1, 5, 2)
    groups = run(directory, "failures", "--json").json["groups"]
    assert [group["count"] for group in groups] == [2]
    assert "code" in groups[0]["message"]
    assert "NULL" in groups[0]["message"]


def test_a_redis_that_hangs_holds_a_command_up_for_one_timeout(
    own_redis: RedisServer, make_directory: MakeDirectory, source_db: SourceDb
) -> None:
    source_db.create_orders(3)
    directory = make_directory(redis_url=own_redis.url())
    own_redis.freeze()
    done = run_syncctl("poll", "--once", "--json", cwd=directory, timeout=30)
    assert (done.exit_code, done.json["runs"][0]["logged"], done.json["runs"][0]["dispatched"]) == (0, 3, 0)
    assert "cannot reach Redis" in done.stderr


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"body_schema": "gone.json"}, "streams.orders.body_schema (syncctl.toml line"),
        ({"endpoint": "POST /orders?key=${PARTNER_TOKEN}"}, "streams.orders.endpoint (syncctl.toml line"),
        ({"endpoint": "POST /a/../orders"}, "streams.orders.endpoint (syncctl.toml line"),
    ],
)
def test_config_finds_problems_before_they_occur(
    make_directory: MakeDirectory, settings: dict[str, str], message: str
) -> None:
    expect_error(run(make_directory(stream=settings), "config"), 2, message)


@pytest.mark.parametrize("url", [f"redis://h/0?password={CANARY}", "unix:///run/redis.sock?db=0"])
def test_config_refuses_a_url_of_redis_that_celery_cannot_read(make_directory: MakeDirectory, url: str) -> None:
    expect_error(run(make_directory(redis_url=url), "config"), 2, "redis_url (.env line")
