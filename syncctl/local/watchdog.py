"""Children that end with their parent, even when the parent is killed with -9."""

import subprocess
from contextlib import suppress

# It waits for the end of its input, which comes when the parent closes it or dies. The kernel's own means
# (PR_SET_PDEATHSIG) is no good here: it fires when the *thread* that started the child ends, and it needs
# code to run between fork and exec.
_SCRIPT = 'group=; while read -r line; do group=$line; done; [ -z "$group" ] || kill -s KILL -- "-$group"'


class Watchdog:
    """A small process that kills a process group when this process dies, however it dies."""

    def __init__(self) -> None:
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", _SCRIPT],
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
        """Stop watching; the group may live on. Safe to repeat."""
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
