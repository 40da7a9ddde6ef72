"""No row is missed, whatever the order of commits: values are assigned in one order and become visible in another.

A source whose transactions begin, commit and roll back in any order, and a reader that polls in between. What protects
each mode is taken out in a test of its own, which then loses a row.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from syncctl.core.gaps import GAPS_AT_MOST, read_memory
from syncctl.core.rows import Cursor
from syncctl.core.stream import Stream
from syncctl.errors import SourceRestored
from syncctl.sources.dialect import ReadCeiling
from syncctl.sources.modes.increasing import PAGES_ASKED_AGAIN, RANGES_AT_ONCE, find_gaps
from syncctl.sources.reader import StreamReader
from syncctl.sources.sqlite import SqliteDialect
from tests.harness.cases import make_source, make_stream
from tests.harness.source_db import SourceDb

LOOKBACK_SECONDS = 60.0
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def make_rows_stream(mode: str, **changes: Any) -> Stream:
    cursor = {"identity": "id", "time": "changed_at", "rowversion": "rv"}[mode]
    mode = "rowversion" if mode == "rowversion" else "increasing"
    settings = {"mode": mode, "cursor": cursor, "page_size": 3, "lookback_seconds": LOOKBACK_SECONDS, **changes}
    return make_stream(table="rows", key=("id",), **settings)


class Commits:
    """A table that shows a row when its transaction commits, with the number it got when it began."""

    def __init__(self, directory: Path) -> None:
        self.db = SourceDb(directory / "source.db")
        self.db.execute("create table rows (id integer primary key, changed_at text, rv blob, content integer)")
        self.now = BEGAN
        self.numbers = 0
        self.versions = 0
        self.open: list[list[tuple[int, str, int, int]]] = []

    def begin(self, ids: list[int | None]) -> None:
        """Write rows in a new transaction: None for a new row, an id for an update of one."""
        written = []
        for record_id in ids:
            if record_id is None:
                self.numbers += 1
            self.versions += 1
            self.now += timedelta(seconds=1)
            stamp = self.now.replace(tzinfo=None).isoformat(sep=" ")
            written.append((record_id or self.numbers, stamp, self.versions, self.versions))
        self.open.append(written)

    def commit(self, index: int) -> None:
        rows = [(id_, at, rv.to_bytes(8, "big"), content) for id_, at, rv, content in self.open.pop(index)]
        self.db.execute_many("insert or replace into rows values (?, ?, ?, ?)", rows)

    def read_ceiling(self, _: sa.Connection) -> bytes:
        """Return the result of MIN_ACTIVE_ROWVERSION()."""
        lowest = min((row[2] for rows in self.open for row in rows), default=self.versions + 1)
        return lowest.to_bytes(8, "big")

    def held(self) -> set[int]:
        """Return the ids that an open transaction has locked."""
        return {row[0] for rows in self.open for row in rows}

    def contents(self) -> dict[int, int]:
        return dict(self.db.execute("select id, content from rows"))  # type: ignore[arg-type]


class Follower:
    """A reader that polls, and the last content it has seen of each row."""

    def __init__(self, commits: Commits, mode: str, *, ceiling: ReadCeiling | None = None, **changes: Any) -> None:
        source = make_source(commits.db.url)
        self.reader = StreamReader(
            source, make_rows_stream(mode, **changes), read_ceiling=ceiling or commits.read_ceiling
        )
        self.cursor: Cursor = self.reader.start_cursor()
        self.seen: dict[Any, Any] = {}

    def poll(self, *, pages: int = 10**6) -> None:
        """Read some pages, as a poll that is stopped after them."""
        for page in self.reader.pages(self.cursor):
            for row in page.rows:
                assert row.payload is not None
                self.seen[row.key["id"]] = row.payload["content"]
            self.cursor = page.cursor
            pages -= 1
            if not pages:
                return


def gaps_of(cursor: Cursor) -> list[tuple[int, int]]:
    """Return the numbers that a cursor waits for."""
    return [(gap.first, gap.last) for gap in read_memory(cursor).gaps]


class CommitOrder(RuleBasedStateMachine):
    """Transactions of a few rows, and polls between them."""

    mode = ""
    updates = True
    where: str | None = None

    @staticmethod
    def matches(_content: int) -> bool:
        """Say whether `where` holds."""
        return True

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory(prefix="syncctl-commits-")
        self.commits = Commits(Path(self.directory.name))
        self.follower = Follower(self.commits, self.mode, where=self.where)

    @initialize(rows=st.integers(0, 5))
    def fill(self, rows: int) -> None:
        if rows:
            self.commits.begin([None] * rows)
            self.commits.commit(0)

    @rule(new=st.integers(0, 3), changed=st.sets(st.integers(1, 12), max_size=2))
    def begin(self, new: int, changed: set[int]) -> None:
        there = set(self.commits.contents()) - self.commits.held() if self.updates else set()
        ids = [*sorted(changed & there), *[None] * new]
        if ids:
            self.commits.begin(ids)

    @precondition(lambda self: self.commits.open)
    @rule(choice=st.integers(0, 100))
    def commit(self, choice: int) -> None:
        self.commits.commit(choice % len(self.commits.open))

    @precondition(lambda self: self.commits.open)
    @rule(choice=st.integers(0, 100))
    def roll_back(self, choice: int) -> None:
        self.commits.open.pop(choice % len(self.commits.open))

    @rule(pages=st.integers(1, 3))
    def poll(self, pages: int) -> None:
        self.follower.poll(pages=pages)

    @invariant()
    def nothing_is_seen_that_is_not_there(self) -> None:
        assert set(self.follower.seen) <= set(self.commits.contents())

    def teardown(self) -> None:
        while self.commits.open:
            self.commits.commit(0)
        self.follower.poll()
        matching = {id_: content for id_, content in self.commits.contents().items() if self.matches(content)}
        assert self.follower.seen == matching
        self.follower.reader.close()
        self.directory.cleanup()


class IdentityOrder(CommitOrder):
    mode = "identity"
    updates = False


class WhereOrder(IdentityOrder):
    """Every third row is none of the stream's: its number is there, and not to come."""

    where = "content % 3 <> 0"

    @staticmethod
    def matches(content: int) -> bool:
        return content % 3 != 0


class TimeOrder(CommitOrder):
    """Every row commits within the lookback: a machine of fifty steps writes no more than sixty seconds of times."""

    mode = "time"


class RowversionOrder(CommitOrder):
    mode = "rowversion"


_QUIET = settings(max_examples=25, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck))
for _machine in (IdentityOrder, WhereOrder, TimeOrder, RowversionOrder):
    _machine.TestCase.settings = _QUIET
TestIdentityOrder = IdentityOrder.TestCase
TestWhereOrder = WhereOrder.TestCase
TestTimeOrder = TimeOrder.TestCase
TestRowversionOrder = RowversionOrder.TestCase


@contextmanager
def late_commit(tmp_path: Path, mode: str, **changes: Any) -> Iterator[tuple[Commits, Follower]]:
    """A row that got its number first and is committed last, after a poll has read the one behind it."""
    commits = Commits(tmp_path)
    commits.begin([None])
    commits.begin([None])
    follower = Follower(commits, mode, **changes)
    try:
        commits.commit(1)
        follower.poll()
        commits.commit(0)
        follower.poll()
        yield commits, follower
    finally:
        follower.reader.close()


@pytest.mark.parametrize("mode", ["identity", "time", "rowversion"])
def test_a_row_that_commits_late_is_found(tmp_path: Path, mode: str) -> None:
    with late_commit(tmp_path, mode) as (_, follower):
        assert set(follower.seen) == {1, 2}


@pytest.mark.parametrize(
    ("mode", "without"),
    [
        ("identity", {"gap_timeout_seconds": 0.0}),
        ("time", {"lookback_seconds": 0.0}),
        ("rowversion", {"ceiling": lambda _: (2**63).to_bytes(8, "big")}),
    ],
)
def test_without_its_protection_each_mode_loses_that_row(tmp_path: Path, mode: str, without: dict[str, Any]) -> None:
    with late_commit(tmp_path, mode, **without) as (_, follower):
        assert set(follower.seen) == {2}


def test_a_number_that_never_comes_is_given_up_and_told(tmp_path: Path) -> None:
    commits = Commits(tmp_path)
    commits.begin([None, None])
    commits.begin([None])
    commits.commit(1)
    follower = Follower(commits, "identity", gap_timeout_seconds=1e-6)
    follower.poll(pages=1)
    assert gaps_of(follower.cursor) == [(1, 2)]
    (page,) = follower.reader.pages(follower.cursor)
    assert page.notes == (
        (
            "gave up waiting for the missing numbers 1-2 of id: they were rolled back or deleted, or are committed"
            " later than this"
        ),
    )
    assert "gaps" not in page.cursor
    assert page.cursor["gaps_given_up"] == {"count": 1, "last": [[1, 2]]}
    # It was looked up once more before that: a number that came in time is not given up.
    commits.commit(0)
    follower.poll()
    assert set(follower.seen) == {1, 2, 3}
    follower.reader.close()


def commit_in_turns(commits: Commits, rows: int) -> None:
    """Let two transactions insert in turns, and commit one of them."""
    commits.numbers = rows
    stamp = commits.now.isoformat(sep=" ")
    written = [(number, stamp, number, number) for number in range(1, rows + 1)]
    commits.open += [written[::2], written[1::2]]
    commits.commit(1)


def test_two_transactions_in_turns_lose_no_row(tmp_path: Path) -> None:
    """Half of the numbers are missing: more gaps than are remembered one by one, and than one statement could name."""
    commits = Commits(tmp_path)
    commit_in_turns(commits, 4000)
    follower = Follower(commits, "identity", page_size=1000)
    follower.poll()
    assert len(follower.seen) == 2000
    assert len(gaps_of(follower.cursor)) == GAPS_AT_MOST
    assert "gaps_given_up" not in follower.cursor
    commits.commit(0)
    follower.poll()
    assert len(follower.seen) == 4000
    follower.reader.close()


@pytest.mark.parametrize("start", ["beginning", "now"])
def test_a_gap_that_is_filled_in_pieces_is_asked_for_in_statements_of_bounded_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    commits = Commits(tmp_path)
    if start == "beginning":
        commits.db.execute("insert into rows values (1, '', x'00', 1), (9000, '', x'00', 1)")
    else:
        commit_in_turns(commits, 9000)
    follower = Follower(commits, "identity", start=start, page_size=1000)
    asked: list[int] = []
    between = type(follower.reader._mode)._between

    def note(self: Any, gaps: Any) -> Any:
        asked.append(len(gaps))
        return between(self, gaps)

    monkeypatch.setattr(type(follower.reader._mode), "_between", note)
    follower.poll()
    if start == "beginning":
        commits.db.execute_many("insert into rows values (?, '', x'00', ?)", [(n, n) for n in range(3, 9000, 3)])
        follower.poll()
        assert len(follower.seen) == 3001
        follower.poll()
        commits.db.execute_many("insert or ignore into rows values (?, '', x'00', ?)", [(n, n) for n in range(2, 9000)])
    else:
        assert len(gaps_of(follower.cursor)) > RANGES_AT_ONCE
        commits.commit(0)
    for _ in range(3):
        follower.poll()
    # Rows that were there before a start "now" are no part of the stream, whatever lies between them.
    assert len(follower.seen) == (9000 if start == "beginning" else 4500)
    assert not gaps_of(follower.cursor)
    assert max(asked) <= RANGES_AT_ONCE
    follower.reader.close()


def test_rows_between_joined_gaps_do_not_keep_new_rows_waiting(tmp_path: Path) -> None:
    commits = Commits(tmp_path)
    commit_in_turns(commits, 4000)
    follower = Follower(commits, "identity", page_size=20)
    read = PAGES_ASKED_AGAIN * 20
    follower.poll()
    late = set(range(1, 4000, 2))
    commits.commit(0)
    commits.begin([None])
    commits.commit(0)
    polls = 0
    while late - set(follower.seen):
        polls += 1
        before = len(follower.seen)
        follower.poll()
        if polls == 1:
            assert 4001 in follower.seen
        assert len(follower.seen) - before <= 1 + read + 20 + 2
    assert polls > 5
    follower.reader.close()


def test_numbers_that_were_missing_before_a_long_read_began_are_not_waited_for_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table with many deleted rows takes hours to read; the first page tells how far its numbers had come by then."""
    commits = Commits(tmp_path)
    commit_in_turns(commits, 40)
    follower = Follower(commits, "identity", page_size=5)
    clock = SqliteDialect.read_clock
    hours = iter(range(100))
    monkeypatch.setattr(
        SqliteDialect, "read_clock", lambda self, connection: clock(self, connection) + timedelta(hours=next(hours))
    )
    follower.poll(pages=1)
    assert gaps_of(follower.cursor)
    follower.poll(pages=3)
    assert max(last for _, last in gaps_of(follower.cursor)) < 20
    assert follower.cursor["gaps_given_up"]["count"] > 5
    # What is missing right behind it is waited for as ever.
    commits.begin([None])
    commits.begin([None])
    commits.commit(2)
    follower.poll(pages=1)
    assert gaps_of(follower.cursor)[-1] == (41, 41)
    follower.reader.close()


def test_a_gap_is_asked_for_with_as_many_pages_as_it_takes(tmp_path: Path) -> None:
    commits = Commits(tmp_path)
    commits.begin([None] * 10)
    commits.begin([None])
    commits.commit(1)
    follower = Follower(commits, "identity")
    follower.poll()
    commits.commit(0)
    follower.poll(pages=2)
    assert sorted(follower.seen) == [1, 2, 3, 4, 5, 6, 11]
    assert gaps_of(follower.cursor) == [(7, 10)]
    follower.poll()
    assert "gaps" not in follower.cursor
    assert len(follower.seen) == 11
    follower.reader.close()


def test_numbers_that_where_leaves_out_are_not_waited_for(tmp_path: Path) -> None:
    """Else they push those that are still to come out of memory."""
    commits = Commits(tmp_path)
    commits.begin([None] * 4)
    for _ in range(GAPS_AT_MOST + 20):
        commits.begin([None, None])
        commits.commit(1)
    follower = Follower(commits, "identity", where="content % 2 = 0", page_size=100)
    follower.poll()
    assert gaps_of(follower.cursor) == [(1, 4)]
    commits.commit(0)
    follower.poll()
    assert {2, 4} <= set(follower.seen)
    assert not {1, 3} & set(follower.seen)
    follower.reader.close()


def test_a_row_that_commits_between_two_looks_at_a_page_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = Commits(tmp_path)
    for count in (1, 1, 1):
        commits.begin([None] * count)
    commits.commit(2)
    commits.commit(1)
    follower = Follower(commits, "identity", where="content <> 2")

    def commit_then_look(*args: Any, **options: Any) -> Any:
        commits.commit(0)
        return find_gaps(*args, **options)

    monkeypatch.setattr("syncctl.sources.modes.increasing.find_gaps", commit_then_look)
    follower.poll()
    assert set(follower.seen) == {1, 3}
    assert "gaps" not in follower.cursor
    follower.reader.close()


def test_a_start_now_waits_for_what_is_open_at_that_moment(tmp_path: Path) -> None:
    commits = Commits(tmp_path)
    for count in (1, 5, 1, 1):
        commits.begin([None] * count)
    commits.commit(3)
    commits.commit(1)
    follower = Follower(commits, "identity", start="now")
    assert gaps_of(follower.cursor) == [(1, 1), (7, 7)]
    commits.commit(0)
    commits.commit(0)
    follower.poll()
    assert set(follower.seen) == {1, 7}, "what was there before the start is no part of the stream"
    follower.reader.close()


def test_numbers_that_begin_anew_stop_the_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = Commits(tmp_path)
    commits.begin([None] * 9)
    commits.commit(0)
    follower = Follower(commits, "identity")
    follower.poll()
    for given_out in (None, 9, 12):
        monkeypatch.setattr(SqliteDialect, "read_identity", lambda *_, given_out=given_out: given_out)
        follower.poll()
    monkeypatch.setattr(SqliteDialect, "read_identity", lambda *_: 3)
    with pytest.raises(SourceRestored) as caught:
        follower.poll()
    assert caught.value.why == "they are at 3, but were read up to 9 before"
    # A start at a number that is still to come is none that was read.
    Follower(commits, "identity", start="100").poll()
    follower.reader.close()


def test_a_start_at_a_number_waits_for_what_is_left_out_from_there_on(tmp_path: Path) -> None:
    commits = Commits(tmp_path)
    for count in (5, 1, 1):
        commits.begin([None] * count)
    commits.commit(0)
    commits.commit(1)
    follower = Follower(commits, "identity", start="6")
    follower.poll()
    assert gaps_of(follower.cursor) == [(6, 6)]
    commits.commit(0)
    follower.poll()
    assert sorted(follower.seen) == [6, 7]
    follower.reader.close()
