"""Everything the demo runs on: a directory, its settings, real servers, and programs that end with the demo."""

import http.client
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir, contextmanager, suppress
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from syncctl.errors import ServiceUnavailable, TroubleFound
from syncctl.local.child import Child
from syncctl.local.demo.documents import DocumentsTable
from syncctl.local.demo.source import OrdersTable
from syncctl.local.mongod import Mongod
from syncctl.local.redis_server import RedisServer
from syncctl.local.server import write_private

STREAM = "orders"
WORKER_PROCESSES = 4
LOG_LINES = 8
LINE_WIDTH = 200
START_SECONDS = 30.0
STOP_SECONDS = 20.0
ANSWER_SECONDS = 30.0
LATENCY = "30ms"
ROWS_PER_SECOND = 800
DOCUMENTS_PER_SECOND = 250
SHORTEST_WRITING_SECONDS = 3.0
LONGEST_WRITING_SECONDS = 20.0
REJECTED_ROWS_AT_LEAST = 5
#: The shares of the kinds of failures. A partner that ignores the `Idempotency-Key` loses an answer more often.
_FAILURES = {"too-many": 0.3, "error": 0.3, "drop-before": 0.2, "drop-after": 0.1}
_DOCUMENT_FAILURES = {"too-many": 0.2, "error": 0.2, "drop-before": 0.1, "drop-after": 0.4}

_ENV = """\
# The demo's services; `syncctl` reads this file in the directory it runs in.
REDIS_URL={redis_url}
MONGO_URL={mongo_url}
SOURCE_URL={source_url}
PARTNER_URL={partner_url}
PARTNER_TOKEN={partner_token}
"""
_TOML = f"""\
# One stream, with short intervals so that the demo is quick; `syncctl init` writes a file for your own stream.

[partners.default]
timeout_seconds = {{timeout_seconds}}
max_in_flight = 48

[streams.{STREAM}]
table = "orders"
start = "beginning"
mode = "increasing"
cursor = "updated_at"
lookback = "1s"
poll_every = "1s"
page_size = 500
endpoint = "POST /orders"
order = "latest"
retry = {{{{ schedule = ["200ms", "500ms", "1s", "2s", "3s", "5s"], jitter = 0.2 }}}}
lease = "1m"
{{more}}
[worker]
concurrency = {WORKER_PROCESSES}

[beat]
upkeep_every = "1s"

[log]
format = "text"
"""
_DOCUMENTS_TOML = f"""\

# An order goes with its lines. The partner creates it under an id of its own, by which it is updated, and ignores the
# Idempotency-Key: after a lost answer it is asked first. The id is written into the order.
exclude = ["updated_at"]
json = ["attributes"]
capture = {{ id = "data.id" }}
update_endpoint = "PUT /orders/{{remote.id}}"
lookup = {{ endpoint = "GET /orders?ref={{id}}", capture = {{ id = "items[0].id" }} }}
write_back = {{ partner_id = "remote.id", sync_error = "error" }}

[streams.{STREAM}.children.lines]
table = "order_lines"
on = {{ order_id = "id" }}
columns = ["line", "sku", "qty", "price"]
sort = ["line"]
cursor = "updated_at"
"""

# The script waits for the end of its input. The watchdogs kill the demo's programs at the same moment, so it removes
# the directory more than once: a dying program may still write to it.
_CLEANER = 'while read -r line; do [ "$line" != done ] || exit; done; for _ in 1 2 3; do rm -rf -- "$1"; sleep 1; done'


class DemoEnvironment:
    """The demo's servers and programs.

    Args:
        rows: Number of rows that the source will have.
        fail: Share of calls that fail, from 0 to 1.
        seed: The same seed rejects the same rows.
        keep: Keep the directory and stop its servers in order, so that they can be started again.
        documents: Send orders with their lines, to a partner with its own ids.
    """

    def __init__(self, *, rows: int, fail: float, seed: int, keep: bool, documents: bool = False) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="syncctl-demo-")).resolve()
        self._cleaner = None if keep else _Cleaner(self.directory)
        self._rows, self._fail, self._seed, self._keep = rows, fail, seed, keep
        self._token = secrets.token_urlsafe(12)
        self._programs: dict[str, Child] = {}
        # `syncctl local up` keeps its files in the same place, so it can start the servers of a kept directory again.
        self.services = LocalServices(self.directory / ".syncctl")
        #: The tables of `documents`; None without it.
        self.documents = DocumentsTable(self.directory / "orders.db") if documents else None
        self.table = self.documents or OrdersTable(self.directory / "orders.db")
        self.logs = self.directory / "logs"

    def start_services(self) -> None:
        """Start MongoDB, Redis and the partner, and create the empty source.

        Raises:
            ServiceUnavailable: a server is not installed or does not start.
            TroubleFound: the partner does not start.
        """
        self.logs.mkdir()
        (self.directory / "tmp").mkdir()
        self._start("partner", "syncctl.local.mock_partner", "--end-with-parent", *self._partner_flags())
        self.services.start()
        self.table.create()
        self.partner = PartnerView(self._read_first_line("partner")["url"])
        env = _ENV.format(
            redis_url=self.services.redis_url,
            mongo_url=self.services.mongo_url,
            source_url=self.table.url,
            partner_url=self.partner.url,
            partner_token=self._token,
        )
        write_private(self.directory / ".env", env)
        # While a call without an answer may still take effect, a lookup that finds nothing proves nothing.
        shown = (
            {"timeout_seconds": 2, "more": _DOCUMENTS_TOML} if self.documents else {"timeout_seconds": 5, "more": ""}
        )
        (self.directory / "syncctl.toml").write_text(_TOML.format(**shown))

    def start_programs(self) -> None:
        """Start a worker and Beat, as `syncctl worker` and `syncctl beat` do."""
        self._start("worker", "syncctl", "worker")
        self._start("beat", "syncctl", "beat")

    def start_writer(self) -> None:
        """Start the program that writes to the source."""
        rate = DOCUMENTS_PER_SECOND if self.documents else ROWS_PER_SECOND
        seconds = min(max(self._rows / rate, SHORTEST_WRITING_SECONDS), LONGEST_WRITING_SECONDS)
        self._start(
            "writer",
            "syncctl.local.demo.writer",
            str(self.table.path),
            *("--rows", str(self._rows)),
            *("--seconds", str(seconds)),
            *("--seed", str(self._seed)),
            *(("--documents",) if self.documents else ()),
        )

    def read_written(self) -> dict[str, int] | None:
        """Return how many rows the writer has inserted and updated, None while it is still writing."""
        writer = self._programs["writer"]
        if writer.is_running():
            return None
        self.check_alive()
        written: dict[str, int] = json.loads(writer.read_log())
        return written

    def check_alive(self) -> None:
        """Check that every program and server still runs; only the writer may have finished.

        Raises:
            TroubleFound: one has ended; the error carries the last lines of its log.
        """
        for name, program in self._programs.items():
            code = program.exit_code()
            if code is not None and not (name == "writer" and code == 0):
                raise _ended(name, program.log, code)
        for server in (self.services.mongod, self.services.redis):
            if not server.is_running():
                raise _ended(server.name, server.log, None)

    def close(self) -> None:
        """End everything and, unless it is to be kept, remove the directory. Safe to repeat."""
        if self._keep:
            for program in self._programs.values():
                program.send(signal.SIGTERM)
            for program in self._programs.values():
                program.stop(timeout_seconds=STOP_SECONDS)
            self.services.stop()
            return
        for program in self._programs.values():
            program.kill()
        self.services.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
        if self._cleaner is not None:
            self._cleaner.release()
            self._cleaner = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _partner_flags(self) -> Iterator[str]:
        """Yield the flags that make the mock partner slow and unreliable."""
        yield from ("--latency", LATENCY, "--seed", str(self._seed))
        if self.documents:
            yield "--own-ids"
        shares = _DOCUMENT_FAILURES if self.documents else _FAILURES
        for flag, share in shares.items():
            yield from (f"--{flag}", f"{self._fail * share:.6f}")
        # Reject some rows even if there are few.
        rejected = max(self._fail * 0.1, min(REJECTED_ROWS_AT_LEAST / self._rows, 0.5)) if self._fail else 0.0
        yield from ("--reject", f"{rejected:.6f}")

    def _start(self, name: str, module: str, *arguments: str) -> None:
        self._programs[name] = Child(
            [sys.executable, "-m", module, *arguments],
            log=self.logs / f"{name}.log",
            cwd=self.directory,
            # Temporary files of a program that is killed are removed with the directory.
            env=_clean_environment(os.environ)
            | {"TMPDIR": str(self.directory / "tmp"), "PARTNER_TOKEN": self._token, "PYTHONUNBUFFERED": "1"},
        )

    def _read_first_line(self, name: str) -> dict[str, Any]:
        """Return the JSON document that a program prints first."""
        program = self._programs[name]
        has_started = _wait_until(lambda: program.read_log().partition("\n")[1] or not program.is_running())
        first, end, _ = program.read_log().partition("\n")
        if not has_started or not end:
            raise _ended(name, program.log, program.exit_code())
        document: dict[str, Any] = json.loads(first)
        return document


class LocalServices:
    """A real mongod and a real redis-server, with passwords; they end with this process, even when it is killed.

    with LocalServices(directory) as services: services.mongo_url, services.redis_url, services.mongod.pid

    Args:
        directory: Holds the files, logs and pid files of both; it stays when they end.
        mongo_port, redis_port: 0 picks a free one.
    """

    def __init__(self, directory: Path, *, mongo_port: int = 0, redis_port: int = 0) -> None:
        self.mongod = Mongod(directory / "mongodb", port=mongo_port, protected=True)
        self.redis = RedisServer(directory / "redis", port=redis_port, protected=True)

    @property
    def mongo_url(self) -> str:
        """The URL of the ledger's database."""
        return self.mongod.url()

    @property
    def redis_url(self) -> str:
        """The URL of the broker's database."""
        return self.redis.url()

    def start(self) -> None:
        """Start both and wait until both can be used.

        Raises:
            ServiceUnavailable: one did not start; then neither runs.
        """
        try:
            self.redis.start()
            self.mongod.start()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Ask both to end and wait for them. Safe to repeat."""
        self.mongod.stop()
        self.redis.stop()

    def kill(self) -> None:
        """Kill both (SIGKILL). Safe to repeat."""
        self.mongod.kill()
        self.redis.kill()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class PartnerView:
    """The mock partner's own record of what it received, read over HTTP."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._address = urlsplit(url).netloc

    def stats(self) -> dict[str, Any]:
        """Return its counts."""
        counts: dict[str, Any] = self._request("GET", "stats")
        return counts

    def calls(self) -> list[dict[str, Any]]:
        """Return every call it has received, in order."""
        calls: list[dict[str, Any]] = self._request("GET", "log")["calls"]
        return calls

    def rows(self) -> dict[str, dict[str, Any]]:
        """Return the partner's content of each row, or of each of its own ids, with all digits of numbers."""
        rows: dict[str, dict[str, Any]] = self._request("GET", "rows")
        return rows

    def fix(self) -> None:
        """Let it accept every valid call from now on."""
        self._request("POST", "fix")

    def _request(self, method: str, resource: str) -> Any:
        connection = http.client.HTTPConnection(self._address, timeout=ANSWER_SECONDS)
        try:
            connection.request(method, f"/_partner/{resource}")
            return json.loads(connection.getresponse().read(), parse_float=Decimal)
        except (OSError, http.client.HTTPException) as error:
            raise ServiceUnavailable(
                "the demo's partner does not answer",
                service="partner",
                why=f"{self.url}: {error!r}",
                hint="run the demo again; if it fails again, run it with --keep and report its logs",
            ) from error
        finally:
            connection.close()


@contextmanager
def isolated_settings(directory: Path) -> Iterator[None]:
    """Run in a directory whose files alone supply the settings; the environment supplies none."""
    before = dict(os.environ)
    for name in before.keys() - _clean_environment(before).keys():
        del os.environ[name]
    try:
        with chdir(directory):
            yield
    finally:
        os.environ.update(before)


def _clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without settings: the demo must never reach the user's real services."""
    return {name: value for name, value in environment.items() if not _is_setting(name)}


def _is_setting(name: str) -> bool:
    """Tell whether an environment variable would change what syncctl or Celery does."""
    from syncctl.settings import Settings

    first = name.lower().partition("__")[0]
    own = first.removesuffix("_file") in Settings.model_fields or first == "syncctl_directory"
    return own or first.startswith("celery_")


class _Cleaner:
    """A small process that removes a directory if this process dies without having done so."""

    def __init__(self, directory: Path) -> None:
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", _CLEANER, "cleaner", str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def release(self) -> None:
        """End without removing anything."""
        with suppress(BrokenPipeError):
            self._shell.communicate(b"done\n")


def _wait_until(is_true: Callable[[], object]) -> bool:
    """Poll until a condition holds; return False if it takes too long."""
    until = time.monotonic() + START_SECONDS
    while not is_true():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def _ended(name: str, log: Path, code: int | None) -> TroubleFound:
    """Return the error for a program that should still run, with the last lines of its log as notes."""
    written = log.read_text(errors="replace").splitlines()
    lines = [line[:LINE_WIDTH] for line in written if line.strip()][-LOG_LINES:]
    how = "" if code is None else f" with exit code {code}"
    if code is not None and code < 0:
        how = f", killed by {signal.Signals(-code).name}"
    error = TroubleFound(
        f"the demo's {name} ended unexpectedly{how}",
        why=f"its last line: {lines[-1]}" if lines else "it wrote nothing",
        hint=f"run: syncctl demo --keep, and read {name}.log in the directory that it names",
    )
    for line in lines[:-1]:
        error.add_note(line)
    return error
