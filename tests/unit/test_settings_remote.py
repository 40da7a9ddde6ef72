"""The settings of a partner with ids of its own, and their errors."""

from pathlib import Path

import pytest

from syncctl.core.stream import Lookup
from tests.unit.test_settings_request import complaint, load


def test_values_are_captured_from_json_and_headers(tmp_path: Path) -> None:
    text = 'capture = { id = "data.items[0].id", at = "header:Location" }\ndelete_endpoint = "DELETE /o/{remote.id}"'
    stream = load(tmp_path, text).stream("orders")
    assert stream.remote_names == ("id", "at")
    environment = {"STREAMS__ORDERS__CAPTURE": '{"id": "data.id"}'}
    assert load(tmp_path, "", **environment).stream("orders").capture == {"id": "data.id"}


def test_updates_and_lookups_are_read(tmp_path: Path) -> None:
    text = (
        'update_endpoint = "put /o/{remote.id}"\nlookup = { endpoint = "get /o?r={id}", capture = { id = "[0].id" } }'
    )
    stream = load(tmp_path, text).stream("orders")
    assert (stream.update_method, stream.update_path, stream.missing) == ("PUT", "/o/{remote.id}", "fail")
    assert stream.lookup == Lookup(path="/o?r={id}", capture={"id": "[0].id"})
    assert stream.remote_names == ("id",)


LOOKUP = 'lookup = { endpoint = "GET /o?r={id}", capture = { id = "id" } }\n'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('write_back = { a = "remote.uid" }', "has remote.uid, which is not known"),
        ('update_endpoint = "GET /o"', "is not an endpoint; write POST, PUT, PATCH or DELETE"),
        ('update_endpoint = "PUT /o/{remote.uid}"', "has remote.uid, which is not known"),
        (LOOKUP + 'update_endpoint = "PUT /o/{remote.ir}"', "known: id"),
        ('update_endpoint = "PUT /o/{id}"\nappend_only = true', "needs the last state of each row"),
        (LOOKUP + "append_only = true", "needs the last state of each row"),
        ('update_endpoint = "PUT /o/{id}"\norder = "none"', "needs to know which version of a row comes first"),
        (LOOKUP + 'order = "none"', "needs to know which version of a row comes first"),
        ('missing = "create"', "is about update_endpoint"),
        (LOOKUP + 'ambiguous = "fail"', "which ambiguous = fail makes fail"),
        ('lookup = { endpoint = "POST /o", capture = { id = "id" } }', "is not a lookup; write GET and a path"),
        ('lookup = { endpoint = "GET /o?r={id}" }', "it tells what was found"),
        ('lookup = { capture = { id = "id" } }', 'is missing; write endpoint = "GET /orders?ref={id}"'),
        ('lookup = { endpoint = "GET /o/{remote.id}", capture = { id = "id" } }', "which the lookup is to find"),
        (LOOKUP + 'endpoint = "PUT /o/{remote.id}"', "which is not known before a first call"),
        ('update_endpoint = "PUT /${X}"', "cannot contain ${NAME}"),
        (LOOKUP.replace("?r", "/${X}?r"), "cannot contain ${NAME}"),
        ('capture = { "a.b" = "id" }', "'a.b' is not a name"),
        ('capture = { id = "data..id" }', "id: 'data..id' is not a path into JSON"),
        ('capture = { id = "header:a b" }', "names no header"),
        ('endpoint = "PUT /o/{remote.id}"', 'has remote.id, which is not known; write capture = { id = "data.id" }'),
        ('capture = { uid = "id" }\ndelete_endpoint = "DELETE /o/{remote.uit}"', "did you mean uid?"),
        ('capture = { uid = "id" }\nfields = { a = "remote.uit" }', "has remote.uit, which is not captured"),
        ('capture = { uid = "id" }\nheaders = { X-A = "{{ remote.uit }}" }', "remote.uit is not captured"),
        ('capture = { uid = "id" }\nbody = "{{ remote[\'uit\'] | json }}"', "remote.uit is not captured"),
        ('body = "{{ remote.id | json }}"', "remote is not defined; write capture"),
        ('capture = { id = "id" }\nappend_only = true', "needs the last state of each row"),
        ('capture = { id = "id" }\ndelete_endpoint = "DELETE /o/{remote.id}"\norder = "none"', "under order none"),
        ('capture = { id = "id" }\nrows_per_call = 9', "needs the result of each row"),
        (
            'capture = { id = "header:A" }\nrows_per_call = 9\nbatch_shape = { results = "r", result_status = "s" }',
            "id is in a header, which a call of several rows has once",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_a_way_out(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in complaint(tmp_path, text)


def test_a_wrong_capture_is_one_error(tmp_path: Path) -> None:
    why = complaint(
        tmp_path, 'capture = { id = "a..b" }\nbody = "{{ remote.id | json }}"\nendpoint = "PUT /{remote.id}"'
    )
    assert "remote" not in why
