"""A ledger with its indexes, empty for each test, and a pipeline around it."""

import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from syncctl.core.stream import Partner
from syncctl.local.mongod import Mongod
from tests.harness.cases import make_source
from tests.harness.source_db import SourceDb
from tests.harness.testbed import Testbed

if TYPE_CHECKING:
    from pymongo import MongoClient

    from syncctl.ledger.ledger import Ledger
    from syncctl.local.mock_partner import MockPartner


@pytest.fixture(scope="session")
def prepared_ledger(mongo_server: Mongod, mongo_client: "MongoClient[dict[str, Any]]") -> Iterator["Ledger"]:
    """A ledger whose indexes are there: making them takes longer than most tests. Take `ledger`."""
    from syncctl.ledger.ledger import Ledger

    name = f"ledger_{uuid.uuid4().hex[:12]}"
    with Ledger(mongo_server.url(name), name) as opened:
        opened.prepare()
        yield opened
    mongo_client.drop_database(name)


@pytest.fixture
def database(prepared_ledger: "Ledger", mongo_client: "MongoClient[dict[str, Any]]") -> Any:
    """The ledger's database, emptied, for a test to look into and to let time pass in."""
    database = mongo_client[prepared_ledger._database.name]
    database.command("profile", 0)
    for name in database.list_collection_names():
        if name == "system.profile":
            database.drop_collection(name)
        else:
            database[name].delete_many({})
    return database


@pytest.fixture
def ledger(prepared_ledger: "Ledger", database: Any) -> "Ledger":
    """An empty ledger that knows the stream `orders`."""
    prepared_ledger.streams.ensure("orders")
    return prepared_ledger


@pytest.fixture
def testbed(ledger: "Ledger", database: Any, source_db: SourceDb, partner: "MockPartner") -> Testbed:
    """The stream `orders` from a SQLite file through the ledger to a partner that accepts everything."""
    return Testbed(
        ledger=ledger,
        database=database,
        source=make_source(source_db.url),
        partner=Partner(name="default", url=partner.url, timeout_seconds=20.0),
    )
