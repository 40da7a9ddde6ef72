"""Requests built from a mapping on their way through the pipeline, and a preview that leaves no trace."""

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from syncctl.core.mapping import parse_fields
from syncctl.core.safe_text import make_safe
from syncctl.core.stream import Batching, Credentials, RetrySchedule
from syncctl.local.mock_partner import MockPartner
from syncctl.partner.client import PartnerClient
from syncctl.partner.request.curl import show_request
from syncctl.pipeline.inspection.preview import Preview, RequestPreviewer, preview_record, preview_rows
from syncctl.sources.reader import StreamReader
from tests.harness.cases import make_partner, make_record, make_stream
from tests.harness.hostile_partner import HostilePartner, answering
from tests.harness.source_db import SourceDb
from tests.harness.testbed import Testbed

pytestmark = pytest.mark.timeout(60)
FIELDS = parse_fields({"order.id": "id", "order.total": "amount", "kind": {"const": "order"}})
BASE = "https://api.partner.example/v1"
CANARY = "c4nary-5e1f"


@pytest.fixture
def shaped(testbed: Testbed, source_db: SourceDb) -> Testbed:
    source_db.create_orders(5)
    testbed.change_stream(fields=FIELDS, path="/orders/{id}")
    return testbed


def make_client(testbed: Testbed) -> PartnerClient:
    return PartnerClient(testbed.partner, testbed.stream)


def preview(testbed: Testbed, limit: int = 10) -> list[Preview]:
    client = make_client(testbed)
    try:
        return preview_rows(
            ledger=testbed.ledger,
            stream=testbed.stream,
            open_reader=lambda stream: StreamReader(testbed.source, stream),
            previewer=RequestPreviewer(client=client),
            limit=limit,
        )
    finally:
        client.close()


def copy_database(testbed: Testbed) -> dict[str, Any]:
    """Return everything that the ledger holds."""
    names = [name for name in testbed.database.list_collection_names() if not name.startswith("system.")]
    return {name: sorted(map(str, testbed.database[name].find())) for name in names}


def test_rows_arrive_in_the_shape_of_their_mapping(shaped: Testbed, partner: MockPartner) -> None:
    shaped.poll()
    assert shaped.deliver() == {"delivered": 5}
    bodies = [json.loads(body, parse_float=Decimal) for body in partner.rows().values()]
    assert {"order": {"id": 3, "total": Decimal("3.03")}, "kind": "order"} in bodies


def test_a_row_that_does_not_fit_is_failed_and_no_call_is_made(
    shaped: Testbed, partner: MockPartner, tmp_path: Path, source_db: SourceDb
) -> None:
    schema = tmp_path / "s.json"
    schema.write_text('{"properties": {"order": {"properties": {"total": {"maximum": 3}}}}}')
    shaped.change_stream(body_schema=str(schema))
    shaped.poll()
    assert shaped.deliver() == {"delivered": 2, "failed": 3}
    assert len(partner.calls()) == 2
    failed = [record for record in shaped.records() if record["state"] == "failed"]
    assert {record["error"]["message"] for record in failed} == {
        "the body does not fit the schema: $.order.total breaks maximum: 3"
    }
    assert all(record["attempts"] == 0 for record in failed)


def test_a_column_that_is_not_there_fails_each_record_and_names_it(shaped: Testbed, partner: MockPartner) -> None:
    shaped.change_stream(fields=parse_fields({"total": "amuont"}))
    shaped.poll()
    assert shaped.deliver() == {"failed": 5}
    assert partner.calls() == []
    assert "needs column amuont" in shaped.records()[0]["error"]["message"]


def test_other_bytes_go_under_another_key_and_the_same_bytes_under_the_same(
    testbed: Testbed, source_db: SourceDb
) -> None:
    source_db.create_orders(1)
    testbed.poll()
    with HostilePartner(answering("503 Later")) as server:
        testbed.partner = replace(testbed.partner, url=server.url)
        for fields in ((), (), FIELDS, FIELDS):
            testbed.change_stream(fields=fields, retry=RetrySchedule(delays_seconds=(60.0,) * 9))
            testbed.make_retries_due()
            testbed.deliver()
        requests = [request.partition(b"\r\n\r\n") for request in server.requests]
    keys = [
        next(line for line in head.splitlines() if line.lower().startswith(b"idempotency-key"))
        for head, _, _ in requests
    ]
    bodies = [body for _, _, body in requests]
    assert len(keys) == 4
    assert keys[0] == keys[1] != keys[2] == keys[3]
    assert bodies[0] == bodies[1] != bodies[2] == bodies[3]


def test_a_row_that_is_gone_goes_to_its_own_endpoint_without_a_body(testbed: Testbed, source_db: SourceDb) -> None:
    source_db.create_orders(2)
    testbed.change_stream(mode="snapshot", cursor=None, delete_method="DELETE", delete_path="/orders/{id}")
    testbed.poll()
    with HostilePartner(answering("204 No Content")) as server:
        testbed.partner = replace(testbed.partner, url=server.url + "/v1")
        testbed.deliver()
        source_db.execute("delete from orders where id = 2")
        testbed.poll()
        assert testbed.deliver() == {"delivered": 1}
        head, _, body = server.requests[-1].partition(b"\r\n\r\n")
    assert head.splitlines()[0] == b"DELETE /v1/orders/2 HTTP/1.1"
    names = {line.partition(b":")[0].lower() for line in head.splitlines()[1:]}
    assert names & {b"content-length", b"content-type", b"transfer-encoding"} == set()
    assert body == b""


def test_a_delete_that_the_stream_does_not_send_is_accounted_for(testbed: Testbed, source_db: SourceDb) -> None:
    source_db.create_orders(3)
    testbed.change_stream(mode="snapshot", cursor=None, sends_deletes=False)
    testbed.poll()
    with HostilePartner(answering("204 No Content")) as server:
        testbed.partner = replace(testbed.partner, url=server.url)
        testbed.deliver()
        calls = len(server.requests)
        source_db.execute("delete from orders where id = 2")
        run = testbed.poll()
        assert (run.logged, run.failed, testbed.take_rows()) == (1, 0, [])
        source_db.add_orders([2])
        testbed.poll()
        assert testbed.deliver() == {"delivered": 1}, "a row that comes back is sent"
        assert len(server.requests) == calls + 1
    (gone,) = testbed.records(state="discarded")
    assert (gone["op"], gone["key"]) == ("delete", {"id": 2})
    assert "delete_endpoint = none" in gone["reason"]
    assert testbed.poll().logged == 0


def test_a_preview_shows_the_calls_that_follow_and_leaves_no_trace(shaped: Testbed, partner: MockPartner) -> None:
    before = copy_database(shaped)
    shown = preview(shaped)
    assert copy_database(shaped) == before
    assert partner.calls() == []
    shaped.poll()
    shaped.deliver()
    sent = {call.key: (call.method, call.path, call.body_hash) for call in partner.calls()}
    assert len(shown) == 5
    for version in shown:
        headers = version.request.headers or {}
        request, body = version.request, (version.request.body or "").encode()
        digest = hashlib.sha256(body).hexdigest()
        method, path, received = sent.pop(headers["Idempotency-Key"])
        assert (request.method, request.url, headers["Content-Length"]) == (method, partner.url + path, str(len(body)))
        assert digest.startswith(received)
        assert version.id == headers["Idempotency-Key"]
    assert sent == {}


def test_a_preview_begins_at_the_cursor_and_ends_at_its_limit(shaped: Testbed, source_db: SourceDb) -> None:
    assert [shown.key["id"] for shown in preview(shaped, 2)] == [1, 2]
    shaped.poll()
    assert preview(shaped) == []
    source_db.add_orders([6, 7, 8])
    assert [shown.key["id"] for shown in preview(shaped, 2)] == [6, 7]


def test_a_preview_of_a_compared_table_leaves_out_what_is_known(shaped: Testbed, source_db: SourceDb) -> None:
    shaped.change_stream(mode="snapshot", cursor=None)
    shaped.poll()
    source_db.execute("update orders set amount = 9 where id = 4")
    source_db.add_orders([6])
    assert [shown.key["id"] for shown in preview(shaped, 2)] == [4, 6]


def test_a_preview_says_of_each_row_why_it_cannot_be_sent(shaped: Testbed, source_db: SourceDb) -> None:
    source_db.execute("update orders set amount = 9e999 where id = 1")
    shaped.change_stream(path="/{note}/orders")
    source_db.execute("update orders set note = 'n' where id <> 2")
    first, second, third, *_ = preview(shaped)
    assert first.request.error == "column amount: the number is Infinity; JSON cannot represent it"
    assert second.request.error == "the path needs column note, which is empty in this row"
    assert (third.request.error, third.request.method) == (None, "POST")


def test_the_request_of_a_record_is_the_one_that_was_sent_and_then_the_next(shaped: Testbed) -> None:
    shaped.poll()
    client = make_client(shaped)

    def show() -> Any:
        document = shaped.ledger.records.find(record_id=shaped.records()[0]["_id"])[0]
        previewer = RequestPreviewer(client=client)
        return preview_record(document, stream=shaped.stream, key=None, previewer=previewer).request

    first = show()
    assert first.headers["Syncctl-Attempt"] == "1"
    shaped.deliver()
    assert show() == first
    shaped.change_stream(fields=())
    client.close()
    client = make_client(shaped)
    assert show().headers["Idempotency-Key"] == first.headers["Idempotency-Key"] + "-2"
    client.close()


def test_a_row_of_a_stream_with_batches_is_shown_as_a_call_of_its_own(shaped: Testbed, source_db: SourceDb) -> None:
    source_db.execute("delete from orders where id > 1")
    shaped.change_stream(path="/orders", batching=Batching(size=10, under="rows"))
    (shown,) = preview(shaped)
    with HostilePartner(answering("204 No Content")) as server:
        shaped.partner = replace(shaped.partner, url=server.url)
        shaped.poll()
        shaped.deliver()
        head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert body.decode() == shown.request.body
    assert body.startswith(b'{"rows":[{')
    assert f"Idempotency-Key: {shown.request.headers['Idempotency-Key']}" in head.decode()


def curl_of(client: PartnerClient, variable: str | None, payload: dict[str, Any]) -> Any:
    return show_request(client, make_record(payload=payload), variable=variable)


@pytest.fixture
def words_of() -> Iterator[Any]:
    """Return the words that a shell makes of a command."""

    def split(command: str, **environment: str) -> list[str]:
        script = f"curl() {{ printf '%s\\0' \"$@\"; }}; {command}"
        done = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, check=True)
        return done.stdout.decode().split("\0")[:-1]

    return split


@pytest.mark.parametrize(
    "text", ['it\'s $HOME `id` "x"', "a\nb\\c", "@/etc/passwd", "-X", "***", "ä 漢 🚚", "!#*?[]{}"]
)
def test_the_curl_command_is_the_same_call_in_any_shell(words_of: Any, text: str) -> None:
    stream = make_stream("PUT /orders/{id}", headers={"X-Kind": "{{ '\"$HOME`' }}"})
    partner = make_partner(BASE, auth=Credentials(kind="bearer", values={"token": CANARY}))
    client = PartnerClient(partner, stream)
    payload = {"id": text, "text": text}
    shown = curl_of(client, "PARTNER_TOKEN", payload)
    call = client.prepare(make_record(payload=payload))
    client.close()
    words = words_of(shown.curl, PARTNER_TOKEN=CANARY)
    assert words[:4] == ["--globoff", "-X", "PUT", call.url]
    headers = [words[at + 1] for at, word in enumerate(words[:-2]) if word == "-H"]
    wanted = {f"{name}: {value}" for name, value in call.headers.items() if name != "Content-Length"}
    assert set(headers) == wanted | {f"Authorization: Bearer {CANARY}"}
    assert words[-2:] == ["--data-raw", call.body.decode()]


@pytest.mark.parametrize(
    "content_type",
    ["text/plain; charset=iso-8859-1", "text/plain; charset=utf-16", "text/plain; charset=utf-16le", "text/plain"],
)
@pytest.mark.parametrize(
    "text", ["Müller", "50 % of 'M\\374ller' \"x\" \t$HOME\n", "so\xadft\x85\xad12'\\xad", "a\0b\0"]
)
def test_a_body_in_any_encoding_is_shown_and_its_curl_command_sends_the_same_bytes(
    content_type: str, text: str
) -> None:
    with HostilePartner(answering("200 OK")) as server:
        stream = make_stream(content_type=content_type, body="{{ row.text }}")
        client = PartnerClient(make_partner(server.url), stream)
        shown = curl_of(client, None, {"id": 1, "text": text})
        call = client.prepare(make_record(payload={"id": 1, "text": text}))
        client.close()
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
        subprocess.run(["bash", "-c", shown.curl], env=environment, check=True, timeout=20, capture_output=True)
        (request,) = server.requests
    assert shown.body == text
    assert make_safe(shown.curl) == shown.curl
    assert request.partition(b"\r\n\r\n")[2] == call.body


@pytest.mark.parametrize(
    "auth",
    [
        Credentials(kind="bearer", values={"token": CANARY}),
        Credentials(kind="api_key", values={"name": "X-Key", "value": CANARY}),
        Credentials(kind="api_key", values={"name": "key", "value": CANARY, "in": "query"}),
        Credentials(kind="basic", values={"user": "syncctl", "password": CANARY}),
        Credentials(kind="hmac", values={"secret": CANARY}),
    ],
    ids=lambda auth: auth.kind,
)
def test_no_kind_of_auth_shows_its_secret(auth: Credentials) -> None:
    partner = make_partner(BASE, auth=auth, headers={"X-Tenant": CANARY})
    client = PartnerClient(partner, make_stream(headers={"X-Shop-Token": "{{ row.id }}"}))
    shown = curl_of(client, None, {"id": "shop-998"})
    client.close()
    assert CANARY not in repr(shown)
    assert "***" in repr(shown)
    assert shown.headers["X-Shop-Token"] == "***"


def test_a_row_that_makes_no_xml_fails_without_a_call_and_the_others_go_on(
    testbed: Testbed, source_db: SourceDb, partner: MockPartner
) -> None:
    source_db.create_orders(3)
    source_db.execute("update orders set note = ? where id = 2", ("a\x01b",))
    testbed.change_stream(content_type="application/xml", body="<order><note>{{ row.note }}</note></order>")
    testbed.poll()
    assert testbed.deliver() == {"delivered": 2, "failed": 1}
    failed = testbed.record(2)
    assert failed["error"]["message"] == "column note holds U+0001, which XML cannot represent"
    assert (failed["state"], failed["attempts"]) == ("failed", 0)
    assert len(partner.calls()) == 2
