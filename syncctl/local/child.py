"""A program that runs as a child: in a session of its own, watched, stopped with everything it started."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from syncctl.local.watchdog import Watchdog


class Child:
    """A running program whose output goes to a log file.

    It has a session of its own, so that Ctrl-C reaches it only through its parent.

    Args:
        log: Takes stdout and stderr; what an earlier run left there moves to `<log>.1`.
        guarded: Kill it, with everything it started, when this process dies.

    Raises:
        OSError: the program cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log: Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        guarded: bool = True,
    ) -> None:
        self.log = log
        self._watchdog = Watchdog() if guarded else None
        try:
            self._popen = self._start([str(part) for part in command], cwd, env)
        except BaseException:
            self._let_watchdog_go()
            raise
        if self._watchdog is not None:
            self._watchdog.guard(self._popen.pid)

    def _start(
        self, command: Sequence[str], cwd: Path | None, env: Mapping[str, str] | None
    ) -> subprocess.Popen[bytes]:
        if self.log.exists():
            self.log.replace(self.log.with_name(self.log.name + ".1"))
        with self.log.open("wb") as output:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=env,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id; also the id of its process group."""
        return self._popen.pid

    def exit_code(self) -> int | None:
        """Return the exit code (minus the signal's number when a signal ended it), None while it runs."""
        return self._popen.poll()

    def is_running(self) -> bool:
        """Tell whether it still runs."""
        return self.exit_code() is None

    def read_log(self) -> str:
        """Return everything it has written so far."""
        return self.log.read_text(errors="replace")

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the program alone, not to what it started; nothing when it has ended."""
        self._popen.send_signal(number)

    def wait(self, timeout_seconds: float) -> int:
        """Wait for its end and return the exit code.

        Raises:
            TimeoutError: it still runs.
        """
        try:
            code = self._popen.wait(timeout_seconds)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"process {self.pid} still runs after {timeout_seconds:g} s") from error
        self._sweep()
        return code

    def stop(self, *, timeout_seconds: float = 20.0) -> int:
        """Ask it to end (SIGTERM), kill it when it takes too long, return its exit code. Safe to repeat."""
        self.send(signal.SIGTERM)
        self.send(signal.SIGCONT)
        try:
            return self.wait(timeout_seconds)
        except TimeoutError:
            return self.kill()

    def kill(self) -> int:
        """Kill it (SIGKILL) with everything it started, and return its exit code. Safe to repeat."""
        if self.is_running():
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        return self.wait(timeout_seconds=60)

    def release(self) -> None:
        """Let it live on without this process."""
        self._let_watchdog_go()
        # Popen warns, and remembers the child, when it is collected before the child has ended.
        self._popen.returncode = 0

    def _sweep(self) -> None:
        """Kill what it started and left behind."""
        self._let_watchdog_go()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def _let_watchdog_go(self) -> None:
        if self._watchdog is not None:
            self._watchdog.release()
            self._watchdog = None
