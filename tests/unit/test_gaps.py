"""The memory of skipped numbers: the ones that are waited for, forgotten and given up."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncctl.core.gaps import STEPS_OF_TIMEOUT, Gap, GapMemory, keep_awaited, read_memory, show_gaps

NOW = datetime(2026, 1, 1, tzinfo=UTC)
numbers = st.sets(st.integers(1, 60), min_size=1).map(sorted)


def expand(memory: GapMemory) -> list[int]:
    return [number for gap in memory.gaps for number in range(gap.first, gap.last + 1)]


@given(shown=numbers, late=st.sets(st.integers(1, 60)))
def test_exactly_the_numbers_that_no_row_has_shown_are_waited_for(shown: list[int], late: set[int]) -> None:
    memory = GapMemory().note(0, shown, NOW)
    assert expand(memory) == [n for n in range(1, max(shown) + 1) if n not in shown]
    filled = memory.fill(late)
    assert expand(filled) == [n for n in expand(memory) if n not in late]
    assert all(gap.first <= gap.last for gap in filled.gaps)


def test_the_numbers_between_the_steps_of_an_identity_are_no_gaps() -> None:
    memory = GapMemory(step=10).note(5, [15, 25, 55], NOW)
    assert [(gap.first, gap.last) for gap in memory.gaps] == [(26, 54)]
    assert [(gap.first, gap.last) for gap in memory.fill([35]).gaps] == [(26, 34), (36, 54)]


def test_after_a_number_off_the_steps_any_number_may_come() -> None:
    """Two nodes with a seed each, a reseed, or IDENTITY_INSERT."""
    assert expand(GapMemory(step=2).note(1, [2, 3, 5, 6], NOW)) == [4]
    memory = GapMemory(step=10).note(1, [51], NOW).fill([27])
    assert {11, 21, 31, 41} <= set(expand(memory))


@given(pages=st.lists(numbers, max_size=4))
def test_the_memory_survives_the_cursor_document(pages: list[list[int]]) -> None:
    memory = GapMemory()
    reached = 0
    for page in pages:
        values = [reached + number for number in page]
        memory = memory.note(reached, values, NOW)
        reached = values[-1]
    memory, _ = memory.end_round(NOW + timedelta(hours=2))
    memory = memory.note(reached, [reached + 5], NOW).note_stretches([(reached + 5, reached + 9)], NOW, exact=True)
    memory = replace(memory, asked=(reached + 2, NOW), given_out=(reached, NOW))
    assert read_memory(memory.to_document()) == memory


def test_gaps_of_an_earlier_version_are_read_and_kept() -> None:
    at = "2026-01-01T00:00:00+00:00"
    cursor = {"at": "9", "gaps": [{"from": 3, "to": 3, "at": at}, {"from": 5, "to": 7, "at": at}]}
    assert read_memory(cursor).gaps == (Gap(first=3, last=3, at=NOW), Gap(first=5, last=7, at=NOW))
    kept = keep_awaited(cursor, {"at": "6"})
    assert kept["gaps"] == [{"at": at, "exact": True, "numbers": "3,5"}]


def test_numbers_below_zero_survive_the_cursor_document() -> None:
    memory = GapMemory().note(-9, [-7, -1], NOW)
    assert read_memory(memory.to_document()) == memory
    assert expand(memory) == [-8, -6, -5, -4, -3, -2]


def test_a_number_that_is_missing_for_too_long_is_given_up_and_reported() -> None:
    memory = GapMemory().note(0, [3], NOW).note(3, [7], NOW + timedelta(minutes=30))
    kept, gone = memory.end_round(NOW + timedelta(hours=1))
    assert [(gap.first, gap.last) for gap in gone] == [(1, 2)]
    assert [(gap.first, gap.last) for gap in kept.gaps] == [(4, 6)]
    assert (kept.given_up, kept.last_given_up) == (1, ((1, 2),))
    assert kept.end_round(NOW + timedelta(hours=1)) == (kept, ())


@given(
    shown=st.lists(st.sets(st.integers(1, 400), min_size=1).map(sorted), min_size=1, max_size=6),
    seconds=st.lists(st.integers(0, 300), min_size=6, max_size=6),
    late=st.sets(st.integers(1, 2400), max_size=200),
)
def test_no_number_is_forgotten_before_its_time_however_many_are_missing(
    shown: list[list[int]], seconds: list[int], late: set[int]
) -> None:
    memory, reached, at, since, present = GapMemory(), 0, NOW, dict[int, datetime](), set[int]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("syncctl.core.gaps.GAPS_AT_MOST", 10)
        for numbers_shown, more in zip(shown, seconds, strict=False):
            at += timedelta(seconds=more)
            values = [reached + number for number in numbers_shown]
            since |= {number: at for number in range(reached + 1, values[-1]) if number not in values}
            memory = memory.note(reached, values, at)
            present |= set(values)
            reached = values[-1]
        memory = memory.fill(late)
        assert len(memory.gaps) <= 10 + len(shown)
        assert set(since) - late <= set(expand(memory))
        # None is kept for much longer, however often it was joined.
        kept, _ = memory.end_round(NOW + timedelta(hours=1))
        over = timedelta(seconds=memory.timeout_seconds * (1 + 1 / STEPS_OF_TIMEOUT))
        awaited = set(expand(kept))
        assert {number for number in since if since[number] > NOW} - late <= awaited
        gone, _ = memory.end_round(at + over)
        assert not gone.gaps


def test_neighbours_with_the_fewest_rows_between_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncctl.core.gaps.GAPS_AT_MOST", 2)
    memory = GapMemory().note_stretches([(0, 2), (10, 12), (13, 15), (30, 32)], NOW)
    assert [(gap.first, gap.last) for gap in memory.gaps] == [(1, 14), (31, 31)]


def test_a_round_goes_on_behind_the_number_that_it_has_asked_for() -> None:
    memory = replace(GapMemory().note_stretches([(0, 10), (20, 30), (40, 50)], NOW), asked=(25, NOW))
    assert [(gap.first, gap.last) for gap in memory.find_unasked(limit=9)] == [(26, 29), (41, 49)]
    assert len(memory.find_unasked(limit=1)) == 1
    memory = replace(memory, asked=(49, NOW))
    assert memory.find_unasked(limit=9) == ()


def test_numbers_that_had_been_given_out_before_are_missing_since_then() -> None:
    memory = replace(GapMemory(), given_out=(100, NOW))
    later = NOW + timedelta(hours=2)
    memory = memory.note(0, [5, 99, 120], later)
    assert expand(memory) == list(range(100, 120))
    assert memory.given_up == 2


def test_numbers_that_are_waited_for_before_a_rewind_stay_waited_for() -> None:
    memory = GapMemory().note_stretches([(2, 5), (7, 13), (19, 22)], NOW)
    before = {"at": "30", **memory.to_document()}
    kept = read_memory(keep_awaited(before, {"at": "10"})).gaps
    assert [(gap.first, gap.last) for gap in kept] == [(3, 4), (8, 9)]
    assert keep_awaited(before, {"at": "beginning"}) == {"at": "beginning"}
    # A place further on has gaps of its own; what lies between is not read, and never joined with them.
    now = {"at": "50", **GapMemory().note_stretches([(2, 5), (29, 33), (44, 46)], NOW, exact=True).to_document()}
    kept = read_memory(keep_awaited(before, now)).gaps
    assert [(gap.first, gap.last) for gap in kept] == [(3, 4), (8, 12), (20, 21), (31, 32), (45, 45)]
    assert all(gap.exact for gap in kept)


def test_a_cursor_without_given_up_numbers_does_not_mention_them() -> None:
    assert GapMemory().to_document() == {}


def test_gaps_are_shown_as_people_write_them() -> None:
    gaps = [Gap(first=5, last=5, at=NOW), Gap(first=7, last=9, at=NOW)]
    assert show_gaps(gaps) == "5, 7-9"
    assert show_gaps(gaps * 6) == "5, 7-9, 5, 7-9, 5, 7-9, 5, 7-9, 5, 7-9 and 2 more"
