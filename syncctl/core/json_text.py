"""A JSON document that a column holds: checked when it is read, kept as text, and sent unchanged."""

import json
import re
from dataclasses import dataclass
from decimal import Decimal
from itertools import accumulate
from json.decoder import scanstring  # type: ignore[attr-defined]
from json.encoder import encode_basestring
from operator import itemgetter
from typing import Any

LEVELS_AT_MOST = 64
"""The deepest nesting of objects and lists."""
CHARACTERS_AT_MOST = 16 * 1024 * 1024
"""The longest document; MongoDB stores no larger row."""
_DIGITS_AT_MOST = 1000
"""The most digits of a number that templates compute with; a larger one, written out, could fill a worker's memory."""

_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[^"\[\]{}:, \t\r\n]+|[\[\]{}:,]', re.DOTALL)
"""A string, a bracket, a colon, a comma, or a number or word."""
_BLANK = re.compile(r"[ \t\r\n]")
_HALF = "half of a surrogate pair, which UTF-8 cannot represent"
_BRACKET = re.compile(r'"(?:[^"\\]++|\\.)*+"?|([\[\]{}])', re.DOTALL)
"""A string, or a bracket outside of one."""
_OPENING, _CLOSING = frozenset("[{"), frozenset("]}")
_STEPS = {"[": 1, "{": 1, "]": -1, "}": -1}


class NotJson(ValueError):
    """A text is not a JSON document; the message says where and why, and shows nothing of the text."""


class JsonNumber(Decimal):
    """A number of a JSON document, which is written exactly as in that document: `1.50`, `-0`, `1e5`."""

    __slots__ = ("literal",)
    literal: str

    def __new__(cls, literal: str) -> "JsonNumber":
        number = super().__new__(cls, literal)
        number.literal = literal
        return number


@dataclass(frozen=True, slots=True)
class JsonText:
    """A JSON document as compact text: no blanks between its tokens, keys in their order, numbers as they were written.

    `read_json` makes one from any text; a text that is passed directly must be one that `read_json` has returned.
    """

    text: str

    def __str__(self) -> str:
        return self.text

    def parse(self) -> Any:
        """Return the document: objects as dict, lists as list, whole numbers as int, other numbers as `JsonNumber`.

        A number with more than a thousand digits, or with as large an exponent, stays a `JsonText`.
        """
        return _reader.decode(self.text)


def _read_int(literal: str) -> Any:
    return _read_number(literal) if literal == "-0" or len(literal) > _DIGITS_AT_MOST else int(literal)


def _read_number(literal: str) -> Any:
    if len(literal) > _DIGITS_AT_MOST:
        return JsonText(literal)
    try:
        number = JsonNumber(literal)
    except ArithmeticError:
        return JsonText(literal)
    return number if abs(number.adjusted()) <= _DIGITS_AT_MOST else JsonText(literal)


_reader = json.JSONDecoder(parse_int=_read_int, parse_float=_read_number)


def read_json(text: str) -> JsonText:
    """Read a text as a JSON document.

    Raises:
        NotJson: The text is not JSON, has the same key twice in an object, is nested more than 64 levels deep, is
            longer than the ledger stores, or holds a character that UTF-8 cannot represent.
    """
    # RFC 8259, 8.1: a reader may ignore a byte order mark.
    text = text.removeprefix("\ufeff")
    if len(text) > CHARACTERS_AT_MOST:
        raise NotJson(f"it has {len(text):,} characters, and the ledger stores at most {CHARACTERS_AT_MOST:,}")
    if not text.strip(" \t\r\n"):
        raise NotJson("the text is empty")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise _refuse(text, error.start, _HALF) from None
    # The standard library's reader recurses for each level.
    if text.count("[") + text.count("{") > LEVELS_AT_MOST and _count_levels(text) > LEVELS_AT_MOST:
        raise _refuse(text, _find_level(text), f"nested more than {LEVELS_AT_MOST} levels deep")
    try:
        _checker.decode(text)
    except json.JSONDecodeError as error:
        raise _refuse(text, error.pos, _describe(error.msg)) from None
    except _SecondKey:
        raise _refuse(text, _find_second_key(text), "the object has this key already") from None
    except _NoNumber as error:
        raise _refuse(text, _find_token(text, str(error)), f"{error} is not a number of JSON") from None
    return JsonText(_compact(text))


def _refuse(text: str, at: int, why: str) -> NotJson:
    line = text.count("\n", 0, at) + 1
    return NotJson(f"line {line}, column {at - text.rfind(chr(10), 0, at)}: {why}")


def _describe(message: str) -> str:
    """Return the standard library's message as the end of a line."""
    return f"{message[:1].lower()}{message[1:]}".removesuffix(" at").removesuffix(" starting")


class _SecondKey(Exception):
    pass


class _NoNumber(Exception):
    pass


def _check_keys(pairs: list[tuple[str, Any]]) -> None:
    """Check the keys of an object, and keep nothing of it."""
    if len(pairs) > 1 and len(dict(pairs)) < len(pairs):
        raise _SecondKey


def _refuse_word(word: str) -> None:
    raise _NoNumber(word)


_checker = json.JSONDecoder(
    object_pairs_hook=_check_keys, parse_int=str, parse_float=str, parse_constant=_refuse_word, strict=True
)


def _count_levels(text: str) -> int:
    brackets = filter(None, map(itemgetter(1), _BRACKET.finditer(text)))
    return max(accumulate(map(_STEPS.__getitem__, brackets)), default=0)


def _find_level(text: str) -> int:
    """Return where the first level beyond the limit begins."""
    level = 0
    for match in _TOKEN.finditer(text):
        level += _STEPS.get(match[0], 0)
        if level > LEVELS_AT_MOST:
            return match.start()
    return 0


def _find_second_key(text: str) -> int:
    """Return where an object repeats one of its keys; up to there, the text is JSON."""
    levels: list[set[str]] = []
    last: re.Match[str] | None = None
    for match in _TOKEN.finditer(text):
        sign = match[0]
        if sign in _OPENING:
            levels.append(set())
        elif sign in _CLOSING:
            levels.pop()
        elif sign == ":" and last is not None:
            key, _ = scanstring(last[0], 1)
            if key in levels[-1]:
                return last.start()
            levels[-1].add(key)
        last = match
    return 0


def _find_token(text: str, token: str) -> int:
    return next((match.start() for match in _TOKEN.finditer(text) if match[0] == token), 0)


def _compact(text: str) -> str:
    """Return JSON without the blanks between its tokens, and with only the necessary escapes.

    Raises:
        NotJson: An escape stands for half of a surrogate pair.
    """
    if "\\" not in text and _BLANK.search(text) is None:
        return text
    tokens: list[str] = _TOKEN.findall(text)
    if "\\" in text:
        tokens = [_respell(token, text) if "\\" in token else token for token in tokens]
    return "".join(tokens)


def _respell(token: str, text: str) -> str:
    """Return a string with escapes in its shortest form."""
    value, _ = scanstring(token, 1)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _refuse(text, _find_token(text, token), _HALF) from None
    return str(encode_basestring(value))
