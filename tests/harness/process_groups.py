"""Process groups: a command with everything that it started."""

import os
import signal
from pathlib import Path

from tests.harness.commands import RunningCommand


def group_members(pid: int) -> list[int]:
    """Return the processes of a process group that have not ended."""
    members = []
    for path in Path("/proc").iterdir():
        if not path.name.isdigit():
            continue
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == pid and fields[0] != "Z":
            members.append(int(path.name))
    return sorted(members)


def signal_group(command: RunningCommand, number: signal.Signals) -> None:
    """Send a signal to a process and all that it started."""
    if command.is_running():
        os.killpg(command.pid, number)


def is_suspended(pid: int) -> bool:
    """Return whether a process is suspended by SIGSTOP."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except (FileNotFoundError, ProcessLookupError):
        return False
