"""The lookback is read again in rounds: new rows never wait for it, and a quiet table is read once more only."""

from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from syncctl.core.rows import Cursor, Page
from tests.harness.source_db import SourceDb
from tests.harness.source_reading import list_ids, open_stream, read

STREAM: dict[str, Any] = {
    "table": "events", "cursor": "at", "mode": "increasing", "start": "beginning", "lookback_seconds": 300.0,
}  # fmt: skip


@pytest.fixture
def db(tmp_path: Path) -> SourceDb:
    return SourceDb(tmp_path / "source.db")


def make_table(db: SourceDb) -> None:
    db.execute("create table events (id integer primary key, at datetime not null)")


def add(db: SourceDb, first: int, count: int, at: str) -> None:
    db.execute_many("insert into events values (?, ?)", [(first + number, at) for number in range(count)])


def read_pages(db: SourceDb, after: Cursor, pages: int, **settings: Any) -> list[Page]:
    """Read at most so many pages, as a poll that is cut by its budget does."""
    with open_stream(db, **settings) as reader:
        return list(islice(reader.pages(after), pages))


def test_new_rows_never_wait_for_a_bulk_update_within_the_lookback(db: SourceDb) -> None:
    make_table(db)
    add(db, 1, 500, "2026-01-01 10:00:00")
    settings = {**STREAM, "page_size": 50}
    _, cursor = read(db, **settings)
    found: list[int] = []
    for number in range(12):
        add(db, 1000 + number, 1, f"2026-01-01 10:00:{number + 1:02}")
        pages = read_pages(db, cursor, 3, **settings)
        found += [key for key in list_ids([row for page in pages for row in page.rows]) if key >= 1000]
        cursor = pages[-1].cursor
    assert set(found) == set(range(1000, 1012))


def test_an_interrupted_round_goes_on_where_it_stood(db: SourceDb) -> None:
    make_table(db)
    add(db, 1, 200, "2026-01-01 10:00:00")
    settings = {**STREAM, "page_size": 20}
    _, cursor = read(db, **settings)
    seen: list[int] = []
    for _ in range(10):
        pages = read_pages(db, cursor, 1, **settings)
        seen += list_ids(pages[0].rows)
        cursor = pages[0].cursor
    assert seen == list(range(1, 201))


def test_a_quiet_table_is_read_once_more_and_then_no_more(db: SourceDb) -> None:
    make_table(db)
    add(db, 1, 30, "2026-01-01 10:00:00")
    first, cursor = read(db, **STREAM)
    again, cursor = read(db, cursor, **STREAM)
    never, _ = read(db, cursor, **STREAM)
    assert (len(first), len(again), len(never)) == (30, 30, 0)
    add(db, 100, 1, "2026-01-01 10:01:00")
    rows, cursor = read(db, cursor, **STREAM)
    assert 100 in list_ids(rows)


def test_a_time_in_the_future_is_read_and_hides_no_later_row(db: SourceDb) -> None:
    make_table(db)
    now = datetime.now(UTC).replace(tzinfo=None, microsecond=0)
    add(db, 1, 1, str(now - timedelta(minutes=1)))
    add(db, 2, 1, "9999-12-31 00:00:00")
    rows, cursor = read(db, **STREAM)
    assert set(list_ids(rows)) == {1, 2}
    assert not cursor["at"].startswith("9999")
    add(db, 3, 1, str(now))
    pages = read_pages(db, cursor, 10, **STREAM)
    assert 3 in list_ids([row for page in pages for row in page.rows])
    assert any("ahead of the source" in note for page in pages for note in page.notes)
