"""A record as it is shown to a person, and to a pipe."""

import io
import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from syncctl.commands.show import show_record, to_public
from syncctl.commands.show_story import draw_timeline
from syncctl.console.json_documents import to_json
from syncctl.console.lines import draw_line
from syncctl.core.ids import make_seq
from syncctl.core.json_text import JsonText
from syncctl.core.records import Record
from syncctl.core.rows import Value
from syncctl.core.states import State
from syncctl.partner.encoding import encode_body
from syncctl.pipeline.inspection.timeline import _read_entry

PAYLOAD: dict[str, Value] = {
    "id": 5,
    "total": Decimal("123.4500"),
    "big": Decimal("1E+40"),
    "name": "M\u00fcller",
    "lines": [{"price": Decimal("1.50"), "note": None}],
    "doc": JsonText('{"a":1.50,"b":[-0,1e400]}'),
}


class Terminal(io.StringIO):
    """A terminal that keeps its output."""

    def isatty(self) -> bool:
        return True


def record(**changes: Any) -> dict[str, Any]:
    lease = {"until": None}
    known = {"_id": "orders-1", "stream": "orders", "key": {"id": 5}, "seq": make_seq(3, 17), "state": "pending"}
    return {**known, "payload": PAYLOAD, "logged_at": datetime(2026, 1, 1, tzinfo=UTC), "lease": lease, **changes}


def show(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, **changes: Any) -> list[str]:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("sys.stdout", stream)
    show_record(record(**changes))
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_seq_is_epoch_and_position(monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO]) -> None:
    lines = show(monkeypatch, stream())
    assert "  seq             3.17" in lines
    assert to_public(record())["seq"] == make_seq(3, 17)


@pytest.mark.parametrize(("generation", "key"), [(None, "orders-1"), (0, "orders-1"), (1, "orders-1-2")])
def test_the_idempotency_key_in_force_is_shown(
    monkeypatch: pytest.MonkeyPatch, generation: int | None, key: str
) -> None:
    changes = {} if generation is None else {"generation": generation}
    assert f"  idempotency_key {key}" in show(monkeypatch, io.StringIO(), **changes)
    assert to_public(record(**changes))["idempotency_key"] == key


def test_a_payload_has_the_numbers_that_the_partner_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = [each for each in show(monkeypatch, io.StringIO()) if each.startswith("  payload ")]
    kept = Record(
        id="orders-1", stream="orders", key={"id": 5}, seq=1, op="upsert", payload=PAYLOAD, state=State.PENDING
    )
    sent = encode_body(kept).decode()
    assert line.removeprefix("  payload         ").replace(": ", ":").replace(", ", ",") == sent


def test_a_document_of_a_payload_is_part_of_the_json_and_its_exact_decimals_are_strings() -> None:
    shown = json.loads(to_json(to_public(record())))["payload"]
    assert shown["lines"] == [{"price": "1.50", "note": None}]
    assert shown["doc"] == {"a": "1.50", "b": ["-0", "1e400"]}
    numbers = record(payload={"a": JsonText("[1e99999999999999999999,7]"), "b": JsonText("null"), "c": JsonText("1.0")})
    shown = json.loads(to_json(to_public(numbers)))["payload"]
    assert shown == {"a": ["1e99999999999999999999", 7], "b": None, "c": "1.0"}


def test_a_long_value_is_folded_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "x" * 150
    lines = show(monkeypatch, Terminal(), payload={"note": text})
    assert all(len(line) <= 60 for line in lines)
    folded = [line for line in lines if line.strip().strip('"}').endswith("xxx")]
    assert len(folded) == 4
    assert all(line.startswith(" " * 18) for line in folded[1:])
    assert f'  payload         {{"note": "{text}"}}' in show(monkeypatch, io.StringIO(), payload={"note": text})


def test_a_very_long_value_is_cut_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = " ".join(line.strip() for line in show(monkeypatch, Terminal(), payload={"note": "x" * 5000}))
    assert shown.count("x") < 2100
    assert "more characters: --json" in shown
    (line,) = [each for each in show(monkeypatch, io.StringIO(), payload={"note": "x" * 5000}) if "payload" in each]
    assert line.count("x") == 5000


def test_control_characters_are_shown_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = show(monkeypatch, Terminal(), reason="\x1b[2Jgone")
    assert "  reason          \\x1b[2Jgone" in lines


def test_a_lookup_is_not_taken_for_a_create() -> None:
    entry = {"action": "attempt", "n": 2, "status": 200, "outcome": "accepted", "captured": {"id": "P-1"}}
    event = _read_entry("orders-1", {**entry, "at": datetime(2026, 1, 1, tzinfo=UTC), "lookup": "found"})
    lines = [draw_line(line, width=None, colour=False) for line in draw_timeline([event])]
    assert lines[-1].endswith("asked for the partner's object: found, id=P-1")


def test_a_timeline_cannot_drive_the_terminal() -> None:
    entry = {"action": "attempt", "n": 1, "outcome": "rejected", "error": "\x1b[2Jno", "excerpt": "\x1b]0;x\x07\n{}"}
    event = _read_entry("orders-1", {**entry, "at": datetime(2026, 1, 1, tzinfo=UTC), "status": 422})
    shown = "".join(draw_line(line, width=None, colour=False) for line in draw_timeline([event]))
    assert "\\x1b[2Jno" in shown
    assert not set("\x1b\x07\n") & set(shown)
