"""health: tell whether the worker or Beat of this machine is alive, for a supervisor that restarts it if not."""

from dataclasses import dataclass

from syncctl.ledger.ledger import Ledger


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessHealth:
    """A process of this machine that has sent a heartbeat."""

    #: `worker` or `beat`.
    role: str
    #: The process's name, as `status` shows it for a worker; `host:pid` for Beat.
    process: str
    age_seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """The document that `syncctl health --json` prints."""

    #: Whether a process of these roles has sent a heartbeat within `max_age_seconds`.
    ok: bool
    host: str
    roles: tuple[str, ...]
    max_age_seconds: float
    #: The youngest heartbeat first.
    processes: tuple[ProcessHealth, ...]


def read_health(*, ledger: Ledger, host: str, roles: tuple[str, ...], max_age_seconds: float) -> Health:
    """Return whether a process of one of these roles runs on this machine, judged by MongoDB's clock.

    Args:
        host: The machine's name, as its processes wrote it.
        roles: `worker`, `beat` or both.
        max_age_seconds: How old the last heartbeat may be.
    """
    loaded = ledger.heartbeats.load_host(host)
    processes = [
        ProcessHealth(role=role, process=str(known["process"]), age_seconds=round(known["age_seconds"], 1))
        for role in roles
        for known in loaded[role]
    ]
    processes.sort(key=lambda process: process.age_seconds)
    return Health(
        ok=any(process.age_seconds <= max_age_seconds for process in processes),
        host=host,
        roles=roles,
        max_age_seconds=max_age_seconds,
        processes=tuple(processes),
    )
