"""MongoDB and Redis that stay when the command has ended: `syncctl local`."""

import fcntl
import os
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from syncctl.errors import LeaseHeld, ServiceUnavailable, TroubleFound, UsageError
from syncctl.local.mongod import Mongod
from syncctl.local.pids import Running, read_pid_file
from syncctl.local.ports import is_listening, why_taken
from syncctl.local.redis_server import RedisServer

_STOP_SECONDS = 30.0
_POLL_SECONDS = 0.02
_FLAGS = {"mongodb": "--mongo-port", "redis": "--redis-port"}

LocalServer = Mongod | RedisServer


@dataclass(frozen=True, kw_only=True, slots=True)
class DaemonState:
    """One server as it is now. `started`: this call started it."""

    name: str
    up: bool
    started: bool
    pid: int | None
    port: int | None
    url: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Daemons:
    """Both servers as they are now, and their URLs as `.env` takes them (null while down)."""

    up: bool
    directory: str
    mongo_url: str | None
    redis_url: str | None
    services: tuple[DaemonState, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stopped:
    """What `stop_daemons` ended, and whether the files are gone."""

    stopped: tuple[str, ...]
    wiped: bool


def look_at_daemons(directory: Path) -> Daemons:
    """Return how both servers are."""
    return _summarize(directory, started=())


def start_daemons(directory: Path, *, mongo_port: int | None, redis_port: int | None) -> Daemons:
    """Start what is down and leave it running. Safe to repeat.

    Args:
        mongo_port, redis_port: 0 takes a free one, None the usual one. One that runs already keeps its port.

    Raises:
        UsageError: a port is taken, or the server runs on another one.
        ServiceUnavailable: a server did not start; what this call had started is stopped again.
        LeaseHeld: another `syncctl local` is at work here.
    """
    wanted: list[tuple[LocalServer, int | None, int]] = [
        (RedisServer(directory / "redis", guarded=False), redis_port, 6379),
        (Mongod(directory / "mongodb", guarded=False), mongo_port, 27017),
    ]
    with _only_one(directory):
        missing = [server for server, port, usual in wanted if _needs_start(server, port, usual)]
        try:
            for server in missing:
                server.start()
        except BaseException:
            for server in missing:
                server.kill()
            raise
        for server in missing:
            server.release()
    daemons = _summarize(directory, started=[server.service for server in missing])
    for state in daemons.services:
        if not state.up:
            raise ServiceUnavailable(
                f"{state.name} runs, but does not answer",
                service=state.name,
                why=f"process {state.pid} does not accept connections on port {state.port}",
                hint="run: syncctl local down, then syncctl local up",
            )
    return daemons


def stop_daemons(directory: Path, *, wipe: bool) -> Stopped:
    """Stop both servers, wait for their end, and remove their files when `wipe`. Safe to repeat.

    Raises:
        TroubleFound: one does not end, not even when it is killed.
        LeaseHeld: another `syncctl local` is at work here.
    """
    if not directory.is_dir():
        return Stopped(stopped=(), wiped=False)
    with _only_one(directory):
        running = [(server, found) for server in _servers(directory) if (found := read_pid_file(server.pid_file))]
        for _, found in running:
            _signal(found, signal.SIGTERM)
        for server, found in running:
            _wait_for_end(server, found)
        for server in _servers(directory):
            server.pid_file.unlink(missing_ok=True)
            if wipe:
                shutil.rmtree(server.directory, ignore_errors=True)
    if wipe:
        _remove_if_ours_alone(directory)
    return Stopped(stopped=tuple(server.service for server, _ in running), wiped=wipe)


def measure_files(directory: Path) -> int:
    """Return how many bytes the servers' files take."""
    total = 0
    for server in _servers(directory):
        for path in server.directory.rglob("*"):
            with suppress(OSError):
                total += path.lstat().st_blocks * 512
    return total


def _servers(directory: Path) -> tuple[LocalServer, LocalServer]:
    return Mongod(directory / "mongodb"), RedisServer(directory / "redis")


def _needs_start(server: LocalServer, port: int | None, usual: int) -> bool:
    """Decide whether to start a server, and give it its port."""
    running = read_pid_file(server.pid_file)
    flag = _FLAGS[server.service]
    if running is not None:
        if port and port != running.port:
            raise UsageError(
                f"{server.name} is up on port {running.port}, not on {port}",
                why=f"{flag} cannot move a server that runs",
                hint="run: syncctl local down, then this again",
            )
        return False
    server.port = usual if port is None else port
    taken = why_taken(server.port) if server.port else None
    if taken:
        raise UsageError(
            f"cannot start {server.name} on port {server.port}",
            why=taken,
            hint=f"choose another with {flag}; {flag} 0 takes a free one",
        )
    return True


def _summarize(directory: Path, *, started: Sequence[str]) -> Daemons:
    states = tuple(_look_at(server, started) for server in _servers(directory))
    urls = {state.name: state.url for state in states}
    return Daemons(
        up=all(state.up for state in states),
        directory=str(directory.absolute()),
        mongo_url=urls["mongodb"],
        redis_url=urls["redis"],
        services=states,
    )


def _look_at(server: LocalServer, started: Sequence[str]) -> DaemonState:
    running = read_pid_file(server.pid_file)
    up = running is not None and is_listening(running.port)
    if running is not None:
        server.port = running.port
    return DaemonState(
        name=server.service,
        up=up,
        started=server.service in started,
        pid=running.pid if running else None,
        port=running.port if running else None,
        url=server.url() if up else None,
    )


def _signal(running: Running, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(running.pid, number)


def _wait_for_end(server: LocalServer, running: Running) -> None:
    """Wait until the server has ended; kill it when it takes too long."""
    for number in (None, signal.SIGKILL):
        if number is not None:
            _signal(running, number)
        until = time.monotonic() + _STOP_SECONDS
        while time.monotonic() < until:
            if read_pid_file(server.pid_file) != running:
                return
            time.sleep(_POLL_SECONDS)
    raise TroubleFound(
        f"cannot stop {server.name}",
        why=f"process {running.pid} does not end, not even by SIGKILL",
        hint="look at what it waits for: a disk that hangs?",
    )


@contextmanager
def _only_one(directory: Path) -> Iterator[None]:
    """Keep a second `syncctl local` out while this one works here."""
    directory.mkdir(parents=True, exist_ok=True)
    # Nothing in here is for version control.
    (directory / ".gitignore").write_text("*\n")
    with (directory / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LeaseHeld(
                f"another syncctl local is at work in {directory}",
                why="it holds the lock file",
                hint="wait for it, then try again",
            ) from error
        yield


def _remove_if_ours_alone(directory: Path) -> None:
    for name in ("lock", ".gitignore"):
        (directory / name).unlink(missing_ok=True)
    with suppress(OSError):
        directory.rmdir()
