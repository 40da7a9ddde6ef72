"""Suggestions for an unknown name, and none if no name is similar."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncctl.cli import COMMAND_GROUPS
from syncctl.core.spelling import find_near
from syncctl.doctor.groups import GROUPS


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("sorce", "source"),
        ("config", "configuration"),
        ("mongo", "mongodb"),
        ("wrokers", "workers"),
        ("beet", "beat"),
        ("tqueue", "queue"),
        ("orders", None),
        ("customers", None),
        ("xyzzy", None),
        ("s", None),
    ],
)
def test_only_similar_names_are_suggested_for_a_check(word: str, meant: str | None) -> None:
    assert find_near(word, GROUPS) == meant


@pytest.mark.parametrize(
    ("word", "meant"), [("stats", "status"), ("nit", "init"), ("list", None), ("stop", None), ("sync", None)]
)
def test_only_similar_names_are_suggested_for_a_command(word: str, meant: str | None) -> None:
    assert find_near(word, [name for group in COMMAND_GROUPS.values() for name in group]) == meant


@given(st.text(), st.lists(st.text()))
def test_suggestions_exist_and_a_name_is_nearest_to_itself(word: str, names: list[str]) -> None:
    assert find_near(word, names) in {None, *names}
    if word:
        assert (find_near(word, [*names, word]) or "").startswith(word)
