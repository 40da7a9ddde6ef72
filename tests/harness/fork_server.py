"""Start `syncctl` without waiting for modules to load: each command is a fork of a process that has loaded them.

A command is still a separate process, with its own session, environment, working directory and streams, in which
`python -m syncctl` runs from its first line. Only the modules that it imports are loaded when it begins, and are not
torn down when it ends: that is most of what a command costs, and the tests start a thousand of them. What depends on
the environment or on the directory is not among these modules, as `tests/cli/test_fork_server.py` shows.

`python -m tests.harness.fork_server FD` is that process, with its end of a socket; a `ForkServer` starts it.
"""

import atexit
import faulthandler
import gc
import importlib
import io
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHOW_STACKS = signal.SIGUSR2
"""The signal at which a command, and each process that it has forked, writes what its threads are doing to stderr."""
LIBRARIES = (
    "aiohttp",
    "argparse",
    "celery.apps.beat",
    "celery.apps.worker",
    "celery.backends.redis",
    "celery.bin.celery",
    "celery.concurrency.prefork",
    "celery.concurrency.solo",
    "celery.concurrency.thread",
    "celery.fixups.django",
    "celery.worker.consumer",
    "certifi",
    "cryptography.x509",
    "dotenv",
    "getpass",
    "http.server",
    "jinja2.meta",
    "jinja2.sandbox",
    "jsonschema",
    "kombu.transport.redis",
    "psutil",
    "pydantic.config",
    "pydantic.fields",
    "pydantic.functional_validators",
    "pydantic.json_schema",
    "pydantic.main",
    "pydantic.types",
    "pymongo",
    "pyodbc",
    "redis.sentinel",
    "regex",
    "rich.console",
    "rich.live",
    "rich.progress",
    "rich.table",
    "simplejson",
    "sqlalchemy.dialects.mssql.pyodbc",
    "sqlalchemy.dialects.sqlite",
    "sqlite3",
    "statistics",
    "tomllib",
    "typer.completion",
    "typer.main",
    "zoneinfo",
)
# They make the Celery app, from the settings of the working directory.
_LOADED_BY_COMMANDS = ("syncctl.__main__", "syncctl.celery_app", "syncctl.tasks")
# The variables that Python, or a library while it loads, has already read.
_READ_EARLY = (
    "COVERAGE", "FORCE_COLOR", "LANG", "LC_", "LD_", "PYDANTIC", "PYTHON", "PY_COLORS", "TERMINAL_WIDTH", "TYPER",
)  # fmt: skip
_LENGTH_BYTES = 8

Streams = tuple[int, int, int]


class ForkedProcess:
    """A forked command, with the part of the interface of `subprocess.Popen` that the tests need."""

    def __init__(self, status: socket.socket) -> None:
        self.returncode: int | None = None
        self._status = status
        self.pid = self._read("pid")

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return the exit code.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        if self.returncode is None:
            with selectors.DefaultSelector() as selector:
                selector.register(self._status, selectors.EVENT_READ)
                if not selector.select(timeout):
                    raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
            self.returncode = self._read("exit")
            self._status.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal to it; do nothing if it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _read(self, what: str) -> int:
        line = b""
        while (byte := self._status.recv(1)) not in (b"\n", b""):
            line += byte
        name, _, number = line.decode().partition(" ")
        if name != what:
            self._status.close()
            raise AssertionError(f"the command was not started, or the fork server has ended: {line!r}")
        return int(number)


class ForkServer:
    """The process that forks commands; it starts with the first of them.

    Args:
        env: The environment variables of the process, which every command inherits.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = dict(env)
        self._lock = threading.Lock()
        self._control: socket.socket | None = None

    def can_start(self, env: Mapping[str, str]) -> bool:
        """Return whether a command with these variables can be a fork: none that differs is read before it begins."""
        changed = {name for name, _ in self._env.items() ^ env.items()}
        return not any(name.startswith(_READ_EARLY) for name in changed)

    def start(self, args: Sequence[str], *, cwd: Path, env: Mapping[str, str], streams: Streams) -> ForkedProcess:
        """Start `syncctl` with these arguments, in its own session.

        Args:
            env: All its environment variables.
            streams: Its stdin, stdout and stderr.
        """
        document = json.dumps({"args": list(args), "cwd": str(cwd), "env": dict(env)}).encode()
        ours, theirs = socket.socketpair()
        with theirs, self._lock:
            control = self._connect()
            socket.send_fds(control, [len(document).to_bytes(_LENGTH_BYTES)], [*streams, theirs.fileno()])
            control.sendall(document)
        return ForkedProcess(ours)

    def _connect(self) -> socket.socket:
        if self._control is None:
            self._control, theirs = socket.socketpair()
            with theirs:
                server = subprocess.Popen(
                    [sys.executable, "-m", "tests.harness.fork_server", str(theirs.fileno())],
                    cwd=Path(__file__).parents[2],
                    env=self._env,
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
            atexit.register(_end, self._control, server)
        return self._control


def _end(control: socket.socket, server: "subprocess.Popen[bytes]") -> None:
    control.close()
    server.wait(10)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Request:
    args: list[str]
    cwd: str
    env: dict[str, str]
    streams: Streams
    status: int


class _Server:
    """Forks a command for each request, and reports how it ended."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._statuses: dict[int, int] = {}
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)

    def serve(self) -> _Request | None:
        """Serve until the tests have ended, then return None; in a forked process, return its request."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake)
        with selectors.DefaultSelector() as selector:
            selector.register(self._control, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj == self._woken:
                        os.read(self._woken, 4096)
                        self._report_ended()
                        continue
                    request = self._receive()
                    if request is None or self._fork(request):
                        return request

    def _receive(self) -> _Request | None:
        head, descriptors, _, _ = socket.recv_fds(self._control, _LENGTH_BYTES, 4)
        if not head:
            return None
        length, body = int.from_bytes(head), b""
        while len(body) < length:
            body += self._control.recv(length - len(body))
        stdin, stdout, stderr, status = descriptors
        return _Request(**json.loads(body), streams=(stdin, stdout, stderr), status=status)

    def _fork(self, request: _Request) -> bool:
        """Fork a command; return true in its process."""
        pid = os.fork()
        if pid == 0:
            self._control.close()
            return True
        for descriptor in request.streams:
            os.close(descriptor)
        self._statuses[pid] = request.status
        return False

    def _report_ended(self) -> None:
        while self._statuses:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            descriptor = self._statuses.pop(pid)
            tell(descriptor, f"exit {os.waitstatus_to_exitcode(status)}")
            os.close(descriptor)


def tell(descriptor: int, line: str) -> None:
    """Write a line to the process that waits for a command, if it still does."""
    with suppress(BrokenPipeError):
        os.write(descriptor, f"{line}\n".encode())


def become(request: _Request) -> None:
    """Make this process like one that was newly started for the request."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    for number, descriptor in enumerate(request.streams):
        os.dup2(descriptor, number)
    os.closerange(3, request.status)
    os.closerange(request.status + 1, os.sysconf("SC_OPEN_MAX"))
    os.chdir(request.cwd)
    os.environ.clear()
    os.environ.update(request.env)
    time.tzset()
    streams: Any = sys
    streams.stdin = streams.__stdin__ = os.fdopen(
        0, encoding=sys.stdin.encoding, errors=sys.stdin.errors, closefd=False
    )
    streams.stdout = streams.__stdout__ = _open_output(1, sys.stdout)
    streams.stderr = streams.__stderr__ = _open_output(2, sys.stderr)
    sys.path[0] = request.cwd
    sys.argv[1:] = request.args
    faulthandler.register(SHOW_STACKS, file=2)
    tell(request.status, f"pid {os.getpid()}")
    os.close(request.status)


def _open_output(descriptor: int, like: Any) -> io.TextIOWrapper:
    raw = io.FileIO(descriptor, "w", closefd=False)
    return io.TextIOWrapper(raw, encoding=like.encoding, errors=like.errors, write_through=True)


def run_to_its_end() -> int:
    """Run `python -m syncctl`, and all that Python does at its end except for tearing down modules."""
    exit_code = 1
    try:
        runpy.run_module("syncctl", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        exit_code = int(end.code or 0)
    except BaseException:  # noqa: BLE001 (as Python does with uncaught exceptions)
        traceback.print_exc()
    python: Any = threading
    python._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    return exit_code


def list_modules() -> list[str]:
    """Return the modules of syncctl that load in the same way for every command."""
    package = Path(__file__).parents[2] / "syncctl"
    files = (file.relative_to(package.parent).with_suffix("") for file in package.rglob("*.py"))
    names = sorted(".".join(file.parts).removesuffix(".__init__") for file in files)
    return [name for name in names if not name.startswith(_LOADED_BY_COMMANDS)]


def main() -> None:
    """Serve the socket with the descriptor on the command line."""
    for name in (*LIBRARIES, *list_modules()):
        importlib.import_module(name)
    # The present objects stay, so the garbage collector of a fork need not scan them, which would copy them.
    gc.collect()
    gc.freeze()
    assert threading.active_count() == 1, "a library has started a thread, which no fork would have"
    request = _Server(socket.socket(fileno=int(sys.argv[1]))).serve()
    if request is not None:
        become(request)
        os._exit(run_to_its_end())


if __name__ == "__main__":
    main()
