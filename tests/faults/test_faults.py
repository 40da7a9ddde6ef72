"""Every fault that is drawn can take effect, and a fault without effect fails its run."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from syncctl.local.mock_partner import PartnerConfig
from tests.faults import fault as fault_module
from tests.faults.fault import Draw, Fault, Timed, play
from tests.faults.operator_faults import draw_operator
from tests.faults.process_faults import draw_beat, draw_kinds, draw_worker
from tests.faults.seeded_runs import draw_layout
from tests.faults.service_faults import (
    WIRES,
    WRITES,
    draw_mongodb,
    draw_partner,
    draw_redis,
    draw_source,
    lock_source,
)
from tests.harness.deployment import Layout
from tests.harness.written_source import FaultySource

ALL = (
    Layout(wired=True, journal="delete", pool="prefork", partner=PartnerConfig(reject_rate=0.02)),
    Layout(members=3, journal="delete", pool="prefork"),
)
DRAWS = (draw_worker, draw_beat, draw_redis, draw_mongodb, draw_source, draw_partner, draw_operator)


def test_forty_seeds_draw_each_fault_and_none_where_it_could_not_take_effect() -> None:
    seen: set[Draw] = set()
    orders: set[str] = set()
    for seed in range(1, 41):
        random = Random(seed)
        layout = draw_layout(random, seed=seed)
        kinds = set(draw_kinds(layout, random))
        seen |= kinds
        orders.add(layout.order)
        assert layout.wired or not kinds & {*WIRES["mongod"], *WIRES["redis"]}
        assert layout.journal == "delete" or lock_source not in kinds
    assert seen == {kind for layout in ALL for draw in DRAWS for kind in draw(layout)}
    assert orders == {"latest", "strict", "none"}


def test_commands_that_fail_are_of_every_kind() -> None:
    assert {command for _, command in WRITES} == {"update", "insert", "findAndModify", "delete"}


def script(*, first: Callable[[], bool], then: Callable[[], bool] | None) -> list[Timed]:
    return [Timed(at_seconds=0.0, fault=Fault(kind="fault", first=first, then=then))]


@pytest.mark.parametrize(
    ("first", "then", "message"),
    [(lambda: False, None, "fault: no effect"), (lambda: True, lambda: False, "fault: had no effect")],
)
def test_a_fault_without_effect_fails_its_run(
    monkeypatch: pytest.MonkeyPatch, first: Callable[[], bool], then: Callable[[], bool] | None, message: str
) -> None:
    monkeypatch.setattr(fault_module, "TAKES_EFFECT_WITHIN_SECONDS", 0.0)
    with pytest.raises(AssertionError, match=message):
        play(script(first=first, then=then), lambda _: None)


def test_a_fault_lasts_until_it_has_taken_effect() -> None:
    answers = iter([False, True, False, False, True])
    notes: list[str] = []
    took = play(script(first=lambda: next(answers), then=lambda: next(answers)), notes.append)
    assert took == ("fault",)
    assert [note.partition("s  ")[2] for note in notes] == ["fault", "fault: end"]
    assert not list(answers)


def test_a_locked_source_is_not_read(tmp_path: Path) -> None:
    source = FaultySource(tmp_path / "delete", journal="delete")
    source.create_orders(1)
    assert not source.is_locked()
    source.lock()
    assert source.is_locked()
    source.unlock()
    assert source.count() == 1


def test_a_lock_that_keeps_no_reader_out_is_an_error(tmp_path: Path) -> None:
    source = FaultySource(tmp_path / "wal", journal="wal")
    source.create_orders(1)
    with pytest.raises(AssertionError, match="locked out"):
        source.lock()
    source.unlock()
    with sqlite3.connect(source.path) as connection:
        assert connection.execute("select count(*) from orders").fetchone() == (1,)
    connection.close()
