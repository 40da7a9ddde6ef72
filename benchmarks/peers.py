"""The peers that syncctl is measured against: drt, a plain Celery pipeline, and the bare HTTP client."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import Any

from benchmarks.installation import fill_table
from benchmarks.processes import Usage, cpu_seconds, stop
from syncctl.local.demo.environment import LocalServices

DRT_VERSION = "1.2.1"
DRT_SYNCS = 8
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "syncctl-bench"

_DRT_SYNC = """\
name: orders{part}
model: "SELECT * FROM orders WHERE id % {parts} = {part}"
destination:
  type: rest_api
  url: {url}/orders
  method: POST
  headers: {{Content-Type: application/json}}
sync:
  mode: full
  batch_size: 1000
  on_error: skip
  rate_limit: {{requests_per_second: 1000000}}
"""


def find_drt() -> Path:
    """Return drt's command, installed once into its own virtual environment."""
    place = CACHE / f"drt-{DRT_VERSION}"
    if not (place / "bin" / "drt").exists():
        venv.create(place, with_pip=True)
        subprocess.run([place / "bin" / "python", "-m", "pip", "install", "-q", f"drt-core=={DRT_VERSION}"], check=True)
    return place / "bin" / "drt"


def run_drt(directory: Path, *, rows: int, url: str) -> Usage:
    """Send every row with drt's `rest_api` destination, as eight syncs side by side; it keeps no ledger."""
    directory.mkdir(parents=True)
    fill_table(directory / "orders.db", rows)
    (directory / "drt_project.yml").write_text("name: bench\nprofile: default\n")
    home = directory / "home"
    (home / ".drt").mkdir(parents=True)
    (home / ".drt" / "profiles.yml").write_text(f"default:\n  type: sqlite\n  database: {directory / 'orders.db'}\n")
    (directory / "syncs").mkdir()
    for part in range(DRT_SYNCS):
        text = _DRT_SYNC.format(part=part, parts=DRT_SYNCS, url=url)
        (directory / "syncs" / f"orders{part}.yml").write_text(text)
    command = [find_drt(), "run", "--threads", str(DRT_SYNCS), "--output", "json"]
    environment = os.environ | {"HOME": str(home), "DRT_TELEMETRY": "0", "DO_NOT_TRACK": "1"}
    before = os.times()
    started = time.monotonic()
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - started
    after = os.times()
    if done.returncode:
        raise RuntimeError(f"drt exited {done.returncode}: {done.stdout[-500:]} {done.stderr[-500:]}")
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return Usage(seconds=seconds, cpu={"drt": used})


_CELERY_APP = """\
import json, os, requests
from celery import Celery
from pymongo import MongoClient, WriteConcern
app = Celery("plain", broker=os.environ["REDIS_URL"])
app.conf.update(task_ignore_result=True, worker_prefetch_multiplier=4, broker_connection_retry_on_startup=True)
_own = {}
def own():
    if os.getpid() not in _own:
        client = MongoClient(os.environ["MONGO_URL"])
        database = client.get_database("plain", write_concern=WriteConcern("majority"))
        _own[os.getpid()] = (database, requests.Session())
    return _own[os.getpid()]
@app.task
def send(row):
    database, session = own()
    answer = session.post(os.environ["PARTNER_URL"] + "/orders", json=row, timeout=30)
    database.records.update_one({"_id": row["id"]}, {"$set": {"state": "delivered", "status": answer.status_code}})
"""


def run_celery(directory: Path, *, rows: int, url: str) -> Usage:
    """Send every row the plain way: one insert, one message, one call, one update a row."""
    from pymongo import MongoClient, WriteConcern

    directory.mkdir(parents=True)
    fill_table(directory / "orders.db", rows)
    (directory / "plain.py").write_text(_CELERY_APP)
    with LocalServices(directory / ".services") as services:
        environment = os.environ | {
            "REDIS_URL": services.redis_url,
            "MONGO_URL": services.mongo_url,
            "PARTNER_URL": url,
            "C_FORCE_ROOT": "1",
        }
        command = [sys.executable, "-m", "celery", "-A", "plain", "worker", "--concurrency", "2", "--loglevel", "ERROR"]
        worker = subprocess.Popen(
            command, cwd=directory, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        client: MongoClient[dict[str, Any]] = MongoClient(services.mongo_url)
        records = client.get_database("plain", write_concern=WriteConcern("majority")).records
        pids = (worker.pid, services.mongod.pid, services.redis.pid)
        try:
            time.sleep(4)
            before, own = cpu_seconds(*pids), time.process_time()
            started = time.monotonic()
            _feed_celery(directory, environment, records)
            while records.count_documents({"state": "delivered"}) < rows:
                time.sleep(0.1)
            seconds = time.monotonic() - started
            used = cpu_seconds(*pids) - before + time.process_time() - own
        finally:
            stop(worker)
            client.close()
    return Usage(seconds=seconds, cpu={"celery": used})


def _feed_celery(directory: Path, environment: dict[str, str], records: Any) -> None:
    from celery import Celery

    app = Celery("plain", broker=environment["REDIS_URL"])
    connection = sqlite3.connect(directory / "orders.db")
    names = [column[1] for column in connection.execute("PRAGMA table_info(orders)")]
    for values in connection.execute("SELECT * FROM orders ORDER BY id"):
        row = dict(zip(names, values, strict=True))
        records.insert_one({"_id": row["id"], "state": "pending", "payload": row})
        app.send_task("plain.send", args=[row])
    connection.close()


def run_bare_client(directory: Path, *, rows: int, url: str, threads: int) -> Usage:
    """Send every row with a bare `requests` client of `threads` threads: nothing is kept, nothing is retried."""
    directory.mkdir(parents=True)
    script = directory / "bare.py"
    script.write_text(_BARE.format(url=url, rows=rows, threads=threads))
    before = os.times()
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return Usage(seconds=json.loads(done.stdout)["seconds"], cpu={"client": used})


_BARE = """\
import json, threading, time
from concurrent.futures import ThreadPoolExecutor
import requests
own = threading.local()
def send(number):
    session = getattr(own, "session", None)
    if session is None:
        session = own.session = requests.Session()
        session.trust_env = False
    body = json.dumps({{"id": number, "note": "x" * 180}})
    session.post("{url}/orders", data=body, headers={{"Content-Type": "application/json"}}, timeout=30)
started = time.monotonic()
with ThreadPoolExecutor({threads}) as pool:
    list(pool.map(send, range({rows})))
print(json.dumps({{"seconds": time.monotonic() - started}}))
"""


def has_nginx() -> bool:
    """Tell whether Debian's nginx is installed."""
    return bool(shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin"))


__all__ = ["DRT_VERSION", "find_drt", "has_nginx", "run_bare_client", "run_celery", "run_drt"]
