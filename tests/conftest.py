"""Fixtures: real servers, a source, a partner, a ledger, settings, and the installed command."""

import gc
import os
import signal
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from syncctl.core.stream import Partner
from syncctl.local.mongod import Mongod
from syncctl.local.redis_server import RedisServer
from tests.harness import commands, servers, settings_files, waiting
from tests.harness.cases import make_source
from tests.harness.source_db import SourceDb

if TYPE_CHECKING:
    from pymongo import MongoClient

    from syncctl.ledger.ledger import Ledger
    from syncctl.local.mock_partner import MockPartner
    from tests.harness.testbed import Testbed

SLOW = {"acceptance", "faults"}
# How long an example takes says something of the machine, and nothing of the code.
settings.register_profile("syncctl", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("syncctl")
# In the background of a shell SIGINT is ignored, and under nohup SIGHUP: each command that a test starts would ignore
# them too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


# As `syncctl` does for itself: by default Python looks for cycles after 700 new objects, among ever more old ones.
gc.set_threshold(50_000, 20, 20)


@pytest.fixture(scope="session")
def mongo_server() -> Iterator[Mongod]:
    """A mongod that all tests of this process share; never stop it, take `own_mongod` for that."""
    with servers.serve_mongod() as server:
        yield server


@pytest.fixture(scope="session")
def mongo_client(mongo_server: Mongod) -> Iterator["MongoClient[dict[str, Any]]"]:
    """A client of the shared mongod, for a test to look with."""
    with servers.connect(mongo_server.url("admin")) as client:
        yield client


@pytest.fixture
def mongo_url(mongo_server: Mongod, mongo_client: "MongoClient[dict[str, Any]]") -> Iterator[str]:
    """The URL of a fresh database, dropped after the test."""
    database = f"test_{uuid.uuid4().hex[:12]}"
    yield mongo_server.url(database)
    mongo_client.drop_database(database)


@pytest.fixture
def mongo_database(mongo_client: "MongoClient[dict[str, Any]]", mongo_url: str) -> Any:
    """The database of `mongo_url`, to look into."""
    return mongo_client[servers.name_database(mongo_url)]


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
    """The database of `ledger`, emptied, for a test to look into and to let time pass in."""
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
    """An empty ledger with its indexes that knows the stream `orders`."""
    prepared_ledger.streams.ensure("orders")
    return prepared_ledger


@pytest.fixture
def testbed(ledger: "Ledger", database: Any, source_db: SourceDb, partner: "MockPartner") -> "Testbed":
    """The stream `orders` from a SQLite file through the ledger to a partner that accepts everything."""
    from tests.harness.testbed import Testbed

    return Testbed(
        ledger=ledger,
        database=database,
        source=make_source(source_db.url),
        partner=Partner(name="default", url=partner.url, timeout_seconds=20.0),
    )


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A redis-server that all tests of this process share; never stop it, take `own_redis` for that."""
    with servers.serve_redis() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The URL of an empty Redis database."""
    from redis import Redis

    url = redis_server.url()
    with Redis.from_url(url) as client:
        client.flushall()
    return url


@pytest.fixture
def redis_prefix() -> str:
    """A prefix of keys that no other test has."""
    return f"test-{uuid.uuid4().hex[:8]}-"


@pytest.fixture
def own_mongod() -> Iterator[Mongod]:
    """A mongod for this test alone: to kill, freeze, restart."""
    with servers.serve_mongod() as server:
        yield server


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A redis-server for this test alone: to kill, freeze, flush, restart."""
    with servers.serve_redis() as server:
        yield server


@pytest.fixture
def source_db(tmp_path: Path) -> SourceDb:
    """A fresh SQLite file; `create_orders` makes the table."""
    return SourceDb(tmp_path / "source.db")


@pytest.fixture
def partner() -> Iterator["MockPartner"]:
    """A partner's API on the loopback that accepts everything unless configured otherwise."""
    from syncctl.local.mock_partner import MockPartner

    with MockPartner() as server:
        yield server


@pytest.fixture
def make_settings(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Path]:
    """Write `.env` and `syncctl.toml` that join this test's services with the stream `orders`; return their directory.

    `make_settings(stream={"order": "strict"}, partner_url=...)`: a service for which something else is named is not
    started.
    """
    services: dict[str, Callable[[], str]] = {
        "mongo_url": lambda: request.getfixturevalue("mongo_url"),
        "redis_url": lambda: request.getfixturevalue("redis_url"),
        "redis_prefix": lambda: request.getfixturevalue("redis_prefix"),
        "source_url": lambda: request.getfixturevalue("source_db").url,
        "partner_url": lambda: request.getfixturevalue("partner").url,
    }

    def make(**changes: Any) -> Path:
        own = {name: find() for name, find in services.items() if name not in changes}
        return settings_files.write_settings(tmp_path / "settings", **own, **changes)

    return make


@pytest.fixture
def settings_dir(make_settings: Callable[..., Path]) -> Path:
    """A directory whose `.env` and `syncctl.toml` join this test's services with the stream `orders`."""
    return make_settings()


@pytest.fixture
def run_syncctl() -> Callable[..., commands.Completed]:
    """Run `syncctl` to its end: `run_syncctl("status", "--json", cwd=settings_dir)`."""
    return commands.run_syncctl


@pytest.fixture
def start_syncctl(tmp_path: Path) -> Iterator[Callable[..., commands.RunningCommand]]:
    """Start `syncctl worker` and the like, ended after the test: `start_syncctl("worker", cwd=settings_dir)`."""
    started = 0
    with ExitStack() as running:

        def start(*args: str | Path, cwd: Path, **options: Any) -> commands.RunningCommand:
            nonlocal started
            started += 1
            log = tmp_path / f"{args[0]}-{started}.log"
            command = commands.RunningCommand(*args, cwd=cwd, log=log, **options)
            running.callback(command.close)
            return command

        yield start


@pytest.fixture
def eventually() -> Callable[..., Any]:
    """Look again and again until a deadline: `eventually(lambda: count() == 3, timeout=10)`."""
    return waiting.eventually


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each process its share of the tests that wait for leases and servers, and let it begin with them.

    Each gets a stretch of the list, and takes from others' once its own is done; a long test at the end of one stretch
    would be waited for by all.
    """
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    slow = [item for item in items if SLOW & set(item.path.parts)]
    quick = [item for item in items if not SLOW & set(item.path.parts)]
    share = -(-len(quick) // processes)
    items[:] = [
        each
        for number in range(processes)
        for each in (*slow[number::processes], *quick[number * share : (number + 1) * share])
    ]


def pytest_collection_finish() -> None:
    """Leave the tests and modules, which stay to the end, out of every later search for cycles."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI, a run in which no test passed or failed has tested nothing: let it fail."""
    reporter: Any = session.config.pluginmanager.get_plugin("terminalreporter")
    in_xdist_worker = hasattr(session.config, "workerinput")
    if reporter is None or in_xdist_worker or session.config.option.collectonly or not servers.in_ci():
        return
    if not any(reporter.stats.get(outcome) for outcome in ("passed", "failed", "error")):
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED
