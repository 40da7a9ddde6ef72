"""What a worker's processes share: services per process, the wish to stop, and the slots for deliveries."""

import fcntl
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from celery import signals

from syncctl.celery_app import settings
from syncctl.core.windows import decide_slots
from syncctl.wiring import Services

_services: dict[int, Services] = {}
_shared: dict[str, Any] = {"stopping": None, "slots": None, "count": 0}


def services() -> Services:
    """Return this process's services; a connection never crosses a fork."""
    mine = _services.get(os.getpid())
    if mine is None:
        _services.clear()
        mine = _services[os.getpid()] = Services(settings, processes=_shared["count"])
    return mine


def stopping() -> bool:
    """Tell whether this worker was asked to stop: batches then give back what they have not sent."""
    flag = _shared["stopping"]
    return flag is not None and bool(flag.value)


@contextmanager
def delivery_slot(stream: str) -> Iterator[bool]:
    """Hold one of this worker's slots for a delivery to the stream's partner; False when there is none.

    A worker with several processes keeps one free for polls and upkeep and, with several partners, one for the others,
    so that a partner that hangs keeps nobody else waiting; nor does a partner get more of them than calls at once. A
    slot is a file lock: it ends with its process.
    """
    directory: Path | None = _shared["slots"]
    if directory is None:
        yield True
        return
    partner = settings.partner(settings.stream(stream).partner)
    partners = {each.partner for each in settings.streams.values()}
    slots = decide_slots(concurrency=_shared["count"], partners=len(partners), max_in_flight=partner.max_in_flight)
    # What cleans /tmp may have taken it away: a stream may rest for weeks.
    directory.mkdir(exist_ok=True)
    in_all = _locked(directory, "slot", slots.all)
    of_partner = _locked(directory, f"partner.{partner.name}", slots.per_partner)
    with in_all as any_free, of_partner as partner_free:
        free = any_free and partner_free
        waiting = directory / f"waiting.{stream}"
        if not free and not waiting.exists():
            waiting.touch()
        yield free


def streams_that_wait() -> list[str]:
    """Return, once, the streams of which a batch was put back because there was no slot for it, the longest first."""
    directory: Path | None = _shared["slots"]
    waiting = sorted(directory.glob("waiting.*"), key=_read_age) if directory is not None else []
    for each in waiting:
        each.unlink(missing_ok=True)
    return [each.name.removeprefix("waiting.") for each in waiting]


def _read_age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


@contextmanager
def _locked(directory: Path, name: str, count: int) -> Iterator[bool]:
    """Lock one of `count` files, if any is free."""
    for number in range(count):
        with (directory / f"{name}.{number}").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield True
            return
    yield False


@signals.worker_init.connect(weak=False)
def _share(sender: Any = None, **_: object) -> None:
    """Lay out, before the pool forks, what its processes share."""
    # A plain byte without a lock: a process killed while it holds a lock would stop all the others.
    _shared["stopping"] = multiprocessing.RawValue("b", 0)
    _shared["slots"] = Path(tempfile.mkdtemp(prefix="syncctl-worker-"))
    _shared["count"] = int(getattr(sender, "concurrency", None) or 1)


@signals.worker_shutting_down.connect(weak=False)
def _stop(**_: object) -> None:
    if _shared["stopping"] is not None:
        _shared["stopping"].value = 1


@signals.worker_shutdown.connect(weak=False)
def _clear(**_: object) -> None:
    if _shared["slots"] is not None:
        shutil.rmtree(_shared["slots"], ignore_errors=True)
