"""A real server on a loopback port: its binary, its port, its start and stop, and why it did not start."""

import json
import os
import platform
import re
import secrets
import shutil
import signal
import socket
import sys
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, NamedTuple, Self

from syncctl.errors import InternalError, ServiceUnavailable
from syncctl.local.child import Child

LOOPBACK = "127.0.0.1"

_START_TRIES = 5
_POLL_SECONDS = 0.01
_SLOWEST_POLL_SECONDS = 0.1
_CHECK_SECONDS = 1.0

_LOWEST_PORT = 20_000
_EPHEMERAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
_EPHEMERAL_LOW = 32_768

_MISSING_LIBRARY = re.compile(r"error while loading shared libraries: (\S+?):")
_PACKAGES = {
    "libcurl.so.4": "libcurl4",
    "libcrypto.so.3": "libssl3",
    "libssl.so.3": "libssl3",
    "liblzma.so.5": "liblzma5",
}
_OLD_GLIBC = re.compile(r"version `(GLIBC\S*)' not found")
_LOCKED = ("DBPathInUse", "Unable to lock the lock file")
_PORT_TAKEN = ("Address already in use", "Failed to set up listener")


class _PortTakenError(Exception):
    """Another process took the port after it was found free."""


class Server(ABC):
    """A server that keeps its files, its log and its pid file in one directory.

    Args:
        directory: Created if missing; a server started again serves the files it finds there.
        port: 0 picks a free one at the first start and keeps it.
        guarded: Kill the server when this process dies.
        protected: Create a password before the first start: other users of this machine reach the loopback too.
    """

    name: ClassVar[str]
    service: ClassVar[str]

    def __init__(self, directory: Path, *, port: int = 0, guarded: bool = True, protected: bool = False) -> None:
        self.directory = directory.absolute()
        self.port = port
        self._port_is_ours = port == 0
        self._guarded = guarded
        self._protected = protected
        self._child: Child | None = None

    @abstractmethod
    def command(self) -> list[str | Path]:
        """Return the command line that serves `files` on `port`."""

    @abstractmethod
    def check_ready(self, *, timeout_seconds: float) -> bool:
        """Tell whether this very process answers and can be used; never wait longer than the timeout."""

    @property
    def files(self) -> Path:
        """Where the server stores its data."""
        return self.directory / "files"

    @property
    def log(self) -> Path:
        """The server's stdout and stderr; the log of the previous start is in `<log>.1`."""
        return self.directory / f"{self.name}.log"

    @property
    def pid_file(self) -> Path:
        """A JSON document with the `pid` of the process that serves this directory, and its `port`."""
        return self.directory / f"{self.name}.pid"

    @property
    def password_file(self) -> Path:
        """The password, readable by this user alone; a server without this file, or with an empty one, has none."""
        return self.directory / "password"

    @property
    def password(self) -> str:
        """The server's password, empty if it has none."""
        return self.password_file.read_text().strip() if self.password_file.exists() else ""

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._running_child().pid

    def is_running(self) -> bool:
        """Tell whether the server's process is alive."""
        return self._child is not None and self._child.is_running()

    def owns_port(self) -> bool:
        """Tell whether this very process listens on the port: another user's program there would learn the password.

        Raises:
            ServiceUnavailable: psutil is not installed.
        """
        try:
            import psutil
        except ImportError as error:
            raise make_missing_psutil() from error
        try:
            sockets = psutil.Process(self.pid).net_connections(kind="tcp")
        except psutil.Error:
            return False
        return any(socket.status == psutil.CONN_LISTEN and socket.laddr.port == self.port for socket in sockets)

    def start(self, *, timeout_seconds: float = 30.0) -> None:
        """Start the server and wait until it can be used; do nothing if it already runs.

        Raises:
            ServiceUnavailable: it did not start; the error says why and what to do.
            TroubleFound: MongoDB has users that syncctl did not create.
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
        self.directory.chmod(0o700)
        if self._protected and not self.password:
            write_private(self.password_file, secrets.token_hex(24) + "\n")
        self._child = self._launch()
        try:
            self._write_pid_file()
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
                hint=f"put a {self.name} that is built for this system on PATH",
            ) from error

    def _write_pid_file(self) -> None:
        complete = self.pid_file.with_name(self.pid_file.name + ".new")
        complete.write_text(json.dumps({"pid": self.pid, "port": self.port}) + "\n")
        complete.replace(self.pid_file)

    def _wait_until_ready(self, timeout_seconds: float) -> None:
        until = time.monotonic() + timeout_seconds
        child = self._running_child()
        pause = _POLL_SECONDS
        while child.is_running() and time.monotonic() < until:
            if self.check_ready(timeout_seconds=_CHECK_SECONDS):
                return
            time.sleep(pause)
            pause = min(pause * 1.1, _SLOWEST_POLL_SECONDS)
        diagnosis = diagnose(child.read_log(), exit_code=child.exit_code(), log_path=str(self.log), name=self.name)
        if diagnosis.port_taken and self._port_is_ours:
            raise _PortTakenError(diagnosis.why)
        raise ServiceUnavailable(
            f"cannot start {self.name} on port {self.port}",
            service=self.service,
            why=diagnosis.why,
            hint=diagnosis.hint,
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
        """Start the server again on the same port and files, whether it was stopped, killed or still runs."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Suspend the server (SIGSTOP): connections stay open, nothing answers."""
        self._running_child().send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Resume a suspended server (SIGCONT)."""
        self._running_child().send(signal.SIGCONT)

    def release(self) -> None:
        """Let the server outlive this process."""
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


def find_binary(name: str, *, package: str, inside: str, service: str) -> Path:
    """Return the path of a server's binary: on PATH, or in a wheel of the extra `local`.

    Args:
        package: The package in that wheel.
        inside: The path of the binary in the package.

    Raises:
        ServiceUnavailable: there is none; the hint says how to install it.
    """
    on_path = shutil.which(name)
    if on_path is not None:
        return Path(on_path)
    # The package is only located, not imported: the import can take seconds.
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / inside
        if os.access(path, os.X_OK):
            return path
    if sys.platform == "linux" and platform.machine() == "x86_64":
        hint = 'run: pip install "syncctl[local]"'
    else:
        hint = f"the extra 'local' has no {name} for this machine: install {name} and put it on PATH"
    raise ServiceUnavailable(
        f"cannot find {name}",
        service=service,
        why=f"it is not on PATH, and syncctl's extra 'local' is not installed in {sys.prefix}",
        hint=hint,
    )


def make_missing_psutil() -> ServiceUnavailable:
    """Return the error for a missing psutil, which identifies the processes of the servers."""
    return ServiceUnavailable(
        "cannot tell which local servers run",
        service="mongodb",
        why="psutil is not installed",
        hint='run: pip install "syncctl[local]"',
    )


def find_port() -> int:
    """Return a free loopback port that stays free while its server is down.

    The port lies below the range from which the system picks ports for outgoing connections. Inside that range, a
    client that keeps trying to reach a stopped server could be given that server's own port and talk to itself.
    """
    low = _EPHEMERAL_LOW
    with suppress(OSError, ValueError):
        low = int(_EPHEMERAL_PORTS.read_text().split()[0])
    span = max(low - _LOWEST_PORT, 0)
    for _ in range(100 if span >= 1000 else 0):
        port = _LOWEST_PORT + secrets.randbelow(span)
        if why_taken(port) is None:
            return port
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def why_taken(port: int) -> str | None:
    """Return why a server cannot listen on this loopback port, None if it can."""
    with socket.socket() as probe:
        # Servers set it too; without it a port would seem taken for a minute after its server stopped.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            return error.strerror or str(error)
    return None


def is_listening(port: int) -> bool:
    """Tell whether a server accepts connections on this loopback port."""
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except OSError:
        return False
    return True


def write_private(path: Path, text: str) -> None:
    """Write a file that no other user can read at any moment."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600, exist_ok=False)
    path.write_text(text)


class Diagnosis(NamedTuple):
    """The reason why a server did not start, and the fix, one line each."""

    why: str
    hint: str
    port_taken: bool = False


def diagnose(log: str, *, exit_code: int | None, log_path: str, name: str) -> Diagnosis:
    """Find out from its log and its exit code why a server did not start.

    Args:
        exit_code: None if the server still ran, but never became ready.
    """
    library = _MISSING_LIBRARY.search(log)
    if library:
        package = _PACKAGES.get(library[1])
        return Diagnosis(
            f"the system library {library[1]} is missing",
            f"run: apt-get install {package}" if package else f"install the package that provides {library[1]}",
        )
    glibc = _OLD_GLIBC.search(log)
    if glibc:
        return Diagnosis(
            f"it needs {glibc[1]}, and this system has an older one",
            f"put a {name} that is built for this system on PATH",
        )
    if exit_code == -signal.SIGILL:
        return Diagnosis(
            "this machine's processor lacks an instruction that it needs (MongoDB 5 and later: AVX)",
            f"put a {name} that runs on this machine on PATH",
        )
    if any(sign in log for sign in _LOCKED):
        return Diagnosis("another mongod uses the same directory", "stop it, or use another directory")
    ended = "it runs, but did not become ready" if exit_code is None else f"it ended with exit code {exit_code}"
    last = _read_last_lines(log, count=3)
    return Diagnosis(
        f"{ended}; its log ends: {' | '.join(last)}" if last else f"{ended} and wrote nothing",
        f"see {log_path}",
        port_taken=exit_code is not None and any(sign in log for sign in _PORT_TAKEN),
    )


def _read_last_lines(log: str, *, count: int) -> list[str]:
    """Return the last lines of a log; if mongod logged errors, the last of those, without their JSON."""
    lines = [line for line in log.splitlines() if line.strip()]
    severe = [line for line in lines if re.search(r'"s":"[EF]"', line)]
    return [_shorten(line) for line in (severe or lines)[-count:]]


def _shorten(line: str) -> str:
    try:
        entry = json.loads(line)
        attributes = entry.get("attr", {})
        text = f"{entry['msg']} {json.dumps(attributes)}" if attributes else str(entry["msg"])
    except (ValueError, KeyError, TypeError, AttributeError):
        text = line.strip()
    return text if len(text) <= 200 else text[:200] + "..."
