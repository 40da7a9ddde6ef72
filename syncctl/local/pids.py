"""Pid files that cannot be mistaken: a number alone may by now belong to somebody else."""

import json
import os
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """A server that was started, as its pid file tells.

    Args:
        started: When the system says that this pid began, in the system's own form.
    """

    pid: int
    port: int
    started: str


def write_pid_file(path: Path, *, pid: int, port: int) -> None:
    """Write which process serves which port."""
    seen = _look_up(pid)
    running = Running(pid=pid, port=port, started=seen[0] if seen else "")
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(json.dumps(asdict(running)) + "\n")
    fresh.replace(path)


def read_pid_file(path: Path) -> Running | None:
    """Return the server of a pid file while it runs; None when it ended or the pid is another program's.

    The file's name without its suffix is the program's.
    """
    try:
        running = Running(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    seen = _look_up(running.pid)
    if seen is None or seen[0] != running.started or path.stem not in seen[1]:
        return None
    return running


def _look_up(pid: int) -> tuple[str, str] | None:
    """Return when a process began and its command line, None when it has ended."""
    if not Path("/proc/self/stat").exists():
        return _look_up_with_ps(pid)
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes().decode(errors="replace")
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in parentheses may hold spaces and parentheses itself. proc(5): state is field 3,
    # starttime field 22.
    fields = stat.rpartition(")")[2].split()
    if fields[0] in ("Z", "X"):
        return None
    return fields[19], os.fsdecode(command.replace(b"\0", b" "))


def _look_up_with_ps(pid: int) -> tuple[str, str] | None:
    shown = subprocess.run(
        ["ps", "-ww", "-o", "stat=,lstart=,command=", "-p", str(pid)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    ).stdout.split()
    if len(shown) < 7 or shown[0].startswith("Z"):
        return None
    return " ".join(shown[1:6]), " ".join(shown[6:])
