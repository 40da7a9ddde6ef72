"""Rows whose requests take long to build: another stream of the same worker goes on, and the worker still stops."""

import json
import threading
import time
from contextlib import ExitStack, closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from syncctl.core.batch_sizes import decide_sizes
from syncctl.core.ids import content_hash, key_id
from syncctl.core.stream import Partner, Stream
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.records import NewRecord
from syncctl.partner.client import PartnerClient
from syncctl.pipeline.delivery.deliver import DeliveryLoop
from syncctl.pipeline.delivery.stream_setup import StreamSetup
from tests.harness.cases import make_partner, make_stream
from tests.harness.http_partner import HttpPartner

SLOW = "a" * 60 + "!"


class Clock(HttpPartner):
    """Notes when each call came."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[float] = []

    def answer(self, *_: object) -> tuple[int, bytes]:
        self.called.append(time.monotonic())
        time.sleep(0.02)
        return 200, b""


def log_rows(ledger: Ledger, stream: str, values: list[str]) -> None:
    rows = [{"id": number, "a": value} for number, value in enumerate(values)]
    ledger.records.log(
        [
            NewRecord(
                id=f"{stream}-{row['id']}",
                stream=stream,
                key_id=key_id({"id": row["id"]}),
                key={"id": row["id"]},
                seq=number + 1,
                version=str(number),
                hash=content_hash(row, "upsert"),
                columns_fingerprint="columns",
                op="upsert",
                payload=row,
            )
            for number, row in enumerate(rows)
        ],
        ledger.streams.server_time(),
    )


@pytest.fixture
def streams(tmp_path: Path) -> dict[str, Stream]:
    """A stream with a schema that some values keep busy, and one without."""
    schema = tmp_path / "s.json"
    schema.write_text(json.dumps({"properties": {"a": {"pattern": "^(a|aa)+$"}}}))
    common: dict[str, Any] = {"append_only": True, "order": "none", "batch_size": 50}
    return {
        "slow": make_stream(name="slow", body_schema=str(schema), **common),
        "other": make_stream(name="other", **common),
    }


def deliver(ledger: Ledger, partner: Partner, streams: dict[str, Stream], **changes: Any) -> None:
    """Run one delivery loop, the slow stream first."""
    with ExitStack() as open_clients:

        def make_setup(name: str) -> StreamSetup:
            stream = streams[name]
            client = open_clients.enter_context(closing(PartnerClient(partner, stream)))
            return StreamSetup(stream=stream, partner=partner, client=client, sizes=decide_sizes(stream, partner))

        DeliveryLoop(
            ledger=ledger,
            streams=streams,
            partners={partner.name: partner},
            make_setup=make_setup,
            worker="worker",
            **changes,
        ).run("slow")


def count(database: Any, stream: str, state: str) -> int:
    found: int = database["records"].count_documents({"stream": stream, "state": state})
    return found


def test_another_stream_of_the_same_worker_goes_on(ledger: Ledger, database: Any, streams: dict[str, Stream]) -> None:
    log_rows(ledger, "slow", [SLOW] * 20)
    log_rows(ledger, "other", ["x"] * 300)
    with Clock() as server:
        partner = make_partner(server.url, max_in_flight=2)
        deliver(ledger, partner, streams)
        called = server.called
    assert (count(database, "slow", "failed"), count(database, "other", "delivered")) == (20, 300)
    # A row has a quarter of a second of computing; on a busy machine that takes several times as long.
    assert max(later - earlier for earlier, later in pairwise(called)) < 4
    record = database["records"].find_one({"_id": "slow-0"})
    assert "takes more than 0.25 s of computing for this row" in record["error"]["message"]


def test_a_worker_that_is_busy_with_slow_rows_still_stops(
    ledger: Ledger, database: Any, streams: dict[str, Stream]
) -> None:
    log_rows(ledger, "slow", [SLOW] * 50)
    stop = threading.Event()
    threading.Timer(1.0, stop.set).start()
    with Clock() as server:
        started = time.monotonic()
        deliver(ledger, make_partner(server.url), streams, is_stopping=stop.is_set)
        assert time.monotonic() - started < 8
    assert count(database, "slow", "sending") == 0
    assert count(database, "slow", "pending") > 20
