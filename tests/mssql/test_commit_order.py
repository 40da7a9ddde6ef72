"""Eight writers that hold their transactions open, some roll back, while polls run: the partner ends up exact.

SYNCCTL_TEST_MSSQL_ROWS is how many rows are written in all, 2,000 by default.
"""

import contextlib
import json
import os
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import exc

from syncctl.sources.engines import open_source
from syncctl.sources.reader import StreamReader
from tests.harness.cases import make_source
from tests.harness.testbed import Testbed

pytestmark = pytest.mark.timeout(1800)

ROWS = int(os.environ.get("SYNCCTL_TEST_MSSQL_ROWS", "2000"))
WRITERS = 8
HELD_SECONDS_AT_MOST = 1.0

MODES: dict[str, dict[str, Any]] = {
    "rowversion": {"mode": "rowversion", "cursor": "row_version"},
    "identity": {"mode": "increasing", "cursor": "id", "gap_timeout_seconds": 3600.0},
    "filtered": {"mode": "increasing", "cursor": "id", "gap_timeout_seconds": 3600.0, "where": "id % 3 <> 0"},
    "time": {"mode": "increasing", "cursor": "changed_at", "lookback_seconds": 60.0},
    "snapshot": {"mode": "snapshot", "cursor": None, "page_size": 2000},
}


@dataclass
class Writers:
    """Connections that insert and, where the mode finds it, update; each holds a transaction for a random while."""

    url: str
    table: str
    updates: bool
    inserted: int = 0
    rolled_back: int = 0
    errors: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, seed: int) -> None:
        engine = open_source(make_source(self.url)).engine
        try:
            with engine.execution_options(isolation_level="READ COMMITTED").connect() as connection:
                chance = random.Random(seed)
                # Each writer rolls its first transaction back: how many more do is left to chance.
                gives_up = True
                while self.take(size := chance.randint(1, 40)):
                    self.write(connection, chance, size, gives_up=gives_up)
                    gives_up = chance.random() < 0.1
        except Exception as error:  # noqa: BLE001 - whatever it is, the test tells it
            self.errors.append(f"{type(error).__name__}: {error}")
        finally:
            engine.dispose()

    def take(self, size: int) -> bool:
        with self.lock:
            if self.inserted >= ROWS:
                return False
            self.inserted += size
            return True

    def write(self, connection: sa.Connection, chance: random.Random, size: int, *, gives_up: bool) -> None:
        try:
            for _ in range(size):
                amount = Decimal(chance.randrange(10**9)) / 100
                connection.exec_driver_sql(
                    f"insert into {self.table} (content, amount, changed_at) values (?, ?, sysutcdatetime())",  # noqa: S608
                    (f"é{chance.randrange(1000)}", amount),
                )
            if self.updates:
                connection.exec_driver_sql(
                    f"update {self.table} set content = ?, changed_at = sysutcdatetime() where id = ?",  # noqa: S608
                    (f"changed {chance.randrange(1000)}", chance.randrange(1, max(2, self.inserted))),
                )
            time.sleep(chance.random() ** 3 * HELD_SECONDS_AT_MOST)
            if gives_up:
                connection.rollback()
                with self.lock:
                    self.rolled_back += 1
                    self.inserted -= size
            else:
                connection.commit()
        except exc.DBAPIError:
            # Two that update each other's rows: the server ends one, and rolls back its writes.
            connection.rollback()
            with self.lock:
                self.inserted -= size


@contextlib.contextmanager
def writing(writers: Writers) -> Iterator[list[threading.Thread]]:
    threads = [threading.Thread(target=writers.run, args=(seed,)) for seed in range(WRITERS)]
    for thread in threads:
        thread.start()
    try:
        yield threads
    finally:
        for thread in threads:
            thread.join()


class Kept:
    """A reader for many polls: a live server's catalog may take seconds, and the polls are to be many."""

    def __init__(self, reader: StreamReader) -> None:
        self._reader = reader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def close(self) -> None:
        """Stay open."""


@contextlib.contextmanager
def sending(testbed: Testbed) -> Iterator[None]:
    """Keep sending due records."""
    done = threading.Event()

    def send() -> None:
        while not done.wait(0.05):
            testbed.deliver()

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("mode", MODES)
def test_the_partner_ends_with_exactly_the_rows_of_the_source(
    testbed: Testbed, partner: Any, mssql_url: str, mssql_db: Any, mode: str
) -> None:
    table = mssql_db.create(
        "id int identity(1,1) primary key, content nvarchar(50), amount decimal(12,2), changed_at datetime2(7),"
        " row_version rowversion"
    )
    testbed.source = make_source(mssql_url)
    testbed.stream = replace(testbed.stream, table=table, exclude=("row_version",), **{"page_size": 500, **MODES[mode]})
    writers = Writers(mssql_url, table, updates=testbed.stream.cursor != "id")
    polls = 0
    with StreamReader(testbed.source, testbed.stream) as opened:
        reader = Kept(opened)
        with writing(writers) as threads, sending(testbed):
            while any(thread.is_alive() for thread in threads):
                poll(testbed, reader)
                polls += 1
    assert writers.errors == []
    for _ in range(2):
        poll(testbed)
        testbed.deliver()
    condition = testbed.stream.where or "1 = 1"
    rows = mssql_db.rows(f"select id, content, amount from {table} where {condition}")  # noqa: S608
    wanted = {row.id: row for row in rows}
    held = {body["id"]: body for body in (json.loads(each, parse_float=Decimal) for each in partner.rows().values())}
    assert set(held) == set(wanted)
    for number, row in wanted.items():
        assert (held[number]["content"], Decimal(held[number]["amount"])) == (row.content, row.amount)
    assert len(wanted) >= (ROWS if testbed.stream.where is None else ROWS // 2)
    assert writers.rolled_back >= WRITERS
    counts = f"{len(wanted)} rows, {writers.rolled_back} rolled back, {polls} polls, {len(partner.calls())} calls"
    print(f"{mode}: {counts}")  # noqa: T201 - the figures of a run by hand


def poll(testbed: Testbed, reader: Any = None) -> None:
    run = testbed.poll(reader)
    assert run.error is None, run.error
    assert run.failed == 0
