"""`python -m benchmarks.large_ledger`: what commands take with millions of records in the ledger, and with none.

Both ledgers are on one machine at the same time and each command is run in turn on one and the other, so that whatever
else the machine does weighs on both.
"""

import argparse
import importlib
import os
import pkgutil
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any

import pymongo
from pymongo import MongoClient, WriteConcern
from pymongo.collection import Collection

import syncctl
from benchmarks.installation import DATABASE, Installation
from syncctl.cli import run
from syncctl.core.fingerprint import fingerprint
from syncctl.core.ids import key_id
from syncctl.core.states import State
from syncctl.core.time_zone import floor_day, floor_hour
from syncctl.ledger.codec import encode_values
from syncctl.ledger.indexes import create_indexes
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.reports import FREEZE_AFTER
from syncctl.pipeline.reporting.roll_up import add_up_days

Doc = dict[str, Any]
DAY = timedelta(days=1)
REPORTED_DAYS = 365
AT_ONCE = 2_000
FILLERS = 3
FILL_SECONDS = 86_400
NOTE = "x" * 110
SHARES = {State.FAILED: 0.01, State.SUPERSEDED: 0.04, State.DISCARDED: 0.002, State.PENDING: 0.002}
COMMANDS = (
    "status", "status --json", "report", "report --since 365d", "report --since 365d --by day",
    "report --since 365d --by error", "report --since 30d --compare",
    "report --since 365d --html {directory}/report.html",
    "records", "records --state failed", "records --state failed --limit 1000 --json", "records --error {error}",
    "records --error {other}", "records --state failed --since 1h", "records --state delivered --since 45d --until 44d",
    "records --key {key}", "records --stream orders --key {key} --json", "failures", "failures --stream orders",
    "failures --since 1h", "failures --key {key}", "metrics", "doctor mongodb streams", "alerts check",
    "show {id}", "show orders {key}", "audit", "audit --since 24h", "cleanup --dry-run", "replay --dry-run --limit 10",
)  # fmt: skip
"""The commands to time, as they are run."""
EXIT_CODES = (0, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The contents of a large ledger."""

    records: int
    streams: int
    days: int
    #: How many different errors failed records have.
    errors: int
    #: How many further records of the first stream are due now.
    due: int
    failed_share: float

    def name_streams(self) -> list[str]:
        """Return the names of the streams."""
        return ["orders", *(f"stream{number:03}" for number in range(1, self.streams))]


class Filler:
    """Makes records as deliveries leave them.

    Args:
        start: The beginning of the first day.
        part: A number that makes the records of this filler differ from those of the others.
    """

    def __init__(self, plan: Plan, *, start: datetime, now: datetime, part: int) -> None:
        self._plan = plan
        self._start = start
        self._now = now
        self._number = (part + 1) * 10**8
        self._random = random.Random(part)
        self._streams = plan.name_streams()
        self._weights = list(accumulate(1 / number for number in range(1, len(self._streams) + 1)))
        self._errors = [self._make_error(number) for number in range(plan.errors)]
        shares = {**SHARES, State.FAILED: plan.failed_share}
        self._states = [State.DELIVERED, *shares]
        self._shares = list(accumulate((1 - sum(shares.values()), *shares.values())))

    def make_day(self, day: int) -> Iterator[Doc]:
        """Yield the finished records of a day, and some that wait."""
        begin = self._start + day * DAY
        end = min(begin + DAY, self._now)
        count = round(self._plan.records * ((end - begin) / (self._now - self._start)))
        step = (end - begin) / max(1, count)
        streams = self._random.choices(self._streams, cum_weights=self._weights, k=count)
        states = self._random.choices(self._states, cum_weights=self._shares, k=count)
        for number, (stream, state) in enumerate(zip(streams, states, strict=True)):
            yield self._make_record(stream, state, begin + number * step)

    def make_due(self, part: int, parts: int) -> Iterator[Doc]:
        """Yield a part of the records of the first stream that are due: they were logged in the last three hours."""
        for number in range(part, self._plan.due, parts):
            at = self._now - timedelta(hours=3) * (1 - number / self._plan.due)
            yield self._make_record("orders", State.PENDING, at)

    def _make_error(self, number: int) -> Doc:
        words = " ".join(f"{chr(97 + int(digit))}field" for digit in str(number))
        status, message = (422, 409, 400, 404)[number % 4], f"the partner refused: {words} is not valid"
        return {"fingerprint": fingerprint(status, message, ()), "status": status, "message": message}

    def _make_record(self, stream: str, state: State, at: datetime) -> Doc:
        self._number += 1
        number = self._number
        key = {"id": number}
        name = key_id(key)
        identity = f"{stream}-{name[16:]}{number:016x}"
        row = {
            "id": number, "customer": number % 977, "status": "open", "total": number / 4,
            "ordered_at": "2026-01-01T00:00:00", "reference": f"R-{number:012}", "note": NOTE,
        }  # fmt: skip
        record: Doc = {
            "_id": identity, "stream": stream, "key": key, "key_id": name, "seq": (1 << 32) + number,
            "version": f"0.{name}", "hash": name, "shape": "0d4a270ea4d3", "op": "upsert",
            "payload": encode_values(row), "logged_at": at, "attempts": 0, "tries": 0, "claims": 0,
            "state": state.value, "fresh": True,
        }  # fmt: skip
        if state is State.PENDING:
            return record | {"due_at": at}
        if state is State.SUPERSEDED:
            ended = at + timedelta(seconds=2)
            return record | {
                "superseded_at": ended, "superseded_by": identity, "finished_at": ended, "updated_at": ended,
            }  # fmt: skip
        return record | self._deliver(identity, state, at)

    def _deliver(self, identity: str, state: State, at: datetime) -> Doc:
        """Return the fields that calls add to a record."""
        draw = self._random.random()
        latency_ms = 20 + 200 * draw
        ended = at + timedelta(seconds=1 + 5 * draw)
        calls = 2 if draw < 0.04 else 1
        error = self._errors[int(draw * 10**6) % len(self._errors)]
        history = []
        for call in range(1, calls + 1):
            entry = {
                "action": "attempt", "n": call, "claim": identity[-24:], "worker": "host:4711", "outcome": "accepted",
                "status": 200, "latency_ms": round(latency_ms, 2), "idempotency_key": identity,
                "excerpt": '{"ok":true}', "at": ended, "state": state.value,
            }  # fmt: skip
            if call < calls:
                again = {"outcome": "retry_later", "status": 503, "state": "pending", "error": "HTTP 503"}
                entry |= again | {"fingerprint": "5d03aa5d03aa", "at": at}
            elif state is not State.DELIVERED:
                entry |= {"outcome": "rejected", "state": "failed", "status": error["status"]}
                entry |= {"error": error["message"], "fingerprint": error["fingerprint"]}
            history.append(entry)
        course: Doc = {
            "attempts": calls, "tries": calls, "claims": calls, "generation": 0, "mapping_hash": "9afaf43ae023",
            "outcomes": {"accepted": 1}, "sent_at": at, "finished_at": ended, "updated_at": ended, "tried_at": at,
            "history": history,
        }  # fmt: skip
        if state is State.DELIVERED:
            return course | {"delivered_at": ended}
        course |= {"error": error, "outcomes": {"rejected": 1}, "failed_at": ended}
        if state is State.DISCARDED:
            given_up = {"action": "discarded", "by": "ann@host", "reason": "test", "from": "failed", "at": ended}
            course |= {"history": [*history, given_up], "reason": "test", "discarded_at": ended}
        return course


def fill(url: str, plan: Plan) -> None:
    """Fill a ledger with records, and with the roll-ups of a year, which are copies of yesterday's hours."""
    with Ledger(url, DATABASE) as ledger, pymongo.timeout(FILL_SECONDS):
        now = ledger.streams.server_time()
        today = floor_day(now, UTC)
        database = ledger._database
        for name in database["records"].index_information():
            if name != "_id_":
                database["records"].drop_index(name)
        days = range(plan.days + 1)
        with ProcessPoolExecutor(FILLERS) as pool:
            parts = [
                pool.submit(_fill_part, url, plan, today - plan.days * DAY, now, part, days[part::FILLERS])
                for part in range(FILLERS)
            ]
            for part in parts:
                part.result()
        say(f"{database['records'].estimated_document_count():,} records")
        create_indexes(database)
        say("their indexes")
        for day in (today - DAY, today):
            frozen_until = floor_hour(now - FREEZE_AFTER)
            hours = ledger.reports.roll_up(day, day + DAY, frozen_until=frozen_until)
            ledger.reports.store(hours, frozen_until=min(frozen_until, day + DAY))
        shift = 1
        while shift < REPORTED_DAYS:
            _repeat_hours(database["reports"], today - shift * DAY, today, shift)
            shift *= 2
        say(f"{database['reports'].estimated_document_count():,} hours")
        add_up_days(ledger=ledger)
        ledger.totals.update(frozen_until=ledger.reports.frozen_until())


def _fill_part(url: str, plan: Plan, start: datetime, now: datetime, part: int, days: Sequence[int]) -> None:
    with MongoClient[Doc](url) as client:
        records = client[DATABASE].get_collection("records", write_concern=WriteConcern(w=1))
        filler = Filler(plan, start=start, now=now, part=part)
        documents = chain(*(filler.make_day(day) for day in days), filler.make_due(part, FILLERS))
        while some := list(islice(documents, AT_ONCE)):
            records.insert_many(some, ordered=False)


def _repeat_hours(reports: Collection[Doc], begin: datetime, end: datetime, days: int) -> None:
    """Copy the hours of a period to the same number of days before it."""
    earlier = {"$dateSubtract": {"startDate": "$window_start", "unit": "day", "amount": days}}
    text = {"$dateToString": {"date": "$window_start", "format": "%Y-%m-%dT%H"}}
    reports.aggregate([
        {"$match": {"window_start": {"$gte": begin, "$lt": end}}},
        {"$set": {"window_start": earlier, "frozen": True}},
        {"$set": {"_id": {"$concat": ["$stream", ":", text]}}},
        {"$merge": {"into": "reports", "on": "_id"}},
    ])  # fmt: skip


def say(text: str) -> None:
    """Write a line on stderr: stdout has the table."""
    print(text, file=sys.stderr, flush=True)


def install(directory: Path, plan: Plan, *, cache_gb: float) -> Installation:
    """Set up an installation with the plan's streams, each polled once, and fill its ledger."""
    installation = Installation(directory, partner_url="http://127.0.0.1:9", rows=1)
    set_cache(installation, cache_gb)
    with (directory / "syncctl.toml").open("a") as settings:
        for name in plan.name_streams()[1:]:
            settings.write(f'[streams.{name}]\ntable = "orders"\nstart = "beginning"\ncursor = "id"\n')
            settings.write(f'endpoint = "POST /{name}"\n')
    installation.run("poll", "--once")
    if plan.records:
        fill(installation.services.mongo_url, plan)
    return installation


def set_cache(installation: Installation, gigabytes: float) -> None:
    """Set the size of MongoDB's cache, in GB."""
    size = f"cache_size={round(gigabytes * 1024)}M"
    installation.client.admin.command({"setParameter": 1, "wiredTigerEngineRuntimeConfig": size})


def forget_cached(installation: Installation, gigabytes: float) -> None:
    """Restart MongoDB with nothing in memory, neither in its own cache nor in that of the system."""
    mongod = installation.services.mongod
    mongod.stop(timeout_seconds=120)
    for path in mongod.files.rglob("*"):
        if path.is_file():
            number = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(number)
    mongod.start(timeout_seconds=120)
    set_cache(installation, gigabytes)


def time_command(installation: Installation, command: Sequence[str]) -> float:
    """Run a command to its end in a fork of this process, and return how many seconds it took, without Python's start.

    Raises:
        RuntimeError: It ended with an error.
    """
    errors = installation.directory / "errors"
    started = time.monotonic()
    process = os.fork()
    if not process:
        os.chdir(installation.directory)
        for number, path in enumerate((os.devnull, os.devnull, errors)):
            os.dup2(os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os._exit(run(command))
    _, status = os.waitpid(process, 0)
    seconds = time.monotonic() - started
    if os.waitstatus_to_exitcode(status) not in EXIT_CODES:
        raise RuntimeError(f"syncctl {' '.join(command)} failed: {errors.read_text()[-800:]}")
    return seconds


def load_modules() -> None:
    """Import the modules that a command would import, so that forks have them."""
    for module in pkgutil.walk_packages(syncctl.__path__, "syncctl."):
        if not module.name.startswith(("syncctl.celery_app", "syncctl.tasks", "syncctl.local", "syncctl.__main__")):
            importlib.import_module(module.name)


def fill_in(command: str, installation: Installation) -> list[str]:
    """Return the arguments of a command, with an id, a key and errors of this ledger, made up if it has none."""
    records = installation.ledger.records
    some = records.find_one({"stream": "orders", "state": "delivered"}) or {"_id": "orders-0", "key": {"id": 1}}
    failed = {"stream": "orders", "state": "failed"}
    marks = [
        record["error"]["fingerprint"]
        for way in (1, -1)
        for record in records.find(failed, sort=[("error.fingerprint", way)], limit=1)
    ]
    marks += ["0" * 12] * (2 - len(marks))
    values = {
        "id": some["_id"],
        "key": some["key"]["id"],
        "error": marks[0],
        "other": marks[1],
    }
    return [part.format(**values, directory=installation.directory) for part in command.split()]


def measure(
    empty: Installation, large: Installation, *, commands: Sequence[str], repeat: int, cold_gb: float | None
) -> str:
    """Return a table in Markdown: the seconds of each command on both ledgers, the medians of `repeat` runs.

    Args:
        cold_gb: The size of MongoDB's cache for one more run of each command after a restart; None omits that run.
    """
    cold = "" if cold_gb is None else " after a restart |"
    lines = [f"| command | empty | large |{cold}", f"|---|---|---|{'---|' if cold else ''}"]
    for command in commands:
        of_empty, of_large = fill_in(command, empty), fill_in(command, large)
        restarted = ""
        if cold_gb is not None:
            forget_cached(large, cold_gb)
            restarted = f" {time_command(large, of_large):.2f} s |"
        pairs = [(time_command(empty, of_empty), time_command(large, of_large)) for _ in range(repeat)]
        first, second = (statistics.median(times) for times in zip(*pairs, strict=True))
        lines.append(f"| `{command}` | {first:.2f} s | {second:.2f} s |{restarted}")
        say(lines[-1])
    return "\n".join(lines)


def main() -> int:
    """Fill a ledger, time the commands on it and on an empty one, and print a table in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large_ledger", description=__doc__)
    parser.add_argument("--records", type=int, default=5_000_000)
    parser.add_argument("--streams", type=int, default=6)
    parser.add_argument("--days", type=int, default=60, help="over which they are spread; reports cover a year")
    parser.add_argument("--errors", type=int, default=12, help="how many different errors there are")
    parser.add_argument("--failed", type=float, default=SHARES[State.FAILED], help="the share of failed records")
    parser.add_argument("--due", type=int, default=0, help="records of one stream that are due, besides")
    parser.add_argument("--cache-gb", type=float, default=2.0, help="MongoDB's cache")
    parser.add_argument("--repeat", type=int, default=5, help="each figure is the median of so many runs")
    parser.add_argument("--cold", action="store_true", help="run each command once, after a restart of MongoDB, too")
    parser.add_argument("--only", nargs="*", default=COMMANDS, help="these commands alone")
    parser.add_argument("--hold", action="store_true", help="then keep both ledgers until Enter, to look by hand")
    chosen = parser.parse_args()
    plan = Plan(
        records=chosen.records, streams=chosen.streams, days=chosen.days, errors=chosen.errors, due=chosen.due,
        failed_share=chosen.failed,
    )  # fmt: skip
    load_modules()
    cold_gb = chosen.cache_gb if chosen.cold else None
    directory = Path(tempfile.mkdtemp(prefix="syncctl-large-"))
    try:
        with ExitStack() as stack:
            empty = stack.enter_context(
                install(directory / "empty", replace(plan, records=0, due=0), cache_gb=chosen.cache_gb)
            )
            large = stack.enter_context(install(directory / "large", plan, cache_gb=chosen.cache_gb))
            print(measure(empty, large, commands=chosen.only, repeat=chosen.repeat, cold_gb=cold_gb), flush=True)
            if chosen.hold:
                input(f"the ledgers are in {directory}; Enter ends them\n")
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
