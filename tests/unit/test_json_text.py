"""JSON documents in columns: which texts are one, and how they are kept, read and sent."""

import json
import pickle
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncctl.core.json_text import CHARACTERS_AT_MOST, LEVELS_AT_MOST, JsonNumber, JsonText, NotJson, read_json

SCALARS = st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
DOCUMENTS = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("a\0$.é\"\\/", max_size=3), inner)
)  # fmt: skip


@given(DOCUMENTS, st.booleans(), st.sampled_from([None, 1, "\t"]))
def test_any_document_is_kept_as_compact_text_with_the_same_values(
    document: Any, is_ascii: bool, indent: int | str | None
) -> None:
    written = json.dumps(document, ensure_ascii=is_ascii, indent=indent)
    kept = read_json(written)
    assert kept.text == json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    assert kept.parse() == document
    assert read_json(kept.text) == kept


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ('{"b": 1.50, "a" :-0 , "c":1e400}', '{"b":1.50,"a":-0,"c":1e400}'),
        ("[0.1000000000000000055511151231257827, 1E+2]", "[0.1000000000000000055511151231257827,1E+2]"),
        ('\ufeff{"a": 1}', '{"a":1}'),
        ("  null ", "null"),
        ("5", "5"),
        ('"a b"', '"a b"'),
        (r'"\u00e9\/\u0000\ud83d\ude00"', '"é/\\u0000😀"'),
        (r'{"\u0061 b": "x\ty"}', '{"a b":"x\\ty"}'),
        ("[" * LEVELS_AT_MOST + "]" * LEVELS_AT_MOST, "[" * LEVELS_AT_MOST + "]" * LEVELS_AT_MOST),
        ('["' + "[" * 200 + '"]', '["' + "[" * 200 + '"]'),
        ('{"a":{"a":1},"b":[{"a":1},{"a":2}]}', '{"a":{"a":1},"b":[{"a":1},{"a":2}]}'),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_numbers_keep_all_their_digits_and_keys_their_order(text: str, kept: str) -> None:
    assert read_json(text) == JsonText(kept)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "the text is empty"),
        (" \n", "the text is empty"),
        ("{", "line 1, column 2: expecting property name enclosed in double quotes"),
        ('{"a": 1\n "b": 2}', "line 2, column 2: expecting ',' delimiter"),
        ("[1, 2] 3", "line 1, column 8: extra data"),
        ('["secret]', "line 1, column 2: unterminated string"),
        ('["a\tb"]', "line 1, column 4: invalid control character"),
        (r'["\x"]', "line 1, column 3: invalid \\escape"),
        ("[01]", "line 1, column 3: expecting ',' delimiter"),
        ("{'a': 1}", "line 1, column 2: expecting property name enclosed in double quotes"),
        ("hello", "line 1, column 1: expecting value"),
        ("\xa0[]", "line 1, column 1: expecting value"),
        ('["NaN", NaN]', "line 1, column 9: NaN is not a number of JSON"),
        ("[-Infinity]", "line 1, column 2: -Infinity is not a number of JSON"),
        ('{"a": 1, "b": {"c": 1,\n "c": 2}}', "line 2, column 2: the object has this key already"),
        (r'{"a": [{}], "\u0061": 2}', "line 1, column 13: the object has this key already"),
        ('["\ud800"]', "line 1, column 3: half of a surrogate pair, which UTF-8 cannot represent"),
        (r'["ok", "\udc00"]', "line 1, column 8: half of a surrogate pair, which UTF-8 cannot represent"),
        ("[" * 65 + "]" * 65, "line 1, column 65: nested more than 64 levels deep"),
        ("[" * 10_000, "line 1, column 65: nested more than 64 levels deep"),
        ('{"a":' * 10_000 + "1" + "}" * 10_000, "line 1, column 321: nested more than 64 levels deep"),
        ("1" * (CHARACTERS_AT_MOST + 1), "it has 16,777,217 characters, and the ledger stores at most 16,777,216"),
    ],
)
def test_a_text_that_is_no_document_is_refused_with_its_place(text: str, why: str) -> None:
    with pytest.raises(NotJson) as refused:
        read_json(text)
    assert str(refused.value) == why
    assert refused.value.__cause__ is None


def test_a_refusal_shows_nothing_of_the_text() -> None:
    for text in ('{"secret": 1, "secret": 2}', '["secret" "secret"]', '["secret\\x"]', '["secret\udc00"]', "secret"):
        with pytest.raises(NotJson) as refused:
            read_json(text)
        assert "secret" not in str(refused.value)


def test_numbers_are_read_so_that_they_can_be_written_as_they_were() -> None:
    text = "[1,-0,1.50,1e5,1e400,-7]"
    numbers = JsonText(text).parse()
    assert numbers == [1, Decimal("-0"), Decimal("1.50"), Decimal("1e5"), Decimal("1e400"), -7]
    assert [type(number) for number in numbers] == [int, *[JsonNumber] * 4, int]
    assert [number.literal for number in numbers[1:5]] == ["-0", "1.50", "1e5", "1e400"]


@pytest.mark.parametrize("literal", ["1e999999999", "-1e-99999999999999999999", "9" * 5000, "0." + "1" * 2000])
def test_a_number_that_no_computation_could_bear_stays_text(literal: str) -> None:
    assert JsonText(literal).parse() == JsonText(literal)
    assert JsonText(f'{{"a":[{literal}]}}').parse() == {"a": [JsonText(literal)]}


def test_a_document_is_a_value_that_cannot_be_changed() -> None:
    document = JsonText("[1]")
    with pytest.raises(AttributeError):
        document.text = "[2]"  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(document)) == document  # noqa: S301
    assert (str(document), document == "[1]") == ("[1]", False)
