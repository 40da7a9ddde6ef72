"""Invariant 12: whatever holds a stream is said by `status` and by `doctor`, with the command with which it goes on.

One table of the kinds that can occur. A kind that is added to docs/reliability.md needs a line here.
"""

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from syncctl import __version__
from syncctl.core.stream import RetrySchedule
from syncctl.errors import ConfigurationError
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.records import A_POLL
from syncctl.local.mock_partner import MockPartner
from syncctl.local.mongod import find_mongod
from syncctl.local.redis_server import RedisServer
from tests.harness.cases import make_partner, make_source
from tests.harness.commands import Completed, run_syncctl
from tests.harness.faulty_mongod import FaultyMongod
from tests.harness.http_partner import RowPartner
from tests.harness.servers import name_database, serve_any
from tests.harness.source_db import SourceDb
from tests.harness.testbed import ListReader, Testbed, claim_records, lose_records, new_record, version_row
from tests.harness.waiting import eventually

PROJECT = Path(__file__).parents[2]
ROWS = 30
LONG_AGO = datetime.now(UTC) - timedelta(hours=3)


@dataclass
class Stage:
    """A set-up of which something holds the stream `orders`."""

    testbed: Testbed
    source_db: SourceDb
    make_settings: Callable[..., Path]
    redis: RedisServer
    #: What the settings have beside the usual.
    settings: dict[str, Any] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)

    @property
    def ledger(self) -> Ledger:
        """The ledger of the set-up."""
        return self.testbed.ledger

    @property
    def database(self) -> Any:
        """Its database, to let time pass in."""
        return self.testbed.database

    def run(self, *args: str) -> Completed:
        """Run a command."""
        return run_syncctl(*args, cwd=self.make_settings(**self.settings), env=self.env)

    def poll(self) -> None:
        """Read the rows that are there."""
        assert self.testbed.poll().error is None

    def deliver(self, choose_status: Callable[[int], int]) -> None:
        """Deliver due records to a partner that answers so."""
        with RowPartner(choose_status) as server:
            self.testbed.partner = replace(self.testbed.partner, url=server.url)
            self.testbed.deliver()

    def age_backlog(self) -> None:
        """Let every pending record have been due for hours."""
        self.database.records.update_many({"state": "pending"}, {"$set": {"due_at": LONG_AGO}})

    def update_stream(self, changes: dict[str, Any]) -> None:
        """Change what the ledger holds of the stream."""
        self.database.streams.update_one({"_id": "orders"}, {"$set": changes}, upsert=True)

    def run_worker(self, **changes: Any) -> None:
        """Let a worker have sent a heartbeat."""
        facts = {"queues": ["deliver", "poll", "control"], "version": __version__, "concurrency": 1, "slots": 1}
        self.ledger.heartbeats.record_worker("celery@one", {**facts, **changes})

    def run_beat(self, **changes: Any) -> None:
        """Let Beat have sent a heartbeat."""
        self.ledger.heartbeats.record_beat({"version": __version__, **changes})

    def administer_redis(self, *commands: tuple[str, ...]) -> None:
        """Set up the Redis of the set-up."""
        with Redis.from_url(self.redis.url()) as client:
            for command in commands:
                client.execute_command(*command)


# What holds the stream.


def pause_stream(stage: Stage) -> None:
    stage.run("pause", "orders", "--reason", "stock-taking")


def pause_partner(stage: Stage) -> None:
    stage.run("pause", "--partner", "default", "--reason", "stock-taking")


def pause_polls(stage: Stage) -> None:
    stage.run("pause", "orders", "--polls", "--until", "2h", "--reason", "a new disk")


def enter_quiet_hours(stage: Stage) -> None:
    begin, end = (datetime.now(UTC) + timedelta(hours=hours) for hours in (-1, 1))
    stage.settings["stream"] = {"quiet_hours": f"{begin:%H:%M}-{end:%H:%M} UTC"}
    stage.poll()


def wait_for_stream(stage: Stage) -> None:
    customers = {"table": "customers", "start": "now", "endpoint": "POST /customers"}
    stage.settings["sections"] = {"streams": {"customers": customers}}
    stage.settings["stream"] = {"after": ["customers"]}
    stage.poll()
    stage.ledger.records.log([new_record(1, id="customers-1", stream="customers")], LONG_AGO)
    stage.run("pause", "customers")


def wait_for_quiet_stream(stage: Stage) -> None:
    begin, end = (datetime.now(UTC) + timedelta(hours=hours) for hours in (-1, 1))
    quiet_hours = f"{begin:%H:%M}-{end:%H:%M} UTC"
    customers = {"table": "customers", "start": "now", "endpoint": "POST /customers", "quiet_hours": quiet_hours}
    stage.settings["sections"] = {"streams": {"customers": customers}}
    stage.settings["stream"] = {"after": ["customers"]}
    stage.poll()
    stage.ledger.records.log([new_record(1, id="customers-1", stream="customers")], LONG_AGO)
    later = LONG_AGO + timedelta(hours=1)
    stage.testbed.database.records.update_many({"stream": "orders"}, {"$set": {"due_at": later}})


def refuse_credentials(stage: Stage) -> None:
    stage.poll()
    stage.deliver(lambda _: 401)


def refuse_rights(stage: Stage) -> None:
    stage.poll()
    stage.deliver(lambda _: 403)


def remove_endpoint(stage: Stage) -> None:
    stage.poll()
    stage.deliver(lambda _: 410)


def refuse_every_record(stage: Stage) -> None:
    stage.poll()
    stage.deliver(lambda _: 404)


def break_partner(stage: Stage) -> None:
    stage.poll()
    stage.deliver(lambda _: 503)


def lose_source(stage: Stage) -> None:
    stage.env["SOURCE_URL"] = "sqlite:////nowhere/source.db"
    assert stage.run("poll", "--once").exit_code != 0


def rename_table(stage: Stage) -> None:
    stage.source_db.execute("alter table orders rename to sales")
    assert stage.run("poll", "--once").exit_code == 1


def restore_source(stage: Stage) -> None:
    stage.testbed.poll(ListReader([version_row(1, "a", "0x01"), version_row(1, "b", "0x02")]))
    assert stage.testbed.poll(ListReader([version_row(1, "c", "0x02")])).error is not None


def refuse_settings_of_poll(stage: Stage) -> None:
    stage.ledger.streams.note_poll_error("orders", "sources.default.url is not set", hint="set SOURCE_URL")


def hang_source(stage: Stage) -> None:
    stage.ledger.streams.ensure("orders")
    assert stage.ledger.polls.acquire("orders", seconds=600, worker="celery@one") is not None
    stage.update_stream({"poll.moved_at": LONG_AGO, "poll.started_at": LONG_AGO})


def poll_nothing(stage: Stage) -> None:
    stage.ledger.prepare()


def poll_no_more(stage: Stage) -> None:
    stage.poll()
    stage.update_stream({"health.last_poll_at": LONG_AGO})


def leave_cursors_null(stage: Stage) -> None:
    stage.source_db.execute("update orders set updated_at = null where id = 3")
    stage.testbed.change_stream(cursor="updated_at")
    stage.poll()


def add_column(stage: Stage) -> None:
    stage.poll()
    stage.source_db.execute("alter table orders add column vat nvarchar(20)")
    stage.poll()


def go_ahead_of_clock(stage: Stage) -> None:
    stage.source_db.execute("update orders set updated_at = '9999-01-01 00:00:00' where id = 3")
    stage.testbed.change_stream(cursor="updated_at")
    stage.poll()


def fail_to_prepare(stage: Stage) -> None:
    def refuse(name: str) -> Any:
        raise ConfigurationError(f"the body_schema of {name} cannot be read")

    stage.poll()
    with pytest.raises(ConfigurationError):
        stage.testbed.make_loop(make_setup=refuse).run("orders")


def interrupt_poll(stage: Stage) -> None:
    stage.poll()
    stage.database.records.update_many({}, {"$set": {"waits_for": A_POLL}, "$unset": {"due_at": True}})


def run_out_of_permits(stage: Stage) -> None:
    stage.settings["sections"] = {"partners": {"default": {"max_in_flight": 4}}}
    stage.poll()
    stage.age_backlog()
    stage.ledger.partners.acquire_permits("default", token="dead", wanted=4, at_most=4, seconds=600)


def slow_down(stage: Stage) -> None:
    stage.settings["sections"] = {"partners": {"default": {"rate": "1/minute"}}}
    stage.poll()
    stage.age_backlog()


def take_nothing(stage: Stage) -> None:
    stage.poll()
    stage.age_backlog()


def fall_behind(stage: Stage) -> None:
    take_nothing(stage)
    claim_records(stage.ledger, [stage.testbed.record(1)["_id"]])


def wait_long(stage: Stage) -> None:
    retry = RetrySchedule(delays_seconds=(7200.0,), jitter=0.0)
    stage.source_db.execute("delete from orders where id > 1")
    stage.testbed.change_stream(retry=retry)
    stage.poll()
    stage.deliver(lambda _: 503)


def hold_versions(stage: Stage) -> None:
    stage.testbed.change_stream(order="strict")
    for content in "ab":
        stage.testbed.poll(ListReader([version_row(1, content, None)]))
    stage.deliver(lambda _: 422)


def poison(stage: Stage) -> None:
    stage.ledger.records.log([new_record(1)], LONG_AGO)
    for _ in range(3):
        lose_records(stage.ledger, stage.database, ["orders-1"])


def refuse_acknowledgement(stage: Stage) -> None:
    stage.poll()
    refused = {"version": "1", "error": "permission denied"}
    stage.database.records.update_one({}, {"$set": {"state": "delivered", "acknowledge": refused}})


def write_back(stage: Stage, **mark: Any) -> None:
    stage.settings["stream"] = {"write_back": {"note": "state"}}
    stage.poll()
    mark = {"since": LONG_AGO, "due_at": LONG_AGO, **mark}
    stage.database.records.update_one({}, {"$set": {"state": "delivered", "write_back": mark}})


def refuse_write_back(stage: Stage) -> None:
    write_back(stage, error="permission denied")


def remove_stream(stage: Stage) -> None:
    stage.ledger.records.log([new_record(1, stream="invoices")], LONG_AGO)
    stage.ledger.streams.ensure("invoices")


# What holds every stream.


def run_no_worker(stage: Stage) -> None:
    stage.run_beat()


def serve_no_polls(stage: Stage) -> None:
    stage.run_worker(queues=["deliver", "control"])


def change_settings_of_worker(stage: Stage) -> None:
    stage.run_worker(settings="00000000")


def run_no_beat(stage: Stage) -> None:
    stage.run_worker()


def lose_beat(stage: Stage) -> None:
    stage.run_beat()
    stage.database.beat.update_one({"_id": "beat"}, {"$set": {"at": LONG_AGO}})


def change_settings_of_beat(stage: Stage) -> None:
    stage.run_beat(settings="00000000")


def skip_maintenance(stage: Stage) -> None:
    stage.run_beat()
    stage.ledger.maintenance.note_done("upkeep")
    stage.ledger.maintenance.note_failed("upkeep", "cannot write")
    stage.database.beat.update_one({"_id": "beat"}, {"$set": {"since": LONG_AGO}})
    stage.database.beat.update_one({"_id": "chore:upkeep"}, {"$set": {"done_at": LONG_AGO}})


def drop_messages(stage: Stage) -> None:
    stage.ledger.project.record_dropped({"forged": 7}, worker="celery@one")


def lose_redis(stage: Stage) -> None:
    stage.env["REDIS_URL"] = "redis://127.0.0.1:1/0"


def use_replica(stage: Stage) -> None:
    stage.env["REDIS_URL"] = stage.redis.url()
    stage.administer_redis(("REPLICAOF", "127.0.0.1", "1"))


def fill_memory_of_redis(stage: Stage) -> None:
    stage.env["REDIS_URL"] = stage.redis.url()
    stage.administer_redis(("CONFIG", "SET", "maxmemory", "1"))


def fill_disk_of_redis(stage: Stage) -> None:
    stage.env["REDIS_URL"] = stage.redis.url()
    stage.administer_redis(("CONFIG", "SET", "save", "3600 1"), ("SET", "a", "b"))
    shutil.rmtree(stage.redis.files)
    stage.administer_redis(("BGSAVE",))
    with Redis.from_url(stage.redis.url()) as client:
        eventually(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """One thing that can hold streams, and what is said of it."""

    arrange: Callable[[Stage], None]
    #: The kind of an obstacle in `status --json`, or what finds it there.
    stated: str | Callable[[Any], Any]
    #: What `status` prints.
    shown: str
    #: The check of `doctor` that does not pass.
    check: str
    #: What its hint has, a command or a setting.
    hint: str
    status: str = "warn"


def find_obstacle(document: Any, kind: str) -> Any:
    return [obstacle for obstacle in document["streams"][0]["obstacles"] if obstacle["kind"] == kind]


STREAM, CALLS = "streams orders", "partner default calls"
KINDS: dict[str, Kind] = {
    "an operator paused the stream": Kind(
        arrange=pause_stream,
        stated="paused",
        shown=r"stream   orders is paused since \S+ \S+Z: stock-taking; syncctl resume orders",
        check=STREAM,
        hint="syncctl resume orders",
    ),
    "an operator paused the partner": Kind(
        arrange=pause_partner,
        stated="partner_paused",
        shown=r"partner  default is paused since \S+ \S+Z: stock-taking; syncctl resume --partner default",
        check=CALLS,
        hint="syncctl resume --partner default",
    ),
    "an operator paused the polls": Kind(
        arrange=pause_polls,
        stated="polls_paused",
        shown=r"stream   the polls of orders are paused by \S+ since \S+ \S+Z until \S+ \S+Z: a new disk; "
        "syncctl resume orders --polls",
        check=STREAM,
        hint="syncctl resume orders --polls",
    ),
    "its quiet hours": Kind(
        arrange=enter_quiet_hours,
        stated="quiet_hours",
        shown=r"stream   orders is in its quiet hours \(\d\d:\d\d-\d\d:\d\d UTC\) until \d\d:\d\d UTC: nothing is sent",
        check=STREAM,
        hint="",
        status="ok",
    ),
    "another stream goes first": Kind(
        arrange=wait_for_stream,
        stated="waits_for_stream",
        shown="orders: waits for stream customers, which has had a due record for 3h and is paused: .*resume customers",
        check=STREAM,
        hint="syncctl resume customers",
    ),
    "another stream goes first and is quiet": Kind(
        arrange=wait_for_quiet_stream,
        stated="waits_for_stream",
        shown=r"orders: waits for stream customers, which has had a due record for 3h and is in its quiet hours until "
        r"\d\d:\d\d UTC",
        check=STREAM,
        hint="",
        status="ok",
    ),
    "401 to all": Kind(
        arrange=refuse_credentials,
        stated="partner_paused",
        shown=r"partner  default is paused since .+401.+next probe in \d+s; syncctl resume --partner default",
        check=CALLS,
        hint="syncctl resume --partner default",
    ),
    "403 to all": Kind(
        arrange=refuse_rights,
        stated="partner_paused",
        shown=r"partner  default is paused since .+403.+next probe in",
        check=CALLS,
        hint="syncctl resume --partner default",
    ),
    "410": Kind(
        arrange=remove_endpoint,
        stated="paused",
        shown=r"stream   orders is paused since .+410.+next probe in \d+s; syncctl resume orders",
        check=STREAM,
        hint="syncctl resume orders",
    ),
    "the same refusal of record after record": Kind(
        arrange=refuse_every_record,
        stated="paused",
        shown=r"stream   orders is paused since .+404.+next probe in \d+s; syncctl resume orders",
        check=STREAM,
        hint="syncctl resume orders",
    ),
    "the circuit is open": Kind(
        arrange=break_partner,
        stated="circuit_open",
        shown=r"partner  default is down \(circuit open\): .*503.*; next probe in",
        check=CALLS,
        hint="syncctl resume orders",
    ),
    "the source is away": Kind(
        arrange=lose_source,
        stated="poll_failed",
        shown=r"orders: its last poll, \d+s ago, failed: .+syncctl poll orders --once",
        check=STREAM,
        hint="syncctl poll orders --once",
        status="fail",
    ),
    "the table is gone": Kind(
        arrange=rename_table,
        stated="poll_failed",
        shown="orders: its last poll, .+ failed: .*there is no table orders",
        check=STREAM,
        hint="syncctl poll orders --once",
        status="fail",
    ),
    "the source was restored from a backup": Kind(
        arrange=restore_source,
        stated="poll_failed",
        shown="orders: its last poll, .+ failed: .*begun again.*syncctl rewind orders --to beginning",
        check=STREAM,
        hint="syncctl poll orders --once",
        status="fail",
    ),
    "a worker lacks settings of the source": Kind(
        arrange=refuse_settings_of_poll,
        stated="poll_failed",
        shown="orders: its last poll, .+ failed: sources.default.url is not set",
        check=STREAM,
        hint="set SOURCE_URL",
        status="fail",
    ),
    "the source does not return": Kind(
        arrange=hang_source,
        stated="poll_silent",
        shown="orders: its poll on celery@one has read nothing for 3h: the source does not return",
        check=STREAM,
        hint="syncctl doctor source orders",
    ),
    "never polled": Kind(
        arrange=poll_nothing,
        stated="not_polled",
        shown="orders: never polled; run: syncctl poll orders --once",
        check=STREAM,
        hint="syncctl poll orders --once",
    ),
    "not polled any more": Kind(
        arrange=poll_no_more,
        stated="not_polled",
        shown="orders: last polled 3h ago; .+ syncctl doctor beat workers",
        check=STREAM,
        hint="syncctl doctor beat workers",
    ),
    "rows without a cursor": Kind(
        arrange=leave_cursors_null,
        stated="rows_passed_over",
        shown="orders: rows without a value in updated_at are never read",
        check=STREAM,
        hint="syncctl doctor source orders",
    ),
    "rows ahead of the source's clock": Kind(
        arrange=go_ahead_of_clock,
        stated="rows_passed_over",
        shown="orders: updated_at has times ahead of the source's clock",
        check=STREAM,
        hint="syncctl doctor source orders",
    ),
    "a column has appeared": Kind(
        arrange=add_column,
        stated="schema_changed",
        shown=r"orders: column vat \(nvarchar\(20\)\) has appeared in the source; it is sent",
        check=STREAM,
        hint="syncctl poll orders --once --dry-run --known",
    ),
    "a worker cannot deliver the stream": Kind(
        arrange=fail_to_prepare,
        stated="delivery_failed",
        shown="orders: its delivery on worker stops: the body_schema of orders cannot be read",
        check=STREAM,
        hint="syncctl config",
        status="fail",
    ),
    "records of an interrupted poll": Kind(
        arrange=interrupt_poll,
        stated="unknown_keys",
        shown="stream   30 records of orders wait for a poll that reads to the end",
        check=STREAM,
        hint="syncctl poll orders --once",
    ),
    "permits of a dead worker": Kind(
        arrange=run_out_of_permits,
        stated="limit_reached",
        shown="orders: 30 records to deliver, and all 4 permits of max_in_flight are taken",
        check=STREAM,
        hint="partners.default.max_in_flight",
    ),
    "a slow rate": Kind(
        arrange=slow_down,
        stated="slow_rate",
        shown="orders: 30 records to deliver take 30m at the partner's rate; the oldest has been due for 3h",
        check=STREAM,
        hint="partners.default.rate",
    ),
    "nobody takes the records": Kind(
        arrange=take_nothing,
        stated="not_taken",
        shown="orders: 30 records to deliver and none is in flight; the oldest has been due for 3h",
        check=STREAM,
        hint="syncctl doctor beat workers queue",
    ),
    "delivery slower than the rows": Kind(
        arrange=fall_behind,
        stated="backlog",
        shown="orders: 30 records to deliver, 1 of them in flight; the oldest has been due for 3h",
        check=STREAM,
        hint="syncctl worker",
    ),
    "a retry that is far away": Kind(
        arrange=wait_long,
        stated="far_retry",
        shown="orders: all 1 wait for their next attempt, the first in .+503",
        check=STREAM,
        hint="syncctl show orders-",
    ),
    "a failed version under strict": Kind(
        arrange=hold_versions,
        stated="held",
        shown="orders: newer versions of rows are held by 1 failed record; 1 wait",
        check=STREAM,
        hint="syncctl replay --stream orders",
    ),
    "poison": Kind(
        arrange=poison,
        stated="poison",
        shown="orders: 1 record failed because the workers that sent them died or stalled",
        check=STREAM,
        hint="syncctl failures --stream orders",
    ),
    "acknowledgements that the source refuses": Kind(
        arrange=refuse_acknowledgement,
        stated="not_acknowledged",
        shown="orders: 1 record could not be acknowledged in the source: permission denied",
        check=STREAM,
        hint="streams.orders.acknowledge",
    ),
    "outcomes that the source refuses": Kind(
        arrange=refuse_write_back,
        stated="not_written_back",
        shown="orders: 1 outcome could not be written back to the source: permission denied",
        check=STREAM,
        hint="GRANT UPDATE ON orders (note) TO",
    ),
    "outcomes that no poll writes": Kind(
        arrange=write_back,
        stated="late_write_back",
        shown="orders: 1 outcome not written back to the source yet, the oldest for",
        check=STREAM,
        hint="syncctl poll orders --once",
    ),
    "a stream that left the configuration": Kind(
        arrange=remove_stream,
        stated=lambda document: not document["streams"][1]["configured"],
        shown=r"invoices \(not configured\)",
        check="streams removed",
        hint="[streams.invoices] in syncctl.toml",
    ),
    "no worker": Kind(
        arrange=run_no_worker,
        stated=lambda document: document["workers"] == [],
        shown="workers  none; run: syncctl worker",
        check="workers",
        hint="syncctl worker",
        status="fail",
    ),
    "a queue that no worker serves": Kind(
        arrange=serve_no_polls,
        stated=lambda document: document["queue"]["unserved"] == ["poll"],
        shown="no worker serves poll; run: syncctl worker --queues poll",
        check="workers queues",
        hint="syncctl worker --queues poll",
        status="fail",
    ),
    "a worker with other settings": Kind(
        arrange=change_settings_of_worker,
        stated=lambda document: document["workers"][0]["settings_differ"],
        shown="celery@one runs with settings that differ from syncctl.toml: restart it",
        check="workers settings",
        hint="restart the workers",
    ),
    "no Beat": Kind(
        arrange=run_no_beat,
        stated=lambda document: document["beat"]["last_tick_at"] is None,
        shown="beat     never seen; run: syncctl beat",
        check="beat",
        hint="syncctl beat",
        status="fail",
    ),
    "a Beat that ended": Kind(
        arrange=lose_beat,
        stated=lambda document: document["beat"]["late"],
        shown="beat     3h ago; it is late; run: syncctl beat",
        check="beat",
        hint="syncctl beat",
        status="fail",
    ),
    "a Beat with other settings": Kind(
        arrange=change_settings_of_beat,
        stated=lambda document: document["beat"]["settings_differ"],
        shown="beat runs with settings that differ from syncctl.toml: restart it",
        check="beat",
        hint="restart Beat",
    ),
    "maintenance that is not done": Kind(
        arrange=skip_maintenance,
        stated=lambda document: document["beat"]["overdue"][0]["error"] == "cannot write",
        shown="upkeep was last done 3h ago, although Beat asks for it; syncctl doctor beat workers",
        check="beat maintenance",
        hint="syncctl doctor workers",
        status="fail",
    ),
    "messages that were dropped": Kind(
        arrange=drop_messages,
        stated=lambda document: document["queue"]["dropped_recently"],
        shown="workers dropped 7 messages that are not this project's; syncctl doctor queue",
        check="queue messages",
        hint="restart workers and Beat",
    ),
    "Redis is away": Kind(
        arrange=lose_redis,
        stated=lambda document: document["queue"]["error"],
        shown="warning: cannot reach Redis at 127.0.0.1:1: .+ syncctl doctor redis",
        check="redis",
        hint="REDIS_URL",
        status="fail",
    ),
    "Redis is a replica": Kind(
        arrange=use_replica,
        stated=lambda document: document["queue"]["error"],
        shown="warning: Redis at .+ refuses commands: .*read only replica.* syncctl doctor redis",
        check="redis",
        hint="REPLICAOF NO ONE",
        status="fail",
    ),
    "Redis is out of memory": Kind(
        arrange=fill_memory_of_redis,
        stated=lambda document: document["queue"]["error"],
        shown="warning: Redis at .+ refuses commands: .*maxmemory.* syncctl doctor redis",
        check="redis",
        hint="raise maxmemory",
        status="fail",
    ),
    "the disk of Redis is full": Kind(
        arrange=fill_disk_of_redis,
        stated=lambda document: document["queue"]["error"],
        shown="warning: Redis at .+ refuses commands: .*syncctl doctor redis",
        check="redis",
        hint="free space on Redis's disk",
        status="fail",
    ),
}


@pytest.fixture
def stage(
    mongo_url: str,
    mongo_database: Any,
    source_db: SourceDb,
    partner: MockPartner,
    make_settings: Callable[..., Path],
    request: pytest.FixtureRequest,
) -> Iterator[Stage]:
    """Rows, a ledger and a partner; no worker and no Beat."""
    source_db.create_orders(ROWS)
    with Ledger(mongo_url, name_database(mongo_url)) as ledger:
        ledger.prepare()
        testbed = Testbed(
            ledger=ledger,
            database=mongo_database,
            source=make_source(source_db.url),
            partner=make_partner(partner.url),
        )
        own = {lose_redis: None, use_replica: 1, fill_memory_of_redis: 1, fill_disk_of_redis: 1}
        kind: Kind = request.getfixturevalue("kind")
        name = "own_redis" if own.get(kind.arrange) else "redis_server"
        redis = request.getfixturevalue(name)
        yield Stage(testbed=testbed, source_db=source_db, make_settings=make_settings, redis=redis)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_whatever_holds_a_stream_is_said_and_has_a_way_out(kind: Kind, stage: Stage) -> None:
    kind.arrange(stage)
    document = stage.run("status", "--json").json
    stated = kind.stated
    assert find_obstacle(document, stated) if isinstance(stated, str) else stated(document), document
    for obstacle in (obstacle for stream in document["streams"] for obstacle in stream["obstacles"]):
        assert obstacle["detail"]
        assert re.search(r"syncctl |streams\.|partners\.", obstacle["hint"]), obstacle
    shown = stage.run("status")
    assert shown.exit_code == 0
    assert re.search(kind.shown, f"{shown.stdout}\n{shown.stderr}"), f"{shown.stdout}\n{shown.stderr}"
    assert "action=" not in shown.stderr
    group = kind.check.partition(" ")[0]
    checks = {check["name"]: check for check in stage.run("doctor", group, "--json").json["checks"]}
    check = checks[kind.check]
    assert (check["status"], kind.hint in check["hint"]) == (kind.status, True), check


@pytest.fixture
def lonely_mongod() -> Iterator[FaultyMongod]:
    """A mongod of one's own that may step down."""
    with serve_any(FaultyMongod, find_mongod) as server:
        yield server


@pytest.mark.parametrize("is_running", [True, False], ids=["without a primary", "away"])
def test_a_ledger_that_cannot_be_written_is_said_by_every_command(
    lonely_mongod: FaultyMongod, make_settings: Callable[..., Path], is_running: bool
) -> None:
    directory = make_settings(mongo_url=lonely_mongod.url())
    if is_running:
        lonely_mongod.step_down(seconds=120)
    else:
        lonely_mongod.kill()
    status = run_syncctl("status", cwd=directory)
    assert status.exit_code == 69
    assert re.search(r"error: cannot reach MongoDB.*\n  cause: .+\n   hint: .*syncctl doctor mongodb", status.stderr)
    checks = {
        check["name"]: check
        for check in run_syncctl("doctor", "mongodb", "--json", "--timeout", "5s", cwd=directory).json["checks"]
    }
    bad = [check for check in checks.values() if check["status"] == "fail"]
    assert bad
    assert "MONGO_URL" in bad[0]["hint"]


def test_every_kind_of_obstacle_is_in_the_table() -> None:
    source = (PROJECT / "syncctl/pipeline/monitoring/obstacles.py").read_text()
    kinds = set(re.findall(r'kind="(\w+)"', source))
    assert kinds == {kind.stated for kind in KINDS.values() if isinstance(kind.stated, str)}
    page = (PROJECT / "docs/reliability.md").read_text()
    assert kinds == set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
