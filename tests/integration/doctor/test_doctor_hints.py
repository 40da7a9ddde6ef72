"""Broken set-ups: `doctor` names the one thing and nothing else, and its hint, followed to the letter, mends it.

In this process, on real services, without a worker: so the round trip through the queue is left out.
"""

import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from syncctl import __version__
from syncctl.doctor.check import Check
from syncctl.doctor.examination import Examination
from syncctl.doctor.groups import GROUPS
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.migrations import VERSION
from syncctl.ledger.records import A_POLL
from syncctl.local.mock_partner import MockPartner
from syncctl.local.redis_server import RedisServer
from syncctl.settings import Settings, load_settings
from syncctl.settings.describe import fingerprint_settings
from tests.harness.cases import make_partner, make_source
from tests.harness.commands import run_syncctl
from tests.harness.servers import name_database
from tests.harness.source_db import SourceDb
from tests.harness.testbed import ListReader, Testbed, new_record, version_row

LONG_AGO = datetime.now(UTC) - timedelta(hours=3)
AHEAD = datetime.now(UTC) + timedelta(hours=3)
CHECKED = tuple(group for group in GROUPS if group != "queue")

KNOWS = {"ledger": VERSION}
"""What heartbeats say of the ledger."""


@dataclass
class SetUp:
    """A set-up of which every check passes, until something is broken."""

    testbed: Testbed
    source_db: SourceDb
    make_settings: Callable[..., Path]
    redis: RedisServer
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def ledger(self) -> Ledger:
        return self.testbed.ledger

    @property
    def database(self) -> Any:
        return self.testbed.database

    @property
    def directory(self) -> Path:
        """The settings as they are now, in a directory of their own."""
        directory = self.make_settings(**self.changes)
        (directory / ".env").chmod(self.mode)
        return directory

    mode: int = 0o600

    def load(self) -> Settings:
        return load_settings(directory=self.directory, environment={"REDIS_URL": self.redis.url()})

    def run_worker(self, **changes: Any) -> None:
        facts = {"queues": ["deliver", "poll", "control"], "version": __version__, "concurrency": 1, "slots": 1} | KNOWS
        settings = fingerprint_settings(self.load())
        self.ledger.heartbeats.record_worker("celery@one", {**facts, "settings": settings, **changes})

    def run_beat(self, **changes: Any) -> None:
        facts = {"version": __version__, "settings": fingerprint_settings(self.load()), **KNOWS, **changes}
        self.ledger.heartbeats.record_beat(facts, name="one:1")

    def examine(self) -> dict[str, Check]:
        examination = Examination(self.load(), directory=self.directory, chosen=CHECKED, timeout_seconds=10)
        return {check.name: check for check in examination.run()}

    def find_troubles(self) -> dict[str, Check]:
        return {name: check for name, check in self.examine().items() if check.status != "ok"}

    def run_syncctl(self, hint: str) -> None:
        """Run each command of syncctl that a hint names."""
        for command in re.findall(r"(?:run: |then: |; )(syncctl [^;,]+)", hint):
            done = run_syncctl(*shlex.split(command)[1:], cwd=self.directory, env={"REDIS_URL": self.redis.url()})
            assert done.exit_code == 0, (command, done.stderr)

    def run_redis_cli(self, hint: str) -> None:
        with Redis.from_url(self.redis.url()) as client:
            for command in re.findall(r"redis-cli ([^;]+)", hint):
                client.execute_command(*command.split())

    def execute_redis(self, *command: str) -> None:
        with Redis.from_url(self.redis.url()) as client:
            client.execute_command(*command)

    def update_stream(self, **changes: Any) -> None:
        self.database.streams.update_one({"_id": "orders"}, {"$set": changes})


@pytest.fixture
def set_up(
    mongo_url: str,
    mongo_database: Any,
    source_db: SourceDb,
    partner: MockPartner,
    make_settings: Callable[..., Path],
    redis_server: RedisServer,
) -> Iterator[SetUp]:
    """Rows that were polled, a worker and Beat, by their heartbeats."""
    source_db.create_orders(3)
    with Ledger(mongo_url, name_database(mongo_url)) as ledger, Redis.from_url(redis_server.url()) as client:
        ledger.prepare()
        before = {name: client.config_get(name)[name] for name in ("maxmemory-policy", "appendonly", "maxmemory")}
        testbed = Testbed(
            ledger=ledger, database=mongo_database, source=make_source(source_db.url), partner=make_partner(partner.url)
        )
        made = SetUp(testbed=testbed, source_db=source_db, make_settings=make_settings, redis=redis_server)
        assert testbed.poll().error is None
        made.database.streams.update_many({}, {"$unset": {"health.warnings": True}})
        made.run_worker()
        made.run_beat()
        yield made
        for name, value in before.items():
            client.config_set(name, value)


# What is broken, and what an operator does whom a hint tells to.


def let_others_read(set_up: SetUp) -> None:
    set_up.mode, set_up.changes = 0o644, {"partner_token": "k9-4Vq2-Zs81-pL"}
    run_everything_anew(set_up, "")


def change_mode(set_up: SetUp, hint: str) -> None:
    command = hint.removeprefix("run: ")
    subprocess.run(shlex.split(command), cwd=set_up.directory, check=True)
    set_up.mode = (set_up.make_settings(**set_up.changes) / ".env").stat().st_mode & 0o777


def keep_example(set_up: SetUp) -> None:
    set_up.changes = {"partner_token": "<your-token>"}
    run_everything_anew(set_up, "")


def set_token(set_up: SetUp, hint: str) -> None:
    assert hint == "set PARTNER_TOKEN to the real one"
    set_up.changes = {"partner_token": "tok-5f1c0a7e"}
    run_everything_anew(set_up, hint)


def keep_failed_briefly(set_up: SetUp) -> None:
    set_up.changes = {
        "sections": {"retention": {"failed": "1h"}},
        "stream": {"retry": {"schedule": ["1m", "2h", "12h"], "jitter": 0.2}},
    }
    run_everything_anew(set_up, "")


def write_retention(set_up: SetUp, hint: str) -> None:
    (written,) = re.findall(r'write (\w+) = "(\w+)" under \[retention\]', hint)
    set_up.changes["sections"] = {"retention": dict([written])}
    run_everything_anew(set_up, hint)


def name_archive(set_up: SetUp) -> None:
    set_up.changes = {"sections": {"retention": {"archive": "archive"}}}
    run_everything_anew(set_up, "")


def run_everything_anew(set_up: SetUp, _: str) -> None:
    set_up.run_worker()
    set_up.run_beat()


def set_redis(*command: str) -> Callable[[SetUp], None]:
    return lambda set_up: set_up.execute_redis("CONFIG", "SET", *command)


def spoil_key(set_up: SetUp) -> None:
    set_up.execute_redis("SET", f"{set_up.load().redis_namespace}_kombu.binding.celery.pidbox", "x")


def leave_at_version_1(set_up: SetUp) -> None:
    set_up.database.project.update_one({"_id": "schema"}, {"$set": {"version": 1}}, upsert=True)


def drop_index(set_up: SetUp) -> None:
    set_up.database.records.drop_index("due")


def change_index(set_up: SetUp) -> None:
    set_up.database.records.drop_index("due")
    set_up.database.records.create_index([("stream", 1)], name="due")


def mend_index(set_up: SetUp, hint: str) -> None:
    for collection, name in re.findall(r'db\.(\w+)\.dropIndex\("(\w+)"\)', hint):
        set_up.database[collection].drop_index(name)
    set_up.run_syncctl(hint)


def stop_worker(set_up: SetUp) -> None:
    set_up.ledger.heartbeats.forget_worker("celery@one")


def serve(**changes: Any) -> Callable[[SetUp], None]:
    return lambda set_up: set_up.run_worker(**changes)


def serve_queues(set_up: SetUp, hint: str) -> None:
    (queues,) = re.findall(r"syncctl worker --queues (\S+)", hint)
    facts = {
        "queues": queues.split(","),
        "version": __version__,
        "settings": fingerprint_settings(set_up.load()),
    } | KNOWS
    set_up.ledger.heartbeats.record_worker("celery@two", facts)


def beat(**changes: Any) -> Callable[[SetUp], None]:
    return lambda set_up: set_up.run_beat(**changes)


def never_run_beat(set_up: SetUp) -> None:
    set_up.database.beat.delete_many({})


def lose_beat(set_up: SetUp) -> None:
    set_up.database.beat.update_one({"_id": "beat"}, {"$set": {"at": LONG_AGO}})


def run_two_beats(set_up: SetUp) -> None:
    set_up.ledger.heartbeats.record_beat({"version": __version__, **KNOWS}, name="two:2")
    set_up.run_beat()
    set_up.ledger.heartbeats.record_beat(
        {"version": __version__, "settings": fingerprint_settings(set_up.load()), **KNOWS}, name="two:2"
    )


def stop_second_beat(set_up: SetUp, hint: str) -> None:
    assert re.search(r"stop all but one, for example with: kill 2 on two", hint)
    set_up.database.beat.update_one(
        {"_id": "beat"}, {"$set": {"processes.$[old].at": LONG_AGO}}, array_filters=[{"old.name": "two:2"}]
    )


def fail_clean_up(set_up: SetUp) -> None:
    set_up.ledger.maintenance.note_failed("cleanup", "cannot archive records: No space left on device")


def clean_up(set_up: SetUp, hint: str) -> None:
    assert "it is tried again at Beat's next tick" in hint
    set_up.ledger.maintenance.note_done("cleanup")


def skip_maintenance(set_up: SetUp) -> None:
    set_up.ledger.maintenance.note_done("upkeep")
    set_up.database.beat.update_one({"_id": "beat"}, {"$set": {"since": LONG_AGO}})
    set_up.database.beat.update_one({"_id": "chore:upkeep"}, {"$set": {"done_at": LONG_AGO}})
    for name in ("roll_up", "cleanup"):
        set_up.ledger.maintenance.note_done(name)


def do_maintenance(set_up: SetUp, hint: str) -> None:
    assert "make sure that a worker serves the queue control" in hint
    set_up.ledger.maintenance.note_done("upkeep")


def pause(*args: str) -> Callable[[SetUp], None]:
    def run(set_up: SetUp) -> None:
        assert run_syncctl("pause", *args, cwd=set_up.directory).exit_code == 0

    return run


def open_circuit(set_up: SetUp) -> None:
    set_up.update_stream(breaker={"state": "open", "since": LONG_AGO, "until": AHEAD, "reason": "HTTP 503"})


def fail_poll(set_up: SetUp) -> None:
    set_up.ledger.streams.note_poll_error("orders", "the server was restarted", hint="wait until it is up")


def poll_no_more(set_up: SetUp) -> None:
    set_up.update_stream(**{"health.last_poll_at": LONG_AGO})


def poll(set_up: SetUp, _: str) -> None:
    set_up.testbed.poll()
    set_up.database.streams.update_many({}, {"$unset": {"health.warnings": True}})


def interrupt_poll(set_up: SetUp) -> None:
    set_up.database.records.update_many({}, {"$set": {"waits_for": A_POLL}, "$unset": {"due_at": True}})


def poll_to_end(set_up: SetUp, hint: str) -> None:
    poll(set_up, hint)
    set_up.testbed.maintain()


def hold_version(set_up: SetUp) -> None:
    set_up.changes = {"stream": {"order": "strict"}}
    run_everything_anew(set_up, "")
    set_up.testbed.change_stream(order="strict")
    stream = set_up.database.streams.find_one({"_id": "orders"})
    for content in "ab":
        set_up.testbed.poll(ListReader([version_row(9, content, None)]))
    set_up.update_stream(cursor=stream["cursor"], basis=stream["basis"], witnesses=stream.get("witnesses"))
    poll(set_up, "")
    older, newer = set_up.testbed.records(**{"key.id": 9})
    failed = {"state": "failed", "finished_at": datetime.now(UTC), "failed_at": datetime.now(UTC)}
    set_up.database.records.update_one({"_id": older["_id"]}, {"$set": failed, "$unset": {"due_at": True}})
    set_up.database.records.update_one(
        {"_id": newer["_id"]}, {"$set": {"waits_for": older["_id"]}, "$unset": {"due_at": True}}
    )


def discard(set_up: SetUp, hint: str) -> None:
    assert "syncctl discard ID --reason TEXT gives one up" in hint
    (failed,) = set_up.testbed.records(state="failed")
    done = run_syncctl("discard", failed["_id"], "--reason", "given up", "--yes", cwd=set_up.directory)
    assert done.exit_code == 0, done.stderr
    set_up.testbed.maintain()


def remove_stream(set_up: SetUp) -> None:
    set_up.ledger.records.log([new_record(1, id="invoices-1", stream="invoices")], LONG_AGO)
    set_up.ledger.streams.ensure("invoices")


def restore_stream(set_up: SetUp, hint: str) -> None:
    assert "restore [streams.invoices] in syncctl.toml" in hint
    section = {"table": "orders", "start": "now", "key": ["id"], "mode": "increasing", "cursor": "id"}
    set_up.changes = {"sections": {"streams": {"invoices": section}}}
    run_everything_anew(set_up, hint)
    set_up.database.streams.update_one(
        {"_id": "invoices"}, {"$set": {"health": {"last_poll_at": datetime.now(UTC), "error": None}}}
    )
    set_up.database.records.update_one({"_id": "invoices-1"}, {"$set": {"due_at": datetime.now(UTC)}})


def share_address(set_up: SetUp) -> None:
    set_up.source_db.execute("create table garden (bed text, slot integer, primary key (bed, slot))")
    set_up.source_db.execute("insert into garden values ('a', 1), ('b', 1)")
    section = {"table": "garden", "start": "beginning", "mode": "snapshot", "endpoint": "PUT /garden/{bed}"}
    set_up.changes = {"sections": {"streams": {"garden": {**section, "delete_endpoint": "none"}}}}
    set_up.ledger.streams.ensure("garden")
    set_up.database.streams.update_one(
        {"_id": "garden"}, {"$set": {"health": {"last_poll_at": datetime.now(UTC), "error": None}}}
    )
    run_everything_anew(set_up, "")


def write_endpoint(set_up: SetUp, hint: str) -> None:
    (endpoint,) = re.findall(r'set streams\.garden\.endpoint .* such as "([^"]+)"', hint)
    set_up.changes["sections"]["streams"]["garden"]["endpoint"] = endpoint
    run_everything_anew(set_up, hint)


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One thing that is broken."""

    break_it: Callable[[SetUp], None]
    #: The checks that do not pass.
    named: set[str]
    follow: Callable[[SetUp, str], None]
    #: What the hint of the first must have.
    hint: str = ""


CASES = {
    "others can read .env": Case(
        break_it=let_others_read, named={"configuration secrets"}, follow=change_mode, hint="chmod 600"
    ),
    "a secret of an example": Case(break_it=keep_example, named={"configuration examples"}, follow=set_token),
    "a retention shorter than retries": Case(
        break_it=keep_failed_briefly, named={"configuration retention"}, follow=write_retention, hint='failed = "1d"'
    ),
    "no archive is mounted": Case(
        break_it=name_archive, named={"configuration archive"}, follow=SetUp.run_syncctl, hint="mount its disk"
    ),
    "Redis evicts the queue": Case(
        break_it=set_redis("maxmemory-policy", "allkeys-lru"), named={"redis eviction"}, follow=SetUp.run_redis_cli
    ),
    "Redis evicts results": Case(
        break_it=set_redis("maxmemory-policy", "volatile-lru"), named={"redis eviction"}, follow=SetUp.run_redis_cli
    ),
    "Redis forgets": Case(
        break_it=set_redis("appendonly", "no"), named={"redis persistence"}, follow=SetUp.run_redis_cli
    ),
    "a key of another type": Case(break_it=spoil_key, named={"redis keys"}, follow=SetUp.run_redis_cli),
    "an index is missing": Case(break_it=drop_index, named={"indexes"}, follow=mend_index),
    "an index differs": Case(break_it=change_index, named={"indexes"}, follow=mend_index),
    "no worker": Case(
        break_it=stop_worker,
        named={"workers", "workers queues", "workers versions", "workers settings", "workers clocks"},
        follow=run_everything_anew,
        hint="run: syncctl worker",
    ),
    "a queue is not served": Case(break_it=serve(queues=["deliver"]), named={"workers queues"}, follow=serve_queues),
    "a worker of another version": Case(
        break_it=serve(version="0.0.1"), named={"workers versions"}, follow=run_everything_anew, hint=__version__
    ),
    "an older ledger": Case(break_it=leave_at_version_1, named={"mongodb ledger"}, follow=SetUp.run_syncctl),
    "a worker that knows another version of the ledger": Case(
        break_it=serve(ledger=0), named={"workers versions"}, follow=run_everything_anew, hint="upgrade.md"
    ),
    "a worker with other settings": Case(
        break_it=serve(settings="00000000"), named={"workers settings"}, follow=run_everything_anew, hint="restart"
    ),
    "a worker whose clock is ahead": Case(
        break_it=serve(clock=AHEAD), named={"workers clocks"}, follow=run_everything_anew, hint="timedatectl"
    ),
    "no Beat": Case(
        break_it=never_run_beat,
        named={"beat", "beat clock", "beat maintenance"},
        follow=run_everything_anew,
        hint="run: syncctl beat",
    ),
    "a Beat that ended": Case(
        break_it=lose_beat, named={"beat", "beat clock", "beat maintenance"}, follow=run_everything_anew
    ),
    "a Beat of another version": Case(
        break_it=beat(version="0.0.1"), named={"beat"}, follow=run_everything_anew, hint=__version__
    ),
    "a Beat with other settings": Case(
        break_it=beat(settings="00000000"), named={"beat"}, follow=run_everything_anew, hint="restart Beat"
    ),
    "a second Beat": Case(break_it=run_two_beats, named={"beat"}, follow=stop_second_beat),
    "a Beat whose clock is behind": Case(
        break_it=beat(clock=LONG_AGO), named={"beat clock"}, follow=run_everything_anew, hint="timedatectl"
    ),
    "maintenance is not done": Case(break_it=skip_maintenance, named={"beat maintenance"}, follow=do_maintenance),
    "cleanup cannot archive": Case(break_it=fail_clean_up, named={"beat maintenance"}, follow=clean_up),
    "the stream is paused": Case(break_it=pause("orders"), named={"streams orders"}, follow=SetUp.run_syncctl),
    "its polls are paused": Case(
        break_it=pause("orders", "--polls"), named={"streams orders"}, follow=SetUp.run_syncctl
    ),
    "the partner is paused": Case(
        break_it=pause("--partner", "default"),
        named={"partner default calls", "streams orders"},
        follow=SetUp.run_syncctl,
    ),
    "the circuit is open": Case(
        break_it=open_circuit, named={"partner default calls", "streams orders"}, follow=SetUp.run_syncctl
    ),
    "the last poll failed": Case(
        break_it=fail_poll, named={"streams orders"}, follow=poll, hint="then: syncctl poll orders --once"
    ),
    "it is not polled": Case(break_it=poll_no_more, named={"streams orders"}, follow=poll, hint="Beat and a worker"),
    "a poll was interrupted": Case(
        break_it=interrupt_poll, named={"streams orders"}, follow=poll_to_end, hint="run: syncctl poll orders --once"
    ),
    "a failed version holds a newer one": Case(break_it=hold_version, named={"streams orders"}, follow=discard),
    "rows share an address": Case(break_it=share_address, named={"source garden"}, follow=write_endpoint),
    "a stream was removed": Case(break_it=remove_stream, named={"streams removed"}, follow=restore_stream),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_one_broken_thing_is_named_alone_and_its_hint_mends_it(case: Case, set_up: SetUp) -> None:
    case.break_it(set_up)
    troubles = set_up.find_troubles()
    assert set(troubles) == case.named, troubles
    hint = next(check.hint for check in troubles.values() if check.status in ("warn", "fail"))
    assert hint
    assert case.hint in hint
    case.follow(set_up, hint)
    assert set_up.find_troubles() == {}


def test_the_set_up_passes_every_check_before_it_is_broken(set_up: SetUp) -> None:
    assert set_up.find_troubles() == {}
