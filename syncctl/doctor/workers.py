"""workers, queue, beat: which processes run, and whether a task reaches a worker and comes back."""

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from syncctl import __version__
from syncctl.broker.messages import QUEUES
from syncctl.core.durations import format_age
from syncctl.doctor.check import Finding, Unit, failed, passed, warned
from syncctl.ledger.heartbeats import ALIVE_SECONDS, find_doubled
from syncctl.ledger.migrations import VERSION
from syncctl.pipeline.maintenance.maintenance import find_failing, find_overdue
from syncctl.pipeline.monitoring.status import differs_from, list_unserved
from syncctl.settings.describe import fingerprint_settings
from syncctl.wiring.use_cases import list_maintenance

if TYPE_CHECKING:
    from syncctl.doctor.examination import Services

# The round trip takes less than the check's own deadline, so that it can still name the broken hop.
_ROUND_TRIP_SHARE = 0.8
CLOCK_OFF_SECONDS = 60.0
"""From this difference on, a clock is off; the time that a heartbeat takes to arrive is part of the difference."""
_CLOCK_HINT = "synchronise that machine: timedatectl set-ntp true"
_BEAT_HINT = "run: syncctl beat (all on one machine: syncctl worker --beat)"


def list_units(services: "Services") -> Sequence[Unit]:
    """Return the checks of the workers, of the way to them, and of Beat."""
    return (
        Unit(name="workers", look=lambda: check_alive(services), needs=("mongodb",)),
        Unit(name="workers queues", look=lambda: check_queues(services), needs=("workers",)),
        Unit(name="workers versions", look=lambda: check_versions(services), needs=("workers",)),
        Unit(name="workers settings", look=lambda: check_settings(services), needs=("workers",)),
        Unit(name="workers clocks", look=lambda: check_clocks(services), needs=("workers",)),
        Unit(name="queue", look=lambda: check_round_trip(services), needs=("redis", "workers")),
        Unit(name="queue messages", look=lambda: check_dropped(services), needs=("mongodb",)),
        Unit(name="beat", look=lambda: check_beat(services), needs=("mongodb",)),
        Unit(name="beat clock", look=lambda: check_clock_of_beat(services), needs=("beat",)),
        Unit(name="beat maintenance", look=lambda: check_maintenance(services), needs=("beat",)),
    )


def check_alive(services: "Services") -> Finding:
    """Report which workers are alive."""
    names = [str(worker["_id"]) for worker in _load(services)]
    if names:
        return passed(f"{len(names)} alive: {', '.join(names)}")
    return failed(
        f"no worker has sent a heartbeat in the last {ALIVE_SECONDS:g} s",
        "run: syncctl worker (all on one machine: syncctl worker --beat)",
    )


def check_queues(services: "Services") -> Finding:
    """Check whether each queue is served by a worker."""
    missing = list_unserved(_load(services))
    if not missing:
        return passed(f"{', '.join(QUEUES)} are served")
    return failed(f"no worker serves {', '.join(missing)}", f"run: syncctl worker --queues {','.join(missing)}")


def check_versions(services: "Services") -> Finding:
    """Check whether all workers run the version of this command."""
    workers = _load(services)
    versions = {str(worker["_id"]): str(worker.get("version")) for worker in workers}
    others = [f"{name} runs {version}" for name, version in versions.items() if version != __version__]
    if not others and (strangers := [line for worker in workers if (line := _describe_ledger(worker))]):
        return warned(
            f"{', '.join(strangers)}, and this command version {VERSION}",
            "bring all machines to one syncctl and restart the workers; docs/upgrade.md says in which order",
        )
    if not others:
        return passed(f"all run {__version__}, as this command does")
    return warned(
        f"this is {__version__}, but {', '.join(others)}",
        f"bring all to one version (pip install syncctl=={__version__}) and restart the workers",
    )


def _describe_ledger(heartbeat: Mapping[str, Any]) -> str | None:
    """Return a sentence on the ledger version that a process knows; None if this command knows the same one."""
    version = int(heartbeat.get("ledger", 0))
    return None if version == VERSION else f"{heartbeat['_id']} knows version {version} of the ledger"


def check_settings(services: "Services") -> Finding:
    """Check whether all workers run with the current settings and schemas."""
    fingerprint = fingerprint_settings(services.settings)
    # Another version always has other settings, and `check_versions` reports it.
    workers = [worker for worker in _load(services) if worker.get("version") == __version__]
    others = [str(worker["_id"]) for worker in workers if differs_from(fingerprint, worker)]
    if not others:
        return passed("all run with these settings")
    detail = "\n".join(f"{name} runs with settings that differ from syncctl.toml: restart it" for name in others)
    return warned(detail, "restart the workers after each change of the settings or of a schema")


def check_clocks(services: "Services") -> Finding:
    """Check how far the workers' clocks are from MongoDB's, by their heartbeats."""
    lines = [line for worker in _load(services) if (line := _describe_clock(str(worker["_id"]), worker))]
    if not lines:
        return passed("the clocks of all workers agree with MongoDB's")
    return warned("\n".join(lines), _CLOCK_HINT)


def check_clock_of_beat(services: "Services") -> Finding:
    """Check how far Beat's clock is from MongoDB's, by its heartbeat."""
    line = _describe_clock("Beat", services.ledger.heartbeats.load_beat() or {})
    return warned(line, _CLOCK_HINT) if line else passed("its clock agrees with MongoDB's")


def _describe_clock(name: str, heartbeat: Mapping[str, Any]) -> str | None:
    """Return how far a clock is off; None if it is right, or if an earlier version of syncctl does not report it."""
    if (clock := heartbeat.get("clock")) is None:
        return None
    ahead = (clock - heartbeat["at"]).total_seconds()
    if abs(ahead) < CLOCK_OFF_SECONDS:
        return None
    way = "ahead of" if ahead > 0 else "behind"
    return (
        f"the clock of {name} is {format_age(abs(ahead))} {way} MongoDB's: leases are safe, but partners may refuse "
        "its signatures and tokens, and its log has another time"
    )


def check_round_trip(services: "Services") -> Finding:
    """Send two numbers through the queue and a worker and back, as `syncctl add` does."""
    started = time.monotonic()
    # On a busy machine these imports take a good part of the check's time.
    from syncctl.broker.queue import add_through_queue
    from syncctl.celery_app import make_app

    app = make_app(services.settings)
    left = _ROUND_TRIP_SHARE * services.timeout_seconds - (time.monotonic() - started)
    trip = add_through_queue(app, services.broker, 2, 3, timeout_seconds=max(0.1, left))
    return passed(f"{trip.x} + {trip.y} = {trip.sum} in {trip.round_trip_ms:.0f} ms, by {trip.worker}")


_DROPPED_HINTS = {
    "unknown_stream": "bring syncctl.toml on all machines up to date, and restart workers and Beat",
    "foreign_key": "something else writes to this project's keys in Redis: find out what, or set another redis_prefix",
    "forged": "restart workers and Beat of an older version; if there is none, find out who else writes to this Redis",
}
"""The hints for the reason for which most messages were dropped."""


def check_dropped(services: "Services") -> Finding:
    """Check whether workers dropped messages in the last day: someone else writes to Redis, or a machine is behind."""
    dropped = services.ledger.project.load_dropped()
    if not dropped["recent"]:
        return passed("no worker has dropped a message in the last 24 hours")
    age = format_age((services.ledger.streams.server_time() - dropped["at"]).total_seconds())
    reasons = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in sorted(dropped["reasons"].items()))
    hint = _DROPPED_HINTS.get(
        max(dropped["reasons"], key=dropped["reasons"].__getitem__),
        "their work is not lost: Beat asks for it again. Find out who else writes to this Redis",
    )
    return warned(
        f"workers dropped {dropped['total']:,} messages ({reasons}), the last {age} ago: {dropped['worker']}", hint
    )


def _load(services: "Services") -> list[dict[str, Any]]:
    return services.ledger.heartbeats.load_workers()


def check_maintenance(services: "Services") -> Finding:
    """Check whether workers do the jobs that Beat asks for."""
    now = services.ledger.streams.server_time()
    lines = []
    for job in find_overdue(services.ledger, list_maintenance(services.settings)):
        last = "was never done" if job.done_at is None else f"was last done {_age(now, job.done_at)} ago"
        lines.append(f"{job.name} {last}, although Beat asks for it{f': {job.error}' if job.error else ''}")
    if not lines and (failing := find_failing(services.ledger)):
        detail = "\n".join(f"{job.name} failed when it was last tried: {job.error}" for job in failing)
        return warned(detail, "fix the cause; it is tried again at Beat's next tick, or run: syncctl cleanup")
    if not lines:
        return passed("done as often as Beat asks for it")
    return failed(
        "\n".join(lines),
        "make sure that a worker serves the queue control: syncctl doctor workers; then read its log",
    )


def _age(now: datetime, at: datetime) -> str:
    return format_age((now - at).total_seconds())


def check_beat(services: "Services") -> Finding:
    """Check when Beat sent its last heartbeat, by MongoDB's clock."""
    beat = services.ledger.heartbeats.load_beat()
    if beat is None:
        return failed("Beat has never run here, so nothing is polled, retried or cleaned up automatically", _BEAT_HINT)
    age = format_age((services.ledger.streams.server_time() - beat["at"]).total_seconds())
    if beat["late"]:
        return failed(f"Beat's last heartbeat is {age} old, so nothing is polled or retried automatically", _BEAT_HINT)
    doubled = find_doubled(beat.get("processes", ()), services.ledger.streams.server_time())
    if doubled:
        return warned(
            f"{len(doubled)} Beats run at once, {', '.join(doubled)} (machine:pid): each sends every tick; "
            "nothing is delivered twice, but the source is asked more often than it should be",
            f"stop all but one, for example with: kill {doubled[-1].rpartition(':')[2]} on "
            f"{doubled[-1].rpartition(':')[0]}; a stopped Beat is shown for {ALIVE_SECONDS:g} s more",
        )
    if beat.get("version") != __version__:
        return warned(
            f"its last heartbeat was {age} ago, but it runs {beat.get('version')} and this is {__version__}",
            f"bring all to one version (pip install syncctl=={__version__}) and restart Beat",
        )
    if line := _describe_ledger(beat):
        return warned(
            f"its last heartbeat was {age} ago, but {line}, and this command version {VERSION}",
            "bring all machines to one syncctl and restart Beat; docs/upgrade.md says in which order",
        )
    if differs_from(fingerprint_settings(services.settings), beat):
        return warned(
            f"its last heartbeat was {age} ago; it runs with settings that differ from syncctl.toml: restart it",
            "restart Beat after each change of the settings",
        )
    return passed(f"its last heartbeat was {age} ago")
