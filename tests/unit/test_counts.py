"""Counts as people write them."""

import pytest

from syncctl.console import format_count


@pytest.mark.parametrize(("number", "said"), [(0, "0 records"), (1, "1 record"), (2000, "2,000 records")])
def test_a_count_of_one_takes_the_singular(number: int, said: str) -> None:
    assert format_count(number, "record") == said
