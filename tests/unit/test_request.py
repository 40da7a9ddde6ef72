"""Building a request: the page that describes it, its hash, its refusals."""

import contextlib
import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import simplejson

from syncctl.core.mapping import parse_fields
from syncctl.core.records import Record, Step
from syncctl.core.stream import Credentials, Stream
from syncctl.errors import ConfigurationError
from syncctl.partner.call import Call, Unsendable
from syncctl.partner.client import PartnerClient
from syncctl.settings import load_settings
from tests.harness.cases import make_partner, make_record, make_stream

PAGE = Path(__file__).parents[2] / "docs" / "request.md"
BASE = "https://api.partner.example/v1"
_FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ENVIRONMENT = {"SOURCE_URL": "sqlite:///x", "PARTNER_URL": BASE, "PARTNER_TOKEN": "tok-5f1c0a7e"}
STREAM = 'table = "orders"\nstart = "beginning"\n'


def list_examples() -> Iterator[tuple[str, str, str]]:
    """Yield the settings of each example of the page, the kind of its record, and the request that it shows."""
    blocks = _FENCE.findall(PAGE.read_text(encoding="utf-8"))
    for (language, settings), (shown, request) in pairwise(blocks):
        if language == "toml":
            yield settings, shown, request


def read_row() -> Any:
    """Return the row of the page."""
    (row,) = [body for language, body in _FENCE.findall(PAGE.read_text(encoding="utf-8")) if language == "json"]
    return simplejson.loads(row, use_decimal=True)


def load_stream(tmp_path: Path, settings: str) -> Stream:
    endpoint = "" if settings.startswith("endpoint") else 'endpoint = "POST /orders"\n'
    (tmp_path / "syncctl.toml").write_text(f"[streams.orders]\n{STREAM}{endpoint}{settings}")
    return load_settings(directory=tmp_path, environment=ENVIRONMENT).stream("orders")


def prepare(stream: Stream, record: Record | None = None, **partner: Any) -> Call:
    client = PartnerClient(make_partner(BASE, **partner), stream)
    return client.prepare(make_record() if record is None else record)


def name_mapping(**changes: Any) -> str:
    return PartnerClient(make_partner(BASE), make_stream(**changes)).mapping_hash


def test_the_page_has_an_example_of_each_setting() -> None:
    shown = {key for settings, _, _ in list_examples() for key in tomllib.loads(settings)}
    assert shown == {
        "fields",
        "body",
        "content_type",
        "headers",
        "endpoint",
        "delete_endpoint",
        "capture",
        "update_endpoint",
        "lookup",
    }


@pytest.mark.parametrize(("settings", "kind", "request_shown"), list(list_examples()))
def test_an_example_of_the_page_makes_the_request_that_it_shows(
    tmp_path: Path, settings: str, kind: str, request_shown: str
) -> None:
    record = replace(make_record(4711, read_row()), remote={"id": "P-0815"})
    steps: dict[str, Step] = {"http-update": "update", "http-lookup": "look_up"}
    record = replace(record, step=steps.get(kind, "send"))
    if kind == "http-delete":
        record = replace(record, op="delete", payload=None)
    call = prepare(load_stream(tmp_path, settings), record)
    head, _, body = request_shown.removesuffix("\n").partition("\n\n")
    first, *headers = head.splitlines()
    assert f"{call.method} {call.target}" == first
    assert call.body.decode() == body
    for line in headers:
        name, _, value = line.partition(": ")
        assert call.headers[name] == value
    assert "X-Note" not in call.headers
    assert ("Content-Type" in call.headers) == ("Content-Length" in call.headers) == bool(body)


def test_everything_that_shapes_a_call_is_in_the_mapping_hash(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text("{}")
    hashes = [
        name_mapping(),
        name_mapping(fields=parse_fields({"a": "id", "b": "id"})),
        name_mapping(fields=parse_fields({"b": "id", "a": "id"})),
        name_mapping(fields=parse_fields({"a": {"const": "id"}, "b": "id"})),
        name_mapping(fields=parse_fields({"a": {"const": {"x": 1, "y": 2}}})),
        name_mapping(fields=parse_fields({"a": {"const": {"y": 2, "x": 1}}})),
        name_mapping(body="{{ row | json }}"),
        name_mapping(body="{{ row  | json }}"),
        name_mapping(body="{{ row | json }}", content_type="application/x+json"),
        name_mapping(headers={"X-A": "1"}),
        name_mapping(headers={"X-A": "2"}),
        name_mapping(content_type="application/vnd.x+json"),
        name_mapping(delete_method="DELETE", delete_path="/orders/{id}"),
        name_mapping(delete_method="POST", delete_path="/orders/{id}"),
        name_mapping(delete_method="DELETE", delete_path="/orders/{id}/gone"),
    ]
    assert len(set(hashes)) == len(hashes)
    assert name_mapping(body_schema=str(tmp_path / "s.json")) == name_mapping()


def test_a_stream_without_a_mapping_keeps_the_hash_that_its_records_have() -> None:
    assert name_mapping() == PartnerClient(make_partner(BASE), make_stream())._endpoints.send.mapping_hash


def test_a_body_that_is_not_json_fails_its_record_with_the_place() -> None:
    stream = make_stream(body='{"a": {{ row.id | json }},\n "b": {{ "x" }} }')
    with pytest.raises(Unsendable) as error:
        prepare(stream)
    assert error.value.reason == "the body is not JSON: line 2, column 7: Expecting value"
    with pytest.raises(Unsendable) as error:
        prepare(make_stream(body='{"a": "{% if row.id %}\n{% endif %}"}x'), make_record(payload={"id": "sec\x07ret"}))
    assert "ret" not in error.value.reason


@pytest.mark.parametrize("value", ["a\nSet-Cookie: b", "a\r\nX: y", "é", "a\x00", "\x1b[2J"])
def test_no_value_makes_two_headers_of_one(value: str) -> None:
    with pytest.raises(Unsendable) as error:
        prepare(make_stream(headers={"X-Name": "{{ row.name }}"}), make_record(payload={"name": value}))
    assert error.value.reason == "header X-Name would hold a line break or a character beyond ASCII"


def test_an_empty_header_is_left_out_and_a_replaceable_default_is_replaced() -> None:
    stream = make_stream(headers={"X-None": "{{ row.note }}", "accept": "text/csv"})
    headers = prepare(stream, make_record(payload={"note": None})).headers
    assert "X-None" not in headers
    assert {name: value for name, value in headers.items() if name.lower() == "accept"} == {"accept": "text/csv"}


def test_a_header_that_the_partner_sets_cannot_be_replaced() -> None:
    with pytest.raises(ConfigurationError, match=r"streams\.orders\.headers\.x-tenant is set already"):
        prepare(make_stream(headers={"x-tenant": "1"}), headers={"X-Tenant": "acme-1234"})
    auth = Credentials(kind="api_key", values={"name": "X-Account", "value": "k-998877"})
    with pytest.raises(ConfigurationError, match=r"streams\.orders\.headers\.x-account is set already"):
        prepare(make_stream(headers={"x-account": "1"}), auth=auth)


def test_a_delete_with_another_method_has_a_body() -> None:
    stream = make_stream(delete_method="POST", delete_path="/orders/{id}/gone", fields=parse_fields({"no": "id"}))
    call = prepare(stream, replace(make_record(), op="delete", payload=None))
    assert (call.method, call.target, call.body) == ("POST", "/v1/orders/7/gone", b'{"no":7}')
    assert (prepare(stream).method, prepare(stream).target) == ("POST", "/v1/orders")


def test_a_name_in_an_endpoint_of_deletes_is_one_of_the_key() -> None:
    stream = make_stream(delete_method="DELETE", delete_path="/orders/{customer}")
    with pytest.raises(Unsendable, match="column customer, which the row does not have"):
        prepare(stream, replace(make_record(), op="delete", payload=None))


def write_schema(tmp_path: Path, schema: Any) -> Stream:
    path = tmp_path / "orders.schema.json"
    path.write_text(schema if isinstance(schema, str) else json.dumps(schema))
    return make_stream(body_schema=str(path), fields=parse_fields({"order.id": "id", "order.total": "total"}))


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        ({"type": "string"}, "$.order.total must be of type string"),
        ({"type": ["string", "null"]}, "$.order.total must be of type string or null"),
        ({"multipleOf": 0.1}, "$.order.total breaks multipleOf: 0.1"),
        ({"maximum": 1}, "$.order.total breaks maximum: 1"),
        ({"enum": [1, "a"]}, '$.order.total must be one of [1, "a"]'),
        ({"const": 5}, "$.order.total must be 5"),
        ({"type": "integer"}, "$.order.total must be of type integer"),
        (False, "$.order holds a field that is not allowed"),
    ],
)
def test_a_row_that_does_not_fit_the_schema_names_the_place(tmp_path: Path, rules: Any, reason: str) -> None:
    stream = write_schema(tmp_path, {"properties": {"order": {"properties": {"total": rules}}}})
    with pytest.raises(Unsendable) as error:
        prepare(stream, make_record(payload=simplejson.loads('{"id": 1, "total": 7.77}', use_decimal=True)))
    assert error.value.reason == f"the body does not fit the schema: {reason}"
    assert "7.77" not in error.value.reason


def test_a_schema_error_names_what_is_missing_and_counts_the_rest(tmp_path: Path) -> None:
    inside = {"required": ["a", "b", "id"], "additionalProperties": False, "properties": {"id": {}}}
    with pytest.raises(Unsendable) as error:
        prepare(write_schema(tmp_path, {"properties": {"order": inside}}), make_record(payload={"id": 1, "total": 1}))
    assert re.fullmatch(r"the body does not fit the schema: \$\.order .* \(and \d more\)", error.value.reason)


@pytest.mark.parametrize("text", ["123.45", "0.30", "99999999999999999999999999999999999999", "5.00", "1E+3"])
def test_numbers_are_held_against_the_schema_exactly(tmp_path: Path, text: str) -> None:
    whole = simplejson.loads(text, use_decimal=True) % 1 == 0
    rules = {"multipleOf": 0.01, "type": "integer" if whole else "number"}
    stream = write_schema(tmp_path, {"properties": {"order": {"properties": {"total": rules}}}})
    row = simplejson.loads(f'{{"id": 1, "total": {text}}}', use_decimal=True)
    assert b"total" in prepare(stream, make_record(payload=row)).body


def test_a_delete_is_not_held_against_the_schema(tmp_path: Path) -> None:
    stream = write_schema(tmp_path, {"properties": {"order": {"required": ["total"]}}})
    assert prepare(stream, replace(make_record(), op="delete", payload=None)).body == b'{"order":{"id":7}}'


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ("{", "it is not JSON"),
        ("[]", "a schema is an object"),
        ('{"type": "numbr"}', r"\$\.type"),
        ('{"$ref": "https://127.0.0.1:1/x.json"}', "it refers to https://127.0.0.1:1/x.json, and nothing is fetched"),
        ('{"properties": {"a": {"$ref": "other.json#/x"}}}', "it refers to other.json"),
    ],
)
def test_a_wrong_schema_is_refused_before_anything_is_sent(tmp_path: Path, schema: str, reason: str) -> None:
    stream = write_schema(tmp_path, schema)
    with pytest.raises(ConfigurationError, match=r"streams\.orders\.body_schema cannot be used") as error:
        prepare(stream)
    assert re.search(reason, error.value.why)


def test_a_missing_schema_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.json") as error:
        prepare(make_stream(body_schema=str(tmp_path / "nowhere.json")))
    assert error.value.why == "No such file or directory"


def test_a_reference_within_the_schema_and_to_a_dialect_is_followed(tmp_path: Path) -> None:
    schema = {
        "$ref": "#/$defs/o",
        "$defs": {"o": {"required": ["x"]}, "m": {"$ref": "https://json-schema.org/draft/2020-12/schema"}},
    }
    with pytest.raises(Unsendable, match=r"\$ lacks x"):
        prepare(write_schema(tmp_path, schema), make_record(payload={"id": 1, "total": 1}))


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/none"},
        {"$ref": "#/components/a", "components": {"a": {"$ref": "#/components/b"}}},
        {"$ref": "#/components/a", "components": {"a": {"type": "numbr"}}},
        {"$ref": "#/title", "title": "a"},
        {"$ref": "#/x/a", "x": 1},
        {"$ref": "https://x.example/b.json", "$id": "https://x.example/a.json"},
        {"$dynamicRef": "#none"},
        {"anyOf": [{"items": {"$ref": "#/$defs/none"}}]},
        {"properties": {"const": {"$ref": "#/none"}}},
        {"$schema": "http://json-schema.org/draft-04/schema#", "properties": {"a": {"$ref": "b.json"}}},
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    ],
)
def test_a_reference_that_leads_nowhere_is_refused_before_anything_is_sent(tmp_path: Path, schema: Any) -> None:
    with pytest.raises(ConfigurationError) as error:
        prepare(write_schema(tmp_path, schema), make_record(payload={"id": 1, "total": 1}))
    assert "it refers to" in error.value.why


@pytest.mark.parametrize(
    "schema",
    [
        {
            "$id": "https://x.example/root.json",
            "$ref": "https://x.example/part.json",
            "$defs": {"a": {"$id": "part.json", "required": ["x"]}},
        },
        {"$id": "https://x.example/root.json", "$ref": "#part", "$defs": {"a": {"$anchor": "part", "required": ["x"]}}},
        {
            "$schema": "http://json-schema.org/draft-04/schema#",
            "id": "http://x.example/root.json",
            "allOf": [{"$ref": "http://x.example/part.json"}],
            "definitions": {"a": {"id": "part.json", "required": ["x"]}},
        },
        {"$ref": "#/components/a", "components": {"a": {"required": ["x"]}}},
        {"required": ["x"], "properties": {"$ref": {"type": "string"}}},
        {"required": ["x"], "properties": {"y": {"const": {"$ref": "#/none"}}, "z": {"enum": [{"$ref": "none.json"}]}}},
        {"required": ["x"], "examples": [{"$ref": "none.json"}], "default": {"$ref": "#/none"}},
        {"required": ["x"], "properties": {"y": {"minLength": 2.0, "maxItems": 1e1}}},
    ],
)
def test_a_schema_that_is_right_is_not_refused(tmp_path: Path, schema: Any) -> None:
    with pytest.raises(Unsendable, match=r"\$ lacks x"):
        prepare(write_schema(tmp_path, schema), make_record(payload={"id": 1, "total": 1}))


@pytest.mark.parametrize(
    ("schema", "body", "reason"),
    [
        ({"type": "string"}, "9" * 5000, "must be of type string"),
        ({"const": 1}, '{"a": ' + "9" * 5000 + "}", "must be 1"),
        ({"maximum": 1}, "1E+999999", "breaks maximum: 1"),
        ({"multipleOf": 7}, "9" * 5000, "the schema cannot be checked: "),
        ({"type": "integer"}, "1E-999999999999999999999", "the schema cannot be checked: "),
        ({"$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}, "$ref": "#/$defs/a"}, "[" * 400 + "]" * 400, None),
    ],
)
def test_a_body_that_a_schema_can_do_nothing_with_fails_its_record(
    tmp_path: Path, schema: Any, body: str, reason: str | None
) -> None:
    stream = replace(write_schema(tmp_path, schema), fields=(), body=body)
    if reason is None:
        # However deeply nested, the result is an outcome of the record.
        with contextlib.suppress(Unsendable):
            prepare(stream)
        return
    with pytest.raises(Unsendable) as error:
        prepare(stream)
    assert reason in error.value.reason
    assert len(error.value.reason) < 300


def test_whole_numbers_are_integers_however_long_or_written(tmp_path: Path) -> None:
    for body in ("9" * 5000, "1E+5000", "2.0", "-0.0", "1E+3"):
        assert prepare(replace(write_schema(tmp_path, {"type": "integer"}), fields=(), body=body)).body == body.encode()
