"""`syncctl doctor` on real services: working, down and misconfigured, and the hint that repairs it."""

import json
import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from syncctl import __version__
from syncctl.doctor.groups import GROUPS
from syncctl.ledger.migrations import VERSION
from syncctl.local.mongod import Mongod
from syncctl.local.redis_server import RedisServer
from syncctl.local.server import find_port
from syncctl.settings import load_settings
from tests.cli.catalogue import find_command
from tests.harness.commands import Completed
from tests.harness.hostile_partner import HostilePartner, Peer
from tests.harness.servers import connect
from tests.harness.settings_files import NOWHERE
from tests.harness.source_db import SourceDb

Run = Callable[..., Completed]
MakeSettings = Callable[..., Path]
Checks = dict[str, dict[str, Any]]
CANARY = "canary-7f3a91"


def read_checks(done: Completed) -> Checks:
    """Return the checks of `doctor --json` by name; fails where stdout is not exactly its document."""
    document = done.json
    assert set(document) == {"ok", "checks"}
    for check in document["checks"]:
        assert list(check) == ["name", "status", "detail", "hint", "duration_ms"]
        assert check["status"] in {"ok", "warn", "fail", "skip"}
        assert check["detail"]
        assert check["hint"] or check["status"] in {"ok", "skip"}, check
    names = [check["name"] for check in document["checks"]]
    assert len(set(names)) == len(names)
    assert document["ok"] == (done.exit_code == 0)
    return {check["name"]: check for check in document["checks"]}


def list_status(checks: Checks, status: str) -> set[str]:
    return {name for name, check in checks.items() if check["status"] == status}


@pytest.fixture
def examine(run_syncctl: Run, settings_dir: Path) -> Callable[..., Checks]:
    """Run `syncctl doctor ... --json` in the test's settings and return its checks by name."""

    def run(*args: str) -> Checks:
        return read_checks(run_syncctl("doctor", *args, "--json", cwd=settings_dir))

    return run


@pytest.fixture
def database(mongo_url: str) -> Iterator[Any]:
    """The ledger's database, for a test to look and to meddle."""
    with connect(mongo_url) as client:
        yield client.get_default_database()


def give_sign_of_life(
    database: Any, name: str, *, version: str = __version__, queues: str = "deliver,poll,control"
) -> None:
    facts = {"at": datetime.now(UTC), "queues": queues.split(","), "version": version, "slots": 1, "ledger": VERSION}
    database.workers.replace_one({"_id": name}, facts, upsert=True)


def test_a_healthy_set_up_passes_every_check(
    run_syncctl: Run,
    start_syncctl: Callable[..., Any],
    settings_dir: Path,
    source_db: SourceDb,
    eventually: Callable[..., Any],
) -> None:
    source_db.create_orders(3)
    (settings_dir / ".env").chmod(0o600)
    start_syncctl("worker", "--beat", cwd=settings_dir)

    def look() -> Completed | None:
        done = run_syncctl("doctor", "--json", cwd=settings_dir)
        return done if list_status(read_checks(done), "ok") == set(read_checks(done)) else None

    checks = read_checks(eventually(look, timeout=60))
    assert {name.partition(" ")[0] for name in checks} == set(GROUPS)
    assert checks["source orders"]["detail"].startswith("read one row as increasing by id, key id")
    assert re.fullmatch(r"2 \+ 3 = 5 in \d+ ms, by .+@.+", checks["queue"]["detail"])
    assert checks["workers queues"]["detail"] == "deliver, poll, control are served"

    done = run_syncctl("doctor", cwd=settings_dir)
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["✓ ok"] * len(checks)
    assert done.stderr == f"{len(checks)} ok; next: syncctl status\n"


def test_with_everything_down_doctor_still_prints_one_document(
    run_syncctl: Run, tmp_path: Path, make_settings: MakeSettings
) -> None:
    settings = make_settings(**NOWHERE, source_url=f"sqlite:///{tmp_path}/missing/source.db")
    done = run_syncctl("doctor", "--json", "--timeout", "2s", cwd=settings, timeout=45)
    checks = read_checks(done)
    assert done.exit_code == 1
    assert list_status(checks, "fail") == {
        "redis",
        "mongodb",
        "source default server",
        "source orders",
        "partner default",
    }
    assert list_status(checks, "ok") == {
        "configuration",
        "configuration secrets",
        "configuration examples",
        "configuration retention",
        "configuration archive",
    }
    assert checks["queue"]["detail"] == "needs redis, which failed"
    assert checks["beat"]["detail"] == "needs mongodb, which failed"
    assert checks["workers queues"]["detail"] == "needs workers, which was skipped"
    assert "syncctl local up" in checks["redis"]["hint"]
    assert "REDIS_URL" in checks["redis"]["hint"]
    assert "MONGO_URL" in checks["mongodb"]["hint"]
    assert "SOURCE_URL" in checks["source orders"]["hint"]
    assert "PARTNER_URL" in checks["partner default"]["hint"]
    assert done.stderr.startswith("5 ok, 5 failed, ")
    assert done.stderr.endswith("next: follow the hint of 'redis', then run: syncctl doctor redis\n")


def test_a_fresh_set_up_lacks_indexes_a_worker_and_beat_and_nothing_is_made_up(
    examine: Callable[..., Checks], database: Any, source_db: SourceDb, partner: Any
) -> None:
    source_db.create_orders()
    checks = examine()
    assert list_status(checks, "fail") == {"indexes", "workers", "beat"}
    assert "it has no row yet" in checks["source orders"]["detail"]
    assert checks["workers"]["hint"].startswith("run: syncctl worker")
    assert checks["beat"]["hint"].startswith("run: syncctl beat")
    assert checks["queue"] | {"duration_ms": 0} == {
        "name": "queue",
        "status": "skip",
        "detail": "needs workers, which failed",
        "hint": checks["workers"]["hint"],
        "duration_ms": 0,
    }
    assert checks["streams orders"]["status"] == "warn"
    assert "syncctl poll orders --once" in checks["streams orders"]["hint"]
    assert database.list_collection_names() == []
    assert partner.account.calls == []


def test_keys_of_another_type_are_named_with_the_command_that_removes_them(
    own_redis: RedisServer, run_syncctl: Run, settings_dir: Path
) -> None:
    environment = {"REDIS_URL": own_redis.url()}

    def look() -> Checks:
        return read_checks(run_syncctl("doctor", "redis", "--json", cwd=settings_dir, env=environment))

    with Redis.from_url(own_redis.url(), decode_responses=True) as client:
        prefix = load_settings(directory=settings_dir, environment={}).redis_namespace
        for name, check in (("poll", "redis"), ("_kombu.binding.celery.pidbox", "redis keys")):
            client.set(f"{prefix}{name}", "x")
            finding = look()[check]
            assert finding["status"] == "fail"
            assert f"{prefix}{name} is a string, not a " in finding["detail"]
            command = re.search(r"redis-cli (DEL [^;]+)", finding["hint"])
            assert command is not None
            client.execute_command(*command[1].split())
        assert look()["redis keys"]["status"] == "ok"
        client.set(f"{prefix}poll", "x")
        shown = run_syncctl("status", cwd=settings_dir, env=environment)
        assert "refuses commands: WRONGTYPE" in shown.stderr
        assert "rows are polled and sent once Redis can be used" in shown.stderr


def test_redis_that_evicts_fails_until_its_hint_is_followed(
    own_redis: RedisServer, run_syncctl: Run, settings_dir: Path
) -> None:
    environment = {"REDIS_URL": own_redis.url()}

    def look() -> Checks:
        return read_checks(run_syncctl("doctor", "redis", "--json", cwd=settings_dir, env=environment))

    with Redis.from_url(own_redis.url(), decode_responses=True) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("appendonly", "no")
        checks = look()
        assert list_status(checks, "fail") == {"redis eviction"}
        assert list_status(checks, "warn") == {"redis persistence"}
        assert "allkeys-lru" in checks["redis eviction"]["detail"]
        assert "in redis.conf: maxmemory-policy noeviction" in checks["redis eviction"]["hint"]

        client.config_set("maxmemory-policy", "volatile-lru")
        assert look()["redis eviction"]["status"] == "warn"

        for check in ("redis eviction", "redis persistence"):
            command = re.search(r"redis-cli (CONFIG SET [^;]+)", checks[check]["hint"])
            assert command is not None
            client.execute_command(*command[1].split())
        assert list_status(look(), "ok") == set(checks)


def test_redis_that_is_nearly_full_is_a_warning(own_redis: RedisServer, run_syncctl: Run, settings_dir: Path) -> None:
    with Redis.from_url(own_redis.url()) as client:
        client.config_set("maxmemory", client.info()["used_memory"])
    done = run_syncctl("doctor", "redis", "--json", cwd=settings_dir, env={"REDIS_URL": own_redis.url()})
    assert done.exit_code == 0
    assert read_checks(done)["redis memory"]["status"] == "warn"


def test_an_index_that_is_missing_or_different_is_named_and_its_hint_restores_it(
    examine: Callable[..., Checks], run_syncctl: Run, settings_dir: Path, database: Any
) -> None:
    assert run_syncctl("init", "--indexes", cwd=settings_dir).exit_code == 0
    assert examine("indexes")["indexes"]["status"] == "ok"

    database.records.drop_index("due")
    check = examine("indexes")["indexes"]
    assert (check["status"], check["detail"]) == ("fail", "missing: records.due")
    assert check["hint"] == "run: syncctl init --indexes"
    assert run_syncctl("init", "--indexes", cwd=settings_dir).exit_code == 0
    assert examine("indexes")["indexes"]["status"] == "ok"

    database.records.drop_index("due")
    database.records.create_index([("stream", 1)], name="due")
    check = examine("indexes")["indexes"]
    assert check["detail"] == "different from the expected index: records.due"
    assert 'db.records.dropIndex("due")' in check["hint"]
    assert check["hint"].endswith("run: syncctl init --indexes")


def test_a_standalone_mongodb_is_a_warning(run_syncctl: Run, settings_dir: Path, tmp_path: Path) -> None:
    server = StandaloneMongod(tmp_path / "standalone")
    server.start()
    try:
        environment = {"MONGO_URL": server.url()}
        checks = read_checks(run_syncctl("doctor", "mongodb", "--json", cwd=settings_dir, env=environment))
    finally:
        server.kill()
    assert list_status(checks, "warn") == {"mongodb majority"}
    assert "--replSet" in checks["mongodb majority"]["hint"]


def test_a_login_that_may_only_read_the_ledger_fails(run_syncctl: Run, settings_dir: Path, tmp_path: Path) -> None:
    with Mongod(tmp_path / "protected", protected=True) as server, connect(server.url()) as client:
        client.admin.command("createUser", "reader", pwd="reader", roles=[{"role": "read", "db": "celery_logs"}])
        url = f"mongodb://reader:reader@{server.address}/celery_logs?authSource=admin"
        done = run_syncctl("doctor", "mongodb", "--json", cwd=settings_dir, env={"MONGO_URL": url})
    check = read_checks(done)["mongodb majority"]
    assert (done.exit_code, check["status"]) == (1, "fail")
    assert check["detail"].endswith('not authorized on celery_logs to execute command { update: "records" ... }')
    assert check["hint"] == "grant it readWrite on the ledger's database"


class StandaloneMongod(Mongod):
    """A mongod that belongs to no replica set."""

    def command(self) -> list[str | Path]:
        """Return the command line."""
        words = super().command()
        at = words.index("--replSet")
        return words[:at] + words[at + 2 :]

    def check_ready(self, *, timeout_seconds: float) -> bool:
        """Return whether it answers."""
        with socket.socket() as probe:
            probe.settimeout(timeout_seconds)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def test_workers_that_leave_a_queue_alone_or_run_another_version_are_a_warning(
    examine: Callable[..., Checks], database: Any
) -> None:
    give_sign_of_life(database, "celery@one", queues="poll,control", version="0.0.1")
    checks = examine("workers")
    assert checks["workers"]["detail"] == "1 alive: celery@one"
    assert checks["workers queues"]["status"] == "fail"
    assert checks["workers queues"]["detail"] == "no worker serves deliver"
    assert checks["workers queues"]["hint"] == "run: syncctl worker --queues deliver"
    assert checks["workers versions"]["status"] == "warn"
    assert "celery@one runs 0.0.1" in checks["workers versions"]["detail"]

    give_sign_of_life(database, "celery@two", queues="deliver")
    assert examine("workers")["workers queues"]["status"] == "ok"


def test_a_worker_that_died_is_not_alive(examine: Callable[..., Checks], database: Any) -> None:
    give_sign_of_life(database, "celery@gone")
    database.workers.update_one({}, {"$set": {"at": datetime.now(UTC) - timedelta(minutes=1)}})
    assert examine("workers")["workers"]["status"] == "fail"


def test_a_worker_on_another_redis_is_found_by_the_round_trip(examine: Callable[..., Checks], database: Any) -> None:
    give_sign_of_life(database, "celery@elsewhere")
    check = examine("workers", "redis", "queue", "--timeout", "5s")["queue"]
    assert check["status"] == "fail"
    assert "did not take the task" in check["detail"]


def test_a_beat_that_is_late_or_of_another_version_is_a_warning(examine: Callable[..., Checks], database: Any) -> None:
    beat = {"at": datetime.now(UTC) - timedelta(minutes=5), "version": __version__, "ledger": VERSION}
    database.beat.replace_one({"_id": "beat"}, beat, upsert=True)
    check = examine("beat")["beat"]
    assert check["status"] == "fail"
    assert "5m old" in check["detail"]
    assert "syncctl beat" in check["hint"]

    database.beat.replace_one({"_id": "beat"}, {"at": datetime.now(UTC), "version": "0.0.1"})
    assert examine("beat")["beat"]["status"] == "warn"
    database.beat.replace_one({"_id": "beat"}, {"at": datetime.now(UTC), "version": __version__, "ledger": VERSION})
    assert examine("beat")["beat"]["status"] == "ok"


def test_a_missing_table_fails_its_stream_alone(run_syncctl: Run, settings_dir: Path, source_db: SourceDb) -> None:
    source_db.create_orders(1)
    environment = {
        "STREAMS__INVOICES__TABLE": "order",
        "STREAMS__INVOICES__START": "beginning",
        "STREAMS__INVOICES__CURSOR": "id",
    }
    checks = read_checks(run_syncctl("doctor", "source", "--json", cwd=settings_dir, env=environment))
    assert list_status(checks, "fail") == {"source invoices"}
    assert {"source orders", "source orders index"} <= list_status(checks, "ok")
    assert checks["source invoices index"]["detail"] == "needs source invoices, which failed"
    assert "there is no table order" in checks["source invoices"]["detail"]
    assert "did you mean orders?" in checks["source invoices"]["hint"]


def test_a_row_that_cannot_be_sent_is_a_warning(examine: Callable[..., Checks], source_db: SourceDb) -> None:
    source_db.create_orders()
    source_db.execute("insert into orders (id, amount) values (1, 9e999)")
    check = examine("source")["source orders"]
    assert check["status"] == "warn"
    assert "would be logged as failed" in check["detail"]


@pytest.mark.parametrize(
    ("answer", "status", "hint"),
    [
        ("401 Unauthorized", "warn", "PARTNER_TOKEN"),
        ("403 Forbidden", "warn", "PARTNER_TOKEN"),
        ("503 Service Unavailable", "warn", "ask the partner"),
        ("404 Not Found", "ok", ""),
        ("405 Method Not Allowed", "ok", ""),
    ],
)
def test_the_answer_to_options_decides_the_check_of_a_partner(
    answer: str, status: str, hint: str, run_syncctl: Run, settings_dir: Path
) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.answer(answer)

    with HostilePartner(script) as server:
        done = run_syncctl("doctor", "partner", "--json", cwd=settings_dir, env={"PARTNER_URL": server.url})
        requests = [request.split(b" ")[0] for request in server.requests]
    check = read_checks(done)["partner default"]
    assert (done.exit_code, check["status"]) == (0, status)
    assert hint in check["hint"]
    assert requests == [b"OPTIONS"]


def test_a_certificate_that_is_not_verified_is_a_warning(run_syncctl: Run, settings_dir: Path) -> None:
    environment = {"PARTNERS__DEFAULT__VERIFY": "false"}
    done = run_syncctl("doctor", "partner", "--json", cwd=settings_dir, env=environment)
    check = read_checks(done)["partner default"]
    assert (done.exit_code, check["status"]) == (0, "warn")
    assert "its certificate is not checked" in check["detail"]
    assert "partners.default.ca" in check["hint"]


def test_a_token_that_is_refused_is_reported_in_the_endpoints_words(run_syncctl: Run, settings_dir: Path) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.answer("401 Unauthorized", b'{"error":"invalid_client"}')

    with HostilePartner(script) as server:
        prefix = "PARTNERS__DEFAULT__AUTH__"
        auth = {"TYPE": "oauth2", "TOKEN_URL": server.url, "CLIENT_ID": "me", "CLIENT_SECRET": CANARY}
        environment = {f"{prefix}{name}": value for name, value in auth.items()}
        done = run_syncctl("doctor", "partner", "--json", cwd=settings_dir, env=environment)
    check = read_checks(done)["partner default"]
    assert check["status"] == "fail"
    assert check["detail"].startswith("no token from 127.0.0.1:")
    assert check["detail"].endswith("HTTP 401: invalid_client")
    assert "partners.default.auth" in check["hint"]


def test_an_endpoint_that_no_call_could_be_made_with_fails(run_syncctl: Run, settings_dir: Path) -> None:
    environment = {"STREAMS__ORDERS__ENDPOINT": "POST /orders/{id"}
    done = run_syncctl("doctor", "partner", "--json", cwd=settings_dir, env=environment)
    assert done.exit_code != 0
    assert "streams.orders.endpoint" in done.stdout


def test_services_that_hang_fail_within_the_timeout(
    own_redis: RedisServer, own_mongod: Mongod, run_syncctl: Run, settings_dir: Path, source_db: SourceDb
) -> None:
    source_db.create_orders(1)

    def hang(peer: Peer) -> None:
        peer.read_request()
        peer.read_request()

    pids = own_redis.pid, own_mongod.pid
    with HostilePartner(hang) as server:
        environment = {"REDIS_URL": own_redis.url(), "MONGO_URL": own_mongod.url(), "PARTNER_URL": server.url}
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            done = run_syncctl("doctor", "--json", "--timeout", "1s", cwd=settings_dir, env=environment, timeout=30)
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
    checks = read_checks(done)
    assert done.exit_code == 1
    assert list_status(checks, "fail") == {"redis", "mongodb", "partner default"}
    assert checks["redis"]["detail"] == "no answer within 1 s"
    assert list_status(checks, "ok") == {
        "configuration",
        "configuration secrets",
        "configuration examples",
        "configuration retention",
        "configuration archive",
        "source default server",
        "source orders",
        "source orders index",
    }


def test_only_the_named_groups_are_checked(run_syncctl: Run, settings_dir: Path, source_db: SourceDb) -> None:
    source_db.create_orders(1)
    environment = {"MONGO_URL": f"mongodb://127.0.0.1:{find_port()}/ledger"}
    done = run_syncctl("doctor", "source", "redis", "--json", cwd=settings_dir, env=environment)
    assert done.exit_code == 0
    checks = read_checks(done)
    assert [name for name in checks if name.startswith("redis")] == [
        "redis",
        "redis keys",
        "redis eviction",
        "redis memory",
        "redis persistence",
    ]
    assert {name.partition(" ")[0] for name in checks} == {"redis", "source"}
    # Facts that only the ledger knows do not make the source fail.
    assert list_status(checks, "skip") == {"source orders gaps"}
    assert checks["source orders gaps"]["detail"].startswith("needs mongodb: cannot reach MongoDB")


def test_a_check_is_asked_for_by_the_name_that_is_shown(
    run_syncctl: Run, settings_dir: Path, source_db: SourceDb
) -> None:
    source_db.create_orders(1)
    done = run_syncctl("doctor", "source", "orders", "index", "redis eviction", "--json", cwd=settings_dir)
    assert (done.exit_code, list(read_checks(done))) == (0, ["redis eviction", "source orders index"])
    done = run_syncctl("doctor", "source", "ordres", cwd=settings_dir)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "no such check: source ordres" in done.stderr
    assert "did you mean source orders?" in done.stderr
    assert "run: syncctl doctor source orders" in done.stderr


def test_a_group_whose_needs_are_not_checked_fails_itself(run_syncctl: Run, settings_dir: Path) -> None:
    environment = {"MONGO_URL": f"mongodb://127.0.0.1:{find_port()}/ledger"}
    done = run_syncctl("doctor", "beat", "--json", "--timeout", "1s", cwd=settings_dir, env=environment)
    assert done.exit_code == 1
    assert "cannot reach MongoDB" in read_checks(done)["beat"]["detail"]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("sorce",), ("no such check: sorce", "did you mean source?", "syncctl doctor source")),
        (("xyzzy",), ("no such check: xyzzy", "configuration, redis, mongodb", "syncctl doctor")),
        (("--timeout", "soon"), ("--timeout 'soon' is not a duration", "", "--timeout 30s")),
        (("--timeout", "0s"), ("--timeout is zero", "", "--timeout 10s")),
    ],
)
def test_a_wrong_command_line_is_three_lines_and_exit_code_2(
    args: tuple[str, ...], expected: tuple[str, ...], run_syncctl: Run, tmp_path: Path
) -> None:
    done = run_syncctl("doctor", *args, cwd=tmp_path)
    assert (done.exit_code, done.stdout) == (2, "")
    lines = done.stderr.splitlines()
    assert [line.split(":")[0].strip() for line in lines] == ["error", "cause", "hint"]
    for line, part in zip(lines, expected, strict=True):
        assert part in line


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("streams = [", "syncctl.toml"),
        ('[streams.orders]\ntabel = "orders"\nstart = "now"\n', "streams.orders.tabel"),
        ('[streams.orders]\ntable = "orders"\n', "streams.orders.start"),
    ],
)
def test_settings_that_cannot_be_read_are_a_failed_check_and_exit_code_2(
    text: str, problem: str, run_syncctl: Run, settings_dir: Path
) -> None:
    (settings_dir / "syncctl.toml").write_text(text)
    done = run_syncctl("doctor", "--json", cwd=settings_dir)
    checks = read_checks(done)
    assert done.exit_code == 2
    assert list(checks) == list(GROUPS)
    assert list_status(checks, "fail") == {"configuration"}
    assert list_status(checks, "skip") == set(GROUPS) - {"configuration"}
    assert problem in checks["configuration"]["detail"]
    assert "Traceback" not in done.stderr


def test_every_problem_of_the_settings_has_its_line_and_the_rest_is_checked(
    run_syncctl: Run, settings_dir: Path
) -> None:
    (settings_dir / ".env").write_text(
        "".join(
            line
            for line in (settings_dir / ".env").read_text().splitlines(True)
            if "_URL=" not in line or "REDIS" in line
        )
    )
    done = run_syncctl("doctor", "configuration", "redis", "source", "partner", "--json", cwd=settings_dir)
    checks = read_checks(done)
    assert done.exit_code == 1
    lines = checks["configuration"]["detail"].splitlines()
    assert len(lines) == 2
    assert "SOURCE_URL" in lines[0]
    assert "PARTNER_URL" in lines[1]
    assert checks["redis"]["status"] == "ok"
    assert {checks["source orders"]["status"], checks["partner default"]["status"]} == {"fail"}


def test_no_stream_at_all_is_a_warning_with_the_next_step(run_syncctl: Run, settings_dir: Path) -> None:
    (settings_dir / "syncctl.toml").unlink()
    done = run_syncctl("doctor", "configuration", "source", "partner", "--json", cwd=settings_dir)
    checks = read_checks(done)
    assert done.exit_code == 0
    assert checks["configuration"]["status"] == "warn"
    assert "[streams.NAME]" in checks["configuration"]["hint"]
    assert list_status(checks, "skip") == {"source", "partner"}


def test_secrets_that_others_can_read_are_a_warning(run_syncctl: Run, settings_dir: Path) -> None:
    (settings_dir / ".env").chmod(0o600)
    environment = {"PARTNER_TOKEN": CANARY}

    def look(**more: str) -> dict[str, Any]:
        done = run_syncctl("doctor", "configuration", "--json", cwd=settings_dir, env=environment | more)
        return read_checks(done)["configuration secrets"]

    assert look()["status"] == "ok"
    check = look(PARTNER_URL="http://partner.example/v1")
    assert check["status"] == "warn"
    assert "PARTNER_URL" in check["hint"]
    (settings_dir / ".env").chmod(0o644)
    # It holds no secret, and may be there to name the files that do.
    assert look()["status"] == "ok"
    with (settings_dir / ".env").open("a") as file:
        file.write(f"PARTNER_TOKEN={CANARY}\n")
    assert look()["hint"] == "run: chmod 600 .env"


def test_every_file_with_a_secret_is_looked_at(run_syncctl: Run, settings_dir: Path) -> None:
    (settings_dir / ".env").chmod(0o600)
    token, key, query = (settings_dir / name for name in ("token", "client.pem", "query"))
    token.write_text(CANARY)
    key.write_text("a key")
    query.write_text("select * from orders")
    environment = {"PARTNER_TOKEN_FILE": "token", "PARTNERS__DEFAULT__CLIENT_CERT": "client.pem"}
    environment |= {"STREAMS__ORDERS__WHERE_FILE": "query"}

    def look() -> dict[str, Any]:
        done = run_syncctl("doctor", "configuration", "--json", cwd=settings_dir, env=environment)
        return read_checks(done)["configuration secrets"]

    for path in (token, key):
        path.chmod(0o600)
    query.chmod(0o644)
    check = look()
    assert check["status"] == "ok"
    assert "the file of PARTNER_TOKEN_FILE, partners.default.client_cert" in check["detail"]
    for path in (token, key):
        path.chmod(0o604)
        assert look()["hint"] == f"run: chmod 600 {path}"
        path.chmod(0o600)


def test_a_stream_whose_poll_failed_is_reported_with_the_reason(
    run_syncctl: Run, examine: Callable[..., Checks], settings_dir: Path, source_db: SourceDb
) -> None:
    assert run_syncctl("poll", "orders", "--once", cwd=settings_dir).exit_code == 1
    check = examine("streams")["streams orders"]
    assert check["status"] == "fail"
    assert "there is no table orders" in check["detail"]
    assert check["hint"].endswith("syncctl poll orders --once")

    source_db.create_orders(1)
    assert run_syncctl("poll", "orders", "--once", cwd=settings_dir).exit_code == 0
    check = examine("streams")["streams orders"]
    assert check["status"] == "ok"
    assert "1 record to deliver, 0 of them in flight" in check["detail"]


def test_a_backlog_that_does_not_move_is_a_warning_unless_it_is_paused(
    run_syncctl: Run, examine: Callable[..., Checks], settings_dir: Path, source_db: SourceDb, database: Any
) -> None:
    source_db.create_orders(3)
    assert run_syncctl("pause", "orders", "--reason", "audit", cwd=settings_dir).exit_code == 0
    assert run_syncctl("poll", "orders", "--once", cwd=settings_dir).exit_code == 0
    long_ago = datetime.now(UTC) - timedelta(hours=3)
    assert database.records.update_many({}, {"$set": {"due_at": long_ago}}).modified_count == 3
    check = examine("streams")["streams orders"]
    assert check["status"] == "warn"
    assert "audit" in check["detail"]
    database.streams.update_one({"_id": "orders"}, {"$set": {"paused.reason": ""}})
    assert ": no reason given\n" in examine("streams")["streams orders"]["detail"]
    assert "none is in flight" not in check["detail"]
    assert check["hint"] == "fix the cause; then run: syncctl resume orders"

    database.streams.update_one({"_id": "orders"}, {"$unset": {"paused": True}})
    check = examine("streams")["streams orders"]
    assert check["status"] == "warn"
    assert "3 records to deliver and none is in flight; the oldest has been due for 3h" in check["detail"]


def test_failed_records_that_hold_newer_versions_are_a_warning(
    run_syncctl: Run, examine: Callable[..., Checks], settings_dir: Path, source_db: SourceDb, database: Any
) -> None:
    source_db.create_orders(3)
    assert run_syncctl("poll", "orders", "--once", cwd=settings_dir).exit_code == 0
    failed, *others = [document["_id"] for document in database.records.find()]
    database.records.update_one({"_id": failed}, {"$set": {"state": "failed"}})
    assert "held" not in examine("streams")["streams orders"]["detail"]
    held = {"$set": {"state": "pending", "waits_for": failed}, "$unset": {"due_at": True}}
    database.records.update_many({"_id": {"$in": others}}, held)
    check = examine("streams")["streams orders"]
    assert check["status"] == "warn"
    assert "newer versions of rows are held by 1 failed record; 2 wait" in check["detail"]
    assert "syncctl replay --stream orders" in check["hint"]
    assert "syncctl discard ID --reason TEXT" in check["hint"]
    (stream,) = run_syncctl("status", "--json", cwd=settings_dir).json["streams"]
    assert stream["held"] == 2


def test_records_of_an_interrupted_poll_are_a_warning(
    run_syncctl: Run, examine: Callable[..., Checks], settings_dir: Path, source_db: SourceDb, database: Any
) -> None:
    source_db.create_orders(3)
    assert run_syncctl("poll", "orders", "--once", cwd=settings_dir).exit_code == 0
    assert "interrupted" not in examine("streams")["streams orders"]["detail"]
    database.records.update_many({}, {"$set": {"waits_for": "poll"}, "$unset": {"due_at": True}})
    check = examine("streams")["streams orders"]
    assert check["status"] == "warn"
    assert "3 records of an interrupted poll wait for a poll that reads to the end" in check["detail"]
    assert "syncctl poll orders --once" in check["hint"]
    (stream,) = run_syncctl("status", "--json", cwd=settings_dir).json["streams"]
    assert (stream["awaiting_poll"], stream["held"]) == (3, 0)
    assert "3 records of orders wait for a poll that reads to the end" in run_syncctl("status", cwd=settings_dir).stdout


def test_rows_that_are_passed_over_are_named_with_the_command_that_reads_them(
    run_syncctl: Run, examine: Callable[..., Checks], settings_dir: Path, source_db: SourceDb
) -> None:
    source_db.create_orders(2)
    source_db.create_orders(2, table="invoices")

    def poll(**changed: str) -> tuple[dict[str, Any], dict[str, Any], str]:
        """Poll once with changed settings; return the check, and what status has as a document and for people."""
        run_syncctl("poll", "orders", "--once", cwd=settings_dir, env=changed)
        (stream,) = run_syncctl("status", "--json", cwd=settings_dir).json["streams"]
        shown = run_syncctl("status", cwd=settings_dir).stderr
        return examine("streams")["streams orders"], stream, " ".join(shown.split())

    assert poll()[0]["status"] == "ok"
    check, stream, shown = poll(STREAMS__ORDERS__WHERE="note <> 'x'")
    assert check["status"] == "warn"
    assert "where has changed: rows before the cursor" in check["detail"]
    assert "that it did not include so far are not read" in check["detail"]
    assert "syncctl rewind orders --to beginning" in check["hint"]
    assert stream["notes"][0].startswith("where has changed")
    assert "where has changed" in shown
    check, stream, shown = poll(STREAMS__ORDERS__TABLE="invoices")
    assert check["status"] == "fail"
    assert "it reads table main.invoices now" in check["detail"]
    assert "syncctl rewind orders --to beginning" in check["hint"]
    assert "syncctl rewind orders --to beginning" in stream["last_hint"]
    assert "syncctl rewind orders --to beginning" in shown


def test_times_ahead_of_the_clock_are_a_warning_until_they_are_corrected(
    run_syncctl: Run, examine: Callable[..., Checks], settings_dir: Path, source_db: SourceDb
) -> None:
    source_db.create_orders(2)
    source_db.execute("update orders set updated_at = '9999-12-31 00:00:00.000000' where id = 1")
    by_time = {"STREAMS__ORDERS__CURSOR": "updated_at"}
    for _ in range(2):
        polled = run_syncctl("poll", "orders", "--once", "--json", cwd=settings_dir, env=by_time)
        assert "updated_at has times ahead of the source's clock" in polled.json["runs"][0]["notes"][0]
        assert "ahead of the source's clock" in " ".join(polled.stderr.split())
        check = examine("streams")["streams orders"]
        assert check["status"] == "warn"
        assert "updated_at has times ahead of the source's clock" in check["detail"]
        (stream,) = run_syncctl("status", "--json", cwd=settings_dir).json["streams"]
        assert "ahead of the source's clock" in stream["notes"][0]
    source_db.execute("update orders set updated_at = '2026-01-01 00:00:01.000000' where id = 1")
    run_syncctl("poll", "orders", "--once", cwd=settings_dir, env=by_time)
    assert examine("streams")["streams orders"]["status"] == "ok"


def test_a_source_that_cannot_be_acknowledged_is_a_warning(
    run_syncctl: Run, examine: Callable[..., Checks], settings_dir: Path, source_db: SourceDb, database: Any
) -> None:
    source_db.create_orders(2)
    assert run_syncctl("poll", "orders", "--once", cwd=settings_dir).exit_code == 0
    refused = {"acknowledge": {"version": "i:1", "error": "the UPDATE permission was denied"}, "state": "delivered"}
    database.records.update_many({}, {"$set": refused})
    check = examine("streams")["streams orders"]
    assert check["status"] == "warn"
    assert "2 records could not be acknowledged in the source: the UPDATE permission was denied" in check["detail"]
    assert "the rights that streams.orders.acknowledge needs" in check["hint"]


def test_a_row_of_a_stream_without_keys_can_be_shown(run_syncctl: Run, settings_dir: Path, source_db: SourceDb) -> None:
    source_db.create_orders(2)
    toml = settings_dir / "syncctl.toml"
    toml.write_text(toml.read_text().replace("orders = {", "orders = { append_only = true,"))
    assert run_syncctl("poll", "orders", "--once", cwd=settings_dir).exit_code == 0
    shown = run_syncctl("show", "orders", "2", "--json", cwd=settings_dir)
    assert [record["key"] for record in shown.json["records"]] == [{"id": 2}]


def test_a_stream_that_left_the_configuration_is_reported_with_what_it_left_behind(
    run_syncctl: Run, settings_dir: Path, source_db: SourceDb
) -> None:
    source_db.create_orders(2)
    assert run_syncctl("poll", "orders", "--once", cwd=settings_dir).exit_code == 0
    toml = settings_dir / "syncctl.toml"
    toml.write_text(toml.read_text().replace("orders = {", "returns = {"))
    checks = read_checks(run_syncctl("doctor", "streams", "--json", cwd=settings_dir))
    assert set(checks) == {"streams returns", "streams removed"}
    assert checks["streams removed"]["status"] == "warn"
    assert checks["streams removed"]["detail"] == "orders is no longer configured; 2 records not delivered"
    assert "[streams.orders]" in checks["streams removed"]["hint"]


@pytest.mark.parametrize("flags", [(), ("--json",), ("--debug",)], ids=["text", "json", "debug"])
def test_no_secret_is_ever_shown(
    flags: tuple[str, ...], redis_url: str, mongo_url: str, run_syncctl: Run, make_settings: MakeSettings
) -> None:
    settings = make_settings(
        mongo_url=mongo_url.replace("://", f"://root:{CANARY}-1@"),
        redis_url=redis_url.replace("://", f"://user:{CANARY}-2@"),
        source_url=f"mssql+pyodbc://reader:{CANARY}-3@127.0.0.1:{find_port()}/erp",
        partner_url=f"http://127.0.0.1:{find_port()}",
        partner_token=f"{CANARY}-4",
        sections={"log": {"level": "debug"}},
    )
    done = run_syncctl("doctor", "--timeout", "3s", *flags, cwd=settings, env={"PARTNER_TOKEN": f"{CANARY}-5"})
    assert done.exit_code == 1
    assert "partner" in done.stdout
    assert CANARY not in done.stdout + done.stderr


def test_a_secret_that_somebody_wrote_into_the_ledger_is_not_shown(run_syncctl: Run, settings_dir: Path) -> None:
    environment = {"PARTNER_TOKEN": CANARY}
    # The token was no secret yet when the stream was paused.
    run_syncctl("pause", "orders", "--reason", f"new token {CANARY}", cwd=settings_dir)
    done = run_syncctl("doctor", "streams", "--json", cwd=settings_dir, env=environment)
    assert "new token" in read_checks(done)["streams orders"]["detail"]
    assert CANARY not in done.stdout + done.stderr


@pytest.mark.parametrize("login", ["", ":wrong@", "nobody:wrong@"])
def test_a_login_that_redis_refuses_is_told_apart_from_a_redis_that_is_down(
    login: str, own_redis: RedisServer, run_syncctl: Run, settings_dir: Path
) -> None:
    with Redis.from_url(own_redis.url()) as client:
        client.config_set("requirepass", "right")
    environment = {"REDIS_URL": own_redis.url().replace("://", f"://{login}")}
    check = read_checks(run_syncctl("doctor", "redis", "--json", cwd=settings_dir, env=environment))["redis"]
    assert check["status"] == "fail"
    hint = "check the user and password in REDIS_URL" if login else "set REDIS_URL=redis://:PASSWORD@"
    assert check["hint"].startswith(hint)


def test_failures_are_readable_without_colour_and_without_unicode(
    run_syncctl: Run, make_settings: MakeSettings
) -> None:
    settings = make_settings(**NOWHERE, source_url="sqlite:///missing.db")
    plain = run_syncctl("doctor", "redis", cwd=settings, env={"PYTHONIOENCODING": "ascii"})
    assert plain.exit_code == 1
    lines = plain.stdout.splitlines()
    assert lines[0].startswith("x fail  redis              cannot reach Redis at ")
    assert lines[1].startswith(" " * 27 + "hint: start it")
    assert lines[2] == "- skip  redis keys         needs redis, which failed"
    assert len(lines) == 6

    coloured = run_syncctl("doctor", "redis", cwd=settings, env={"FORCE_COLOR": "1"})
    assert "\x1b[31m✗ fail\x1b[0m" in coloured.stdout
    assert re.sub(r"\x1b\[\d+m", "", coloured.stdout).splitlines()[2:] == [
        line.replace("- skip", "· skip") for line in lines[2:]
    ]


def test_the_help_names_every_group() -> None:
    (argument,) = [param for param in find_command(("doctor",)).params if param.name == "checks"]
    assert re.findall(r"[a-z]+", argument.help.partition(":")[2].partition(".")[0]) == list(GROUPS)


def test_the_document_is_as_documented(run_syncctl: Run, settings_dir: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text()
    block = re.search(r"```json\n(.*?)```", page, re.DOTALL)
    assert block is not None
    documented = json.loads(block[1])
    found = run_syncctl("doctor", "redis", "--json", cwd=settings_dir).json
    assert documented.keys() == found.keys()
    assert documented["checks"][0].keys() == found["checks"][0].keys()
    assert re.findall(r"^\| \[`(\w+)`\]", page, re.MULTILINE) == list(GROUPS)


def test_workers_and_beat_with_old_settings_are_a_warning(
    run_syncctl: Run,
    start_syncctl: Callable[..., Any],
    examine: Callable[..., Checks],
    settings_dir: Path,
    eventually: Callable[..., Any],
) -> None:
    start_syncctl("worker", "--beat", "--pool", "threads", cwd=settings_dir)

    def look() -> dict[str, Any] | None:
        status = run_syncctl("status", "--json", cwd=settings_dir).json
        return status if status["workers"] and status["beat"]["last_tick_at"] else None

    status = eventually(look, timeout=60)
    assert (status["workers"][0]["settings_differ"], status["beat"]["settings_differ"]) == (False, False)
    assert examine("workers", "beat")["workers settings"]["status"] == "ok"
    toml = settings_dir / "syncctl.toml"
    toml.write_text(toml.read_text().replace('"POST /orders"', '"POST /orders/new"'))
    name = status["workers"][0]["worker"]
    message = "runs with settings that differ from syncctl.toml: restart it"
    shown = run_syncctl("status", cwd=settings_dir).stderr
    assert f"warning: {name} {message}\nwarning: beat {message}\n" in shown
    checks = examine("workers", "beat")
    assert (checks["workers settings"]["status"], checks["beat"]["status"]) == ("warn", "warn")
    assert checks["workers settings"]["detail"] == f"{name} {message}"
