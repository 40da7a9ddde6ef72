"""Everything the demo runs on: a directory, real servers, and children that end with it, however it ends."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from syncctl.errors import TroubleFound
from syncctl.local.child import Child
from syncctl.local.demo.configuration import clean_environment, write_configuration
from syncctl.local.demo.partner_view import PartnerView
from syncctl.local.demo.source import OrdersTable
from syncctl.local.services import LocalServices

LOG_LINES = 8
LINE_WIDTH = 200
START_SECONDS = 30.0
STOP_SECONDS = 20.0
LATENCY = "30ms"
ROWS_PER_SECOND = 800
SHORTEST_TRADE_SECONDS = 3.0
LONGEST_TRADE_SECONDS = 20.0
REFUSED_AT_LEAST = 5

# It waits for the end of its input, as the watchdogs do that kill the children; so it looks once more after them.
_SWEEP = 'while read -r line; do [ "$line" != done ] || exit; done; for _ in 1 2 3; do rm -rf -- "$1"; sleep 1; done'


class Sweeper:
    """A small process that removes a directory when this process dies without having done so."""

    def __init__(self, directory: Path) -> None:
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", _SWEEP, "sweeper", str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def release(self) -> None:
        """End without removing anything."""
        with suppress(BrokenPipeError):
            self._shell.communicate(b"done\n")


class Stage:
    """The demo's servers and programs.

    Args:
        rows: How many rows the source will have.
        fail: Share of calls that go wrong, from 0 to 1.
        seed: The same seed refuses the same rows.
        keep: Leave the directory, its servers stopped in order, so that they can be started again.
    """

    def __init__(self, *, rows: int, fail: float, seed: int, keep: bool) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="syncctl-demo-")).resolve()
        self._sweeper = None if keep else Sweeper(self.directory)
        self._rows, self._fail, self._seed, self._keep = rows, fail, seed, keep
        self._token = secrets.token_urlsafe(12)
        self._programs: dict[str, Child] = {}
        # Where `syncctl local up` keeps its files: a directory that is kept can be brought up again.
        self.services = LocalServices(self.directory / ".syncctl")
        self.table = OrdersTable(self.directory / "orders.db")
        self.logs = self.directory / "logs"

    def start_services(self) -> None:
        """Start MongoDB, Redis, the partner, and make the empty source.

        Raises:
            ServiceUnavailable: a server is not installed or does not start.
            TroubleFound: the partner does not start.
        """
        self.logs.mkdir()
        (self.directory / "tmp").mkdir()
        self._start("partner", "syncctl.local.mock_partner", "--end-with-parent", *self._moods())
        self.services.start()
        self.table.create()
        self.partner = PartnerView(self._read_first_line("partner")["url"])
        write_configuration(
            self.directory,
            redis_url=self.services.redis_url,
            mongo_url=self.services.mongo_url,
            source_url=self.table.url,
            partner_url=self.partner.url,
            partner_token=self._token,
        )

    def start_programs(self) -> None:
        """Start a worker and Beat, as `syncctl worker` and `syncctl beat` do."""
        self._start("worker", "syncctl", "worker")
        self._start("beat", "syncctl", "beat")

    def start_shop(self) -> None:
        """Let the source be written to."""
        seconds = min(max(self._rows / ROWS_PER_SECOND, SHORTEST_TRADE_SECONDS), LONGEST_TRADE_SECONDS)
        self._start(
            "shop",
            "syncctl.local.demo.source",
            str(self.table.path),
            *("--rows", str(self._rows)),
            *("--seconds", str(seconds)),
            *("--seed", str(self._seed)),
        )

    def read_trade(self) -> dict[str, int] | None:
        """Return what the shop has written, None while it still writes."""
        shop = self._programs["shop"]
        if shop.is_running():
            return None
        self.check_alive()
        written: dict[str, int] = json.loads(shop.read_log())
        return written

    def check_alive(self) -> None:
        """Raise when something has ended that should still run.

        Raises:
            TroubleFound: with what it wrote last.
        """
        for name, program in self._programs.items():
            code = program.exit_code()
            if code is not None and not (name == "shop" and code == 0):
                raise _ended(name, program.log, code)
        for server in (self.services.mongod, self.services.redis):
            if not server.is_running():
                raise _ended(server.name, server.log, None)

    def close(self) -> None:
        """End everything and remove the directory, unless it is to be kept. Safe to repeat."""
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
        if self._sweeper is not None:
            self._sweeper.release()
            self._sweeper = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _moods(self) -> Iterator[str]:
        """Yield the flags that make the partner slow and unreliable."""
        yield from ("--latency", LATENCY, "--seed", str(self._seed))
        for flag, share in (("too-many", 0.3), ("error", 0.3), ("drop-before", 0.2), ("drop-after", 0.1)):
            yield from (f"--{flag}", f"{self._fail * share:.6f}")
        # Of few rows, too, some are refused.
        refused = max(self._fail * 0.1, min(REFUSED_AT_LEAST / self._rows, 0.5)) if self._fail else 0.0
        yield from ("--reject", f"{refused:.6f}")

    def _start(self, name: str, module: str, *arguments: str) -> None:
        self._programs[name] = Child(
            [sys.executable, "-m", module, *arguments],
            log=self.logs / f"{name}.log",
            cwd=self.directory,
            # What a program that is killed leaves behind goes with the directory.
            env=clean_environment(os.environ)
            | {"TMPDIR": str(self.directory / "tmp"), "PARTNER_TOKEN": self._token, "PYTHONUNBUFFERED": "1"},
        )

    def _read_first_line(self, name: str) -> dict[str, Any]:
        """Return the JSON document that a program prints first."""
        program = self._programs[name]
        found = wait_until(lambda: program.read_log().partition("\n")[1] or not program.is_running())
        first, end, _ = program.read_log().partition("\n")
        if not found or not end:
            raise _ended(name, program.log, program.exit_code())
        document: dict[str, Any] = json.loads(first)
        return document


def wait_until(is_so: Callable[[], object]) -> bool:
    """Look again and again whether something is so; False when it takes too long."""
    until = time.monotonic() + START_SECONDS
    while not is_so():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def _ended(name: str, log: Path, code: int | None) -> TroubleFound:
    """Return the error for something that should still run, with its last words as notes."""
    written = log.read_text(errors="replace").splitlines()
    lines = [line[:LINE_WIDTH] for line in written if line.strip()][-LOG_LINES:]
    how = "" if code is None else f" with exit code {code}"
    if code is not None and code < 0:
        how = f", killed by {signal.Signals(-code).name}"
    error = TroubleFound(
        f"the demo's {name} ended by itself{how}",
        why=f"its last line: {lines[-1]}" if lines else "it wrote nothing",
        hint=f"run: syncctl demo --keep, and read {name}.log in the directory that it names",
    )
    for line in lines[:-1]:
        error.add_note(line)
    return error
