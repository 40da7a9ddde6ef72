"""Conditions on the JSON of an answer."""

from typing import Any

import pytest

from syncctl.core.answer_conditions import parse_condition, parse_path

ANSWER: dict[str, Any] = {"success": True, "errors": [], "result": {"status": "ok", "items": [{"id": 7}]}, "code": 0}
ANSWER["odd name, with.signs!"] = 1


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
        ("!errors", True),
        ("!nothing.here", True),
        ("!success", False),
        ("!result", False),
        ("result.status!=ok", False),
        ("result.status!=fine", True),
        ("result.status != 'fine'".replace("'", '"'), True),
        ("nothing.here!=x", True),
        ("nothing.here=null", True),
        ("nothing.here!=null", False),
        ("success!=null", True),
        ("code=0.0", True),
        ("errors=[]", True),
        ('"odd name, with.signs!"=1', True),
        ('result."status"=ok', True),
    ],
)
def test_a_condition_holds_or_does_not(text: str, holds: bool) -> None:
    assert parse_condition(text).holds(ANSWER) is holds


@pytest.mark.parametrize("document", [None, [], "ok", 5, True])
def test_an_answer_of_another_shape_decides_nothing(document: object) -> None:
    for text in ("success=true", "!errors", "success!=false", "success!=null", "success=null"):
        assert parse_condition(text).holds(document) is False


@pytest.mark.parametrize(
    "text",
    [
        *("errors!", "errors !", "!!errors", "!errors=x", "!", "!=x", "code>5", "code>=5", "code<5", "code=>5", "a~b"),
        *("code=", "code!=", "code=!5", "code===5", "code=x=y", "code='x'", "errors=[", 'code="x'),
        *("a && b", "a=1 && b=2", "a=1 || b", "a, b", "a and b", "a(b)", "a|b", "a?b", "*.code", "a..b", "a.", "a[-1]"),
        *("result .status", "result. status", "a[0]b", "a[b]", "'a'=1", "$", "a+b=c"),
    ],
)
def test_a_text_that_would_hold_for_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not (a|one) (condition|path)|names no value"):
        parse_condition(text)


@pytest.mark.parametrize(
    ("text", "there"), [("code", "0"), ("result.status", '"ok"'), ("nothing.here", "nothing"), ("result", '{"status"')]
)
def test_what_stands_there_can_be_said(text: str, there: str) -> None:
    assert parse_condition(text).describe(ANSWER).startswith(there)


@pytest.mark.parametrize("text", ["", " ", "=ok", "a[", "a[x]", "a b", "[]"])
def test_a_text_that_is_not_a_path_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a path into JSON"):
        parse_path(text.partition("=")[0])
