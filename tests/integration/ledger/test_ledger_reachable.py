"""A quick check whether MongoDB answers, for commands with a person waiting."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest

from syncctl.doctor.check import Status
from syncctl.doctor.mongodb import check_server
from syncctl.errors import ServiceUnavailable
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.mongo_client import check_not_refused
from syncctl.local.mongod import Mongod

SECRET = "s3cr3t"


@pytest.fixture
def refusing() -> Iterator[list[str]]:
    """Two addresses that refuse every connection, and stay taken so that no other program answers there."""
    with ExitStack() as bound:
        sockets = [bound.enter_context(socket.socket()) for _ in range(2)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        yield [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]


@pytest.mark.parametrize(("count", "why"), [(1, "connection refused"), (2, "every host refuses the connection")])
def test_a_refused_connection_is_reported_without_waiting(refusing: list[str], count: int, why: str) -> None:
    hosts = ",".join(refusing[:count])
    with (
        Ledger(f"mongodb://me:{SECRET}@{hosts}/x", "x") as ledger,
        pytest.raises(ServiceUnavailable) as caught,
    ):
        ledger.check_reachable(timeout_seconds=30.0)
    assert (caught.value.what, caught.value.why) == (f"cannot reach MongoDB at {hosts}", why)


def test_doctor_reports_a_refused_connection_without_waiting(
    refusing: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait_for_it(_: Ledger) -> dict[str, Any]:
        raise AssertionError("the driver was asked")

    monkeypatch.setattr(Ledger, "describe_server", wait_for_it)
    with Ledger(f"mongodb://{refusing[0]}/x", "x") as ledger:
        examined: Any = SimpleNamespace(ledger=ledger, timeout_seconds=30.0)
        finding = check_server(examined)
    assert (finding.status, finding.detail.endswith("connection refused")) == (Status.FAIL, True)
    assert "syncctl local up" in finding.hint


def test_one_host_that_takes_connections_is_left_to_the_driver(refusing: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        check_not_refused(f"mongodb://{refusing[0]},127.0.0.1:{silent.getsockname()[1]}/x", timeout_seconds=30.0)


@pytest.mark.parametrize(
    "url", ["mongodb://no-such-host.invalid/x", "mongodb+srv://no-such-host.invalid/x", "mongodb://%2Ftmp%2Fa.sock/x"]
)
def test_hosts_that_cannot_be_tried_are_left_to_the_driver(url: str) -> None:
    check_not_refused(url, timeout_seconds=1.0)


def test_doctor_says_that_mongodb_keeps_history_for_nothing(own_mongod: Mongod) -> None:
    with Ledger(own_mongod.url("x"), "x") as ledger:
        examined: Any = SimpleNamespace(
            ledger=ledger, timeout_seconds=30.0, settings=SimpleNamespace(mongo_database="x")
        )
        assert "history" not in check_server(examined).detail, "syncctl starts its own without"
        ledger._client.admin.command({"setParameter": 1, "minSnapshotHistoryWindowInSeconds": 300})
        finding = check_server(examined)
        assert ledger._read_parameter("noSuchParameter") is None, "so it is where a user may not ask"
    assert finding.status is Status.OK
    assert "it keeps 300 s of history" in finding.detail
