"""A child process in its own session, stopped together with everything it started."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

# The script waits for the end of its input: the parent closes it, or dies. The kernel's own mechanism
# (PR_SET_PDEATHSIG) does not fit: it fires when the *thread* that started the child ends, and it needs code that runs
# between fork and exec.
_WATCHDOG = 'group=; while read -r line; do group=$line; done; [ -z "$group" ] || kill -s KILL -- "-$group"'


class Child:
    """A running program whose output goes to a log file.

    It has its own session, so that Ctrl-C reaches it only through its parent.

    Args:
        log: Receives stdout and stderr; the log of an earlier run is moved to `<log>.1`.
        guarded: Kill the program and everything it started when this process dies, however it dies.

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
        self._watchdog = _Watchdog() if guarded else None
        try:
            self._popen = self._start([str(part) for part in command], cwd, env)
        except BaseException:
            self._release_watchdog()
            raise
        if self._watchdog is not None:
            self._watchdog.guard(self._popen.pid)

    def _start(
        self, command: Sequence[str], cwd: Path | None, env: Mapping[str, str] | None
    ) -> subprocess.Popen[bytes]:
        if self.log.exists():
            self.log.replace(self.log.with_name(self.log.name + ".1"))
        with self.log.open("wb") as output:
            return self.launch(command, cwd=cwd, env=env, output=output.fileno())

    def launch(
        self, command: Sequence[str], *, cwd: Path | None, env: Mapping[str, str] | None, output: int
    ) -> subprocess.Popen[bytes]:
        """Start the program in its own session.

        Raises:
            OSError: it cannot be started.
        """
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
        """Return the exit code (the negative number of the signal that ended it), None while it runs."""
        return self._popen.poll()

    def is_running(self) -> bool:
        """Tell whether it still runs."""
        return self.exit_code() is None

    def read_log(self) -> str:
        """Return everything it has written so far."""
        return self.log.read_text(errors="replace")

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the program, not to what it started; do nothing if it has ended."""
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
        self._kill_descendants()
        return code

    def stop(self, *, timeout_seconds: float = 20.0) -> int:
        """Ask it to end (SIGTERM), kill it if it takes too long, and return its exit code. Safe to repeat."""
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
        """Let it outlive this process."""
        self._release_watchdog()
        # Popen warns, and remembers the child, when it is collected before the child has ended.
        self._popen.returncode = 0

    def _kill_descendants(self) -> None:
        self._release_watchdog()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def _release_watchdog(self) -> None:
        if self._watchdog is not None:
            self._watchdog.release()
            self._watchdog = None


class _Watchdog:
    """A small process that kills a process group when this process dies, however it dies."""

    def __init__(self) -> None:
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHDOG],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )

    def guard(self, group: int) -> None:
        """Kill this process group when the parent dies."""
        self._write(str(group))

    def release(self) -> None:
        """Stop watching; the group may outlive the parent. Safe to repeat."""
        self._write("")
        if self._shell.stdin is not None:
            with suppress(BrokenPipeError):
                self._shell.stdin.close()
        self._shell.wait()

    def _write(self, line: str) -> None:
        if self._shell.stdin is None or self._shell.stdin.closed:
            return
        with suppress(BrokenPipeError):
            self._shell.stdin.write(line + "\n")
            self._shell.stdin.flush()
