"""The memory of skipped numbers: the ones that are waited for, forgotten and given up."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from syncctl.sources.modes.gaps import GAPS_AT_MOST, Gap, GapMemory, read_memory, show_gaps

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
    memory, _ = memory.expire(NOW, timeout_seconds=-1)
    memory = memory.note(reached, [reached + 5], NOW)
    assert read_memory(memory.to_document(), step=1) == memory


def test_a_number_that_is_missing_for_too_long_is_given_up_and_reported() -> None:
    memory = GapMemory().note(0, [3], NOW).note(3, [7], NOW + timedelta(minutes=30))
    kept, gone = memory.expire(NOW + timedelta(hours=1), timeout_seconds=3600)
    assert [(gap.first, gap.last) for gap in gone] == [(1, 2)]
    assert [(gap.first, gap.last) for gap in kept.gaps] == [(4, 6)]
    assert (kept.given_up, kept.last_given_up) == (1, ((1, 2),))
    assert kept.expire(NOW + timedelta(hours=1), timeout_seconds=3600) == (kept, ())


def test_more_than_can_be_remembered_is_given_up_the_lowest_first() -> None:
    memory = GapMemory().note(0, range(2, 2 * GAPS_AT_MOST + 21, 2), NOW)
    kept, gone = memory.trim()
    assert len(kept.gaps) == GAPS_AT_MOST
    assert [gap.first for gap in gone] == list(range(1, 21, 2))
    assert kept.given_up == 10
    assert kept.trim() == (kept, ())


def test_a_cursor_without_given_up_numbers_does_not_mention_them() -> None:
    assert GapMemory().to_document() == {}


def test_gaps_are_shown_as_people_write_them() -> None:
    gaps = [Gap(first=5, last=5, at=NOW), Gap(first=7, last=9, at=NOW)]
    assert show_gaps(gaps) == "5, 7-9"
    assert show_gaps(gaps * 6) == "5, 7-9, 5, 7-9, 5, 7-9, 5, 7-9, 5, 7-9 and 2 more"
