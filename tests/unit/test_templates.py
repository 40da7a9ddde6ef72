"""Templates: exact JSON of any value, nothing but the record, the same text in every process."""

import json
import os
import re
import subprocess
import sys
from decimal import Decimal
from typing import Any

import pytest
import simplejson
from hypothesis import given
from hypothesis import strategies as st

from syncctl.core.json_text import JsonText
from syncctl.partner.call import Unsendable
from syncctl.partner.request.template import TextTemplate
from tests.harness.cases import make_record

ROW = {"id": 7, "name": 'Ä "x"\n</script>', "amount": Decimal("1.10"), "note": None, "items": "a,b", "ok": True}


def render(source: str, row: dict[str, Any] | None = None, *, json: bool = False, **options: Any) -> str:
    template = TextTemplate(source, title="body", is_json=json, **options)
    return template.render(make_record(payload=ROW if row is None else row))


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ row.id }} {{ row.ok }} {{ row.note }}|", "7 true |"),
        ("{{ row.amount }} {{ row['amount'] * 3 }}", "1.10 3.30"),
        ("{{ row.items }} {{ row.items.split(',') | join('-') }}", "a,b a-b"),
        ("{{ key.id }} {{ op }} {{ stream }}", "7 upsert orders"),
        ("{% for name, value in row | items %}{{ name }} {% endfor %}", "id name amount note items ok "),
        ("{{ row.note | default('none', true) }}", "none"),
        ("{{ (row.items ~ '-' ~ row.id) | upper }}", "A,B-7"),
        ("{{ {'a': row.id} | urlencode }}", "a=7"),
        ("{{ row.amount * 10000000000000000000000000000000000001 }}", "11000000000000000000000000000000000001.10"),
    ],
)
def test_a_template_writes_the_values_of_a_row(source: str, text: str) -> None:
    assert render(source) == text


RECURSIVE = """
{% for x in [[1, 2]] recursive %}
{{ "[" if x is sequence else x | json }}{{ loop(x) if x is sequence }}{{ "]" if x is sequence else "," if loop.first }}
{% endfor %}"""


@pytest.mark.parametrize(
    ("source", "sent"),
    [
        ('{"a": {{ row.name | json }}}', {"a": ROW["name"]}),
        ('{"a": {{ row.amount | json }}, "b": {{ row.note | json }}}', {"a": Decimal("1.10"), "b": None}),
        ("{{ row | json }}", ROW),
        ("{{ row.items.split(',') | json }}", ["a", "b"]),
        ("{{ row.items.split(',') | map('upper') | json }}", ["A", "B"]),
        ("{{ {'n': [row.amount]} | tojson }}", {"n": [Decimal("1.10")]}),
        ('[{% for x in range(2) %}{{ "," if x else "" }}{{ x | json }}{% endfor %}]', [0, 1]),
        ("{% macro f(x) %}{{ x | json }}{% endmacro %}[{{ f(row.id) }}]", [7]),
        ("{% set j = joiner(',') %}[{% for x in [1, 2] %}{{ j() }}{{ x | json }}{% endfor %}]", [1, 2]),
        ("{% set j = joiner() %}[{% for x in [1, 2] %}{{ j() }}{{ x | json }}{% endfor %}]", [1, 2]),
        ("{% macro f() %}[{{ caller() }}]{% endmacro %}{% call f() %}{{ row.id | json }}{% endcall %}", [7]),
        (RECURSIVE, [1, 2]),
        ('["{{ row.id | json }}", "{{ row.ok | json }}", "{{ \'x\' }}{{ row.note | json }}"]', ["7", "true", "xnull"]),
        ('{"a\\"{{ row.id | json }}": "{% if row.ok %}{{ row.id | json }}{% endif %}"}', {'a"7': "7"}),
        ('[{% for x in [1, 2] %}"{{ x | json }}"{{ "," if not loop.last }}{% endfor %}]', ["1", "2"]),
        ("{% set x %}{{ row.id | json }}-{{ 'a' }}{% endset %}{{ x | json }}", "7-a"),
        ("{% set x | upper %}a{% endset %}{{ x | json }}", "A"),
        ('{"a": {{ row.id | json if row.ok else "null" }}}', {"a": 7}),
        ('{"a": {{ row.name | escape | json }}}', {"a": "Ä &#34;x&#34;\n&lt;/script&gt;"}),
    ],
)
def test_a_template_of_json_writes_valid_json(source: str, sent: Any) -> None:
    assert simplejson.loads(render(source, json=True), use_decimal=True) == sent


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(st.characters(codec="utf-8"))
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(VALUES)
def test_any_value_survives_the_json_filter(value: Any) -> None:
    assert json.loads(render('{"a": {{ row.a | json }}}', {"a": value}, json=True)) == {"a": value}


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_decimals_keep_every_digit(value: Decimal) -> None:
    assert render("{{ row.a | json }}", {"a": value}) == str(value)
    assert render("{{ row.a | json }}", {"a": value}, decimals="string") == f'"{value:f}"'


@given(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")))
def test_no_value_reaches_beyond_its_place_in_json(first: str, second: str) -> None:
    source = '{"a": {{ row.a | json }}, "b": {{ (row.a ~ row.b) | json }}}'
    sent = json.loads(render(source, {"a": first, "b": second}, json=True))
    assert sent == {"a": first, "b": first + second}


@pytest.mark.parametrize(
    "source",
    [
        '{"a": "{{ row.name }}"}',
        '{"a": {{ row.name | upper }}}',
        '{"a": {{ row.name | json | replace("x", "y") }}}',
        '{"a": {{ row.name if row.ok else 1 }}}',
        '{"a": {% if row.ok %}{% for x in [1] %}{{ x }}{% endfor %}{% endif %}}',
        "{% macro f(x) %}{{ x }}{% endmacro %}{{ f(row.name) }}",
        '{"a": {{ "x" ~ row.name }}}',
        "{{ row.name.strip() }}",
        "{% set j = joiner(row.name) %}{{ j() }}{{ j() }}",
        "{% set j = joiner(sep=row.name) %}{{ j() }}{{ j() }}",
        "{% set j = joiner(*[row.name]) %}{{ j() }}{{ j() }}",
        "{% set j = joiner(**{'sep': row.name}) %}{{ j() }}{{ j() }}",
        "{% set j = joiner(',') %}{% set j = row.name.upper %}{{ j() }}",
        "{% set j = joiner(',') %}{% for j in [row.name.upper] %}{{ j() }}{% endfor %}",
        "{% set j = joiner(',') %}{% macro f(j) %}{{ j() }}{% endmacro %}{{ f(row.name.upper) }}",
        "{% set j = joiner(',') %}{% set j %}{% endset %}{{ j() }}",
        "{% set joiner = row.name.replace %}{% set j = joiner('a', 'b') %}{{ j() }}",
        "{% set f = row.name.upper %}{{ f() }}",
        "{% for f in [row.name.upper] %}{{ f() }}{% endfor %}",
        "{% with f = row.name.upper %}{{ f() }}{% endwith %}",
        "{% macro f() %}{% endmacro %}{% set f = row.name.upper %}{{ f() }}",
        "{% macro f(g) %}{{ g() }}{% endmacro %}{{ f(row.name.upper) }}",
        "{% macro f() %}{{ caller() }}{% endmacro %}{{ f(caller=row.name.upper) }}",
        "{% macro f() %}{{ caller() }}{% endmacro %}{{ f(**{'caller': row.name.upper}) }}",
        "{% macro f(caller=none) %}{{ caller() }}{% endmacro %}{{ f(row.name.upper) }}",
        "{% set loop = row.name.upper %}{{ loop() }}",
        "{% call row.name.format() %}{% endcall %}",
        "{% set f = row.name.format %}{% call f() %}{% endcall %}",
        "{% macro f() %}{{ caller() }}{% endmacro %}{% call f(caller=row.name.upper) %}{% endcall %}",
        "{% set ns = namespace(f=row.name.upper) %}{{ ns.f() }}",
        "{% set c = cycler(row.name) %}{{ c.next() }}",
        "{% set n = cycler(row.name).next %}{{ n() }}",
        "{% block b %}{{ row.name }}{% endblock %}",
        "{% block b %}{% endblock %}{{ self.b() }}",
        "{% print row.name %}",
        "{% set x %}{{ row.id | json }}{% endset %}{{ x }}",
        "{% set n = row.name %}{% set x | replace('X', n) %}X{% endset %}{{ x }}",
        '{"a": {{ row.name | json | safe }}}',
        '{"a": {{ (row.name | json) ~ row.name }}}',
        '{"a": {{ row.name | json + row.name }}}',
        "{{ '%s' | format(row.name) }}",
        "{{ '%s' % row.name }}",
        "{{ 'X' | replace('X', row.name) }}",
        "{{ 'X'.replace('X', row.name) }}",
        "{{ '{}'.format(row.name) }}",
        "{{ [row.name] | join }}",
        "{{ [row.name] | map('string') | join(',') }}",
        "{{ row.name | escape }}",
        "{{ row.name | default('x') }}",
        "{{ row.name[0] }}",
        "{{ row.name if row.ok }}",
        "{{ 'a' if row.ok else row.name }}",
        "{{ dict(a=row.name) }}",
    ],
)
def test_a_template_of_json_that_forgets_the_filter_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match=r"^line 1: the body is JSON, so each value must end in \| json"):
        TextTemplate(source, title="body", is_json=True)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{% filter replace('X', row.name) %}X{% endfilter %}", "line 1: the body is JSON, which filter would change"),
        (
            "{% filter upper %}{{ row.name | json }}{% endfilter %}",
            "line 1: the body is JSON, which filter would change",
        ),
        ("{% autoescape row.ok %}{{ row.name | json }}{% endautoescape %}", "which autoescape would change"),
        ('{% macro f(x) %}{{ x | json }}{% endmacro %}["{{ f(row.name) }}"]', "line 1: f() writes JSON"),
        (
            '{% macro f() %}{{ caller() }}{{ 1 | json }}{% endmacro %}["{% call f() %}{% endcall %}"]',
            "f() writes JSON, with quotes",
        ),
    ],
)
def test_a_filter_or_block_that_would_change_the_text_of_json_is_refused(source: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        TextTemplate(source, title="body", is_json=True)


@pytest.mark.parametrize(
    "source",
    [
        '["{{ row.name | json }}"]',
        '{"a": "x {{ row.name | json }}"}',
        '["{% if row.ok %}{{ row.name | json }}{% endif %}"]',
        '["{{ row.name | json if row.ok else "b" }}"]',
        '[{% for x in [row.name] %}"{{ x | json }}"{% endfor %}]',
        '["\\"{{ row.name | json }}"]',
        '["{{ [row.name] | json }}"]',
        '{% macro f() %}["{{ row.name | json }}"]{% endmacro %}{{ f() }}',
    ],
)
@pytest.mark.parametrize("name", [",1,", "a"])
def test_a_text_between_quotes_of_the_template_ends_none_of_them(source: str, name: str) -> None:
    with pytest.raises(Unsendable, match="the filter json puts quotes around a text; leave yours out"):
        render(source, {"name": name, "ok": True}, json=True)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ row.id", "line 1: unexpected end of template"),
        ("a\n{{ row.id | nope }}", "line 2: No filter named 'nope'"),
        ("{{ rwo.id }}", "rwo is not defined; a template has row, key, op, stream"),
        ("{{ now() }}", "now is not defined"),
        ("{{ _quota }}", "_quota is not defined"),
        ("{{ lipsum() }}", "lipsum is not defined"),
        ("{{ [1, 2] | random }}", "No filter named 'random'"),
        ("{{ row | attr('items') }}", "No filter named 'attr'"),
        ("{{ row | pprint }}", "No filter named 'pprint'"),
        ("{% include '/etc/passwd' %}", "a template stands alone"),
        ("{% import 'x' as x %}", "a template stands alone"),
        ("{% extends 'x' %}", "a template stands alone"),
    ],
)
def test_a_wrong_template_is_refused_before_it_runs(source: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        TextTemplate(source, title="body")


ESCAPES = [
    "{{ row.__class__ }}",
    "{{ row['__class__'] }}",
    "{{ row.name.__class__.__mro__ }}",
    "{{ ''.__class__.__subclasses__() }}",
    "{{ row.name['__class__'] }}",
    "{{ [row] | map(attribute='__class__') | list | join }}",
    "{{ [row.name] | map(attribute='__class__.__mro__') | list | join }}",
    "{{ range.__globals__ }}",
    "{{ dict.__base__ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ self.__init__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ cycler.__init__.__globals__.os }}",
    "{{ '{0.__class__}'.format(row) }}",
    "{{ '%s' | format(row.name.__class__) }}",
    "{{ row.update({'id': 1}) }}",
    "{% set _ = row.clear() %}",
    "{{ [].append(1) }}",
    "{{ range(10**9) | list | length }}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_nothing_leads_out_of_the_sandbox(source: str) -> None:
    """A call of a method that no template may call is refused before the first record, the rest with the record."""
    with pytest.raises((Unsendable, ValueError)):
        render(source)


@given(st.from_regex(r"__[a-z]{1,12}__", fullmatch=True))
def test_no_attribute_of_python_can_be_reached(name: str) -> None:
    for start in ("row", "row.name", "row.id", "key", "op", "range", "dict", "(1).real", "[]"):
        for source in (f"{{{{ {start}.{name} }}}}", f"{{{{ {start}['{name}'] }}}}"):
            with pytest.raises(Unsendable):
                render(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ row.name.upper }}",
        "{{ 'a' ~ row.name.upper }}",
        "{{ '%s' | format(row.name.upper) }}",
        "{{ [1] | map('string') }}",
        "{{ 'a' ~ ([1] | map('string')) }}",
        "{{ range }}",
        "{{ row }}",
        "{{ [row.id] }}",
    ],
)
def test_no_object_of_python_is_written(source: str) -> None:
    with pytest.raises(Unsendable):
        render(source)


def test_a_value_that_looks_like_an_object_of_python_is_written() -> None:
    assert render("{{ row.a }}", {"a": "<x at 0x7f0000000000>"}) == "<x at 0x7f0000000000>"


def test_an_error_names_the_line_and_the_column_and_shows_no_value() -> None:
    with pytest.raises(Unsendable) as error:
        render("a\n{{ row.nmae | upper }}")
    assert error.value.reason == "body, line 2: the record has no column nmae"
    with pytest.raises(Unsendable) as error:
        render("{{ row.nmae | json }}")
    assert error.value.reason == "body, line 1: the record has no column nmae"
    with pytest.raises(Unsendable) as error:
        render("{{ row.name | int(base=99) }}{{ row.id // 0 }}")
    assert "Ä" not in error.value.reason


def test_in_markup_values_are_escaped() -> None:
    assert render("<a>{{ row.a }}</a>", {"a": "<b>&\"'"}, is_markup=True) == "<a>&lt;b&gt;&amp;&#34;&#39;</a>"


def test_other_processes_write_the_same_text() -> None:
    script = (
        "from tests.unit.test_templates import render\n"
        "source = \"{% for n in (row | items | map('first') | unique) %}{{ n }} {{ row[n] | json }},{% endfor %}"
        "{{ row | json }}{{ {'b': 1, 'a': row.amount} | json }}{{ row.amount / 3 }}\"\n"
        "import sys; sys.stdout.buffer.write(render(source).encode())"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed, "LC_ALL": locale, "TZ": zone},
            capture_output=True,
            check=True,
        ).stdout
        for seed, locale, zone in (("0", "C", "UTC"), ("1", "C.UTF-8", "Asia/Tokyo"), ("12345", "POSIX", "Etc/GMT+9"))
    }
    assert len(texts) == 1


ITEMS = '[{"sku":"A","qty":2,"price":1.50},{"sku":"B","qty":1,"price":1e2}]'
DOCUMENT = f'{{"color":"Ä","items":{ITEMS},"big":1e999,"no":-0}}'
NESTED: dict[str, Any] = {
    "id": 7,
    "doc": JsonText(DOCUMENT),
    "lines": [{"sku": "A", "price": Decimal("1.10"), "keys": "k", "doc": JsonText("[1.0]")}, {"sku": "B"}],
    "customer": {"name": "Ærø", "items": 3},
    "tags": JsonText('["a","b"]'),
    "empty": JsonText("[]"),
    "null": JsonText("null"),
    "text": JsonText('"a b"'),
    "number": JsonText("1.50"),
    "huge": JsonText("1e999999999"),
}


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ row.doc | json }}", DOCUMENT),
        ("{{ row['doc'] | tojson }}", DOCUMENT),
        ("{% set d = row.doc %}{{ d | json }}", DOCUMENT),
        ("{% if row.doc.color %}{{ row.doc | json }}{% endif %}", DOCUMENT),
        ("{{ [row.doc, row.number] | json }}", f"[{DOCUMENT},1.50]"),
        ("{{ row.doc.color }} {{ row.doc['color'] | json }}", 'Ä "Ä"'),
        ("{{ row.doc['items'] | json }}", ITEMS),
        ("{{ row.doc.items[1].price | json }} {{ row.doc.items[1].price }}", "1e2 100"),
        ("{{ row.doc.no | json }} {{ row.doc.big | json }}", "-0 1e999"),
        ("{% for line in row.doc.items %}{{ line.sku }}{{ line.qty * line.price }} {% endfor %}", "A3.00 B100 "),
        ("{{ row.doc.items | map(attribute='sku') | join(',') }}", "A,B"),
        ("{{ row.doc.items | selectattr('qty', 'gt', 1) | list | json }}", '[{"sku":"A","qty":2,"price":1.50}]'),
        ("{{ row.doc.items | sum(attribute='qty') }} {{ row.doc.items | length }}", "3 2"),
        ("{% for name, value in row.customer | items %}{{ name }}={{ value }} {% endfor %}", "name=Ærø items=3 "),
        ("{{ row.customer.items }} {{ row.customer.get('name') }} {{ row.customer.keys() | join }}", "3 Ærø nameitems"),
        ("{{ row.doc.missing | default('-') }} {{ row.doc.missing is defined }}", "- false"),
        ("{% for line in row.lines %}{{ line.sku }}{{ line.price | default('') }}{% endfor %}", "A1.10B"),
        ("{{ row.lines[0].keys }}", "k"),
        ("{{ row.lines | json }}", '[{"sku":"A","price":1.10,"keys":"k","doc":[1.0]},{"sku":"B"}]'),
        ("{{ row.lines[0].doc[0] | json }} {{ row.lines[0].doc | json }}", "1.0 [1.0]"),
        ("{{ row.tags | join('-') }} {{ 'a' in row.tags }} {{ row.tags[:1] | json }}", 'a-b true ["a"]'),
        ("{{ 'x' if row.empty else 'y' }} {{ row.empty | length }} {{ row.empty | json }}", "y 0 []"),
        ("{{ row.null }}|{{ row.null is none }}|{{ row.null | json }}", "|true|null"),
        ("{{ row.text }} {{ row.text | json }} {{ row.text | upper }}", 'a b "a b" A B'),
        ("{{ row.number * 2 }} {{ row.number | json }} {{ row.number }}", "3.00 1.50 1.50"),
        ("{{ row.huge }} {{ row.huge | json }}", "1e999999999 1e999999999"),
        ("{% for row in row.lines %}{{ row.sku | json }}{% endfor %}", '"A""B"'),
        ("{% for name, value in row | items %}{{ value | json }},{% endfor %}", f"7,{DOCUMENT},"),
        ("{% for name, value in row | dictsort %}{{ name }} {% endfor %}", "customer doc empty "),
        ("{{ row | json }}", f'{{"id":7,"doc":{DOCUMENT},"lines":'),
    ],
)
def test_a_template_looks_into_documents_and_rows_of_other_tables(source: str, text: str) -> None:
    written = render(source, NESTED)
    assert written == text or (len(text) < len(written) and written.startswith(text))


def test_decimals_of_another_table_may_be_strings_and_numbers_of_a_document_never_are() -> None:
    source = "{{ row.lines[0].price | json }} {{ row.number | json }} {{ row.doc.items[0].price | json }}"
    assert render(source, NESTED, decimals="string") == '"1.10" 1.50 1.50'


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ row.doc }}", "an object cannot be written as text; write it with | json or | join"),
        ("{{ row.lines }}", "a list cannot be written as text; write it with | json or | join"),
        ("{{ row.lines ~ '' }}", "a list cannot be written as text"),
        ("{{ row.lines[0] | string }}", "an object cannot be written as text"),
        ("{{ '%s' | format(row.tags) }}", "a list cannot be written as text"),
        ("{{ row.doc.missing }}", "the object has no field missing"),
        ("{{ row.doc.missing.deeper }}", "the object has no field missing"),
        ("{{ row.tags[7] }}", "7"),
        ("{{ row.doc.pop('color') }}", "a template cannot call .pop()"),
        ("{{ row.doc.update }}", "has no field update"),
        ("{{ row.doc.__class__ }}", "has no field __class__"),
        ("{{ row.tags.append }}", "unsafe"),
        ("{{ row.huge.text }}", "unsafe"),
        ("{{ row.huge.parse }}", "unsafe"),
        ("{{ dict(row).doc }}", "an object cannot be written as text"),
        ("{{ row.doc.items() }}", "not callable"),
    ],
)
def test_what_a_nested_value_does_not_have_fails_the_record_with_why(source: str, reason: str) -> None:
    with pytest.raises((Unsendable, ValueError), match=re.escape(reason)):
        render(source, NESTED)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ row.doc | json | urlencode }}", "%5B1.50%5D"),
        ("{{ row.one | urlencode }}", "a=1&b="),
        ("{{ row.pairs | urlencode }}", "a=1&b=x+y"),
        ("{{ row.one.a | urlencode }}", "1"),
    ],
)
def test_a_form_takes_values_and_pairs_of_a_document(source: str, text: str) -> None:
    row = {"doc": JsonText("[1.50]"), "one": {"a": 1, "b": None}, "pairs": JsonText('[["a",1],["b","x y"]]')}
    assert render(source, row, is_form=True) == text


@pytest.mark.parametrize(
    "source", ["{{ row | urlencode }}", "{{ row.doc | urlencode }}", "{{ row.lines | urlencode }}"]
)
def test_a_form_takes_no_object_within_another_and_no_list_of_objects(source: str) -> None:
    row = {"id": 1, "doc": JsonText('{"a":{"b":1}}'), "lines": [{"a": 1, "b": 2}]}
    with pytest.raises(
        Unsendable, match=r"an object cannot be written as text|a list of objects cannot be sent in a form"
    ):
        render(source, row, is_form=True)


def test_a_document_is_read_only_when_a_template_looks_into_it() -> None:
    many = JsonText("[" + ",".join(["1"] * 300_000) + "]")
    assert render("{{ row.doc | json }}{{ row.id }}", {"id": 1, "doc": many}) == many.text + "1"
    with pytest.raises(Unsendable, match="looks into a document of more than 250,000 commas and brackets"):
        render("{{ row.doc[0] }}", {"doc": many})


def test_a_document_is_read_once_in_a_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[JsonText] = []
    parse = JsonText.parse
    monkeypatch.setattr(JsonText, "parse", lambda self: (read.append(self), parse(self))[1])
    source = "{% for i in range(50) %}{{ row.tags[0] }}{{ row['tags'][1] }}{% endfor %}"
    assert render(source, {"tags": JsonText('["a","b"]')}) == "ab" * 50
    assert len(read) == 1
