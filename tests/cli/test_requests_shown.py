"""`poll --dry-run` and `show --request`: the exact request, nothing sent, no secret."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from syncctl.local.mock_partner import MockPartner
from tests.harness.json_pages import keys_of, read_page
from tests.harness.servers import connect
from tests.harness.source_db import SourceDb

Run = Callable[..., Any]
CANARY = "cAn4ry-7f3e-5d21"
STREAM = {
    "endpoint": "PUT /orders/{id}",
    "fields": {"order.id": "id", "order.note": "note", "kind": {"const": "order"}},
    "headers": {"X-Customer": "{{ row.customer }}"},
}


@pytest.fixture
def shaped_dir(make_settings: Callable[..., Path], source_db: SourceDb) -> Path:
    """A stream with a shape, and a partner with secrets of each kind that a call can carry."""
    source_db.create_orders(3)
    sections = {"partners": {"default": {"headers": {"X-Tenant": "${TENANT}"}}}}
    directory = make_settings(partner_token=f"{CANARY}-token", stream=STREAM, sections=sections)
    with (directory / ".env").open("a") as file:
        file.write(f"TENANT={CANARY}-tenant\n")
    return directory


def test_a_dry_run_shows_the_next_requests_and_changes_nothing(
    run_syncctl: Run, shaped_dir: Path, partner: MockPartner
) -> None:
    result = run_syncctl("poll", "orders", "--once", "--dry-run", "--json", cwd=shaped_dir)
    assert (result.exit_code, result.stderr) == (0, "")
    assert [request["key"]["id"] for request in result.json["requests"]] == [1, 2, 3]
    first = result.json["requests"][0]
    assert (first["method"], first["url"]) == ("PUT", f"{partner.url}/orders/1")
    assert first["body"] == '{"order":{"id":1,"note":""},"kind":"order"}'
    assert first["headers"]["X-Customer"] == "customer 1"
    assert first["headers"]["Authorization"] == "Bearer ***"
    assert 'Authorization: Bearer ${PARTNER_TOKEN}"' in first["curl"]
    assert partner.calls() == []
    status = run_syncctl("status", "--json", cwd=shaped_dir).json["streams"][0]
    assert (status["cursor"], set(status["counts"].values())) == (None, {0})
    run = run_syncctl("poll", "--once", "--json", cwd=shaped_dir).json["runs"][0]
    assert (run["logged"], run["cursor_before"]) == (3, None)
    again = run_syncctl("poll", "--dry-run", cwd=shaped_dir)
    assert (again.exit_code, again.stdout) == (0, "")
    hint = "no row is new or changed; next: add --known, or run syncctl show orders KEY --request\n"
    assert again.stderr == hint
    known = run_syncctl("poll", "--dry-run", "--known", "--json", cwd=shaped_dir)
    assert (known.exit_code, known.json["requests"]) == (0, [first])


def test_the_request_of_a_record_is_what_the_dry_run_has_shown(run_syncctl: Run, shaped_dir: Path) -> None:
    (shown,) = run_syncctl("poll", "--dry-run", "--limit", "1", "--json", cwd=shaped_dir).json["requests"]
    run_syncctl("poll", "--once", cwd=shaped_dir)
    by_key = run_syncctl("show", "orders", "1", "--request", "--json", cwd=shaped_dir)
    by_id = run_syncctl("show", shown["id"], "--request", "--json", cwd=shaped_dir)
    assert by_key.json == by_id.json == {"requests": [shown]}


def test_a_person_sees_the_request_and_the_command(run_syncctl: Run, shaped_dir: Path, partner: MockPartner) -> None:
    result = run_syncctl("poll", "--dry-run", "--limit", "1", cwd=shaped_dir)
    lines = result.stdout.splitlines()
    assert lines[:2] == ["# orders id=1", f"PUT {partner.url}/orders/1"]
    assert "Content-Type: application/json" in lines
    assert '{"order":{"id":1,"note":""},"kind":"order"}' in lines
    assert lines[-1].startswith(f"curl --globoff -X PUT {partner.url}/orders/1 -H ")


def test_a_key_with_a_line_break_stays_in_its_comment(
    run_syncctl: Run, make_settings: Callable[..., Path], source_db: SourceDb
) -> None:
    source_db.execute("create table names (id text primary key)")
    source_db.execute("insert into names values (?)", ["a\ntouch owned\u202e"])
    directory = make_settings(stream={"table": "names", "mode": "snapshot", "endpoint": "PUT /names/{id}"})
    shown = run_syncctl("poll", "--dry-run", cwd=directory).stdout.splitlines()
    assert shown[0] == "# orders id=a\\ntouch owned\\u202e"
    assert shown[1].startswith("PUT http")
    assert not [line for line in shown if line.startswith("touch")]


def test_a_row_that_cannot_be_sent_says_why_and_is_exit_code_1(
    run_syncctl: Run, shaped_dir: Path, source_db: SourceDb
) -> None:
    source_db.execute("update orders set customer = 'Müller' where id = 2")
    result = run_syncctl("poll", "--dry-run", cwd=shaped_dir)
    assert result.exit_code == 1
    why = "header X-Customer would hold a line break or a character beyond ASCII"
    assert f"# orders id=2\n# cannot be sent: {why}\n" in result.stdout
    run_syncctl("poll", "--once", cwd=shaped_dir)
    shown = run_syncctl("show", "orders", "2", "--request", "--json", cwd=shaped_dir)
    assert (shown.exit_code, shown.json["requests"][0]["error"]) == (1, why)
    assert shown.json["requests"][0]["curl"] is None


def test_a_row_that_does_not_fit_the_schema_is_shown_with_its_body(
    run_syncctl: Run, shaped_dir: Path, source_db: SourceDb
) -> None:
    schema = {"properties": {"order": {"properties": {"id": {"maximum": 1}}}}}
    (shaped_dir / "orders.schema.json").write_text(json.dumps(schema))
    environment = {"STREAMS__ORDERS__BODY_SCHEMA": "orders.schema.json"}
    result = run_syncctl("poll", "--dry-run", "--limit", "2", cwd=shaped_dir, env=environment)
    assert result.exit_code == 1
    body = '{"order":{"id":2,"note":""},"kind":"order"}'
    why = "the body does not fit the schema: $.order.id breaks maximum: 1"
    assert result.stdout.endswith(f"# orders id=2\n# cannot be sent: {why}\n\n{body}\n")
    run_syncctl("poll", "--once", cwd=shaped_dir)
    (shown,) = run_syncctl("show", "orders", "2", "--request", "--json", cwd=shaped_dir, env=environment).json[
        "requests"
    ]
    assert (shown["error"], shown["body"], shown["method"], shown["curl"]) == (why, body, None, None)


def test_a_mapping_that_has_changed_since_is_reported(
    run_syncctl: Run, shaped_dir: Path, mongo_url: str, source_db: SourceDb
) -> None:
    run_syncctl("poll", "--once", cwd=shaped_dir)
    with connect(mongo_url) as client:
        records = client.get_default_database().records
        records.update_one({"key.id": 1}, {"$set": {"state": "delivered", "mapping_hash": "before"}})
        records.update_one({"key.id": 2}, {"$set": {"mapping_hash": "before"}})
    note = "# the mapping has changed since: this request was never sent, but a replay would send it"
    finished = run_syncctl("show", "orders", "1", "--request", cwd=shaped_dir).stdout.splitlines()
    assert finished[:2] == ["# orders id=1", note]
    waiting = run_syncctl("show", "orders", "2", "--request", cwd=shaped_dir).stdout
    assert note not in waiting
    (shown,) = run_syncctl("show", "orders", "1", "--request", "--json", cwd=shaped_dir).json["requests"]
    assert shown["mapping_changed"] is True


def test_no_secret_is_printed(run_syncctl: Run, shaped_dir: Path) -> None:
    shown = [run_syncctl("poll", "--dry-run", *extra, cwd=shaped_dir) for extra in ((), ("--json",), ("--debug",))]
    run_syncctl("poll", "--once", cwd=shaped_dir)
    for extra in ((), ("--json",), ("--debug",)):
        shown.append(run_syncctl("show", "orders", "1", "--request", *extra, cwd=shaped_dir))
    for version in shown:
        assert version.exit_code == 0
        assert CANARY not in version.stdout + version.stderr
        assert "***" in version.stdout


@pytest.mark.parametrize("section", ["poll --once --dry-run", "show --request"])
def test_the_document_is_what_the_page_says(run_syncctl: Run, shaped_dir: Path, section: str) -> None:
    run_syncctl("poll", "--once", cwd=shaped_dir) if section.startswith("show") else None
    command = ("show", "orders", "1", "--request") if section.startswith("show") else section.split()
    printed = keys_of(run_syncctl(*command, "--json", cwd=shaped_dir).json) - {"requests"}
    documented = read_page()[section]
    names = {key for key in printed if not key.startswith(("requests[].headers.", "requests[].key."))}
    assert names - {"requests[].key"} == {key for key in documented if "*" not in key}
    assert "requests[].headers.Idempotency-Key" in printed


def test_a_wrong_template_is_refused_at_once(run_syncctl: Run, shaped_dir: Path) -> None:
    result = run_syncctl(
        "poll", "--dry-run", cwd=shaped_dir, env={"STREAMS__ORDERS__HEADERS": '{"X-A": "{{ now() }}"}'}
    )
    assert (result.exit_code, result.stdout) == (2, "")
    assert "streams.orders.headers (environment): X-A: now is not defined" in result.stderr


def test_limit_is_for_a_dry_run(run_syncctl: Run, shaped_dir: Path) -> None:
    result = run_syncctl("poll", "--once", "--limit", "3", cwd=shaped_dir)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: --limit needs --dry-run\n")


def test_a_stream_that_left_the_configuration_says_so(run_syncctl: Run, shaped_dir: Path) -> None:
    run_syncctl("poll", "--once", cwd=shaped_dir)
    toml = shaped_dir / "syncctl.toml"
    toml.write_text(toml.read_text().replace("streams = { orders", "streams = { invoices"))
    result = run_syncctl("show", "orders", "1", "--request", cwd=shaped_dir)
    assert result.exit_code == 2
    assert "orders" in result.stderr


def test_the_configuration_shows_the_mapping(run_syncctl: Run, shaped_dir: Path) -> None:
    shown = run_syncctl("config", cwd=shaped_dir)
    assert shown.exit_code == 0
    (line,) = [line for line in shown.stdout.splitlines() if line.startswith("streams.orders.fields ")]
    assert '"note"' in line
    assert '"const"' in line
