"""Count the files that one polled row, delivered record, setting or body template passes on its way through syncctl.

`python -m tests.harness.way_tracer` starts real services, follows the four ways and prints the files of each.
"""

import argparse
import importlib
import json
import os
import pkgutil
import re
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import syncctl
from tests.harness import servers
from tests.harness.settings_files import to_toml, write_settings
from tests.harness.source_db import SourceDb
from tests.harness.waiting import eventually

PACKAGE = f"{Path(syncctl.__file__).parent}{os.sep}"
# Servers for demos and tests are no part of a record's way.
LEFT_OUT = f"{PACKAGE}local{os.sep}"
WAKE = re.compile(r"wake")
AT_MOST = {"polled row": (24, 38), "delivered record": (25, 57), "setting": (10, 23), "body template": (4, 7)}
"""For each way, how many files may handle the followed values, and in how many files anything may run at all."""

NUMBER = 987_654
WINDOW = 4321
BODY = '{"id": {{ row.id | json }}, "customer": {{ row.customer | json }}}'
DEEPEST = 8


@dataclass
class Way:
    """The files of the package in which a function ran, in the order in which they were first entered."""

    files: dict[str, dict[str, float]] = field(default_factory=dict)
    """File → function → the seconds spent in its calls and in all that they called."""
    in_hand: set[str] = field(default_factory=set)
    """The files with a function that had a followed value among its arguments, variables or results."""

    def add(self, frame: FrameType, seconds: float, *, is_in_hand: bool = False) -> None:
        """Note that a function was called, or how long a call took."""
        file = frame.f_code.co_filename.removeprefix(PACKAGE)
        functions = self.files.setdefault(file, {})
        name = frame.f_code.co_qualname
        functions[name] = functions.get(name, 0.0) + seconds
        if is_in_hand:
            self.in_hand.add(file)

    def list_main_functions(self) -> dict[str, str]:
        """Return, by file, the function in which most time was spent."""
        return {file: max(functions, key=lambda name: functions[name]) for file, functions in self.files.items()}

    def __or__(self, other: "Way") -> "Way":
        own, others = self.files, other.files
        files = {**own, **{file: others[file] for file in others if file not in own}}
        return Way(files=files, in_hand=self.in_hand | other.in_hand)


class WayTracer:
    """Notes which functions of the package run in a block, also in threads that were started after this tracer.

    Module bodies are left out: every module is imported before anything is followed.
    """

    def __init__(self) -> None:
        for module in pkgutil.walk_packages(syncctl.__path__, "syncctl."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
        self._way: Way | None = None
        self._wake_way: Way | None = None
        self._followed: Collection[object] = ()
        self._of_thread = threading.local()
        threading.setprofile(self._note)

    @contextmanager
    def follow(self, *followed: object, wake_way: Way | None = None) -> Iterator[Way]:
        """Follow everything that runs in the block.

        Args:
            followed: The values to follow; a function that has one of them handles what is followed.
            wake_way: Where to note a wake-up that begins in the block, with all that it calls.
        """
        self._way, self._wake_way, self._followed = Way(), wake_way, followed
        sys.setprofile(self._note)
        try:
            yield self._way
        finally:
            sys.setprofile(None)
            self._way = None

    def _note(self, frame: FrameType, event: str, result: object) -> None:
        file = frame.f_code.co_filename
        if self._way is None or not file.startswith(PACKAGE) or file.startswith(LEFT_OUT):
            return
        thread = self._of_thread.__dict__
        wake = thread.get("wake")
        if event == "call" and self._wake_way is not None and wake is None:
            wake = thread["wake"] = frame if WAKE.match(frame.f_code.co_name) else None
        way = self._wake_way if self._wake_way is not None and wake is not None else self._way
        began: dict[FrameType, float] = thread.setdefault("began", {})
        if event == "call":
            began[frame] = time.perf_counter()
            way.add(frame, 0.0)
        elif event == "return":
            seconds = time.perf_counter() - began.pop(frame, time.perf_counter())
            way.add(frame, seconds, is_in_hand=has_any((frame.f_locals, result), self._followed))
            if wake is frame:
                thread["wake"] = None


def has_any(container: object, values: Collection[object], deepest: int = DEEPEST) -> bool:
    """Return whether one of these texts and numbers is in a container or in an object of the package, however deep."""
    if isinstance(container, str | int):
        return container in values
    if deepest == 0:
        return False
    if isinstance(container, dict):
        inner: Sequence[object] = [*container, *container.values()]
    elif isinstance(container, list | tuple | set | frozenset | deque):
        inner = list(container)
    elif type(container).__module__.startswith("syncctl."):
        names = [*getattr(container, "__dict__", ()), *getattr(type(container), "__slots__", ())]
        inner = [getattr(container, name, None) for name in names]
    else:
        return False
    return any(has_any(part, values, deepest - 1) for part in inner)


def follow_ways(source: SourceDb) -> dict[str, Way]:
    """Follow the four ways in the working directory, whose settings lead from an empty table to a partner.

    The first record and the first body are not followed: connections are opened and templates compiled only once.
    """
    tracer = WayTracer()
    follow_record(tracer, source, 1)
    polled, delivered = follow_record(tracer, source, NUMBER)
    follow_body(tracer)
    return {
        "polled row": polled,
        "delivered record": delivered,
        "setting": follow_setting(tracer),
        "body template": follow_body(tracer),
    }


def follow_record(tracer: WayTracer, source: SourceDb, number: int) -> tuple[Way, Way]:
    """Insert a row and have Celery's tasks poll and deliver it, without a worker.

    Returns:
        The way of the row into the ledger, and the way of its record through the wake-up of a worker and its delivery.
    """
    from syncctl.celery_app import app
    from syncctl.core.records import read_idempotency_key
    from syncctl.tasks.process import connections

    source.add_orders([number])
    woken = Way()

    def poll() -> Way | None:
        with tracer.follow(number, str(number), wake_way=woken) as way:
            done = app.tasks["syncctl.poll"]("orders")
        return way if done.get("logged") else None

    # A poll that comes too soon after the one before is skipped.
    polled = eventually(poll)
    assert polled is not None
    with app.connection() as connection, connection.SimpleQueue("deliver") as queue:
        message = queue.get(timeout=30)
        message.ack()
    (record,) = connections().ledger._database["records"].find({"state": "pending"})
    with tracer.follow(number, str(number), record["_id"], read_idempotency_key(record)) as delivered:
        done = app.tasks["syncctl.deliver"](*message.payload[0])
    assert done["streams"]["orders"]["delivered"] == 1, done
    return polled, woken | delivered


def follow_setting(tracer: WayTracer) -> Way:
    """Follow `streams.orders.window` from `.env` and `syncctl.toml` to the sizes of a delivery."""
    from syncctl.core.batch_sizes import decide_sizes
    from syncctl.settings import load_settings
    from tests.harness.cases import make_partner

    partner = make_partner("https://partner.example")
    with tempfile.TemporaryDirectory(prefix="syncctl-ways-") as directory:
        Path(directory, ".env").write_text(f"STREAMS__ORDERS__WINDOW={WINDOW}\n")
        orders = {"table": "orders", "start": "beginning", "endpoint": "POST /orders"}
        Path(directory, "syncctl.toml").write_text(to_toml({"streams": {"orders": orders}}))
        with tracer.follow(WINDOW, str(WINDOW)) as way:
            stream = load_settings(directory=directory, environment={}).stream("orders")
            sizes = decide_sizes(stream, partner)
    assert sizes.window == WINDOW
    return way


def follow_body(tracer: WayTracer) -> Way:
    """Follow a body template from the stream's settings to the bytes of one record."""
    from syncctl.partner.endpoint import Endpoints
    from syncctl.partner.request.builder import RequestBuilder
    from tests.harness.cases import make_partner, make_record, make_stream

    partner, stream, record = make_partner("https://partner.example"), make_stream(body=BODY), make_record()
    endpoints = Endpoints(partner, stream)
    with tracer.follow(BODY) as way:
        body = RequestBuilder(endpoints, stream).make_body(record)
    assert body is not None
    assert json.loads(body) == record.payload
    return way


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the files of the four ways, each with its main function."""
    parser = argparse.ArgumentParser(prog="python -m tests.harness.way_tracer", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    as_json = parser.parse_args(arguments).json
    with ExitStack() as running:
        # The app of Celery reads the settings of the working directory.
        os.chdir(open_directory(running))
        ways = follow_ways(SourceDb(Path("source.db")))
    if as_json:
        documents = {
            name: {"in_hand": sorted(way.in_hand), "files": way.list_main_functions()} for name, way in ways.items()
        }
        print(json.dumps(documents))  # noqa: T201
        return
    for name, way in ways.items():
        held, passed = AT_MOST[name]
        counts = f"{len(way.in_hand)} files have it in hand (at most {held}); functions of {len(way.files)} run"
        print(f"a {name}: {counts} (at most {passed})")  # noqa: T201
        for file, function in way.list_main_functions().items():
            print(f"{'*' if file in way.in_hand else ' ':>4}  {file:36} {function}")  # noqa: T201


def open_directory(running: ExitStack) -> Path:
    """Start the services and return the directory with the settings that join them."""
    from syncctl.local.mock_partner import MockPartner

    mongod = running.enter_context(servers.serve_mongod())
    redis = running.enter_context(servers.serve_redis())
    partner = running.enter_context(MockPartner())
    directory = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="syncctl-ways-")))
    source = SourceDb(directory / "source.db")
    source.create_orders()
    return write_settings(
        directory,
        mongo_url=mongod.url("ways"),
        redis_url=redis.url(),
        redis_prefix="ways",
        source_url=source.url,
        partner_url=partner.url,
    )


if __name__ == "__main__":
    main()
