"""A pool process that replaces another is forked while no thread of the worker's main process holds a lock.

It would otherwise inherit the lock, and wait for it forever.
"""

import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from syncctl.settings import load_settings
from syncctl.tasks import alert_watch, fork_guard
from syncctl.tasks.alert_watch import AlertWatch
from syncctl.tasks.fork_guard import ForkGuard
from syncctl.tasks.heartbeat import WorkerHeartbeat


class Holder:
    """Holds a lock for a while, as a library does that connects."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.holds = threading.Event()

    def __call__(self, *_: Any) -> bool:
        with self.lock:
            self.holds.set()
            time.sleep(0.5)
        return True

    def is_free_in_a_fork(self) -> bool:
        assert self.holds.wait(10)
        pid = os.fork()
        if pid == 0:
            os._exit(0 if self.lock.acquire(timeout=0) else 1)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.fixture
def holder() -> Holder:
    return Holder()


def test_a_fork_waits_until_no_thread_is_at_work(holder: Holder) -> None:
    def work() -> None:
        with fork_guard.forks.held_off():
            holder()

    thread = threading.Thread(target=work)
    thread.start()
    assert holder.is_free_in_a_fork()
    thread.join()


def test_a_heartbeat_holds_forks_off(holder: Holder, settings_dir: Path) -> None:
    """It opens the ledger through a `functools.cached_property`, whose lock all threads of a process share."""
    app: Any = SimpleNamespace(
        settings=load_settings(directory=settings_dir, environment={}),
        seal=SimpleNamespace(now_ms=holder),
        message_check=SimpleNamespace(take_dropped=dict),
    )
    heartbeat = WorkerHeartbeat("worker@here", {"slots": 1}, app)
    heartbeat.start()
    assert holder.is_free_in_a_fork()
    heartbeat.stop()


def test_the_watch_of_alerts_holds_forks_off(
    holder: Holder, settings_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alert_watch, "LOOKS_EVERY_SECONDS", 0.1)
    monkeypatch.setattr(alert_watch, "watch_alerts", holder)
    watch = AlertWatch(load_settings(directory=settings_dir, environment={}))
    watch.start()
    assert holder.is_free_in_a_fork()
    watch.stop()


def test_work_does_not_begin_while_a_fork_waits() -> None:
    """Otherwise the threads of a busy process could keep forks waiting by turns."""
    guard, began = ForkGuard(), threading.Event()

    def begin() -> None:
        with guard.held_off():
            began.set()

    guard.begin_fork()
    thread = threading.Thread(target=begin)
    thread.start()
    assert not began.wait(0.2)
    guard.end_fork()
    thread.join(10)
    assert began.is_set()


def test_a_heartbeat_is_written_while_a_fork_waits_for_a_message_of_an_alert(settings_dir: Path) -> None:
    """Messages may take longer than the time after which a worker without a heartbeat is taken for dead."""
    written = threading.Event()
    app: Any = SimpleNamespace(
        settings=load_settings(directory=settings_dir, environment={}),
        seal=SimpleNamespace(now_ms=written.set),
        message_check=SimpleNamespace(take_dropped=dict),
    )
    heartbeat = WorkerHeartbeat("worker@here", {"slots": 1}, app)
    with fork_guard.forks.held_off():
        fork = threading.Thread(target=fork_guard.forks.begin_fork)
        fork.start()
        time.sleep(0.1)
        heartbeat.start()
        assert written.wait(10)
    fork.join(10)
    assert not fork.is_alive()
    fork_guard.forks.end_fork()
    heartbeat.stop()


def test_a_thread_that_hangs_keeps_no_fork_waiting_for_ever(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fork_guard, "WAITS_AT_MOST_SECONDS", 0.1)
    guard = ForkGuard()
    with guard.held_off():
        guard.begin_fork()
    assert "worker.forked_beside_work" in caplog.text
