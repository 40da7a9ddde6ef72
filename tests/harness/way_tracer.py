"""Count the files that one delivered record, polled row, setting or body template passes on its way through syncctl.

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
from collections.abc import Iterator, Sequence
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
# Servers for demos and tests: no part of the way of a record.
LEFT_OUT = f"{PACKAGE}local{os.sep}"
WAKE = re.compile(r"wake")
AT_MOST = {"delivered record": 54, "polled row": 36, "setting": 24, "setting's value": 11, "body template": 9}
"""How many files each way may pass. Of a setting: in which a load runs anything, and in which its value is in hand."""

WINDOW = 4321
BODY = '{"id": {{ row.id | json }}, "customer": {{ row.customer | json }}}'
DEEPEST = 8


@dataclass
class Way:
    """The files of the package in which a function ran, in the order in which they were first entered."""

    files: dict[str, dict[str, float]] = field(default_factory=dict)
    """File → function → the seconds spent in its calls and in all that they called."""

    def add(self, frame: FrameType, seconds: float) -> None:
        """Note that a function was called, or how long a call took."""
        functions = self.files.setdefault(frame.f_code.co_filename.removeprefix(PACKAGE), {})
        name = frame.f_code.co_qualname
        functions[name] = functions.get(name, 0.0) + seconds

    def list_main_functions(self) -> dict[str, str]:
        """Return, by file, the function in which most time was spent."""
        return {file: max(functions, key=lambda name: functions[name]) for file, functions in self.files.items()}

    def __or__(self, other: "Way") -> "Way":
        return Way(files={**self.files, **{file: other.files[file] for file in other.files if file not in self.files}})


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
        self._value: object = None
        self._of_thread = threading.local()
        threading.setprofile(self._note)

    @contextmanager
    def follow(self, *, wake_way: Way | None = None, value: object = None) -> Iterator[Way]:
        """Follow everything that runs in the block.

        Args:
            wake_way: Where to note a wake-up that begins in the block, with all that it calls.
            value: Leave out functions that do not have this value among their arguments, variables or results.
        """
        self._way, self._wake_way, self._value = Way(), wake_way, value
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
            if self._value is None:
                way.add(frame, 0.0)
        elif event == "return":
            seconds = time.perf_counter() - began.pop(frame, time.perf_counter())
            if self._value is None or has_value((frame.f_locals, result), self._value):
                way.add(frame, seconds)
            if wake is frame:
                thread["wake"] = None


def has_value(container: object, value: object, deepest: int = DEEPEST) -> bool:
    """Return whether a value, or its text, is in a container or in an object of the package, however deep."""
    if isinstance(container, str | int):
        return container in (value, str(value))
    if deepest == 0:
        return False
    if isinstance(container, dict):
        inner: Sequence[object] = [*container, *container.values()]
    elif isinstance(container, list | tuple | set | frozenset):
        inner = list(container)
    elif type(container).__module__.startswith("syncctl."):
        names = [*getattr(container, "__dict__", ()), *getattr(type(container), "__slots__", ())]
        inner = [getattr(container, name, None) for name in names]
    else:
        return False
    return any(has_value(each, value, deepest - 1) for each in inner)


def follow_ways(source: SourceDb) -> dict[str, Way]:
    """Follow the four ways in the working directory, whose settings lead from an empty table to a partner.

    The first record and the first body are not followed: connections are opened and templates compiled only once.
    """
    tracer = WayTracer()
    follow_record(tracer, source, 1)
    polled, delivered = follow_record(tracer, source, 2)
    follow_body(tracer)
    return {
        "delivered record": delivered,
        "polled row": polled,
        "setting": follow_setting(tracer),
        "setting's value": follow_setting(tracer, value=WINDOW),
        "body template": follow_body(tracer),
    }


def follow_record(tracer: WayTracer, source: SourceDb, number: int) -> tuple[Way, Way]:
    """Insert a row and have Celery's tasks poll and deliver it, without a worker.

    Returns:
        The way of the row into the ledger, and the way of its record through the wake-up of a worker and its delivery.
    """
    from syncctl.celery_app import app

    source.add_orders([number])
    woken = Way()

    def poll() -> Way | None:
        with tracer.follow(wake_way=woken) as way:
            done = app.tasks["syncctl.poll"]("orders")
        return way if done.get("logged") else None

    # A poll that comes too soon after the one before is skipped.
    polled = eventually(poll)
    assert polled is not None
    with app.connection() as connection, connection.SimpleQueue("deliver") as queue:
        message = queue.get(timeout=30)
        message.ack()
    with tracer.follow() as delivered:
        done = app.tasks["syncctl.deliver"](*message.payload[0])
    assert done["streams"]["orders"]["delivered"] == 1, done
    return polled, woken | delivered


def follow_setting(tracer: WayTracer, *, value: object = None) -> Way:
    """Follow `streams.orders.window` from `.env` and `syncctl.toml` to the sizes of a delivery.

    Args:
        value: Leave out the files that only read and check other settings.
    """
    from syncctl.core.batch_sizes import decide_sizes
    from syncctl.settings import load_settings
    from tests.harness.cases import make_partner

    partner = make_partner("https://partner.example")
    with tempfile.TemporaryDirectory(prefix="syncctl-ways-") as directory:
        Path(directory, ".env").write_text(f"STREAMS__ORDERS__WINDOW={WINDOW}\n")
        orders = {"table": "orders", "start": "beginning", "endpoint": "POST /orders"}
        Path(directory, "syncctl.toml").write_text(to_toml({"streams": {"orders": orders}}))
        with tracer.follow(value=value) as way:
            stream = load_settings(directory=directory, environment={}).stream("orders")
            sizes = decide_sizes(stream, partner)
    assert sizes.window == WINDOW
    return way


def follow_body(tracer: WayTracer) -> Way:
    """Follow a body template from the stream's settings to the bytes of one record."""
    from syncctl.partner.request.builder import RequestBuilder
    from tests.harness.cases import make_partner, make_record, make_stream

    partner, stream, record = make_partner("https://partner.example"), make_stream(body=BODY), make_record()
    with tracer.follow() as way:
        body = RequestBuilder(partner, stream).make_body(record)
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
        print(json.dumps({name: way.list_main_functions() for name, way in ways.items()}))  # noqa: T201
        return
    for name, way in ways.items():
        print(f"a {name} passes {len(way.files)} files (at most {AT_MOST[name]})")  # noqa: T201
        for number, (file, function) in enumerate(way.list_main_functions().items(), start=1):
            print(f"{number:4}  {file:36} {function}")  # noqa: T201


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
