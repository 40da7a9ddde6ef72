"""A whole deployment: MongoDB, Redis, a source with its writer, a partner, workers and Beat, all of them real."""

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pymongo.errors import PyMongoError

from syncctl.local.mock_partner import PartnerConfig
from syncctl.local.mongod import find_mongod
from syncctl.local.redis_server import RedisServer
from syncctl.local.server import Server
from tests.harness import servers
from tests.harness.account import Account, Documents, take_account
from tests.harness.commands import Completed, RunningCommand, run_syncctl
from tests.harness.faulty_mongod import FaultyMongod
from tests.harness.holding_partner import HoldingPartner
from tests.harness.process_groups import group_members, signal_group
from tests.harness.replica_set import ReplicaSet
from tests.harness.settings_files import write_settings
from tests.harness.tcp_proxy import Proxy
from tests.harness.waiting import eventually
from tests.harness.written_source import OUTCOMES, FaultySource, Writer

DATABASE = "deployment"
CLOCK = Path(__file__).parent / "clock"
CLOCK_TOLERANCE_SECONDS = 60.0
UNFINISHED = ("pending", "sending")
LEASED: dict[str, Any] = {"$or": [{"poll.token": {"$exists": True}}, {"dispatch": {"$exists": True}}]}
# A partner that cannot be reached for seconds is probed again within one second.
BREAKER = {"pause": "500ms", "longest_pause": "1s"}
SCHEDULE = ("200ms", "500ms", *["1s"] * 30)


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """The shape of a deployment. Leases are short, so that the records of a dead worker come back within seconds.

    Args:
        partner_section: More keys of `[partners.default]`, such as the rate.
        journal: How the source keeps its transactions; under `delete` a writer can block readers.
        wired: MongoDB and Redis are reached through a proxy too, as the partner always is.
        members: How many mongods the replica set has; a set of several has no wire.
        clock_seconds: How far the clock of the first worker is ahead.
        schedule: The pauses between the tries of a record.
        documents: Send rows with lines of another table, to a partner with its own ids, and write outcomes back.
    """

    partner: PartnerConfig = field(default_factory=PartnerConfig)
    pool: str = "prefork"
    concurrency: int = 3
    batch_size: int = 20
    window: int = 400
    page_size: int = 500
    lease_seconds: float = 6.0
    timeout_seconds: float = 1.0
    order: str = "latest"
    seed: int = 0
    partner_section: Mapping[str, Any] = field(default_factory=dict)
    journal: str = "wal"
    wired: bool = False
    members: int = 1
    clock_seconds: float = 0.0
    schedule: Sequence[str] = SCHEDULE
    documents: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Shifted:
    """A worker whose clock is off."""

    worker: RunningCommand
    ahead_seconds: float
    started_at: float


class Deployment:
    """All parts of a deployment, and the operations on them."""

    def __init__(
        self,
        directory: Path,
        layout: Layout,
        *,
        mongod: FaultyMongod | ReplicaSet,
        redis: RedisServer,
        partner: HoldingPartner,
    ) -> None:
        self.layout = layout
        self.mongod = mongod
        self.redis = redis
        self.servers: Mapping[str, Server] = {"mongod": mongod, "redis": redis}
        self.partner = partner
        self.source = FaultySource(directory / "source", journal=layout.journal)
        self.wires = {
            "mongod": Proxy(mongod.port),
            "redis": Proxy(redis.port),
            # A call after its deadline must not arrive: the docs require that of a network.
            "partner": Proxy(urlsplit(partner.url).port or 0, forgets=True),
        }
        self.writer = Writer(self.source, seed=layout.seed, has_lines=layout.documents)
        self.client = servers.connect(mongod.url(DATABASE))
        self.ledger = self.client[DATABASE]
        self.workers: list[RunningCommand] = []
        self.beats: list[RunningCommand] = []
        self.others: list[RunningCommand] = []
        self.leaving: list[RunningCommand] = []
        self._logs = directory / "logs"
        self._logs.mkdir()
        self._started = 0
        self._shifted: list[Shifted] = []
        self.directory = self._write_settings(directory / "settings")

    def _write_settings(self, directory: Path) -> Path:
        layout = self.layout
        return write_settings(
            directory,
            mongo_url=self._mongo_url(),
            redis_url=self._redis_url(),
            source_url=self.source.url,
            partner_url=f"http://127.0.0.1:{self.wires['partner'].port}",
            stream={
                "cursor": "changed",
                "poll_every": "500ms",
                "page_size": layout.page_size,
                "order": layout.order,
                "batch_size": layout.batch_size,
                "window": layout.window,
                "lease": f"{layout.lease_seconds:g}s",
                "retry": {"schedule": list(layout.schedule), "jitter": 0.2},
                **self._make_document_keys(),
            },
            sections={
                "worker": {"pool": layout.pool, "concurrency": layout.concurrency},
                # Shorter than a lock of the source may last.
                "sources": {"default": {"query_timeout": "2s"}},
                "partners": {
                    "default": {"timeout_seconds": layout.timeout_seconds, "breaker": BREAKER, **layout.partner_section}
                },
            },
        )

    def _make_document_keys(self) -> dict[str, Any]:
        """Return the additional settings of a stream of documents."""
        if not self.layout.documents:
            return {}
        lines = {
            "table": "order_lines",
            "on": {"order_id": "id"},
            "columns": ["line", "sku", "changed"],
            "sort": ["line"],
            "cursor": "changed",
        }
        keys: dict[str, Any] = {
            "children": {"lines": lines},
            "capture": {"id": "data.id"},
            "write_back": dict(OUTCOMES),
        }
        if self.layout.order != "none":
            keys["update_endpoint"] = "PUT /orders/{remote.id}"
        return keys

    def _mongo_url(self) -> str:
        if not self.layout.wired:
            return self.mongod.url(DATABASE)
        # Otherwise the driver asks the replica set for its members and connects to them directly, past the proxy.
        return f"mongodb://127.0.0.1:{self.wires['mongod'].port}/{DATABASE}?directConnection=true"

    def _redis_url(self) -> str:
        if not self.layout.wired:
            return self.redis.url()
        return f"redis://127.0.0.1:{self.wires['redis'].port}/0"

    def run(self, *args: str, timeout: float = 120.0) -> Completed:
        """Run `syncctl` to its end."""
        return run_syncctl(*args, cwd=self.directory, timeout=timeout)

    def start(self, *args: str, env: Mapping[str, str] | None = None) -> RunningCommand:
        """Start `syncctl` as a process of this deployment; `close` ends it."""
        self._started += 1
        log = self._logs / f"{self._started:02}-{args[0]}.log"
        return RunningCommand(*args, cwd=self.directory, log=log, env=env)

    def start_worker(self, *args: str) -> RunningCommand:
        """Start one more worker, with its own name."""
        ahead = 0.0 if self.workers else self.layout.clock_seconds
        # In front of the inherited path, which decides which syncctl runs.
        path = os.pathsep.join(filter(None, (str(CLOCK), os.environ.get("PYTHONPATH"))))
        env = {"PYTHONPATH": path, "SYNCCTL_TEST_CLOCK_AHEAD": str(ahead)} if ahead else None
        started_at = time.time()
        worker = self.start("worker", "--name", f"worker{self._started + 1}", *args, env=env)
        if ahead:
            self._shifted.append(Shifted(worker=worker, ahead_seconds=ahead, started_at=started_at))
        self.workers.append(worker)
        return worker

    def start_beat(self) -> RunningCommand:
        """Start one more Beat."""
        beat = self.start("beat")
        self.beats.append(beat)
        return beat

    def start_poller(self) -> RunningCommand:
        """Start one more `syncctl poll` that keeps polling."""
        poller = self.start("poll")
        self.others.append(poller)
        return poller

    def check_clocks(self) -> int:
        """Check that each worker with a wrong clock uses that clock; return how many do.

        Raises:
            AssertionError: the log of a worker has other times.
        """
        for shifted in self._shifted:
            times = [time_of(line) for line in shifted.worker.log.splitlines() if line.startswith("{")]
            assert times, f"{shifted.worker.name} has written no line with a time"
            first, last = shifted.started_at + shifted.ahead_seconds, time.time() + shifted.ahead_seconds
            wrong = [at for at in times if not first - CLOCK_TOLERANCE_SECONDS < at < last + CLOCK_TOLERANCE_SECONDS]
            assert not wrong, (
                f"the clock of {shifted.worker.name} is not {shifted.ahead_seconds:g} s ahead: {wrong[:3]}"
            )
        return len(self._shifted)

    def find_holders(self) -> set[int]:
        """Return the processes that hold records in flight; none while MongoDB does not answer."""
        try:
            workers = self.ledger.records.distinct("lease.worker", {"state": "sending"})
        except PyMongoError:
            return set()
        return {int(str(worker).rpartition(":")[2]) for worker in workers}

    def read_epoch(self) -> int | None:
        """Return the epoch of the newest poll; None while MongoDB does not answer."""
        return int(self._read_stream("poll", {}).get("epoch", 0)) or None

    def read_poll_error(self) -> str | None:
        """Return the error of the newest poll that ended; None while MongoDB does not answer."""
        error = self._read_stream("health", {}).get("error")
        return None if error is None else str(error)

    def _read_stream(self, name: str, otherwise: Any) -> Any:
        try:
            return (self.ledger.streams.find_one({"_id": "orders"}) or {}).get(name, otherwise)
        except PyMongoError:
            return otherwise

    def kill(self, command: RunningCommand) -> None:
        """Kill a process with all that it started (SIGKILL), and wait until none of them is left."""
        command.kill()
        eventually(lambda: not group_members(command.pid), 60)
        for commands in (self.workers, self.beats, self.others):
            if command in commands:
                commands.remove(command)

    def let_go(self, worker: RunningCommand) -> None:
        """Ask a worker to end (SIGTERM); `wait_for_leaving` checks that it does."""
        worker.terminate()
        self.workers.remove(worker)
        self.leaving.append(worker)

    def wait_for_leaving(self, timeout: float = 120.0) -> None:
        """Wait for the workers that were asked to end; each must end with exit code 0."""
        while self.leaving:
            code = self.leaving[0].wait(timeout)
            assert code == 0, f"{self.leaving[0].name}: {code}\n{self.leaving[0].log[-3000:]}"
            self.leaving.pop(0)

    def pool_children(self, worker: RunningCommand) -> list[int]:
        """Return the processes of a worker's pool, once all are there."""

        def look() -> list[int]:
            members = group_members(worker.pid)
            return members if len(members) > self.layout.concurrency else []

        worker.wait_for_log("ready", 120)
        return eventually(look, 60)

    def lose_redis(self) -> None:
        """Kill Redis and start it again with nothing in it."""
        self.redis.kill()
        shutil.rmtree(self.redis.files)
        self.redis.start(timeout_seconds=60)

    def delivered(self) -> int:
        """Return how many records are delivered, by the ledger."""
        return self.ledger.records.count_documents({"state": "delivered"})

    def wait_until_read(self, timeout: float = 120.0) -> None:
        """Wait until the last number of the source has been read."""
        last, last_line = str(self.writer.number), str(self.writer.line_number)

        def look() -> bool:
            stream = self.ledger.streams.find_one({"_id": "orders"}) or {}
            cursor = stream.get("cursor") or {}
            lines = (cursor.get("children") or {}).get("lines") or {}
            return bool(cursor.get("at") == last) and (not self.layout.documents or lines.get("at") == last_line)

        self._wait(look, timeout)

    def wait_until_quiet(self, timeout: float = 120.0) -> None:
        """Wait until everything was read and no record is unfinished, except those that wait for a failed one."""
        self.wait_until_read(timeout)

        def look() -> bool:
            held = {"waits_for": {"$exists": False}} if self.ledger.records.find_one({"state": "failed"}) else {}
            return self.ledger.records.count_documents({"state": {"$in": UNFINISHED}, **held}) == 0

        self._wait(look, timeout)
        # The lease of a poll that was killed has to run out before the stream is read again; and a batch whose process
        # died after its last outcome is found by maintenance.
        self._wait(lambda: self.ledger.streams.count_documents(LEASED) == 0, timeout)
        self._wait(lambda: self.ledger.batches.count_documents({}) == 0, timeout)
        self._wait(lambda: self.ledger.records.find_one({"write_back": {"$exists": True}}) is None, timeout)

    def _wait(self, look: Any, timeout: float) -> None:
        try:
            eventually(look, timeout, interval=0.1, ignore=(PyMongoError,))
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.describe()}") from None

    def stop(self, timeout: float = 90.0) -> None:
        """Stop every process gracefully; each must end with exit code 0 (`poll`: 143)."""
        running = [*self.beats, *self.workers, *self.others]
        for command in running:
            assert command.is_running(), f"syncctl {command.name} has ended on its own:\n{command.log[-3000:]}"
            command.terminate()
        for command in running:
            code = command.wait(timeout)
            assert code == (143 if command in self.others else 0), f"{command.name}: {code}\n{command.log[-3000:]}"
        for commands in (self.beats, self.workers, self.others):
            commands.clear()

    def close(self) -> None:
        """End everything, whatever state it is in."""
        for command in (*self.beats, *self.workers, *self.others, *self.leaving):
            for number in (signal.SIGCONT, signal.SIGKILL):
                signal_group(command, number)
            command.close()
        for wire in self.wires.values():
            wire.close()
        self.client.close()

    def account(self, *, failed_allowed: bool = False) -> Account:
        """Check the whole account and return its figures; call it when all is quiet and stopped.

        Raises:
            AssertionError: it is not exact; with every violation.
        """
        return take_account(
            records=list(self.ledger.records.find()),
            keys=list(self.ledger["keys"].find()),
            streams=list(self.ledger.streams.find()),
            batches=list(self.ledger.batches.find()),
            versions=self.writer.versions,
            calls=self.partner.calls(),
            bodies=self.partner.rows(),
            order=self.layout.order,
            failed_allowed=failed_allowed,
            documents=self._read_documents() if self.layout.documents else None,
        )

    def _read_documents(self) -> Documents:
        columns = ", ".join(OUTCOMES)
        rows = self.source.execute(f"select id, {columns} from orders")  # noqa: S608
        names = list(OUTCOMES.values())
        return Documents(
            lines=self.writer.lines, written={row[0]: dict(zip(names, row[1:], strict=True)) for row in rows}
        )

    def describe(self) -> str:
        """Describe the state of everything, for an error message."""
        try:
            states = {group["_id"]: group["n"] for group in self.ledger.records.aggregate(_BY_STATE)}
            stream = self.ledger.streams.find_one({"_id": "orders"})
            oldest = self.ledger.records.find_one({"state": {"$in": UNFINISHED}}, sort=[("logged_at", 1)])
        except PyMongoError as error:
            return f"MongoDB does not answer: {error}"
        logs = "\n".join(f"--- {path.name}\n{tail(path)}" for path in sorted(self._logs.glob("*.log")))
        return f"states: {states}\nwritten: {self.writer.number}\nstream: {stream}\noldest: {oldest}\n{logs}"


def time_of(line: str) -> float:
    """Return the time at which a line of a log was written, as the line itself says."""
    return datetime.fromisoformat(json.loads(line)["at"].replace("Z", "+00:00")).timestamp()


_BY_STATE: list[dict[str, Any]] = [{"$group": {"_id": "$state", "n": {"$sum": 1}}}]


def tail(path: Path, lines: int = 12) -> str:
    """Return the last lines of a log, without the polls of every second."""
    lines_shown = [line for line in path.read_text(errors="replace").splitlines() if '"action": "poll"' not in line]
    return "\n".join(line[:600] for line in lines_shown[-lines:])


@contextmanager
def open_deployment(directory: Path, layout: Layout | None = None) -> Iterator[Deployment]:
    """Run a deployment without workers and Beat; `start_worker` and `start_beat` add them."""
    layout = layout or Layout()
    directory.mkdir(parents=True, exist_ok=True)
    with ExitStack() as running:
        redis = running.enter_context(servers.serve_redis())
        kind: Any = FaultyMongod if layout.members == 1 else ReplicaSet
        mongod = running.enter_context(servers.serve_any(kind, find_mongod))
        partner = running.enter_context(HoldingPartner(layout.partner, has_ids=layout.documents))
        deployment = Deployment(directory, layout, mongod=mongod, redis=redis, partner=partner)
        running.callback(deployment.close)
        running.callback(deployment.writer.stop)
        running.callback(deployment.source.show)
        running.callback(deployment.source.unlock)
        yield deployment
