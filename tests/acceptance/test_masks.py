"""A masked value exists only in its source: not in the ledger, not in Redis, not in any output."""

import hashlib
import hmac
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from redis import Redis

from syncctl.local.mock_partner import MockPartner, PartnerConfig
from tests.harness.source_db import SourceDb

if TYPE_CHECKING:
    from pymongo import MongoClient

Run = Callable[..., Any]
CANARY = "c4n4ry-078051120"
SECRET = "mask-secret-of-this-test-0123456789abcdef"
MASK = {"customer": "hash", "note": "drop", "phone": "last4"}
ROWS = 8


@pytest.fixture
def partner() -> Iterator[MockPartner]:
    """A partner that refuses half of the rows."""
    with MockPartner(PartnerConfig(reject_rate=0.5, seed=3)) as server:
        yield server


@pytest.fixture
def masked_dir(make_settings: Callable[..., Path], source_db: SourceDb) -> Path:
    """Settings whose stream masks three columns, and a source with a row that cannot be read."""
    source_db.create_orders(ROWS)
    source_db.execute("alter table orders add column phone text")
    source_db.execute("update orders set customer = ?, note = ?, phone = ?", [CANARY, CANARY, f"{CANARY}+7788"])
    source_db.execute("update orders set phone = cast(x'ff' || ? as text) where id = 1", [CANARY])
    directory = make_settings(stream={"mask": MASK})
    with (directory / ".env").open("a") as file:
        file.write(f"MASK_SECRET={SECRET}\n")
    return directory


def dump_redis(url: str) -> str:
    with Redis.from_url(url) as client:
        return "".join(repr((key, client.dump(key))) for key in client.scan_iter())


def test_a_masked_value_is_stored_and_sent_nowhere(
    masked_dir: Path,
    run_syncctl: Run,
    start_syncctl: Callable[..., Any],
    eventually: Callable[..., Any],
    mongo_url: str,
    mongo_client: "MongoClient[dict[str, Any]]",
    redis_url: str,
) -> None:
    seen: dict[str, str] = {}

    def run(*args: str, code: int = 0) -> Any:
        done = run_syncctl(*args, "--debug", cwd=masked_dir)
        assert done.exit_code == code, (args, done.stdout, done.stderr)
        seen[" ".join(args)] = done.stdout + done.stderr
        return done

    run("poll", "--once", "--dry-run", code=1)
    run("poll", "--once", "--json", code=1)
    # The messages wait: no worker has taken them yet.
    seen["redis before"] = dump_redis(redis_url)
    worker = start_syncctl("worker", "--pool", "threads", "--beat", "--debug", cwd=masked_dir)

    def is_settled() -> bool:
        counts = run_syncctl("status", "--json", cwd=masked_dir).json["streams"][0]["counts"]
        return bool(counts["delivered"] + counts["failed"] == ROWS)

    eventually(is_settled, 60)
    for row in range(1, ROWS + 1):
        shown = run("show", "orders", str(row), "--json").json["records"][0]
        if shown["payload"]:
            sent = shown["payload"]
            assert sent["customer"] == hmac.new(SECRET.encode(), CANARY.encode(), hashlib.sha256).hexdigest()
            assert (sent["phone"], "note" in sent) == ("****7788", False)
    run("show", "orders", "2", "--request")
    run("failures", code=1)
    run("failures", "--json", code=1)
    run("report")
    run("status")
    run("config")
    run("inspect", "orders")
    run("reconcile", "orders")
    worker.terminate()
    assert worker.wait() == 0
    seen["worker"] = worker.log
    seen["redis after"] = dump_redis(redis_url)
    database = mongo_client.get_database(mongo_url.rsplit("/", 1)[1].partition("?")[0])
    for name in database.list_collection_names():
        seen[f"collection {name}"] = repr(list(database[name].find()))
    assert {"collection records", "collection keys", "collection runs", "collection reports"} <= seen.keys()
    assert [name for name, text in seen.items() if CANARY in text or SECRET in text] == []
    # The search would find a leak: each place holds some part of these rows.
    assert "****7788" in seen["collection records"]
    assert seen["redis before"]
