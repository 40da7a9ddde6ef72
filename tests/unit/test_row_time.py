"""The time of one row: whatever its values make a template or a schema do ends soon, and the record says why."""

import inspect
import json
import time
from pathlib import Path
from typing import Any

import pytest
from jsonschema.validators import _META_SCHEMAS as META_SCHEMAS

from syncctl.core.stream import Stream
from syncctl.errors import ConfigurationError
from syncctl.partner.call import Unsendable
from syncctl.partner.client import PartnerClient
from syncctl.partner.request.body_schema import BodySchema
from syncctl.partner.request.bounded_schema import bind_dialect
from syncctl.partner.request.patterns import TEXT_AT_MOST, compile_pattern, is_linear, is_risky, search
from syncctl.partner.request.row_time import RowTimeExceeded
from tests.harness.cases import make_partner, make_record, make_stream

EVIL = r"^(a|aa)+$"
VALUE = "a" * 60 + "!"


def prepare(stream: Stream, **payload: Any) -> float:
    """Build a request that must fail; return the seconds of computing."""
    client = PartnerClient(make_partner("http://127.0.0.1:9"), stream)
    started = time.thread_time()
    try:
        with pytest.raises(Unsendable, match=r"takes more than 0.25 s of computing for this row|it makes|nested more"):
            client.prepare(make_record(payload=payload))
        return time.thread_time() - started
    finally:
        client.close()


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {"pattern": EVIL}}},
        {"patternProperties": {EVIL: {"type": "string"}}},
        {"patternProperties": {EVIL: True}, "additionalProperties": False},
        {"allOf": [{"patternProperties": {EVIL: True}}], "unevaluatedProperties": False},
        {"propertyNames": {"pattern": EVIL}},
        {"$schema": "http://json-schema.org/draft-07/schema#", "patternProperties": {EVIL: {}}},
        {"$schema": "https://json-schema.org/draft/2019-09/schema", "patternProperties": {EVIL: {}},
         "unevaluatedProperties": False},
        {"properties": {"list": {"uniqueItems": True}}},
        {"$defs": {"x": {"anyOf": [{"allOf": [{"$ref": "#/$defs/y"}] * 3, "minProperties": 99}] * 3},
                   "y": {"items": {"$ref": "#/$defs/x"}, "anyOf": [{"items": {"$ref": "#/$defs/x"}}] * 4}},
         "properties": {"deep": {"$ref": "#/$defs/y"}}},
    ],
)  # fmt: skip
def test_a_schema_ends_whatever_the_row_holds(tmp_path: Path, schema: dict[str, Any]) -> None:
    path = tmp_path / "s.json"
    path.write_text(json.dumps(schema))
    body = (
        '{"a": {{ row.a | json }}, {{ row.a | json }}: 1, "list": [{% for i in range(9000) %}{"i": {{ i | json }}},'
        '{% endfor %}0], "deep": ' + "[" * 20 + "{}" + "]" * 20 + "}"
    )
    assert prepare(make_stream(body_schema=str(path), body=body), a=VALUE) < 2


def test_each_keyword_of_each_dialect_has_the_bounded_engine() -> None:
    for dialect in set(META_SCHEMAS.values()):
        for name, keyword in bind_dialect(dialect).VALIDATORS.items():
            functions, seen = [inspect.getclosurevars(keyword).nonlocals["function"]], set()
            while functions:
                function = functions.pop()
                seen.add(function)
                for value in inspect.getclosurevars(function).globals.values():
                    assert getattr(value, "__name__", "") != "re", (dialect, name)
                    if inspect.isfunction(value) and "jsonschema" in value.__module__ and value not in seen:
                        functions.append(value)


@pytest.mark.parametrize(
    "body",
    [
        "{% macro a(n) %}{% if n %}{{ a(n - 1) }}{{ a(n - 1) }}{% endif %}{% endmacro %}{{ a(60) }}",
        (
            "{% set n = namespace(t=(1,), u=(1,)) %}{% for i in range(60) %}"
            "{% set n.t = (n.t, n.t) %}{% set n.u = (n.u, n.u) %}{% endfor %}{{ n.t == n.u }}"
        ),
        "{% set n = namespace(t=(1,)) %}{% for i in range(60) %}{% set n.t = (n.t, n.t) %}{% endfor %}{{ {n.t: 1} }}",
        "{% set n = namespace(t=(1,)) %}{% for i in range(60) %}{% set n.t = (n.t, n.t) %}{% endfor %}{{ 2 in n.t }}",
        "{% set n = namespace(t=[1]) %}{% for i in range(60) %}{% set n.t = [n.t] * 9 %}{% endfor %}{{ n.t == [] }}",
        "{% set n = namespace(t=[1]) %}{% for i in range(60) %}{% set n.t = [n.t] + [n.t] %}{% endfor %}",
        "{% set n = namespace(t=(1,)) %}{% for i in range(9999) %}{% set n.t = (n.t,) %}{% endfor %}{{ {n.t: 1} }}",
        "{% set n = namespace(t={}) %}{% for i in range(60) %}{% set n.t = dict(a=n.t, b=n.t) %}{% endfor %}",
        (
            "{% set n = namespace(t=(1,)) %}{% macro m() %}{% set n.t = varargs %}{% endmacro %}"
            "{% for i in range(60) %}{{ m(n.t, n.t) }}{% endfor %}{{ n.t == 1 }}"
        ),
        "{% set x = range(90000) | list %}{% for i in range(90000) %}{% if i in x %}{% endif %}{% endfor %}",
        "{% set x = range(90000) | list %}{{ x | select('in', x) | list | length }}",
        "{% set x = 'a' * 9000000 %}{% for i in range(90000) %}{% if 'b' in x %}{% endif %}{% endfor %}",
        "{{ ('a ' * 5000000) | title }}",
        "{{ ('a ' * 5000000) | wordcount }}",
    ],
)
def test_a_template_ends_whatever_it_does(body: str) -> None:
    assert prepare(make_stream(body=body, content_type="text/plain"), id=7) < 2


def test_a_row_after_a_slow_one_has_its_own_time(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text(json.dumps({"properties": {"a": {"pattern": EVIL}}}))
    client = PartnerClient(make_partner("http://127.0.0.1:9"), make_stream(body_schema=str(path)))
    with pytest.raises(Unsendable, match=r"^the schema cannot be checked: the pattern \^\(a\|aa\)\+\$ takes more than"):
        client.prepare(make_record(payload={"a": VALUE}))
    assert client.prepare(make_record(payload={"a": "aaa"})).body == b'{"a":"aaa"}'
    client.close()


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("(a+)+$", True),
        ("^(a|aa)+$", True),
        (r"^(\w+\s?)*$", True),
        ("(.*)*x", True),
        ("([a-z]+-?)*", True),
        ("(?:(?:a*)b?)*", True),
        (r"^\d{4}-\d{2}$", False),
        ("^[a-z]+(-[a-z]+)*$", False),
        (r"^(\d+,)*\d+$", False),
        ("^(foo|bar)+$", False),
        ("a+b+c+", False),
        ("^.{1,80}$", False),
        ("(", False),
    ],
)
def test_a_repeat_in_a_repeat_is_risky_unless_something_separates_its_rounds(pattern: str, expected: bool) -> None:
    assert is_risky(pattern) is expected


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("foo|[A-Z]{3}", True),
        ("^[A-Za-z0-9+/]*={0,2}$", True),
        ("^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$", True),
        (r"\A.*x", True),
        (r"\w*\d", False),
        (r"^\w*\w*\d", False),
        (r"a|^b*", False),
        (r"(?>\w*)\d", False),
        (r"^(a)?(?(1)b*|c*)", False),
        (r"\w*+\d", False),
        ("(", False),
    ],
)
def test_only_a_pattern_without_a_second_repeat_is_searched_in_a_very_long_text(pattern: str, expected: bool) -> None:
    assert is_linear(pattern) is expected
    if not expected:
        with pytest.raises(RowTimeExceeded, match="in a text of 250,001 characters, the pattern "):
            search(pattern, "a" * (TEXT_AT_MOST + 1))


@pytest.mark.parametrize("pattern", ["(a{100000}){100000}", "(?>(a{999}+){999})", "((((a?){100}){100}){100}){100}"])
def test_a_pattern_is_measured_before_it_is_compiled(pattern: str) -> None:
    with pytest.raises(ValueError, match="larger than 100,000 characters"):
        compile_pattern(pattern)


def test_references_that_multiply_end_when_the_schema_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncctl.partner.request.body_schema._TRIAL_SECONDS", 0.1)
    twice = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(30)}
    path = tmp_path / "s.json"
    path.write_text(json.dumps({"$defs": {**twice, "d30": {}}, "$ref": "#/$defs/d0"}))
    with pytest.raises(ConfigurationError) as error:
        BodySchema(path, key="body_schema")
    assert "takes more than 0.1 s to be checked" in error.value.why


def test_a_schema_names_its_risky_patterns_and_refuses_what_is_no_pattern(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text(json.dumps({"properties": {"a": {"pattern": "(a+)+$"}, "pattern": {"pattern": "^a+$"}}}))
    assert BodySchema(path, key="body_schema").risky_patterns == ("(a+)+$",)
    path.write_text('{"pattern": "("}')
    with pytest.raises(ConfigurationError) as error:
        BodySchema(path, key="body_schema")
    assert "is not a 'regex'" in error.value.why
