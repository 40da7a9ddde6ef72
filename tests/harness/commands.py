"""The installed `syncctl`, as a person or a service manager runs it."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from syncctl.local.child import Child
from tests.harness.fork_server import SHOW_STACKS, ForkedProcess, ForkServer, Streams
from tests.harness.waiting import eventually

_INHERITED = (
    "CI",
    "COVERAGE_PROCESS_START",
    "HOME",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "PATH",
    "PYTHONPATH",
    "TMPDIR",
    "VIRTUAL_ENV",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Completed:
    """The exit code and the output of a command."""

    args: tuple[str, ...]
    exit_code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.stdout)


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return an environment without the developer's own settings."""
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {**inherited, "PYTHONUNBUFFERED": "1", **(extra or {})}


_FORK_SERVER = ForkServer(clean_environment())


def start_process(
    args: Sequence[str], *, cwd: Path, env: Mapping[str, str] | None, streams: Streams
) -> ForkedProcess | subprocess.Popen[bytes]:
    """Start `syncctl` in its own session, as a fork if that makes no difference to the command."""
    environment = clean_environment(env)
    if _FORK_SERVER.can_start(environment):
        return _FORK_SERVER.start(args, cwd=cwd.absolute(), env=environment, streams=streams)
    stdin, stdout, stderr = streams
    return subprocess.Popen(
        [sys.executable, "-m", "syncctl", *args],
        cwd=cwd, env=environment, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True,
    )  # fmt: skip


def run_syncctl(
    *args: str | Path,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    timeout: float = 60.0,
    stdin: str = "",
) -> Completed:
    """Run `syncctl` to its end, with no terminal anywhere.

    Raises:
        AssertionError: it still ran after `timeout` seconds and was killed; with its output.
    """
    texts = tuple(str(arg) for arg in args)
    with _open_file(stdin) as typed, _open_file() as stdout, _open_file() as stderr:
        process = start_process(texts, cwd=cwd, env=env, streams=(typed.fileno(), stdout.fileno(), stderr.fileno()))
        try:
            exit_code: int | None = process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            exit_code = None
        written = [_read_all(file) for file in (stdout, stderr)]
    if exit_code is None:
        raise AssertionError("\n".join([f"syncctl {' '.join(texts)} still ran after {timeout:g} s", *written]))
    return Completed(args=texts, exit_code=exit_code, stdout=written[0], stderr=written[1])


def _open_file(text: str = "") -> IO[str]:
    file = TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 (the caller closes it)
    file.write(text)
    file.seek(0)
    return file


def _read_all(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


def run_module(*args: str, timeout: float) -> str:
    """Run a module of this checkout, as `python -m`, to its end without an error; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", *args],
        cwd=Path(__file__).parents[2], env=clean_environment(), capture_output=True, text=True, timeout=timeout,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_python(code: str, cwd: Path) -> str:
    """Run Python code in a directory with a `.env`."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=cwd, env=clean_environment(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def answer(text: str, *args: str, cwd: Path) -> tuple[int, str]:
    """Run `syncctl` on a terminal, type an answer, and return its exit code and what the terminal showed."""
    command = [sys.executable, "-m", "syncctl", *args]
    done = run_on_terminal(command, cwd=cwd, env={"NO_COLOR": "1"}, typed=f"{text}\n")
    return done.exit_code, done.stderr


def run_on_terminal(
    command: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    typed: str = "",
    stdout: int | None = None,
) -> Completed:
    """Run a command on a terminal to its end; `stderr` is what the terminal showed.

    Args:
        typed: Text typed at once.
        stdout: `subprocess.PIPE` keeps stdout apart; by default it is the terminal too.
    """
    parent, child = pty.openpty()
    with subprocess.Popen(
        command,
        cwd=cwd,
        env=clean_environment(env),
        stdin=child,
        stdout=child if stdout is None else stdout,
        stderr=child,
        text=True,
        start_new_session=True,
    ) as popen:
        os.close(child)
        os.write(parent, typed.encode())
        piped = popen.stdout.read() if popen.stdout else ""
        shown = _read_terminal(parent)
        exit_code = popen.wait(timeout=60)
    os.close(parent)
    return Completed(args=tuple(command), exit_code=exit_code, stdout=piped, stderr=shown)


def _read_terminal(descriptor: int) -> str:
    shown = b""
    # A terminal whose other end has closed answers with an error, not with an end of file.
    while True:
        try:
            chunk = os.read(descriptor, 4096)
        except OSError:
            return shown.decode()
        if not chunk:
            return shown.decode()
        shown += chunk


class _SyncctlChild(Child):
    """A child that runs `syncctl`; its command is only the arguments."""

    def launch(self, command: Sequence[str], *, cwd: Path | None, env: Mapping[str, str] | None, output: int) -> Any:
        """Start the command as the tests start any other."""
        with Path(os.devnull).open() as nothing:
            return start_process(command, cwd=cwd or Path(), env=env, streams=(nothing.fileno(), output, output))


class RunningCommand:
    """A `syncctl` that runs until it is stopped, such as `worker` or `beat`."""

    def __init__(self, *args: str | Path, cwd: Path, log: Path, env: Mapping[str, str] | None = None) -> None:
        self.name = " ".join(str(arg) for arg in args)
        self.child = _SyncctlChild([str(arg) for arg in args], log=log, cwd=cwd, env=env)

    @property
    def pid(self) -> int:
        """The process id of the command itself, not of its children."""
        return self.child.pid

    @property
    def log(self) -> str:
        """Everything it has written to stdout and stderr so far."""
        return self.child.read_log()

    def is_running(self) -> bool:
        """Return whether it still runs."""
        return self.child.is_running()

    def wait_for_log(self, text: str, timeout: float = 30.0) -> None:
        """Wait until it has written `text`."""

        def look() -> bool:
            if text in self.log:
                return True
            assert self.is_running(), f"syncctl {self.name} has ended:\n{self.log}"
            return False

        eventually(look, timeout)

    def terminate(self) -> None:
        """Ask it to end (SIGTERM), as a service manager does; `wait` for it."""
        self.child.send(signal.SIGTERM)

    def interrupt(self) -> None:
        """Press Ctrl-C once."""
        self.child.send(signal.SIGINT)

    def hang_up(self) -> None:
        """Send SIGHUP to it and its processes, as a terminal that closes does."""
        os.killpg(self.pid, signal.SIGHUP)

    def kill(self) -> None:
        """Kill it and everything it started (SIGKILL)."""
        self.child.kill()

    def wait(self, timeout: float = 30.0) -> int:
        """Wait for its end and return its exit code.

        Raises:
            TimeoutError: It still runs; with the stacks of its processes, and the end of its log.
        """
        try:
            return self.child.wait(timeout)
        except TimeoutError as error:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, SHOW_STACKS)
            time.sleep(1.0)
            raise TimeoutError(f"{self.name}: {error}\n{self.log[-20_000:]}") from None

    def close(self) -> None:
        """End it, whatever state it is in."""
        self.child.stop(timeout_seconds=15)
