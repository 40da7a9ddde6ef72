"""The settings of a request: how they are written, and their errors."""

import json
from pathlib import Path
from typing import Any

import pytest

from syncctl.core.mapping import FieldRule
from syncctl.core.outcome import OutcomeRules, Verdict
from syncctl.errors import ConfigurationError
from syncctl.settings import Settings, describe_settings, load_settings
from syncctl.settings.setup_files import append_stream

HEAD = '[streams.orders]\ntable = "orders"\nstart = "now"\n'
ENVIRONMENT = {"SOURCE_URL": "sqlite:///x", "PARTNER_URL": "https://h", "API_KEY": "k-998877"}


def load(tmp_path: Path, text: str, **environment: str) -> Settings:
    (tmp_path / "syncctl.toml").write_text(HEAD + text)
    return load_settings(directory=tmp_path, environment={**ENVIRONMENT, **environment})


def complaint(tmp_path: Path, text: str, **environment: str) -> str:
    with pytest.raises(ConfigurationError) as error:
        load(tmp_path, text, **environment)
    return error.value.why


@pytest.mark.parametrize(
    "text",
    [
        'fields = { "order.id" = "id", "order.kind" = { const = "order" } }',
        'fields = { order.id = "id", order.kind.const = "order" }',
        '[streams.orders.fields]\n"order.id" = "id"\n"order.kind" = { const = "order" }',
        '[streams.orders.fields.order]\nid = "id"\nkind = { const = "order" }',
    ],
)
def test_a_mapping_may_be_written_in_each_way_that_toml_has(tmp_path: Path, text: str) -> None:
    rules = load(tmp_path, text).stream("orders").fields
    assert rules == (FieldRule(("order", "id"), "id"), FieldRule(("order", "kind"), None, "order"))


def test_tables_stand_in_variables_as_json(tmp_path: Path) -> None:
    stream = load(
        tmp_path,
        'fields = { a = "b" }',
        STREAMS__ORDERS__FIELDS='{"no": "id", "at": {"const": 1.5}}',
        STREAMS__ORDERS__HEADERS='{"X-A": "{{ row.id }}"}',
    ).stream("orders")
    assert stream.fields == (FieldRule(("no",), "id"), FieldRule(("at",), None, 1.5))
    assert stream.headers == {"X-A": "{{ row.id }}"}


def test_settings_that_are_not_set_are_empty(tmp_path: Path) -> None:
    stream = load(tmp_path, 'body = ""\ndelete_endpoint = " "\n', STREAMS__ORDERS__FIELDS=" ").stream("orders")
    assert (stream.body, stream.delete_method, stream.fields, stream.headers) == (None, None, (), {})


def test_deletes_are_optional(tmp_path: Path) -> None:
    stream = load(tmp_path, 'delete_endpoint = "None"').stream("orders")
    assert (stream.delete_method, stream.sends_deletes) == (None, False)
    assert load(tmp_path, 'delete_endpoint = "DELETE /orders/{id}"').stream("orders").sends_deletes


def test_the_path_of_a_schema_begins_at_the_settings(tmp_path: Path) -> None:
    schema = tmp_path / "a" / "b.json"
    schema.parent.mkdir()
    schema.write_text('\ufeff{"minLength": 2.0}', encoding="utf-8")
    assert load(tmp_path, 'body_schema = "a/b.json"').stream("orders").body_schema == str(schema)
    assert load(tmp_path, f'body_schema = "{schema}"').stream("orders").body_schema == str(schema)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (None, "No such file or directory"),
        ("{", "it is not JSON: Expecting property name"),
        ("\xff", "it is not UTF-8 text"),
        ('{"type": "numbr"}', "$.type: 'numbr' is not valid"),
        ('{"pattern": "["}', "$.pattern: '[' is not a 'regex'"),
        ('{"items": {"patternProperties": {"[": {}}}}', "is not a 'regex'"),
        ('{"properties": {"a": {"$ref": "#/$defs/nope"}}}', "it refers to #/$defs/nope, which is not in it"),
        ('{"properties": {"a": {"$ref": "#nope"}}}', "it refers to #nope, which is not in it"),
        ('{"$ref": "https://127.0.0.1:1/x.json"}', "it refers to https://127.0.0.1:1/x.json, and nothing is fetched"),
        ('{"$ref": "#"}', "it refers to itself without end"),
        ("[" * 100_000, "it is nested too deeply"),
        ('{"not":' * 20_000 + "{}" + "}" * 20_000, "nested too deeply"),
    ],
)
def test_a_schema_that_cannot_be_used_is_an_error_of_the_settings(
    tmp_path: Path, schema: str | None, message: str
) -> None:
    if schema is not None:
        (tmp_path / "s.json").write_text(schema, encoding="latin-1")
    line = complaint(tmp_path, 'body_schema = "s.json"')
    assert line.startswith("streams.orders.body_schema (syncctl.toml line 4): s.json cannot be used: ")
    assert message in line
    assert "\n" not in line


def test_a_stream_can_be_appended_beside_one_with_a_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "s.json").write_text("{}")
    load(tmp_path, 'body_schema = "s.json"\n')
    append_stream(tmp_path, "stock", '[streams.stock]\ntable = "stock"\nstart = "now"\n')
    assert load_settings(directory=tmp_path, environment=ENVIRONMENT).stream_names == ("orders", "stock")


def test_the_schema_of_a_body_that_is_not_json_is_not_read(tmp_path: Path) -> None:
    message = complaint(tmp_path, 'body_schema = "s.json"\nbody = "a"\ncontent_type = "text/csv"')
    assert "checks JSON" in message
    assert "cannot be used" not in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fields = { }\n[streams.orders.fields]\n", None),
        ('fields = { a = 1 }', "streams.orders.fields (syncctl.toml line 4): 'a' is neither a column nor a constant"),
        ('fields = "id"', 'streams.orders.fields (syncctl.toml line 4): must be a table, as in { "order.id" = "id"'),
        ('body = "{{ row.id }}"', "streams.orders.body (syncctl.toml line 4): line 1: the body is JSON"),
        ('body = "{{ row.id"', "streams.orders.body (syncctl.toml line 4): line 1: unexpected end of template"),
        ('body = "{{ now() | json }}"', "streams.orders.body (syncctl.toml line 4): now is not defined"),
        ('body = "1"\nfields = { a = "b" }', "streams.orders.body (syncctl.toml line 4): cannot be combined"),
        ('content_type = "text/csv"', "streams.orders.content_type (syncctl.toml line 4): is text/csv, but the row"),
        ('content_type = "json"', "streams.orders.content_type (syncctl.toml line 4): 'json' is not a content type"),
        (
            'content_type = "text/csv"\nbody = "{{ row.id }}"\nbody_schema = "x"',
            "streams.orders.body_schema (syncctl.toml line 6): checks JSON, and content_type is text/csv",
        ),
        ('delete_endpoint = "GET /x"', "streams.orders.delete_endpoint (syncctl.toml line 4): 'GET /x' is not"),
        ('headers = { "X A" = "1" }', "streams.orders.headers (syncctl.toml line 4): 'X A' cannot be the name"),
        ('headers = { idempotency-key = "1" }', "idempotency-key is set by syncctl or by the partner's auth"),
        ('headers = { Authorization = "{{ row.id }}" }', "Authorization is set by syncctl or by the partner's auth"),
        ('headers = { webhook-signature = "1" }', "webhook-signature is set by syncctl"),
        ('headers = { Content-Type = "1" }', "use content_type"),
        ('headers = { X-Api-Key = "k-998877" }', "X-Api-Key looks like a secret; set it as the partner's auth"),
        ('headers = { X-A = "{{ nope }}" }', "streams.orders.headers (syncctl.toml line 4): X-A: nope is not defined"),
        ('headers = { X-A = "${API_KEY}" }', "streams.orders.headers.X-A (syncctl.toml line 4): cannot contain"),
        ('fields = { a = { const = "${API_KEY}" } }', "cannot contain ${NAME}"),
        ('fields = { a = { const = ["${API_KEY}"] } }', "cannot contain ${NAME}"),
        ('fields = { a = { const = [{ b = "${API_KEY}" }] } }', "cannot contain ${NAME}"),
        ('endpoint = "POST /o?k=${API_KEY}"', "streams.orders.endpoint (syncctl.toml line 4): cannot contain ${NAME}"),
        (
            'delete_endpoint = "DELETE /${API_KEY}/{id}"',
            "is shown unmasked; put a secret into the partner's auth ",
        ),
        ('body = "\'${API_KEY}\'"', "streams.orders.body (syncctl.toml line 4): cannot contain ${NAME}"),
        ('schema = "x.json"', "streams.orders.schema (syncctl.toml line 4): is unknown; did you mean body_schema?"),
    ],
)  # fmt: skip
def test_an_error_names_the_key_the_line_and_the_fix(tmp_path: Path, text: str, message: str | None) -> None:
    if message is None:
        with pytest.raises(ConfigurationError, match="not valid TOML"):
            load(tmp_path, text)
        return
    assert message in complaint(tmp_path, text)
    assert "k-998877" not in complaint(tmp_path, text)


def test_a_reference_in_dotenv_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("STREAMS__ORDERS__BODY='\"${API_KEY}\"'\n")
    assert "streams.orders.body (.env line 1): cannot contain ${NAME}" in complaint(tmp_path, "")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ENDPOINT", "POST /${API_KEY}"),
        ("DELETE_ENDPOINT", "DELETE /${API_KEY}"),
        ("BODY", '"${API_KEY}"'),
        ("HEADERS", '{"X-A": "${API_KEY}"}'),
        ("FIELDS", '{"a": {"const": "${API_KEY}"}}'),
    ],
)
def test_a_reference_in_the_environment_is_refused_too(tmp_path: Path, name: str, value: str) -> None:
    message = complaint(tmp_path, "", **{f"STREAMS__ORDERS__{name}": value})
    assert message.startswith(f"streams.orders.{name.lower()} (environment): cannot contain ${{NAME}}")
    assert "\n" not in message


def test_a_plain_dollar_and_brace_is_written_alike_in_every_place(tmp_path: Path) -> None:
    assert load(tmp_path, "", STREAMS__ORDERS__BODY='"$${x}"').stream("orders").body == '"${x}"'
    (tmp_path / "body").write_text('"${x}"')
    assert load(tmp_path, "", STREAMS__ORDERS__BODY_FILE=str(tmp_path / "body")).stream("orders").body == '"${x}"'


def test_a_plain_dollar_and_brace_may_stand_in_a_template(tmp_path: Path) -> None:
    body = load(tmp_path, """body = '{"a": "$${x}"}'""").stream("orders").body
    assert body == '{"a": "${x}"}'


def test_settings_show_tables_as_they_are(tmp_path: Path) -> None:
    shown: dict[str, Any] = {
        setting.key: setting.value for setting in describe_settings(load(tmp_path, "fields = { a = { const = 1 } }"))
    }
    assert json.dumps(shown["streams.orders.fields"]) == '{"a": {"const": 1}}'


def test_the_variable_of_a_secret_is_known_where_it_came_by_name(tmp_path: Path) -> None:
    auth = '\n[partners.depot]\nurl = "https://d"\nauth = { type = "api_key", name = "X-Key", value = "${API_KEY}" }\n'
    settings = load(tmp_path, auth, PARTNER_TOKEN="tok-1234567")
    assert settings.find_secret_name("depot") == "API_KEY"
    assert settings.find_secret_name("default") == "PARTNER_TOKEN"
    assert load(tmp_path, "").find_secret_name("default") is None


def test_the_meaning_of_a_status_can_be_set(tmp_path: Path) -> None:
    text = 'accept_conflict = true\noutcomes = { 403 = "Rejected", 404 = "accepted" }'
    stream = load(tmp_path, text).stream("orders")
    common = {409: Verdict.ACCEPTED, 403: Verdict.REJECTED, 404: Verdict.ACCEPTED}
    assert stream.outcomes == OutcomeRules(common=common)
    said = load(tmp_path, "", STREAMS__ORDERS__OUTCOMES='{"429": "rejected"}').stream("orders")
    assert said.outcomes == OutcomeRules(common={429: Verdict.REJECTED})


@pytest.mark.parametrize("form", ["toml", "variable", "variables"])
def test_the_meaning_of_a_status_can_be_set_for_one_operation(tmp_path: Path, form: str) -> None:
    name = "STREAMS__ORDERS__OUTCOMES"
    text, variables = {
        "toml": ('outcomes = { 403 = "rejected", delete = { 404 = "Rejected" }, upsert = { 404 = "accepted" } }', {}),
        "variable": (
            "",
            {name: '{"403":"rejected","delete":{"404":"rejected"},"upsert":{"404":"accepted"}}'},
        ),
        "variables": (
            "",
            {f"{name}__403": "rejected", f"{name}__DELETE__404": "rejected", f"{name}__UPSERT__404": "accepted"},
        ),
    }[form]
    assert load(tmp_path, text, **variables).stream("orders").outcomes == OutcomeRules(
        common={403: Verdict.REJECTED},
        by_operation={"delete": {404: Verdict.REJECTED}, "upsert": {404: Verdict.ACCEPTED}},
    )


@pytest.mark.parametrize(
    ("outcomes", "message"),
    [
        ('{ 99 = "accepted" }', "99 is not an HTTP status from 200 to 599"),
        ('{ 4xx = "accepted" }', "4xx is not an HTTP status"),
        ('{ 403 = "ignore" }', '403 must be one of "accepted", "retry_later", "rejected"'),
        ('"403"', "must be a table, as in"),
        ('{ delete = "rejected" }', "delete holds a table, as in delete = { 404"),
        ('{ delete = { 99 = "accepted" } }', "99 is not an HTTP status"),
        ('{ delete = { 404 = "ignore" } }', '404 must be one of "accepted", "retry_later", "rejected"'),
        ('{ delete = { upsert = { 404 = "accepted" } } }', "upsert must be one of"),
        ('{ insert = { 404 = "accepted" } }', "insert must be one of"),
    ],
)
def test_an_unknown_status_or_meaning_is_refused(tmp_path: Path, outcomes: str, message: str) -> None:
    assert message in complaint(tmp_path, f"outcomes = {outcomes}")
