"""A real server on a loopback port, as a child of this process or left to run on its own."""

import signal
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Self

from syncctl.errors import InternalError, ServiceUnavailable
from syncctl.local.child import Child
from syncctl.local.diagnosis import diagnose
from syncctl.local.pids import write_pid_file
from syncctl.local.ports import find_port

_START_TRIES = 5
_POLL_SECONDS = 0.01
_SLOWEST_POLL_SECONDS = 0.1
_LOOK_SECONDS = 1.0


class _PortTakenError(Exception):
    """Somebody else took the port between looking and listening."""


class Server(ABC):
    """A server that keeps its files, its log and its pid file in one directory.

    Args:
        directory: Made when missing; what it holds is served again.
        port: 0 takes a free one at the first start and keeps it.
        guarded: Kill the server when this process dies.
    """

    name: ClassVar[str]
    service: ClassVar[str]

    def __init__(self, directory: Path, *, port: int = 0, guarded: bool = True) -> None:
        self.directory = directory.absolute()
        self.port = port
        self._port_is_ours = port == 0
        self._guarded = guarded
        self._child: Child | None = None

    @abstractmethod
    def command(self) -> list[str | Path]:
        """Return the command line that serves `files` on `port`."""

    @abstractmethod
    def check_ready(self, *, timeout_seconds: float) -> bool:
        """Tell whether this very server answers and can be used; never waits longer than the time given."""

    @property
    def files(self) -> Path:
        """Where the server keeps what it stores."""
        return self.directory / "files"

    @property
    def log(self) -> Path:
        """What the server writes to stdout and stderr; the start before this one is in `<log>.1`."""
        return self.directory / f"{self.name}.log"

    @property
    def pid_file(self) -> Path:
        """Which process serves this directory; see `pids.py`."""
        return self.directory / f"{self.name}.pid"

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._running_child().pid

    def is_running(self) -> bool:
        """Tell whether the server's process lives."""
        return self._child is not None and self._child.is_running()

    def start(self, *, timeout_seconds: float = 30.0) -> None:
        """Start the server and wait until it can be used; nothing when it runs already.

        Raises:
            ServiceUnavailable: it did not start; says why and what helps.
        """
        if self.is_running():
            return
        for _ in range(_START_TRIES):
            self.port = self.port or find_port()
            try:
                self._start_once(timeout_seconds)
            except _PortTakenError as error:
                self.port = 0
                last = error
            else:
                self._port_is_ours = False
                return
        raise ServiceUnavailable(f"cannot start {self.name}", service=self.service, why=str(last), hint="try again")

    def _start_once(self, timeout_seconds: float) -> None:
        self.files.mkdir(parents=True, exist_ok=True)
        self._child = self._launch()
        try:
            write_pid_file(self.pid_file, pid=self.pid, port=self.port)
            self._wait_until_ready(timeout_seconds)
        except BaseException:
            self.kill()
            raise

    def _launch(self) -> Child:
        command = self.command()
        try:
            return Child(command, log=self.log, cwd=self.directory, guarded=self._guarded)
        except OSError as error:
            raise ServiceUnavailable(
                f"cannot start {self.name}",
                service=self.service,
                why=str(error),
                hint=f"put a {self.name} for this system on PATH",
            ) from error

    def _wait_until_ready(self, timeout_seconds: float) -> None:
        until = time.monotonic() + timeout_seconds
        child = self._running_child()
        pause = _POLL_SECONDS
        while child.is_running() and time.monotonic() < until:
            if self.check_ready(timeout_seconds=_LOOK_SECONDS):
                return
            time.sleep(pause)
            pause = min(pause * 1.1, _SLOWEST_POLL_SECONDS)
        found = diagnose(child.read_log(), exit_code=child.exit_code(), log_path=str(self.log), name=self.name)
        if found.port_taken and self._port_is_ours:
            raise _PortTakenError(found.why)
        raise ServiceUnavailable(
            f"cannot start {self.name} on port {self.port}",
            service=self.service,
            why=found.why,
            hint=found.hint,
        )

    def stop(self, *, timeout_seconds: float = 20.0) -> None:
        """Ask the server to end and wait for it; its files stay. Safe to repeat."""
        if self._child is not None:
            self._child.stop(timeout_seconds=timeout_seconds)
            self._forget()

    def kill(self) -> None:
        """Kill the server (SIGKILL); its files stay. Safe to repeat."""
        if self._child is not None:
            self._child.kill()
            self._forget()

    def restart(self) -> None:
        """Start the server again on the same port and files, after a stop, a kill or while it runs."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """DeliveryGate the server (SIGSTOP): connections stay open, nothing answers."""
        self._running_child().send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen server go on."""
        self._running_child().send(signal.SIGCONT)

    def release(self) -> None:
        """Let the server live on without this process."""
        self._running_child().release()
        self._child = None

    def _running_child(self) -> Child:
        if self._child is None:
            raise InternalError(f"{self.name} was not started")
        return self._child

    def _forget(self) -> None:
        self._child = None
        self.pid_file.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
