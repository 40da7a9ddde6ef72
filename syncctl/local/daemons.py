"""MongoDB and Redis that keep running after the command has ended, for `syncctl local`."""

import fcntl
import json
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO
from urllib.parse import urlsplit

from syncctl.errors import LeaseHeld, ServiceUnavailable, TroubleFound, UsageError
from syncctl.local.mongod import Mongod
from syncctl.local.redis_server import RedisServer
from syncctl.local.server import is_listening, make_missing_psutil, why_taken

try:
    import psutil
except ImportError as error:
    raise make_missing_psutil() from error

_STOP_SECONDS = 30.0
_POLL_SECONDS = 0.02
_FLAGS = {"mongodb": "--mongo-port", "redis": "--redis-port"}

LocalServer = Mongod | RedisServer


@dataclass(frozen=True, kw_only=True, slots=True)
class DaemonState:
    """The state of one server."""

    name: str
    up: bool
    #: Whether this call started the server.
    started: bool
    pid: int | None
    port: int | None
    url: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Daemons:
    """The state of both servers."""

    up: bool
    directory: str
    #: As `.env` takes it; None while the server is down, as for `redis_url`.
    mongo_url: str | None
    redis_url: str | None
    services: tuple[DaemonState, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stopped:
    """The servers that `stop_daemons` stopped, and whether it removed their files."""

    stopped: tuple[str, ...]
    wiped: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class _Running:
    """The process that serves a directory, and its port."""

    process: psutil.Process
    port: int


def inspect_daemons(directory: Path) -> Daemons:
    """Return the state of both servers."""
    return _summarize(directory, started=())


def start_daemons(directory: Path, *, mongo_port: int | None, redis_port: int | None) -> Daemons:
    """Start the servers that are down and leave them running. Safe to repeat.

    Args:
        mongo_port, redis_port: 0 picks a free port; None picks the server's last port, at the first start the usual
            one. A server that already runs keeps its port.

    Raises:
        UsageError: a port is taken, or the server already runs on another one.
        ServiceUnavailable: a server did not start; a server that this call had started is stopped again.
        LeaseHeld: another `syncctl local` is changing this directory.
    """
    wanted: list[tuple[LocalServer, int | None, int]] = [
        (RedisServer(directory / "redis", guarded=False, protected=True), redis_port, 6379),
        (Mongod(directory / "mongodb", guarded=False, protected=True), mongo_port, 27017),
    ]
    with _lock(directory):
        missing = [server for server, port, usual in wanted if _needs_start(server, port, usual)]
        try:
            for server in missing:
                server.start()
        except BaseException:
            for server in missing:
                server.kill()
            raise
        for server, _, _ in wanted:
            _port_file(server).write_text(f"{server.port}\n")
        for server in missing:
            server.release()
    daemons = _summarize(directory, started=[server.service for server in missing])
    for state in daemons.services:
        if not state.up:
            raise ServiceUnavailable(
                f"{state.name} is running but does not answer",
                service=state.name,
                why=f"process {state.pid} does not accept connections on port {state.port}",
                hint="run: syncctl local down, then syncctl local up",
            )
    return daemons


def stop_daemons(directory: Path, *, wipe: bool) -> Stopped:
    """Stop both servers, wait until they have ended, and with `wipe` remove their files. Safe to repeat.

    Raises:
        TroubleFound: a server does not end, even after SIGKILL.
        LeaseHeld: another `syncctl local` is changing this directory.
    """
    if not directory.is_dir():
        return Stopped(stopped=(), wiped=False)
    with _lock(directory):
        running = [server for server in _servers(directory) if _find_running(server)]
        _end(running)
        for server in _servers(directory):
            server.pid_file.unlink(missing_ok=True)
            if wipe:
                shutil.rmtree(server.directory, ignore_errors=True)
    if wipe:
        _remove_if_empty(directory)
    return Stopped(stopped=tuple(server.service for server in running), wiped=wipe)


def is_own_url(directory: Path, url: str) -> bool:
    """Tell whether a URL has the password of one of the servers, on whatever port."""
    try:
        password = urlsplit(url).password
    except ValueError:
        return False
    return bool(password) and password in [server.password for server in _servers(directory)]


def measure_files(directory: Path) -> int:
    """Return the size of the servers' files on disk, in bytes."""
    total = 0
    for server in _servers(directory):
        for path in server.directory.rglob("*"):
            with suppress(OSError):
                total += path.lstat().st_blocks * 512
    return total


def _servers(directory: Path) -> tuple[LocalServer, LocalServer]:
    return Mongod(directory / "mongodb"), RedisServer(directory / "redis")


def _needs_start(server: LocalServer, port: int | None, usual: int) -> bool:
    """Decide whether to start a server, and set its port."""
    running = _find_running(server)
    flag = _FLAGS[server.service]
    if running is not None:
        if port and port != running.port:
            raise UsageError(
                f"{server.name} is already running on port {running.port}, not on {port}",
                why=f"{flag} cannot move a running server",
                hint="run: syncctl local down, then run this command again",
            )
        server.port = running.port
        return False
    server.port = (_read_last_port(server) or usual) if port is None else port
    taken = why_taken(server.port) if server.port else None
    if taken:
        raise UsageError(
            f"cannot start {server.name} on port {server.port}",
            why=taken,
            hint=f"choose another port with {flag}; {flag} 0 picks a free one",
        )
    return True


def _port_file(server: LocalServer) -> Path:
    """Return the file with the port of the last start; it outlives the server, so that URLs with it stay valid."""
    return server.directory / "port"


def _read_last_port(server: LocalServer) -> int | None:
    try:
        return int(_port_file(server).read_text())
    except (OSError, ValueError):
        return None


def _summarize(directory: Path, *, started: Sequence[str]) -> Daemons:
    states = tuple(_inspect(server, started) for server in _servers(directory))
    urls = {state.name: state.url for state in states}
    return Daemons(
        up=all(state.up for state in states),
        directory=str(directory.absolute()),
        mongo_url=urls["mongodb"],
        redis_url=urls["redis"],
        services=states,
    )


def _inspect(server: LocalServer, started: Sequence[str]) -> DaemonState:
    running = _find_running(server)
    up = running is not None and is_listening(running.port)
    if running is not None:
        server.port = running.port
    return DaemonState(
        name=server.service,
        up=up,
        started=server.service in started,
        pid=running.process.pid if running else None,
        port=running.port if running else None,
        url=server.url() if up else None,
    )


def _find_running(server: LocalServer) -> _Running | None:
    """Return the process of a server's pid file, None if it has ended.

    The pid alone proves nothing, because the system may since have given it to another program. The process must also
    have the server's name and work in the server's directory.
    """
    try:
        document = json.loads(server.pid_file.read_text())
        process = psutil.Process(document["pid"])
        is_ours = server.name in " ".join(process.cmdline()) and Path(process.cwd()).is_relative_to(
            server.directory.resolve()
        )
        return _Running(process=process, port=document["port"]) if is_ours else None
    except (OSError, ValueError, TypeError, KeyError, psutil.Error):
        return None


def _end(servers: Sequence[LocalServer]) -> None:
    """Ask servers to end, wait for them, and kill those that take too long."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for server in servers:
            if running := _find_running(server):
                with suppress(psutil.NoSuchProcess):
                    running.process.send_signal(number)
        until = time.monotonic() + _STOP_SECONDS
        while remaining := [server for server in servers if _find_running(server)]:
            if time.monotonic() > until:
                break
            time.sleep(_POLL_SECONDS)
        if not remaining:
            return
    raise TroubleFound(
        f"cannot stop {remaining[0].name}",
        why="its process does not end, even after SIGKILL",
        hint="find out what it waits for, for example a disk that does not respond",
    )


@contextmanager
def _lock(directory: Path) -> Iterator[None]:
    """Keep another `syncctl local` out of this directory.

    Raises:
        LeaseHeld: another one is changing it.
        UsageError: it, or a file in it, cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o700)
        # None of these files belong in version control.
        (directory / ".gitignore").write_text("*\n")
        with (directory / "lock").open("w") as lock:
            _take_lock(lock, directory)
            yield
    except OSError as error:
        raise UsageError(
            f"cannot write to {error.filename or directory}",
            why=error.strerror or str(error),
            hint="run it in a directory that you may write to, or name one: syncctl --directory PATH local ...",
        ) from error


def _take_lock(lock: TextIO, directory: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise LeaseHeld(
            f"another syncctl local is running in {directory}",
            why="it holds the lock file",
            hint="wait until it has finished, then try again",
        ) from error


def _remove_if_empty(directory: Path) -> None:
    for name in ("lock", ".gitignore"):
        (directory / name).unlink(missing_ok=True)
    with suppress(OSError):
        directory.rmdir()
