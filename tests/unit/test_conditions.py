"""Conditions on the JSON of an answer."""

from typing import Any

import pytest

from syncctl.core.conditions import parse_condition, parse_path

ANSWER: dict[str, Any] = {"success": True, "errors": [], "result": {"status": "ok", "items": [{"id": 7}]}, "code": 0}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("success", True),
        ("$.success", True),
        ("success=true", True),
        ("success=1", False),
        ("errors", False),
        ("result.status=ok", True),
        ("result.status == ok", True),
        ('result.status="ok"', True),
        ("result.status=fine", False),
        ("result.items[0].id=7", True),
        ("result.items[1].id=7", False),
        ("result.items.id=7", False),
        ("code=0", True),
        ("code=false", False),
        ("code", False),
        ("nothing.here", False),
    ],
)
def test_a_condition_holds_or_does_not(text: str, holds: bool) -> None:
    assert parse_condition(text).holds(ANSWER) is holds


@pytest.mark.parametrize("document", [None, [], "ok", 5, True])
def test_an_answer_of_another_shape_decides_nothing(document: object) -> None:
    assert parse_condition("success=true").holds(document) is False


@pytest.mark.parametrize("text", ["", " ", "=ok", "a[", "a[x]", "a b", "[]"])
def test_a_text_that_is_not_a_path_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a path into JSON"):
        parse_path(text.partition("=")[0])
