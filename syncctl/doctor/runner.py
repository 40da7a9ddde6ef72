"""The runner of the checks: many at once, each after those that it needs, each with a deadline."""

import queue
import threading
import time
from collections.abc import Callable, Sequence

from syncctl.doctor.check import Check, Finding, Status, Unit, explain, failed, skipped
from syncctl.errors import SyncctlError
from syncctl.logs import get_logger

log = get_logger(__name__)

GRACE_SECONDS = 2.0
"""How long a check may exceed its deadline: a service's own deadline is as long, and its message worth waiting for.

The service's deadline begins after the driver was imported, which takes a second on a busy machine.
"""

AT_ONCE = 24
"""The most checks at once: thirty streams have a hundred checks, and each check of a source opens a connection."""

_UNMET = (Status.FAIL, Status.SKIP)


class Runner:
    """Runs checks in threads. One that hangs is left behind: its thread ends with the process.

    Args:
        units: The checks. A need that is not among them is not waited for.
        timeout_seconds: The deadline of each.
        on_done: Called with the number of finished checks.
    """

    def __init__(
        self, units: Sequence[Unit], *, timeout_seconds: float, on_done: Callable[[int], None] = lambda _: None
    ) -> None:
        self._units = tuple(units)
        self._timeout_seconds = timeout_seconds
        self._on_done = on_done
        self._done: dict[str, Check] = {}
        self._started: dict[str, float] = {}
        self._answers: queue.SimpleQueue[tuple[str, Finding, float]] = queue.SimpleQueue()
        #: The checks that did not answer in time.
        self.left_behind: list[str] = []

    def run(self) -> list[Check]:
        """Run every check and return the results in the order of the units."""
        while len(self._done) < len(self._units):
            self._start_ready()
            if len(self._done) < len(self._units):
                self._wait()
            self._on_done(len(self._done))
        return [self._done[unit.name] for unit in self._units]

    def _start_ready(self) -> None:
        """Start or skip the checks that no longer wait for others; a skipped check settles those that need it."""
        names = {unit.name for unit in self._units}
        settled = -1
        while settled != len(self._done):
            settled = len(self._done)
            for unit in self._units:
                needs = [name for name in unit.needs if name in names]
                if unit.name in self._started or any(name not in self._done for name in needs):
                    continue
                unmet = next((self._done[name] for name in needs if self._done[name].status in _UNMET), None)
                if unmet is None and self._running() >= AT_ONCE:
                    continue
                self._started[unit.name] = time.monotonic()
                if unmet is None:
                    threading.Thread(target=self._look, args=(unit,), name=f"doctor {unit.name}", daemon=True).start()
                else:
                    self._settle(unit.name, _skip_after(unmet), 0.0)

    def _running(self) -> int:
        return sum(name not in self._done for name in self._started)

    def _look(self, unit: Unit) -> None:
        started = time.monotonic()
        finding = _run(unit)
        self._answers.put((unit.name, finding, time.monotonic() - started))

    def _wait(self) -> None:
        """Take the next answer, or give up on overdue checks."""
        running = {name: at for name, at in self._started.items() if name not in self._done}
        patience = self._timeout_seconds + GRACE_SECONDS
        try:
            seconds = min(running.values()) + patience - time.monotonic()
            name, finding, took = self._answers.get(timeout=max(0.0, seconds))
        except queue.Empty:
            now = time.monotonic()
            for overdue in [name for name, at in running.items() if now - at >= patience]:
                self.left_behind.append(overdue)
                self._settle(overdue, _report_silence(self._timeout_seconds), now - running[overdue])
            return
        if name not in self._done:
            self._settle(name, finding, took)

    def _settle(self, name: str, finding: Finding, seconds: float) -> None:
        self._done[name] = Check(
            name=name,
            status=finding.status,
            detail=finding.detail,
            hint=finding.hint,
            duration_ms=round(seconds * 1000, 1),
        )


def _run(unit: Unit) -> Finding:
    """Run one check; an exception becomes a failure."""
    try:
        return unit.look()
    except SyncctlError as error:
        return explain(error)
    except Exception as error:
        log.exception("doctor.check_broke", check=unit.name, error=f"{type(error).__name__}: {error}")
        return failed(
            f"internal error in the check: {type(error).__name__}: {error}",
            f"run: syncctl --debug doctor {unit.name}, and report its output: this is a bug in syncctl",
        )


def _skip_after(unmet: Check) -> Finding:
    how = "failed" if unmet.status is Status.FAIL else "was skipped"
    return skipped(f"needs {unmet.name}, which {how}", unmet.hint)


def _report_silence(seconds: float) -> Finding:
    return failed(
        f"no answer within {seconds:g} s",
        "check the service's log and the network, or allow more time: syncctl doctor --timeout 1m",
    )
