"""CPU time of a process with all its descendants, and the processes that a measurement starts and ends."""

import os
import signal
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """Return a port of the loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def stop(process: subprocess.Popen[bytes], *, seconds: float = 60.0) -> int:
    """End a process that was started here, gracefully and then by force; return its exit code."""
    if process.poll() is None:
        process.terminate()
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that leads a session, with its children, as the kernel does when memory runs out."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def descendants(pid: int) -> list[int]:
    """Return a process and all its living descendants."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    members, waiting = [], [pid]
    while waiting:
        members.append(waiting.pop())
        waiting += parents.get(members[-1], [])
    return members


def cpu_seconds(*pids: int) -> float:
    """Return the CPU seconds that processes, their living descendants and their ended children have used."""
    total = 0
    for pid in pids:
        for member in descendants(pid):
            try:
                fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            total += int(fields[11]) + int(fields[12]) + int(fields[13]) + int(fields[14])
    return total / _TICKS


def memory_mb(*pids: int) -> float:
    """Return the resident memory of processes and their descendants, in MB; each process includes its shared pages."""
    total = 0
    for pid in pids:
        for member in descendants(pid):
            try:
                total += int(Path(f"/proc/{member}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            except OSError:
                continue
    return total / 1e6


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """The time that a measured part took: the seconds, and the CPU seconds by kind of process."""

    seconds: float
    cpu: dict[str, float]
