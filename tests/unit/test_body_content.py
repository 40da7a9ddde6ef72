"""A body is what its content type says, or its record is not sent."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from syncctl.core.rows import Value
from syncctl.core.stream import Stream
from syncctl.errors import ConfigurationError
from syncctl.partner.call import Unsendable
from syncctl.partner.encoding import find_codec
from syncctl.partner.endpoint import Endpoints
from syncctl.partner.request.builder import RequestBuilder
from syncctl.settings import load_settings
from tests.harness.cases import make_partner, make_record, make_stream

XML, FORM = "application/xml", "application/x-www-form-urlencoded"
ORDER = '<order id="{{ row.id }}"><name>{{ row.name }}</name></order>'


def make_builder(stream: Stream) -> RequestBuilder:
    return RequestBuilder(Endpoints(make_partner("http://h"), stream), stream)


def make_body(body: str, content_type: str | None, **row: Value) -> bytes:
    stream = make_stream(body=body, content_type=content_type)
    made = make_builder(stream).make_body(make_record(7, {"id": 7, **row}))
    assert made is not None
    return made


@pytest.mark.parametrize("kind", [XML, "text/xml", "application/soap+xml; charset=utf-8", "image/svg+xml"])
def test_xml_is_sent_as_it_was_written(kind: str) -> None:
    name = "Müller & <Söhne> \t\n 漢 🚚 \x85"
    made = make_body(f'<?xml version="1.0"?>\n{ORDER}', kind, name=name)
    assert made.decode() == (
        '<?xml version="1.0"?>\n<order id="7"><name>Müller &amp; &lt;Söhne&gt; \t\n 漢 🚚 \x85</name></order>'
    )


@pytest.mark.parametrize("letter", ["\x00", "\x01", "\x0b", "\x1f", "\ufffe", "\uffff"])
@pytest.mark.parametrize(("kind", "named"), [(XML, "XML"), ("application/soap+xml", "XML"), ("text/html", "HTML")])
def test_a_character_that_xml_has_no_form_for_is_named_with_its_column(letter: str, kind: str, named: str) -> None:
    with pytest.raises(Unsendable) as caught:
        make_body(ORDER, kind, name=f"a{letter}b")
    assert caught.value.reason == f"column name holds U+{ord(letter):04X}, which {named} cannot represent"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("<a>{{ row.name | safe }}</a>", "line 1, column 5: not well-formed"),
        ("<a>\n<b>{{ row.id }}</a>", "line 2, column 7: mismatched tag"),
        ("<a/><b/>", "junk after document element"),
        ("{% if row.id > 9 %}<a/>{% endif %}", "no element found"),
        ("{{ row.id }}", "syntax error"),
        ("<a>&#1;</a>", "reference to invalid character number"),
        ("<a>&nbsp;</a>", "undefined entity"),
        (" <?xml version='1.0'?><a/>", "not at start"),
        ('<?xml version="1.0" encoding="{{ row.name }}"?><a/>', "its declaration names an unknown encoding"),
    ],
)
def test_what_is_not_xml_is_not_sent(body: str, reason: str) -> None:
    with pytest.raises(Unsendable, match="the body is not XML: ") as caught:
        make_body(body, XML, name="< &")
    assert reason in caught.value.reason


def test_a_declaration_that_a_value_made_cannot_contradict_the_bytes() -> None:
    with pytest.raises(Unsendable, match="sent as utf-8, and its XML declaration says iso8859-1"):
        make_body('<?xml version="1.0" encoding="{{ row.name }}"?><a/>', XML, name="latin-1")


@pytest.mark.parametrize(
    ("content_type", "body", "sent"),
    [
        ("text/plain; charset=iso-8859-1", "{{ row.name }}", b"M\xfcller"),
        ('text/plain; charset="UTF-16BE"'.replace('"', ""), "{{ row.name }}", "Müller".encode("utf-16-be")),
        ("application/xml; charset=windows-1252", "<a>{{ row.name }}</a>", b"<a>M\xfcller</a>"),
        (
            "application/xml",
            "<?xml version='1.0' encoding='ISO-8859-1'?><a>{{ row.name }}</a>",
            b"<?xml version='1.0' encoding='ISO-8859-1'?><a>M\xfcller</a>",
        ),
        ("text/csv; header=present", "{{ row.name }}", "Müller".encode()),
    ],
)
def test_text_is_encoded_as_it_says(content_type: str, body: str, sent: bytes) -> None:
    assert make_body(body, content_type, name="Müller") == sent


def test_a_letter_that_the_encoding_does_not_have_is_named_with_its_column() -> None:
    with pytest.raises(Unsendable) as caught:
        make_body("{{ row.name }}", "text/plain; charset=iso-8859-1", name="漢字")
    assert caught.value.reason == "column name holds U+6F22, which ISO8859-1 cannot represent"
    with pytest.raises(Unsendable, match="half a surrogate pair"):
        make_body("{{ row.name }}", "text/plain", name="\ud800")


@pytest.mark.parametrize(
    ("content_type", "body", "why"),
    [
        (
            "text/plain; charset=iso-8859-1",
            "a\n漢 {{ row.name }}",
            "line 2: the text holds U+6F22, which ISO8859-1 cannot represent",
        ),
        (XML, "<a>{{ row.id }}\x01{{ row.name }}</a>", "line 1: the text holds U+0001, which XML cannot represent"),
        (
            "text/html",
            "{% if row.id %}\n<p>\n\x02{% endif %}",
            "line 3: the text holds U+0002, which HTML cannot represent",
        ),
    ],
)
def test_text_of_a_template_without_a_form_is_refused_with_the_settings(
    tmp_path: Path, content_type: str, body: str, why: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make_body(body, content_type, name="漢\x01\x02")
    assert why in caught.value.why
    stream = f"[streams.orders]\ntable='orders'\nstart='now'\ncontent_type='{content_type}'\nbody={json.dumps(body)}\n"
    (tmp_path / "syncctl.toml").write_text(stream)
    with pytest.raises(ConfigurationError, match=re.escape(why)):
        load_settings(directory=tmp_path, environment={})


@pytest.mark.parametrize(
    ("content_type", "body", "why"),
    [
        ("application/json; charset=iso-8859-1", "{}", "JSON is always UTF-8"),
        (f"{FORM}; charset=latin-1", "a=1", "encoded as UTF-8"),
        ("text/plain; charset=klingon", "x", "'klingon' is not a text encoding"),
        ("text/plain; charset=base64", "x", "'base64' is not a text encoding"),
        ("application/xml; charset=utf-8", "<?xml version='1.0' encoding='latin-1'?><a/>", "must be the same"),
        (XML, "<?xml version='1.0' encoding='klingon'?><a/>", "'klingon' is not a text encoding"),
    ],
)
def test_an_encoding_that_cannot_be_is_refused_with_the_settings(content_type: str, body: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        find_codec(content_type, body)
    with pytest.raises(ConfigurationError) as caught:
        make_body(body, content_type)
    assert why in caught.value.why


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        ("id={{ row.id }}&name={{ row.name | urlencode }}", b"id=7&name=a%26b%3D%C3%BC%20%2B"),
        ("note={{ row.note }}&more={{ row.note | urlencode }}", b"note=&more="),
        ("{{ {'a': row.name} | urlencode }}", b"a=a%26b%3D%C3%BC+%2B"),
        ("{{ 'a=' ~ (row.name | urlencode) ~ '&b=' ~ row.id }}", b"a=a%26b%3D%C3%BC%20%2B&b=7"),
        (
            "{% macro f(n, v) %}{{ n }}={{ v | urlencode }}{% endmacro %}{{ f('a', row.name) }}",
            b"a=a%26b%3D%C3%BC%20%2B",
        ),
        ("a={{ 1 if row.id > 9 else row.day }}", b"a=2026-01-01"),
        ("a={{ row.amount }}", b"a=1.50"),
        ("{{ ('x' ~ '=' ~ row.id) | safe }}", b"x=7"),
        ('a={{ row.name | urlencode | replace("%20", "+") }}', b"a=a%26b%3D%C3%BC+%2B"),
        ("{% set q = row.name | urlencode %}a={{ q }}", b"a=a%26b%3D%C3%BC%20%2B"),
        ("{% set q = row.name | urlencode %}{% set r = q %}a={{ r }}", b"a=a%26b%3D%C3%BC%20%2B"),
        ("a={% filter urlencode %}{{ row.name }}{{ row.note }}{% endfilter %}", b"a=a%26b%3D%C3%BC%20%2B"),
        ("a={% filter lower | urlencode %}{{ row.name }} X{% endfilter %}", b"a=a%26b%3D%C3%BC%20%2B%20x"),
        ("{% set q %}{{ row.name }} & more{% endset %}a={{ q | urlencode }}", b"a=a%26b%3D%C3%BC%20%2B%20%26%20more"),
        ("{% set q %}{{ row.name }}{% endset %}a={{ q | trim | urlencode }}", b"a=a%26b%3D%C3%BC%20%2B"),
        ("{% set q %}{{ row.name }}{% endset %}{% if q %}a={{ q | urlencode }}{% endif %}", b"a=a%26b%3D%C3%BC%20%2B"),
        ("{% set q | urlencode %}{{ row.name }}{% endset %}a={{ q }}", b"a=a%26b%3D%C3%BC%20%2B"),
        ("{% set q %}a={{ row.name | urlencode }}&b=1{% endset %}{{ q }}", b"a=a%26b%3D%C3%BC%20%2B&b=1"),
        ('a={{ (row.name | urlencode) or "x" }}', b"a=a%26b%3D%C3%BC%20%2B"),
        ('a={{ (row.note | urlencode) or "x" }}', b"a=x"),
        ('{% set sep = "&" %}a=1{{ sep }}b={{ row.id }}', b"a=1&b=7"),
        ('{% set sep = "&" if row.id else "" %}a=1{{ sep }}b={{ row.id }}', b"a=1&b=7"),
        ("{% if row.name | urlencode | length > 3 %}a={{ row.id }}{% endif %}", b"a=7"),
        ("{% set b %}b{% endset %}{% set c = b %}{% set b = c %}a={{ b }}", b"a=b"),
        ("{% set full = row.day ~ ' ' ~ row.id %}a={{ full | urlencode }}", b"a=2026-01-01%207"),
        ("{% for v in [row.name | urlencode] %}a={{ v | safe }}{% endfor %}", b"a=a%26b%3D%C3%BC%20%2B"),
        ("{{ row | urlencode }}", b"id=7&name=a%26b%3D%C3%BC+%2B&note=&day=2026-01-01&amount=1.50"),
    ],
)
def test_a_form_has_its_values_encoded(body: str, sent: bytes) -> None:
    from decimal import Decimal

    row: dict[str, Any] = {"name": "a&b=ü +", "note": None, "day": "2026-01-01", "amount": Decimal("1.50")}
    assert make_body(body, FORM, **row) == sent


@pytest.mark.parametrize("value", ["a&admin=1", "a=b", "50 %", "a b", "1+1", "a\nb", "ü", "a;b", "x#y", "\x00"])
@pytest.mark.parametrize(
    "body",
    [
        "name={{ row.name }}",
        "name={{ 'x' ~ row.name }}",
        "name={{ row.name if row.id else 1 }}",
        "name={{ row.name | lower }}",
        "{% set n = row.name %}name={{ n }}",
        "{% macro f(v) %}name={{ v }}{% endmacro %}{{ f(row.name) }}",
        "{% set n %}{{ row.name }}{% endset %}name={{ n }}",
        "name={{ row.id and row.name }}",
        "name={{ 'x' | replace('x', row.name) }}",
        "{% filter lower %}name={{ row.name }}{% endfilter %}",
        "{% set n = 'x' %}{% set n = row.name %}name={{ n }}",
        "name={{ row.name or 'x' }}",
        "{% set m = row.name %}{% set n = m %}name={{ n }}",
        "{% set n %}x{% endset %}{% set m = n %}{% set n = m %}{% set m = row.name %}{% set n = m %}name={{ n }}",
        "{% set n = 'x' %}{% for n in [row.name] %}name={{ n }}{% endfor %}",
        "{% macro f(n) %}name={{ n }}{% endmacro %}{% set n = 'x' %}{{ f(row.name) }}",
    ],
)
def test_a_value_that_would_change_a_form_is_not_sent(body: str, value: str) -> None:
    with pytest.raises(
        Unsendable, match=r"a value holds U\+[0-9A-F]{4}, which has a meaning of its own in a form; write it with \| ur"
    ):
        make_body(body, FORM, name=value)


@pytest.mark.parametrize(
    ("body", "sign", "line"),
    [
        ("a=1\n&b={{ row.id }}", "000A", 1),
        ("a={{ row.id }}\n&b=2& c=1", "000A", 1),
        ("a={{ row.id }}{% if row.id %}\n&b=2 {% endif %}", "0020", 2),
        ("a=My ERP&b={{ row.id }}", "0020", 1),
        ("a={{ 'ü' }}", "00FC", 1),
        ("a=%2x{{ row.id }}", "0025", 1),
    ],
)
def test_text_of_a_template_that_is_no_form_is_refused_with_the_settings(
    tmp_path: Path, body: str, sign: str, line: int
) -> None:
    why = f"line {line}: the text holds U+{sign}, which must be percent-encoded in a form"
    with pytest.raises(ConfigurationError) as caught:
        make_body(body, FORM, name="a value with a blank, ü and %")
    assert caught.value.why == why
    stream = f"[streams.orders]\ntable = 'orders'\nstart = 'now'\ncontent_type = '{FORM}'\nbody = {json.dumps(body)}\n"
    (tmp_path / "syncctl.toml").write_text(stream)
    with pytest.raises(ConfigurationError, match=re.escape(why)):
        load_settings(directory=tmp_path, environment={})


@pytest.mark.parametrize(
    "body",
    [
        "{% for v in [row.name | urlencode] %}a={{ v }}{% endfor %}",
        "{% macro f(v) %}a={{ v }}{% endmacro %}{{ f(row.name | urlencode) }}",
        "a={{ row.name | urlencode | truncate(5) }}",
        "a={{ (row.name | urlencode).replace('%20', '+') }}",
        "{% set q = row.name | urlencode %}{% set q = row.name %}a={{ q }}",
        "{% filter urlencode | replace('%20', '+') %}{{ row.name }}{% endfilter %}",
    ],
)
def test_an_encoded_value_that_cannot_be_followed_is_refused_with_the_settings(body: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make_body(body, FORM, name="a b")
    assert caught.value.why == (
        "line 1: syncctl cannot follow what becomes of this | urlencode; "
        "write {{ value | urlencode }} where it is sent, or end it in | safe"
    )


def test_a_block_that_is_written_with_and_without_encoding_is_refused_with_the_settings() -> None:
    with pytest.raises(ConfigurationError) as caught:
        make_body("{% set q %}{{ row.name }}{% endset %}\n{{ q | urlencode }}&{{ q }}", FORM, name="a b")
    assert caught.value.why == "line 2: q is written with | urlencode and without; use two names"


@pytest.mark.parametrize("body", ["a={{ row.name | safe }}", "a=%2{{ row.id | string | replace('7', 'x') }}"])
def test_a_body_that_is_not_a_form_is_not_sent(body: str) -> None:
    with pytest.raises(Unsendable, match=r"the body holds U\+[0-9A-F]{4}, which must be percent-encoded in a form"):
        make_body(body, FORM, name="a b")


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"a": -Infinity}', '"a\tb"', '"\x00"', "{}{}", "", "'a'", "01"])
def test_what_is_not_json_is_not_sent(text: str) -> None:
    with pytest.raises(Unsendable, match="the body is not JSON"):
        make_body(text, None)


def test_an_encoding_is_part_of_the_mapping() -> None:
    """The same row has other bytes, so it goes under another key."""
    builders = [
        make_builder(make_stream(body=body, content_type=content_type))
        for content_type, body in ((FORM, "a"), ("text/plain; charset=latin-1", "a"), ("text/plain", "a"))
    ]
    assert len({builder.mapping_hash for builder in builders}) == 3
    assert builders[0]._parts[1:] == ["utf-8"]
    assert builders[1]._parts[1:] == ["iso8859-1"]
    assert builders[2]._parts[1:] == []
