"""What follows the last word of a query or a condition is left out, so that both can be part of a statement."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncctl.sources.catalog.relation import strip_statement

ENDS = ["", ";", " ; ", ";;", "; -- all", "\n-- all", " /* all; */ ;", "; -- it's\n/* [x */\n"]
STATEMENTS = [
    "select 1",
    "exported = 0",
    "note = ';'",
    "note = '--'",
    "note = 'it''s; --'",
    "[a;--] = 1",
    '"a;--" = 1',
    "a - -1 / 2",
    "select /* x */ 1 -- y\n+ 1",
]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("statement", STATEMENTS)
def test_the_end_is_left_out_and_nothing_else(statement: str, end: str) -> None:
    assert strip_statement(statement + end) == statement


@given(st.text(st.sampled_from("a;'-\"[]/* \n`"), max_size=60))
def test_any_text_keeps_its_beginning(text: str) -> None:
    assert text.lstrip().startswith(strip_statement(text))


def test_a_long_text_takes_no_longer() -> None:
    text = "a = '" + "''[" * 2_000
    assert strip_statement(text) == text
