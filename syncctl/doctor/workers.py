"""workers, queue: who is there to do the work, and whether a task reaches them and comes back."""

import time
from collections.abc import Sequence
from typing import Any

from syncctl import __version__
from syncctl.broker.queue import QUEUES
from syncctl.doctor.check import Finding, Unit, failed, passed, warned
from syncctl.doctor.examined import Examined
from syncctl.ledger.heartbeats import ALIVE_SECONDS
from syncctl.pipeline.status import differs_from
from syncctl.settings.describe import fingerprint_settings

# The hop that broke is told before the check's own deadline ends it.
_ROUND_TRIP_SHARE = 0.8


def list_units(examined: Examined) -> Sequence[Unit]:
    """Return the checks of the workers and of the way to them."""
    return (
        Unit(name="workers", look=lambda: check_alive(examined), needs=("mongodb",)),
        Unit(name="workers queues", look=lambda: check_queues(examined), needs=("workers",)),
        Unit(name="workers versions", look=lambda: check_versions(examined), needs=("workers",)),
        Unit(name="workers settings", look=lambda: check_settings(examined), needs=("workers",)),
        Unit(name="queue", look=lambda: check_round_trip(examined), needs=("redis", "workers")),
    )


def check_alive(examined: Examined) -> Finding:
    """Tell which workers have shown a sign of life."""
    names = [str(worker["_id"]) for worker in _load(examined)]
    if names:
        return passed(f"{len(names)} alive: {', '.join(names)}")
    return failed(
        f"no worker has given a sign of life for {ALIVE_SECONDS:g} s",
        "run: syncctl worker (all on one machine: syncctl worker --beat)",
    )


def check_queues(examined: Examined) -> Finding:
    """Tell whether each queue has a worker that takes from it."""
    served = {queue for worker in _load(examined) for queue in worker.get("queues") or ()}
    missing = [queue for queue in QUEUES if queue not in served]
    if not missing:
        return passed(f"{', '.join(QUEUES)} are served")
    return failed(f"nobody takes from {', '.join(missing)}", f"run: syncctl worker --queues {','.join(missing)}")


def check_versions(examined: Examined) -> Finding:
    """Tell whether all workers run the version of this command."""
    versions = {str(worker["_id"]): str(worker.get("version")) for worker in _load(examined)}
    others = [f"{name} runs {version}" for name, version in versions.items() if version != __version__]
    if not others:
        return passed(f"all run {__version__}, as this command does")
    return warned(
        f"this is {__version__}, but {', '.join(others)}",
        f"bring all to one version (pip install syncctl=={__version__}) and restart the workers",
    )


def check_settings(examined: Examined) -> Finding:
    """Tell whether all workers run with the settings, and the schemas, that are there now."""
    mark = fingerprint_settings(examined.settings)
    # Another version has other settings by itself, which its own check tells.
    workers = [worker for worker in _load(examined) if worker.get("version") == __version__]
    others = [str(worker["_id"]) for worker in workers if differs_from(mark, worker)]
    if not others:
        return passed("all run with these settings")
    detail = "\n".join(f"{name} runs with settings that differ from syncctl.toml: restart it" for name in others)
    return warned(detail, "restart the workers, after each change of the settings or of a schema")


def check_round_trip(examined: Examined) -> Finding:
    """Send two numbers through the queue and a worker and back, as `syncctl add` does."""
    started = time.monotonic()
    # On a busy machine these imports take a good part of the check's time.
    from syncctl.broker.queue import add_through_queue
    from syncctl.celery_app import make_app

    app = make_app(examined.settings)
    left = _ROUND_TRIP_SHARE * examined.timeout_seconds - (time.monotonic() - started)
    trip = add_through_queue(app, examined.broker, 2, 3, timeout_seconds=max(0.1, left))
    return passed(f"{trip.x} + {trip.y} = {trip.sum} in {trip.round_trip_ms:.0f} ms, by {trip.worker}")


def _load(examined: Examined) -> list[dict[str, Any]]:
    return examined.ledger.heartbeats.load_workers()
