"""Templates: exact JSON of any value, nothing but the record, the same text in every process."""

import json
import os
import subprocess
import sys
from decimal import Decimal
from typing import Any

import pytest
import simplejson
from hypothesis import given
from hypothesis import strategies as st

from syncctl.partner.call import Unsendable
from syncctl.partner.shape.template import TextTemplate
from tests.integration.partner_cases import make_record

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
def test_what_a_template_writes(source: str, text: str) -> None:
    assert render(source) == text


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
    ],
)
def test_what_a_template_of_json_writes(source: str, sent: Any) -> None:
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
    ],
)
def test_a_template_of_json_that_forgets_the_filter_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match=r"^line 1: the body is JSON, so each value must end in \| json"):
        TextTemplate(source, title="body", is_json=True)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("{{ row.id", "line 1: unexpected end of template"),
        ("a\n{{ row.id | nope }}", "line 2: No filter named 'nope'"),
        ("{{ rwo.id }}", "there is no rwo; a template knows row, key, op, stream"),
        ("{{ now() }}", "there is no now"),
        ("{{ lipsum() }}", "there is no lipsum"),
        ("{{ [1, 2] | random }}", "No filter named 'random'"),
        ("{{ row | attr('items') }}", "No filter named 'attr'"),
        ("{{ row | pprint }}", "No filter named 'pprint'"),
        ("{% include '/etc/passwd' %}", "a template stands alone"),
        ("{% import 'x' as x %}", "a template stands alone"),
        ("{% extends 'x' %}", "a template stands alone"),
    ],
)
def test_what_cannot_be_a_template_is_told_before_it_runs(source: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
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
    with pytest.raises(Unsendable):
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
