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
    """Return a process and all that it has started, as far as they live."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    found, waiting = [], [pid]
    while waiting:
        found.append(waiting.pop())
        waiting += parents.get(found[-1], [])
    return found


def cpu_seconds(*pids: int) -> float:
    """Return the CPU seconds that processes, their living descendants and their ended children have used."""
    total = 0
    for pid in pids:
        for one in descendants(pid):
            try:
                fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            total += int(fields[11]) + int(fields[12]) + int(fields[13]) + int(fields[14])
    return total / _TICKS


def memory_mb(*pids: int) -> float:
    """Return the resident memory of processes and their descendants, in MB; shared pages count once for each."""
    total = 0
    for pid in pids:
        for one in descendants(pid):
            try:
                total += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            except OSError:
                continue
    return total / 1e6


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What a measured part took."""

    seconds: float
    cpu: dict[str, float]
