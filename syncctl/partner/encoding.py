"""Bodies: content types, the JSON of a row (as it is, or mapped by `fields`), and the text of templates.

Values are exact, and the same record gives the same bytes each time (invariant 7).
"""

import codecs
import decimal
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any
from xml.parsers import expat

import simplejson

from syncctl.core.json_text import JsonText
from syncctl.core.mapping import REST, FieldRule, Target
from syncctl.core.records import Record
from syncctl.core.remote_values import REMOTE
from syncctl.core.rows import Value
from syncctl.core.stream import Decimals
from syncctl.partner.call import Unsendable

ENCODING_VERSION = 1
"""Raise this whenever the same record would be encoded to other bytes: its `Idempotency-Key` then changes too."""
EXACT = decimal.Context(prec=100)
"""The context for decimals in templates and schemas: 38-digit decimals stay exact in a sum or a product, everywhere."""

UTF_8 = "utf-8"
_CHARSET = re.compile(r";\s*charset=([^;]*)", re.IGNORECASE)
_DECLARED = re.compile(r"<\?xml[^>]*?\sencoding\s*=\s*[\"']([^\"'{]*)[\"']")
_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
"""The characters that XML cannot represent, not even as a reference (XML 1.0, 2.2)."""
_NOT_IN_A_FORM = re.compile(r"[^\x21-\x7e]|%(?![0-9A-Fa-f]{2})")

_encoder = simplejson.JSONEncoder(
    separators=(",", ":"),
    ensure_ascii=False,
    use_decimal=True,
    allow_nan=False,
    encoding=None,  # type: ignore[arg-type]  # None refuses bytes; the default would read them as UTF-8 text
)


def is_json(content_type: str) -> bool:
    """Tell whether a body of this content type is JSON."""
    media_type = _read_media_type(content_type)
    return media_type == "application/json" or media_type.endswith("+json")


def is_markup(content_type: str) -> bool:
    """Tell whether a body of this content type is XML or HTML."""
    return _read_media_type(content_type).endswith(("/xml", "+xml", "/html"))


def is_xml(content_type: str) -> bool:
    """Tell whether a body of this content type is XML."""
    return _read_media_type(content_type).endswith(("/xml", "+xml"))


def is_form(content_type: str) -> bool:
    """Tell whether a body of this content type is a form."""
    return _read_media_type(content_type) == "application/x-www-form-urlencoded"


def _read_media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def encode_body(record: Record, decimals: Decimals = "number") -> bytes:
    """Return the JSON of a record's payload, or of its key if it has no payload (a delete).

    Columns keep their order, and decimals and integers all their digits. Safe to repeat: the same record gives
    the same bytes, in every process.

    Args:
        decimals: `string` writes decimals as strings without an exponent, for readers whose numbers are floats.

    Raises:
        Unsendable: JSON cannot represent a value; the error names its column.
    """
    return _encode_values(_prepare_values(choose_values(record), decimals))


def choose_values(record: Record) -> Mapping[str, Value]:
    """Return the columns from which a call is made: the row, or the key if there is no row (a delete)."""
    return record.key if record.payload is None else record.payload


def encode_text(value: object) -> str:
    """Return the JSON of a value.

    Raises:
        ValueError, TypeError, OverflowError: JSON cannot represent the value.
    """
    return _encoder.encode(value)


def write_raw(text: str) -> Any:
    """Wrap a text that is already JSON, so that the encoder writes it unchanged."""
    return simplejson.RawJSON(text)


def check_json(text: str) -> None:
    """Check that a text is one JSON document.

    Raises:
        Unsendable: the text is not JSON; the error names the place, and never shows the text there.
    """
    try:
        # Numbers stay text: a partner may accept larger ones than Python.
        simplejson.loads(text, parse_int=str, parse_float=str)
    except simplejson.JSONDecodeError as error:
        # The library's message is a pattern; the part from the percent sign on would show a character of the body.
        wrong = str(error.msg).partition("%")[0].strip()
        raise Unsendable(f"the body is not JSON: line {error.lineno}, column {error.colno}: {wrong}") from error
    except RecursionError as error:
        raise Unsendable("the body is not JSON: it is nested too deeply") from error


class FieldMap:
    """A stream's mapping of `fields`: columns selected, renamed, nested, with constants, in the order of the rules."""

    def __init__(self, rules: Sequence[FieldRule], decimals: Decimals) -> None:
        self._rules = tuple(rules)
        self._decimals = decimals
        self._named = {rule.column for rule in rules}
        #: The names of the partner's values that the mapping uses.
        self.remote_names = frozenset(
            rule.column[len(REMOTE) :] for rule in rules if rule.column is not None and rule.column.startswith(REMOTE)
        )

    def encode(self, record: Record) -> bytes:
        """Return the JSON of a record. Safe to repeat: the same record gives the same bytes.

        A record without a row (a delete) has only the columns of its key: fields of other columns are left out.

        Raises:
            Unsendable: the row lacks a column, or JSON cannot represent a value.
        """
        values = _prepare_values(choose_values(record), self._decimals)
        remote = _prepare_values({REMOTE + name: value for name, value in record.remote.items()}, self._decimals)
        document: dict[str, Any] = {}
        for rule in self._rules:
            if rule.column == REST:
                self._put_rest(document, rule.target, values)
            elif rule.column is None:
                _find_object(document, rule.target[:-1])[rule.target[-1]] = rule.constant
            elif rule.column.startswith(REMOTE):
                # The value is left out until the partner has returned it, as in the call that creates its object.
                if rule.column in remote:
                    _find_object(document, rule.target[:-1])[rule.target[-1]] = remote[rule.column]
            elif rule.column in values:
                _find_object(document, rule.target[:-1])[rule.target[-1]] = values[rule.column]
            elif record.payload is not None:
                field = ".".join(rule.target)
                raise Unsendable(f"field {field} needs column {rule.column}, which the row does not have")
        return _encode_values(document)

    def _put_rest(self, document: dict[str, Any], target: Target, values: Mapping[str, Value]) -> None:
        """Add the columns that no rule names; a rule for the same field takes precedence."""
        depth = len(target)
        inner = [rule.target for rule in self._rules if len(rule.target) > depth and rule.target[:depth] == target]
        taken = {field[depth] for field in inner}
        inside = _find_object(document, target)
        for column, value in values.items():
            if column not in self._named and column not in taken:
                inside[column] = value


def _find_object(document: dict[str, Any], path: Target) -> dict[str, Any]:
    """Return the object at a path; create it if there is none."""
    for name in path:
        document = document.setdefault(name, {})
    return document


def _prepare_values(values: Mapping[str, Value], decimals: Decimals) -> dict[str, Any]:
    """Return columns in the form that the encoder accepts.

    Raises:
        Unsendable: JSON cannot represent a decimal; the error names its column.
    """
    prepared: dict[str, Any] = dict(values)
    for column, value in values.items():
        if type(value) not in _AS_IS:
            try:
                prepared[column] = prepare_value(value, decimals)
            except ValueError as error:
                raise Unsendable(f"column {column} is {error}, which JSON cannot represent") from error
    return prepared


_AS_IS = frozenset({str, int, float, bool, type(None)})


def prepare_value(value: Value, decimals: Decimals) -> Any:
    """Return a value in the form that the encoder accepts; a JSON document stays unchanged, whatever `decimals` is.

    Raises:
        ValueError: JSON cannot represent a decimal; the error's text is that decimal.
    """
    if isinstance(value, Decimal):
        # The encoder writes a decimal as its text, and would let NaN and Infinity through.
        if not value.is_finite():
            raise ValueError(str(value))
        return f"{value:f}" if decimals == "string" else value
    if isinstance(value, JsonText):
        return write_raw(value.text)
    if isinstance(value, dict):
        return {
            name: inner if type(inner) in _AS_IS else prepare_value(inner, decimals) for name, inner in value.items()
        }
    if isinstance(value, list):
        return [inner if type(inner) in _AS_IS else prepare_value(inner, decimals) for inner in value]
    return value


def _encode_values(values: Mapping[str, object]) -> bytes:
    try:
        return _encoder.encode(values).encode("utf-8")
    except (ValueError, TypeError, OverflowError) as error:
        raise Unsendable(_explain_unencodable(values, error)) from error


def _explain_unencodable(values: Mapping[str, object], error: Exception) -> str:
    """Name the column that cannot be encoded."""
    for column, value in values.items():
        try:
            _encoder.encode({column: value}).encode("utf-8")
        except UnicodeEncodeError:
            return f"column {column!r} holds half a surrogate pair, which UTF-8 cannot represent"
        except (ValueError, TypeError, OverflowError) as cause:
            return f"column {column} cannot be written as JSON: {cause}"
    return f"the row cannot be written as JSON: {type(error).__name__}"


def find_codec(content_type: str, template: str = "") -> str:
    """Return the text encoding of a body: from the content type, otherwise the XML declaration, otherwise UTF-8.

    Args:
        template: The template of the body, which may begin with an XML declaration.

    Raises:
        ValueError: The encoding is unknown, the two contradict each other, or the content type allows only UTF-8.
    """
    match = _CHARSET.search(content_type)
    charset = None if match is None else match[1].strip()
    named = None if charset is None else read_codec(charset)
    declared = find_declared(template) if is_xml(content_type) else None
    if named is not None and declared is not None and named != declared:
        raise ValueError(f"the XML declaration says {declared}, and content_type says {named}; they must be the same")
    codec = named or declared or UTF_8
    if is_json(content_type) and codec != UTF_8:
        raise ValueError(f"JSON is always UTF-8 (RFC 8259); leave charset={charset} out")
    if is_form(content_type) and codec != UTF_8:
        raise ValueError(f"values in a form are encoded as UTF-8; leave charset={charset} out")
    return codec


def find_declared(text: str) -> str | None:
    """Return the encoding that an XML declaration states; None if there is none."""
    match = _DECLARED.match(text.lstrip("\ufeff"))
    return None if match is None else read_codec(match[1])


def read_codec(name: str) -> str:
    """Return the usual name of a text encoding.

    Raises:
        ValueError: The encoding is unknown.
    """
    try:
        "".encode(name)
        return codecs.lookup(name).name
    except (LookupError, ValueError):
        raise ValueError(f"{name!r} is not a text encoding; leave it out for UTF-8") from None


class BodyContent:
    """Turns the text of a body into bytes of its content type.

    Raises:
        ValueError: See `find_codec`.
    """

    def __init__(self, content_type: str, template: str) -> None:
        self.codec = find_codec(content_type, template)
        self._is_json = is_json(content_type)
        self._is_form = is_form(content_type)
        self._is_xml = is_xml(content_type)
        self._is_markup = is_markup(content_type)

    def check_own_texts(self, texts: Iterable[tuple[int, str]]) -> None:
        """Check the texts that a template itself writes, each with its line: a bad one would fail every row.

        Raises:
            ValueError: A text has a character that the body cannot represent; the error names the line.
        """
        for line, text in texts:
            wrong = _NOT_IN_XML.search(text) if self._is_markup else None
            at, kind = (None, "") if wrong is None else (wrong.start(), "XML" if self._is_xml else "HTML")
            try:
                text.encode(self.codec)
            except UnicodeEncodeError as error:
                at, kind = error.start, self.codec.upper()
            if at is not None:
                line += text.count("\n", 0, at)  # noqa: PLW2901
                raise ValueError(f"line {line}: the text holds U+{ord(text[at]):04X}, which {kind} cannot represent")

    def encode(self, text: str, row: Mapping[str, Value]) -> bytes:
        """Return the bytes of a body.

        Args:
            row: The columns from which it was made, to name the one with a character that the body cannot represent.

        Raises:
            Unsendable: The text is not what the content type says.
        """
        if self._is_json:
            check_json(text)
        elif self._is_markup:
            _refuse(_NOT_IN_XML, text, row, "XML" if self._is_xml else "HTML")
        elif self._is_form and (match := _NOT_IN_A_FORM.search(text)):
            # Values were already checked when they were written.
            raise Unsendable(f"the body holds U+{ord(match[0]):04X}, which must be percent-encoded in a form")
        if self._is_xml:
            self._check_xml(text)
        try:
            return text.encode(self.codec)
        except UnicodeEncodeError as error:
            letter = error.object[error.start]
            if "\ud800" <= letter <= "\udfff":
                raise Unsendable("the body holds half a surrogate pair, which UTF-8 cannot represent") from error
            raise Unsendable(_describe(letter, row, self.codec.upper())) from error

    def _check_xml(self, text: str) -> None:
        try:
            declared = find_declared(text)
        except ValueError as error:
            # The name is a value of the row.
            raise Unsendable("the body is not XML: its declaration names an unknown encoding") from error
        if declared is not None and declared != self.codec:
            raise Unsendable(f"the body is sent as {self.codec}, and its XML declaration says {declared}")
        # The document's own encoding declaration is about its bytes, but this is text.
        parser = expat.ParserCreate(encoding=UTF_8)
        try:
            parser.Parse(text.encode(UTF_8), True)
        except expat.ExpatError as error:
            wrong = expat.errors.messages[error.code]
            raise Unsendable(f"the body is not XML: line {error.lineno}, column {error.offset + 1}: {wrong}") from error


def _refuse(pattern: re.Pattern[str], text: str, row: Mapping[str, Value], kind: str) -> None:
    match = pattern.search(text)
    if match is not None:
        raise Unsendable(_describe(match[0], row, kind))


def _describe(letter: str, row: Mapping[str, Value], kind: str) -> str:
    columns = [column for column, value in row.items() if _holds(value, letter)]
    where = f"column {columns[0]}" if columns else "the body"
    return f"{where} holds U+{ord(letter):04X}, which {kind} cannot represent"


def _holds(value: Any, letter: str) -> bool:
    """Tell whether a character occurs in a value, or in a value nested in it."""
    if isinstance(value, JsonText):
        # Some characters are written as escapes there.
        return letter in value.text or json.dumps(letter)[1:-1] in value.text
    if isinstance(value, dict):
        return any(_holds(inner, letter) for inner in value.values())
    if isinstance(value, list):
        return any(_holds(inner, letter) for inner in value)
    return isinstance(value, str) and letter in value
