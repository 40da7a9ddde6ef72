"""One syncctl installation to measure: its directory, its servers, its source, its processes."""

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from pymongo import MongoClient

from benchmarks.processes import cpu_seconds, kill_group, memory_mb, stop
from syncctl.local.demo.environment import LocalServices

ROW_BYTES = 200
DATABASE = "celery_logs"


def fill_table(path: Path, rows: int, lines: int = 0) -> None:
    """Make the source: `rows` rows of about 200 bytes, seven columns, and `lines` lines of five columns for each."""
    connection = sqlite3.connect(path)
    connection.execute(
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, customer INTEGER NOT NULL, status TEXT NOT NULL,"
        " total NUMERIC NOT NULL, ordered_at TEXT NOT NULL, reference TEXT NOT NULL, note TEXT NOT NULL)"
    )
    note = "x" * (ROW_BYTES - 90)
    connection.executemany(
        "INSERT INTO orders VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            (number, number % 977, "open", number / 4, "2026-01-01T00:00:00", f"R-{number:012}", note)
            for number in range(1, rows + 1)
        ),
    )
    connection.execute(
        "CREATE TABLE lines (order_id INTEGER NOT NULL, line INTEGER NOT NULL, sku TEXT NOT NULL,"
        " quantity INTEGER NOT NULL, price NUMERIC NOT NULL, PRIMARY KEY (order_id, line))"
    )
    connection.executemany(
        "INSERT INTO lines VALUES (?, ?, ?, ?, ?)",
        (
            (number, line, f"SKU-{line:06}", line % 7, line / 4)
            for number in range(1, rows + 1)
            for line in range(1, lines + 1)
        ),
    )
    connection.commit()
    connection.close()


class Installation:
    """A directory with settings, its own MongoDB and Redis, and the programs that run in it.

    Args:
        stream: Settings of the stream beyond the table and the endpoint.
        partner: Settings of the partner.
        worker: Settings of the worker.
    """

    def __init__(
        self,
        directory: Path,
        *,
        partner_url: str,
        rows: int,
        lines: int = 0,
        stream: Mapping[str, str] | None = None,
        partner: Mapping[str, str] | None = None,
        worker: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        directory.mkdir(parents=True)
        fill_table(directory / "orders.db", rows, lines)
        self.services = LocalServices(directory / ".syncctl")
        self.services.start()
        self.client: MongoClient[dict[str, Any]] = MongoClient(self.services.mongo_url)
        self.ledger = self.client[DATABASE]
        self._made_at = datetime.now(UTC)
        self.workers: list[subprocess.Popen[bytes]] = []
        self._write_settings(partner_url, stream or {}, partner or {}, worker or {})

    def _write_settings(
        self, partner_url: str, stream: Mapping[str, str], partner: Mapping[str, str], worker: Mapping[str, str]
    ) -> None:
        (self.directory / ".env").write_text(
            f"MONGO_URL={self.services.mongo_url}\nREDIS_URL={self.services.redis_url}\n"
            f"SOURCE_URL=sqlite:///{self.directory / 'orders.db'}\nPARTNER_URL={partner_url}\n"
        )
        lines = ["[partners.default]", 'url = "${PARTNER_URL}"']
        lines += [f"{key} = {value}" for key, value in partner.items()]
        lines += ["[worker]", *(f"{key} = {value}" for key, value in worker.items())]
        lines += ["[streams.orders]", 'table = "orders"', 'start = "beginning"', 'cursor = "id"']
        lines += ['endpoint = "POST /orders"', *(f"{key} = {value}" for key, value in stream.items())]
        (self.directory / "syncctl.toml").write_text("\n".join(lines) + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self.workers:
            stop(worker)
        self.client.close()
        self.services.stop()

    def run(self, *arguments: str) -> str:
        """Run `syncctl` to its end and return what it printed.

        Raises:
            RuntimeError: It ended with an error.
        """
        done = subprocess.run(
            [sys.executable, "-m", "syncctl", *arguments],
            cwd=self.directory,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"syncctl {' '.join(arguments)} exited {done.returncode}: {done.stderr[-800:]}")
        return done.stdout

    def start_worker(self, *arguments: str, within: Sequence[str | Path] = ()) -> subprocess.Popen[bytes]:
        """Start a worker in its own session.

        Args:
            within: The beginning of a command line that runs the rest of it, here the worker's command.
        """
        log = (self.directory / f"worker{len(self.workers)}.log").open("wb")
        worker = subprocess.Popen(
            [*within, sys.executable, "-m", "syncctl", "worker", *arguments],
            cwd=self.directory,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=os.environ | {"C_FORCE_ROOT": "1"},
        )
        self.workers.append(worker)
        return worker

    def kill_worker(self, worker: subprocess.Popen[bytes]) -> None:
        """Kill a worker with all its processes, as `kill -9` and an out-of-memory killer do."""
        kill_group(worker)
        self.workers.remove(worker)

    def count_delivered(self) -> int:
        """Return how many records were delivered since the installation was made, from the index of finished ones."""
        query = {"stream": "orders", "state": "delivered", "finished_at": {"$gte": self._made_at}}
        return self.ledger.records.count_documents(query, hint="finished")

    def count_taken(self, rows: int) -> int:
        """Return how many of `rows` rows a worker has taken, by one look-up in the index of due records."""
        due = {"stream": "orders", "state": "pending", "fresh": True}
        oldest = self.ledger.records.find_one(due, {"seq": True}, sort=[("due_at", 1), ("seq", 1)], hint="due")
        return rows if oldest is None else (int(oldest["seq"]) & 0xFFFFFFFF) - 1

    def has_delivered(self, goal: int, *, rows: int) -> bool:
        """Tell whether `goal` records were delivered; they are counted only after all rows of the source were taken."""
        return self.count_taken(rows) >= rows and self.count_delivered() >= goal

    def wait_for(self, is_so: Callable[[], bool], *, seconds: float) -> float:
        """Wait until a condition holds, and return how many seconds that took.

        Raises:
            TimeoutError: The condition did not hold in time.
        """
        started = time.monotonic()
        while not is_so():
            if time.monotonic() - started > seconds:
                states = {group["_id"]: group["n"] for group in self.ledger.records.aggregate(_BY_STATE)}
                raise TimeoutError(f"not within {seconds:.0f} s; states: {states}")
            time.sleep(0.05)
        return time.monotonic() - started

    @property
    def ports(self) -> list[int]:
        """The ports of MongoDB and Redis."""
        return [urlsplit(url).port or 0 for url in (self.services.mongo_url, self.services.redis_url)]

    def cpu(self) -> dict[str, float]:
        """Return the CPU seconds used so far, by kind of process."""
        return {
            "worker": cpu_seconds(*(worker.pid for worker in self.workers)),
            "mongodb": cpu_seconds(self.services.mongod.pid),
            "redis": cpu_seconds(self.services.redis.pid),
        }

    def memory(self) -> dict[str, float]:
        """Return the resident memory in MB, by kind of process."""
        return {
            "worker": memory_mb(*(worker.pid for worker in self.workers)),
            "mongodb": memory_mb(self.services.mongod.pid),
            "redis": memory_mb(self.services.redis.pid),
        }


_BY_STATE: list[dict[str, Any]] = [{"$group": {"_id": "$state", "n": {"$sum": 1}}}]
