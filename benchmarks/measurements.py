"""The measurements: each function sets up an installation, lets it work, and returns the results."""

import json
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks import peers
from benchmarks.installation import Installation
from benchmarks.machines import can_have_machines, on_machine, serve_machines
from benchmarks.partner import count_calls, serve_partner
from benchmarks.processes import Usage

LINES_A_ROW = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One line of the table."""

    name: str
    rows: int
    seconds: float
    #: CPU microseconds a row, by kind of process.
    cpu_us: Mapping[str, float]
    note: str = ""
    extra: Mapping[str, float] = field(default_factory=dict)

    @property
    def rows_per_second(self) -> float:
        """The throughput."""
        return self.rows / self.seconds


def _from_usage(name: str, rows: int, usage: Usage) -> Result:
    cpu = {kind: used / rows * 1e6 for kind, used in usage.cpu.items()}
    return Result(name=name, rows=rows, seconds=usage.seconds, cpu_us=cpu)


def _drain(
    installation: Installation, rows: int, name: str, *, goal: int | None = None, seconds: float = 900
) -> Result:
    """Measure from the first delivered record to the last.

    The progress is read without reading the records, because that would cost more than the answer is worth.
    """
    installation.start_worker("--beat")
    installation.wait_for(lambda: installation.count_taken(rows) > 0, seconds=60)
    before, first, started = installation.cpu(), installation.count_delivered(), time.monotonic()
    goal = rows if goal is None else goal
    installation.wait_for(lambda: installation.has_delivered(goal, rows=rows), seconds=seconds)
    took = time.monotonic() - started
    after, done = installation.cpu(), installation.count_delivered() - first
    cpu = {kind: (after[kind] - before[kind]) / done * 1e6 for kind in after}
    return Result(name=name, rows=done, seconds=took, cpu_us=cpu, extra={"worker MB": installation.memory()["worker"]})


def poll(directory: Path, rows: int) -> list[Result]:
    """Measure how fast rows reach the ledger, with five times the rows, so that the command's start hardly matters."""
    rows *= 5
    with Installation(directory, partner_url="http://127.0.0.1:9", rows=rows) as installation:
        installation.run("status")
        before, own = installation.cpu(), resource.getrusage(resource.RUSAGE_CHILDREN)
        started = time.monotonic()
        installation.run("poll", "--once")
        seconds = time.monotonic() - started
        after, now = installation.cpu(), resource.getrusage(resource.RUSAGE_CHILDREN)
        used = now.ru_utime + now.ru_stime - own.ru_utime - own.ru_stime
        cpu = {"poll": used / rows * 1e6, "mongodb": (after["mongodb"] - before["mongodb"]) / rows * 1e6}
        return [Result(name="poll", rows=rows, seconds=seconds, cpu_us=cpu, note="start of the command included")]


def poll_children(directory: Path, rows: int) -> list[Result]:
    """Measure how fast rows reach the ledger with ten lines each, beside the same rows without."""
    lines = {"children": '{ lines = { table = "lines", on = { order_id = "id" }, sort = ["line"] } }'}
    results = []
    for name, stream in (("poll, no lines", {}), (f"poll, {LINES_A_ROW} lines a row", lines)):
        with Installation(
            directory / str(len(results)), partner_url="http://127.0.0.1:9", rows=rows, lines=LINES_A_ROW, stream=stream
        ) as installation:
            installation.run("status")
            before, own = installation.cpu(), resource.getrusage(resource.RUSAGE_CHILDREN)
            (run,) = json.loads(installation.run("poll", "--once", "--json"))["runs"]
            after, now = installation.cpu(), resource.getrusage(resource.RUSAGE_CHILDREN)
            used = now.ru_utime + now.ru_stime - own.ru_utime - own.ru_stime
            cpu = {"poll": used / rows * 1e6, "mongodb": (after["mongodb"] - before["mongodb"]) / rows * 1e6}
            seconds = run["duration_ms"] / 1000
            results.append(Result(name=name, rows=run["logged"], seconds=seconds, cpu_us=cpu))
    return results


def at_once(directory: Path, rows: int) -> list[Result]:
    """Measure against drt and plain Celery, with a partner that answers at once."""
    with serve_partner(directory / "partner") as url:
        with Installation(directory / "syncctl", partner_url=url, rows=rows) as installation:
            installation.run("poll", "--once")
            results = [_drain(installation, rows, "syncctl, 0 ms")]
        results.append(_from_usage("drt, 0 ms", rows, peers.run_drt(directory / "drt", rows=rows, url=url)))
        few = max(500, rows // 8)
        usage = peers.run_celery(directory / "celery", rows=few, url=url)
        return [*results, _from_usage("plain Celery, 0 ms", few, usage)]


def in_50_ms(directory: Path, rows: int) -> list[Result]:
    """Measure against the bare client, with a partner that takes 50 ms."""
    results = []
    with serve_partner(directory / "partner", delay_ms=50) as url:
        for threads in (32, 128):
            usage = peers.run_bare_client(directory / f"bare{threads}", rows=rows // 2, url=url, threads=threads)
            results.append(_from_usage(f"bare client, 50 ms, {threads} threads", rows // 2, usage))
            limit = {"max_in_flight": str(threads)}
            with Installation(directory / f"s{threads}", partner_url=url, rows=rows, partner=limit) as installation:
                installation.run("poll", "--once")
                results.append(_drain(installation, rows, f"syncctl, 50 ms, {threads} in flight"))
        with Installation(directory / "default", partner_url=url, rows=rows) as installation:
            installation.run("poll", "--once")
            results.append(_drain(installation, rows, "syncctl, 50 ms, defaults"))
    return results


def hanging(directory: Path, rows: int) -> list[Result]:
    """Measure what rows that hang until the deadline cost the others.

    There are three times as many rows, because the last outcomes of a batch with such a row wait for half a second
    before they are written, and that must be a small part of the time.
    """
    rows *= 3
    results = []
    for name, share in (("no row hangs", 0.0), ("1 % of rows hang", 0.01)):
        place = directory / str(share)
        with (
            serve_partner(place / "partner", delay_ms=10, hang_share=share) as url,
            Installation(place / "syncctl", partner_url=url, rows=rows) as installation,
        ):
            installation.run("poll", "--once")
            results.append(_drain(installation, rows, name, goal=int(rows * 0.98)))
    return results


def killed(directory: Path, rows: int) -> list[Result]:
    """Kill the only worker in the middle of a backlog and start it again at once."""
    rows = min(rows, 4_000)
    with (
        serve_partner(directory / "partner", delay_ms=20) as url,
        Installation(directory / "syncctl", partner_url=url, rows=rows) as installation,
    ):
        installation.run("poll", "--once")
        worker = installation.start_worker("--beat")
        installation.wait_for(lambda: installation.count_delivered() > rows // 5, seconds=60)
        in_flight = count_calls(url)["under_way"]
        installation.kill_worker(worker)
        before, started = installation.count_delivered(), time.monotonic()
        installation.start_worker("--beat")
        first = installation.wait_for(lambda: installation.count_delivered() > before, seconds=60)
        installation.wait_for(lambda: installation.count_delivered() >= rows, seconds=120)
        seconds = time.monotonic() - started
        received = count_calls(url)
        extra = {
            "goes on after s": first,
            "all after s": seconds,
            "calls in flight at the kill": float(in_flight),
            "repeated calls": float(received["calls"] - received["rows"]),
        }
        return [Result(name="kill -9", rows=rows - before, seconds=seconds, cpu_us={}, extra=extra)]


def flat(directory: Path, rows: int) -> list[Result]:
    """Drain a long backlog: is its last tenth as fast as its second, and does the use of memory stay constant?"""
    rows *= 5
    with (
        serve_partner(directory / "partner") as url,
        Installation(directory / "syncctl", partner_url=url, rows=rows) as installation,
    ):
        installation.run("poll", "--once")
        installation.start_worker("--beat")
        tenth = rows // 10
        installation.wait_for(lambda: installation.count_taken(rows) >= tenth, seconds=300)
        times, memory = [time.monotonic()], [installation.memory()]
        for part in range(2, 11):
            installation.wait_for(lambda part=part: installation.count_taken(rows) >= part * tenth, seconds=1200)
            times.append(time.monotonic())
            memory.append(installation.memory())
        seconds = times[-1] - times[0]
        extra = {
            "second tenth/s": tenth / (times[1] - times[0]),
            "last tenth/s": tenth / (times[-1] - times[-2]),
            "worker MB at first": memory[0]["worker"],
            "at last": memory[-1]["worker"],
            "at most": max(reading["worker"] for reading in memory),
            "redis MB": max(reading["redis"] for reading in memory),
        }
        return [Result(name="long backlog", rows=rows - tenth, seconds=seconds, cpu_us={}, extra=extra)]


def history(directory: Path, rows: int) -> list[Result]:
    """Measure commands, a poll and a delivery with many finished records in the ledger, and with none."""
    few, results = 2_000, []
    for finished in (0, rows * 50):
        with (
            serve_partner(directory / str(finished) / "partner") as url,
            Installation(directory / str(finished) / "syncctl", partner_url=url, rows=few) as installation,
        ):
            installation.run("status")
            _add_finished(installation, finished)
            # Maintenance would have counted these hours long ago.
            installation.run("report")
            extra = {}
            for command in ("status", "report", "failures"):
                started = time.monotonic()
                installation.run(command, "--json")
                extra[f"{command} s"] = time.monotonic() - started
            started = time.monotonic()
            installation.run("poll", "--once")
            extra["poll s"] = time.monotonic() - started
            drained = _drain(installation, few, f"with {finished:,} finished records", goal=few)
            results.append(replace(drained, extra=extra))
    return results


def _add_finished(installation: Installation, count: int) -> None:
    """Put delivered records of other rows of the stream into the ledger, as old as the retention allows."""
    begun, at_once = datetime.now(UTC) - timedelta(days=29), 10_000
    for first in range(0, count, at_once):
        at = begun + timedelta(days=28) * (first / count)
        records = [_finished_record(number, at) for number in range(first, min(first + at_once, count))]
        installation.ledger.records.insert_many(records, ordered=False)


def _finished_record(number: int, at: datetime) -> dict[str, Any]:
    name = f"{number:032x}"
    identity = {"_id": f"orders-{name}", "stream": "orders", "key": {"id": -number}, "key_id": name, "seq": number}
    content = {"version": f"{number:x}", "hash": name, "shape": "s", "op": "upsert", "payload": {"note": "x" * 180}}
    entry = {"action": "attempt", "state": "delivered", "at": at, "status": 200, "ms": 5.0, "attempt": 1}
    course = {"state": "delivered", "attempts": 1, "tries": 1, "claims": 1, "history": [entry]}
    times = dict.fromkeys(("logged_at", "finished_at", "delivered_at", "updated_at"), at)
    return identity | content | course | times


def scaling(directory: Path, rows: int) -> list[Result]:
    """Measure one, two and four workers of one process for deliveries, with a partner that takes 50 ms."""
    results = []
    with serve_partner(directory / "partner", delay_ms=50) as url:
        for workers in (1, 2, 4):
            limits = {"concurrency": "2"}
            place = directory / str(workers)
            partner = {"max_in_flight": str(16 * workers)}
            with Installation(place, partner_url=url, rows=rows, worker=limits, partner=partner) as installation:
                installation.run("poll", "--once")
                for _ in range(workers - 1):
                    installation.start_worker()
                results.append(_drain(installation, rows, f"{workers} workers, 16 in flight each"))
    return results


def machines(directory: Path, rows: int) -> list[Result]:
    """Measure how exactly two workers, each with its own network and name, share the limits of a partner."""
    if not can_have_machines():
        print("machines: left out, for only root can give a worker a network of its own", file=sys.stderr)
        return []
    results = []
    for number, (limit, count) in enumerate(
        (("max_in_flight = 5", rows // 20), ("max_in_flight = 1", rows // 100), ('rate = "50/second"', rows // 20))
    ):
        place, (key, value) = directory / str(number), limit.split(" = ")
        with (
            serve_partner(place / "partner", delay_ms=20) as url,
            Installation(place / "syncctl", partner_url=url, rows=count, partner={key: value}) as installation,
            serve_machines(place / "sockets", [*installation.ports, urlsplit(url).port or 0]),
        ):
            installation.run("poll", "--once")
            for name in ("first", "second"):
                arguments = ["--beat"] if name == "first" else []
                installation.start_worker(*arguments, within=on_machine(name, place / "sockets"))
            installation.wait_for(lambda url=url: count_calls(url)["rows"] > 0, seconds=180)
            started = time.monotonic()
            installation.wait_for(lambda count=count: installation.count_delivered() >= count, seconds=600)
            received = count_calls(url)
            extra = {key.replace("_", " "): float(received[key]) for key in ("most_under_way", "most_in_a_second")}
            name = f"two machines, {limit}"
            seconds = time.monotonic() - started
            results.append(Result(name=name, rows=received["calls"], seconds=seconds, cpu_us={}, extra=extra))
    return results


MEASUREMENTS: dict[str, Callable[[Path, int], list[Result]]] = {
    "poll": poll,
    "poll_children": poll_children,
    "at_once": at_once,
    "in_50_ms": in_50_ms,
    "hanging": hanging,
    "killed": killed,
    "scaling": scaling,
    "machines": machines,
    "flat": flat,
    "history": history,
}
