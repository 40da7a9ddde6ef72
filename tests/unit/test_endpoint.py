"""The target of a call, and the bytes that it carries."""

import re
from dataclasses import replace
from decimal import Decimal
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncctl.core.json_text import JsonText
from syncctl.core.mapping import parse_fields
from syncctl.core.records import Record
from syncctl.core.stream import Batching, Credentials
from syncctl.errors import ConfigurationError
from syncctl.partner.address import count_empty_segments, find_dot_segment
from syncctl.partner.bulk import refuse_second_key
from syncctl.partner.call import Unsendable
from syncctl.partner.client import PartnerClient
from syncctl.partner.endpoint import VALUE_AT_MOST, Endpoint
from tests.harness.cases import make_partner, make_record, make_stream

BASE = "https://api.partner.example/v1"


def bearer(token: str) -> Credentials:
    return Credentials(kind="bearer", values={"token": token})


def make_endpoint(path: str, url: str = BASE, method: str = "PUT") -> Endpoint:
    return Endpoint(make_partner(url), make_stream(f"{method} {path}"))


def with_values(**payload: Any) -> Record:
    return make_record(payload=payload)


@pytest.mark.parametrize(
    ("url", "path", "target"),
    [
        (BASE, "/orders", "/v1/orders"),
        (BASE + "/", "orders", "/v1/orders"),
        ("http://localhost:8080", "/", "/"),
        ("http://localhost:8080", "/orders/", "/orders/"),
        (BASE, "/orders/{id}", "/v1/orders/7"),
        (BASE, "/{region}/orders/{id}/lines?of={id}", "/v1/n%26rth/orders/7/lines?of=7"),
        (BASE, "/orders/{id}.json", "/v1/orders/7.json"),
        (BASE, "/größe/a b/%20", "/v1/gr%C3%B6%C3%9Fe/a%20b/%20"),
        ("http://host/a b/ö", "/x", "/a%20b/%C3%B6/x"),
    ],
)
def test_the_path_follows_the_base_url(url: str, path: str, target: str) -> None:
    assert make_endpoint(path, url).fill(with_values(id=7, region="n&rth")) == target


@pytest.mark.parametrize(
    ("value", "segment"),
    [
        ("a/b", "a%2Fb"),
        ("..x/y..", "..x%2Fy.."),
        ("v1.2/a.b", "v1.2%2Fa.b"),
        ("e.g. /etc / usr", "e.g.%20%2Fetc%20%2F%20usr"),
        (".hidden", ".hidden"),
        ("50%25.", "50%2525."),
        ("A;B.", "A%3BB."),
        ("Ελλάς…", "%CE%95%CE%BB%CE%BB%CE%AC%CF%82%E2%80%A6"),
        ("東京。", "%E6%9D%B1%E4%BA%AC%E3%80%82"),
        ("?a=1#b", "%3Fa%3D1%23b"),
        ("a. ./a.b %c0x", "a.%20.%2Fa.b%20%25c0x"),
        ("5 % .", "5%20%25%20."),
        ("%41%2f5", "%2541%252f5"),
        ("#1001", "%231001"),
        ("7;b", "7%3Bb"),
        ("ä ö", "%C3%A4%20%C3%B6"),
        ("...", "..."),
        ("a\r\nHost: x", "a%0D%0AHost%3A%20x"),
        (10**40, "1" + "0" * 40),
        (Decimal("1.10"), "1.10"),
        (Decimal("1E+3"), "1000"),
        (True, "true"),
        (0, "0"),
    ],
)
def test_a_value_is_one_segment(value: Any, segment: str) -> None:
    assert make_endpoint("/orders/{id}").fill(with_values(id=value)) == f"/v1/orders/{segment}"


@given(st.text(min_size=1).filter(lambda text: find_dot_segment(text) is None and not count_empty_segments(text)))
def test_any_text_stays_one_segment_and_comes_back(text: str) -> None:
    target = make_endpoint("/orders/{id}").fill(with_values(id=text))
    assert target.isascii()
    assert target.startswith("/v1/orders/")
    segment = target.removeprefix("/v1/orders/")
    assert not set(segment) & set("/?#\\ \r\n")
    assert unquote(segment) == text
    decoded = unquote(target)
    assert re.sub("/+", "/", decoded) == decoded, "a server that decodes and merges slashes sees another path"
    assert not decoded.endswith("/")


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ({"id": None}, "NULL"),
        ({"id": ""}, "empty"),
        ({"id": "."}, "segment"),
        ({"id": ".."}, "segment"),
        ({"id": "\ud800"}, "surrogate"),
    ],
)
def test_a_value_that_would_change_the_path_is_not_sent(payload: dict[str, Any], said: str) -> None:
    with pytest.raises(Unsendable, match=said):
        make_endpoint("/orders/{id}").fill(with_values(**payload))


@pytest.mark.parametrize(
    "value",
    [
        "../admin/users/7",
        "..\\admin",
        "7/../../admin",
        "7/.",
        "%2e%2e/admin",
        "%252e%252e%252fadmin",
        f"%{'25' * 30}2e%2e/admin",
        "%c0%ae%c0%ae%c0%afadmin",
        "%e0%80%ae%e0%80%ae/admin",
        "%f0%80%80%ae./admin",
        "%u002e%u002e/admin",
        ".%2e/admin",
        "\uff0e\uff0e\uff0fadmin",
        "..\uff0fadmin",
        "\u2024\u2024/admin",
        "\u2025/admin",
        "\u3002\u3002/admin",
        "..\u2215admin",
        "..\u00a5admin",
        "%EF%BC%8E%EF%BC%8E/admin",
        "..;jsessionid=1/admin",
        "..%3Bx/admin",
        "..%00/admin",
        ".\t./admin",
        "..\u200b/admin",
        ".. /admin",
        "..?x",
        "..#x",
        "..\0abc",
        "x/..%00.json",
        "..\r\nx",
        ".. HTTP/1.1",
        "\t../admin",
        "%c0%2e%c0%6e/admin",
        "%e0%40%ae./admin",
        "..%c1%1cadmin",
        "..%c0%2fadmin",
        "%f8%80%80%80%ae./admin",
        "%fc%80%80%80%80%ae./admin",
        "\uff052e\uff052e/admin",
        "\uff05252e./admin",
        "%\uff12e./admin",
        "%\u200b2e./admin",
        "/%c1/..",
    ],
)
def test_a_value_in_whatever_spelling_of_dots_does_not_leave_its_endpoint(value: str) -> None:
    with pytest.raises(Unsendable, match=r"would leave /orders/\{id\}: column id holds a segment"):
        make_endpoint("/orders/{id}", method="DELETE").fill(with_values(id=value))


@pytest.mark.parametrize(
    "value",
    [
        "/",
        "//",
        "/4712",
        "4714/",
        "a//b",
        "a/ /b",
        "\\",
        "a\\/b",
        "4714\\",
        "%2F",
        "%2f4712",
        "4714%252F",
        "a%5c%5Cb",
        f"%{'25' * 30}2f4712",
        "%c0%af4712",
        "%e0%80%af4712",
        "%u002f4712",
        "\uff0f4712",
        "4712\u2215",
        "4712\u00a5",
        "%EF%BC%8F4712",
        "a/\u200b/b",
        "\t/4712",
        "4714/\n",
        ";x",
        ";x/4712",
        "a/;x/b",
        "%3Bx",
        " ",
        "\t",
        "\u00a0",
        "%20",
        "\u200b",
    ],
)
def test_a_value_in_whatever_spelling_of_slashes_reaches_no_other_row(value: str) -> None:
    with pytest.raises(
        Unsendable, match=r"would leave /orders/\{id\}: column id holds an empty segment|a segment of dots"
    ):
        make_endpoint("/orders/{id}", method="DELETE").fill(with_values(id=value))


def test_a_value_that_no_address_takes_is_not_sent() -> None:
    endpoint = make_endpoint("/orders/{id}?of={ref}")
    assert len(endpoint.fill(with_values(id=7, ref="x" * VALUE_AT_MOST))) > VALUE_AT_MOST
    for values in ({"id": "\ufdfa" * 1_000_000, "ref": 1}, {"id": 1, "ref": "a%" * 1_000_000}):
        with pytest.raises(
            Unsendable, match=r"which has [0-9,]+ characters in this row; an address takes at most 16,384"
        ):
            endpoint.fill(with_values(**values))


def test_columns_that_only_together_spell_a_slash_are_not_sent() -> None:
    endpoint = make_endpoint("/orders/{region}{id}/", method="DELETE")
    assert endpoint.fill(with_values(region="%2", id="4")) == "/v1/orders/%2524/"
    with pytest.raises(Unsendable, match="its columns make an empty segment"):
        endpoint.fill(with_values(region="%2", id="F4712"))


@pytest.mark.parametrize("path", ["/orders/{id}/", "//orders/{id}", "/orders//{id}.json"])
def test_slashes_of_the_endpoint_itself_are_sent(path: str) -> None:
    assert make_endpoint(path).fill(with_values(id="a/b")) == "/v1" + f"/{path.lstrip('/')}".replace("{id}", "a%2Fb")


def test_slashes_in_the_query_are_sent() -> None:
    target = make_endpoint("/orders/{id}?of={ref}").fill(with_values(id=7, ref="//"))
    assert target == "/v1/orders/7?of=%2F%2F"


def test_dots_in_the_query_are_sent() -> None:
    target = make_endpoint("/orders/{id}?of={ref}").fill(with_values(id=7, ref="../x"))
    assert target == "/v1/orders/7?of=..%2Fx"


def test_pieces_that_make_dots_together_are_not_sent() -> None:
    with pytest.raises(Unsendable, match="segment"):
        make_endpoint("/orders/{a}{b}").fill(with_values(a=".", b="."))
    with pytest.raises(Unsendable, match="columns make a segment"):
        make_endpoint("/orders/{a}{b}/x").fill(with_values(a="%2", b="e/admin"))


def test_a_missing_column_is_taken_from_the_key_and_else_not_sent() -> None:
    endpoint = make_endpoint("/orders/{id}")
    assert endpoint.fill(make_record(9, payload={"name": "x"})) == "/v1/orders/9"
    assert endpoint.fill(Record(**{**_fields(make_record(9)), "payload": None, "op": "delete"})) == "/v1/orders/9"
    with pytest.raises(Unsendable, match="column nr"):
        make_endpoint("/orders/{nr}").fill(make_record(9))


def _fields(record: Record) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__slots__}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("POST", "/a/../b"),
        ("POST", "/./b"),
        ("PUT", "/{id"),
        ("PUT", "/id}"),
        ("PUT", "/{}"),
        ("PUT", "/#x"),
    ],
)
def test_an_endpoint_that_cannot_work_is_refused_at_once(method: str, path: str) -> None:
    with pytest.raises(ConfigurationError, match=r"streams\.orders\.endpoint"):
        make_endpoint(path, method=method)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.partner.example",
        "ftp://api.partner.example",
        "https://",
        "https://host:port/",
        "https://host:99999/",
        "https://[::1/",
        "https://user:hunter22@host/",
        "https://host/?key=hunter22",
        "https://host/#x",
        "https://host/a/../b",
    ],
)
def test_a_base_url_that_cannot_work_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"partners\.default\.url") as caught:
        make_endpoint("/orders", url)
    assert "hunter22" not in f"{caught.value} {caught.value.hint}"


def test_the_mapping_hash_names_what_shapes_a_call_and_nothing_else() -> None:
    def hash_of(url: str = BASE, endpoint: str = "PUT /orders/{id}", **partner: Any) -> str:
        return PartnerClient(make_partner(url, **partner), make_stream(endpoint)).mapping_hash

    same = {
        hash_of(),
        hash_of("https://other.example:8443/v1/"),
        hash_of(auth=bearer("another")),
        hash_of(headers={"X-Api-Key": "another"}),
    }
    others = {
        hash_of(endpoint="POST /orders/{id}"),
        hash_of(endpoint="PUT /orders/{nr}"),
        hash_of("https://x.example/v2"),
    }
    assert len(same) == 1
    assert len(same | others) == 4


def body_of(**payload: Any) -> bytes:
    return PartnerClient(make_partner(BASE), make_stream()).prepare(with_values(**payload)).body


def test_a_body_keeps_every_digit_and_the_order_of_the_columns() -> None:
    body = body_of(
        z=Decimal("12345678901234567890123456789012345678.10"),
        a=2**70,
        e=Decimal("1E-30"),
        f=0.1,
        t="Ærø 𝄞 \x00\u2028",
        n=None,
        b=True,
    )
    assert (
        body
        == (
            '{"z":12345678901234567890123456789012345678.10,"a":1180591620717411303424,"e":1E-30,"f":0.1,'
            '"t":"Ærø 𝄞 \\u0000\u2028","n":null,"b":true}'
        ).encode()
    )


def test_the_same_record_gives_the_same_bytes() -> None:
    assert len({body_of(b=1, a=Decimal("1.0")) for _ in range(5)}) == 1
    assert body_of(a=1, b=2) != body_of(b=2, a=1)


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        Decimal("NaN"),
        Decimal("Infinity"),
        Decimal("sNaN"),
        "\udc00",
        b"x",
        pytest.param(10**5000, id="huge"),
        object(),
    ],
)
def test_a_value_without_a_form_in_json_is_not_sent_and_its_column_is_named(value: Any) -> None:
    with pytest.raises(Unsendable, match="weight"):
        body_of(id=1, weight=value)


def test_a_delete_carries_its_key() -> None:
    client = PartnerClient(make_partner(BASE), make_stream())
    record = Record(**{**_fields(make_record(9)), "payload": None, "op": "delete"})
    assert client.prepare(record).body == b'{"id":9}'


def test_a_call_names_its_record_and_shows_no_secret() -> None:
    client = PartnerClient(make_partner(BASE, headers={"X-Api-Key": "k-998877", "user-agent": "erp/2"}), make_stream())
    call = client.prepare(make_record(9, attempt=3, generation=1))
    assert call.url == BASE + "/orders"
    assert dict(call.headers) == {
        "Content-Type": "application/json",
        "Accept": "application/json, */*;q=0.5",
        "X-Api-Key": "k-998877",
        "user-agent": "erp/2",
        "Idempotency-Key": f"orders-{9:032x}-2",
        "Syncctl-Attempt": "3",
        "Content-Length": str(len(call.body)),
    }
    for shown in (repr(call), str(call)):
        assert "tok-5f1c0a7e" not in shown
        assert "k-998877" not in shown


@pytest.mark.parametrize(
    "changes",
    [
        {"auth": bearer("two\nlines")},
        {"auth": bearer("tøken")},
        {"auth": bearer("trailing\n")},
        {"auth": Credentials(kind="api_key", values={"name": "X Key", "value": "value-1"})},
        {"auth": Credentials(kind="api_key", values={"name": "Idempotency-Key", "value": "value-1"})},
        {"auth": Credentials(kind="api_key", values={"name": "X-Key", "value": "val\nue"})},
        {"headers": {"X-A": "b\r\nX-C: d"}},
        {"headers": {"X A": "value-1"}},
        {"headers": {"X-A": ""}},
        {"headers": {"idempotency-key": "mine"}},
        {"headers": {"Transfer-Encoding": "chunked"}},
        {"headers": {"authorization": "Basic abcdefgh"}},
    ],
)
def test_a_header_that_cannot_be_sent_is_refused_and_not_shown(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        PartnerClient(make_partner(BASE, **changes), make_stream())
    secrets = [*(changes["auth"].values.values() if "auth" in changes else ()), *changes.get("headers", {}).values()]
    assert not any(secret and secret in str(caught.value) for secret in secrets)


def test_an_id_that_no_header_can_hold_is_not_sent() -> None:
    client = PartnerClient(make_partner(BASE), make_stream())
    with pytest.raises(Unsendable, match="id"):
        client.prepare(make_record(id="ordres-é"))


@pytest.mark.parametrize(
    ("number", "text"),
    [
        ("12345678901234567890123456789012345678.10", "12345678901234567890123456789012345678.10"),
        ("0E-10", "0.0000000000"),
        ("1E-7", "0.0000001"),
        ("-1.5000", "-1.5000"),
    ],
)
def test_decimals_may_be_strings_with_all_their_digits(number: str, text: str) -> None:
    stream = make_stream(decimals="string")
    client = PartnerClient(make_partner(BASE), stream)
    record = with_values(price=Decimal(number), n=5, f=0.5)
    assert client.prepare(record).body == f'{{"price":"{text}","n":5,"f":0.5}}'.encode()
    deleted = replace(record, payload=None, op="delete", key={"price": Decimal(number)})
    assert client.prepare(deleted).body == f'{{"price":"{text}"}}'.encode()


def test_how_decimals_are_written_is_part_of_the_mapping() -> None:
    plain, strings = (
        PartnerClient(make_partner(BASE), make_stream(decimals=form)).mapping_hash for form in ("number", "string")
    )
    assert plain != strings


LINES: list[Any] = [{"sku": "A", "price": Decimal("1.50"), "doc": JsonText('{"b":1.0,"a":-0}')}, {"sku": None}]


@pytest.mark.parametrize(("decimals", "price"), [("number", "1.50"), ("string", '"1.50"')])
def test_documents_go_as_they_are_and_rows_of_other_tables_as_lists_and_objects(decimals: Any, price: str) -> None:
    row = with_values(id=1, lines=LINES, customer={"limit": Decimal("1.50")}, doc=JsonText("[1.50,1e400]"), none=[])
    lines = f'[{{"sku":"A","price":{price},"doc":{{"b":1.0,"a":-0}}}},{{"sku":null}}]'
    body = f'{{"id":1,"lines":{lines},"customer":{{"limit":{price}}},"doc":[1.50,1e400],"none":[]}}'
    assert PartnerClient(make_partner(BASE), make_stream(decimals=decimals)).prepare(row).body == body.encode()
    rules = parse_fields({"order": {"lines": "lines", "*": "*"}, "doc.inner": "doc"})
    fields = make_stream(decimals=decimals, fields=rules)
    sent = PartnerClient(make_partner(BASE), fields).prepare(row).body.decode()
    order = f'{{"lines":{lines},"id":1,"customer":{{"limit":{price}}},"none":[]}}'
    assert sent == f'{{"order":{order},"doc":{{"inner":[1.50,1e400]}}}}'
    # The record is not changed by it.
    assert LINES[0]["price"] == Decimal("1.50")


@pytest.mark.parametrize(
    "value", [[{"a": Decimal("NaN")}], {"a": [Decimal("Infinity")]}, [{"a": "\udc00"}], [object()]]
)
def test_a_nested_value_without_a_form_in_json_is_not_sent_and_its_column_is_named(value: Any) -> None:
    with pytest.raises(Unsendable, match="weight"):
        body_of(id=1, weight=value)


@pytest.mark.parametrize("value", [JsonText("5"), JsonText("[1]"), [{"a": 1}], {"a": 1}, [], {}])
def test_a_path_takes_neither_a_document_nor_rows_of_another_table(value: Any) -> None:
    client = PartnerClient(make_partner(BASE), make_stream("PUT /orders/{lines}"))
    with pytest.raises(
        Unsendable, match=r"the path needs column lines, which holds .*, and a path takes a single value"
    ):
        client.prepare(with_values(lines=value))


def test_a_document_within_a_row_is_no_second_key_of_the_row() -> None:
    batching = Batching(size=2)
    refuse_second_key(b'{"id":1,"doc":{"idempotency_key":1}}', batching)
    with pytest.raises(Unsendable, match="the row has a field idempotency_key"):
        refuse_second_key(b'{"id":1,"idempotency_key":{"a":1}}', batching)
