"""`python -m benchmarks`: everything that docs/performance.md reports, in one run on one machine."""

import argparse
import json
import os
import platform
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks import peers
from benchmarks.installation import Installation
from benchmarks.partner import serve_partner
from benchmarks.processes import Usage


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


def main() -> int:
    """Run the benchmarks that were asked for and print their table; exit code 1 when one did not come to its end."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000, help="rows of each throughput measurement")
    parser.add_argument("--only", nargs="*", choices=sorted(BENCHMARKS), help="these alone")
    parser.add_argument("--quick", action="store_true", help="small numbers, to see that everything runs")
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    chosen = parser.parse_args()
    rows = 1_000 if chosen.quick else chosen.rows
    directory = Path(tempfile.mkdtemp(prefix="syncctl-bench-"))
    results: list[Result] = []
    failed = False
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {rows:,} rows\n", flush=True
    )
    try:
        for name in chosen.only or BENCHMARKS:
            try:
                for result in BENCHMARKS[name](directory / name, rows):
                    results.append(result)
                    print(show(result), flush=True)
            except (RuntimeError, TimeoutError, OSError) as error:
                failed = True
                print(f"{name}: {error}", file=sys.stderr, flush=True)
            shutil.rmtree(directory / name, ignore_errors=True)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    for line in compare(results):
        print(line)
    if chosen.json:
        chosen.json.write_text(json.dumps([asdict(result) for result in results], indent=1))
    return int(failed)


def show(result: Result) -> str:
    """Return a result as one line."""
    cpu = "  ".join(f"{kind} {used:,.0f}" for kind, used in result.cpu_us.items())
    extra = "".join(f"  {name} {value:,.1f}" for name, value in result.extra.items())
    return f"{result.name:34} {result.rows_per_second:8,.0f} rows/s   CPU us/row: {cpu}{extra}  {result.note}".rstrip()


def compare(results: list[Result]) -> list[str]:
    """Return the ratios that the results allow."""
    speed = {result.name: result.rows_per_second for result in results}
    lines = [""]
    for ours, theirs in RATIOS:
        if ours in speed and theirs in speed:
            lines.append(f"{ours} / {theirs}: {speed[ours] / speed[theirs]:.2f}")
    return lines


RATIOS = (
    ("syncctl, 0 ms", "drt, 0 ms"),
    ("syncctl, 0 ms", "plain Celery, 0 ms"),
    ("syncctl, 50 ms, 32 in flight", "bare client, 50 ms, 32 threads"),
    ("syncctl, 50 ms, 128 in flight", "bare client, 50 ms, 128 threads"),
    ("syncctl, 50 ms, defaults", "bare client, 50 ms, 32 threads"),
    ("1 % of rows hang", "no row hangs"),
)


def _from_usage(name: str, rows: int, usage: Usage) -> Result:
    cpu = {kind: used / rows * 1e6 for kind, used in usage.cpu.items()}
    return Result(name=name, rows=rows, seconds=usage.seconds, cpu_us=cpu)


def _drain(
    installation: Installation, rows: int, name: str, *, goal: int | None = None, seconds: float = 900
) -> Result:
    """Measure from the first delivered record to the last."""
    installation.start_worker("--beat")
    installation.wait_for(lambda: installation.count("delivered") > 0, seconds=60)
    before, first, started = installation.cpu(), installation.count("delivered"), time.monotonic()
    goal = rows if goal is None else goal
    installation.wait_for(lambda: installation.count("delivered") >= goal, seconds=seconds)
    took = time.monotonic() - started
    after, done = installation.cpu(), installation.count("delivered") - first
    cpu = {kind: (after[kind] - before[kind]) / done * 1e6 for kind in after}
    return Result(name=name, rows=done, seconds=took, cpu_us=cpu, extra={"worker MB": installation.memory()["worker"]})


def poll(directory: Path, rows: int) -> list[Result]:
    """Measure how fast rows reach the ledger: five times as many rows, so that the command's start is a small part."""
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
    """Measure what rows that hang until the deadline cost the others."""
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
        installation.wait_for(lambda: installation.count("delivered") > rows // 5, seconds=60)
        installation.kill_worker(worker)
        before, started = installation.count("delivered"), time.monotonic()
        installation.start_worker("--beat")
        first = installation.wait_for(lambda: installation.count("delivered") > before, seconds=60)
        installation.wait_for(lambda: installation.count("delivered") >= rows, seconds=120)
        repeats = installation.ledger.records.count_documents({"claims": {"$gt": 1}})
        extra = {"goes on after s": first, "all after s": time.monotonic() - started, "repeats": float(repeats)}
        seconds = time.monotonic() - started
        return [Result(name="kill -9", rows=rows - before, seconds=seconds, cpu_us={}, extra=extra)]


BENCHMARKS: dict[str, Callable[[Path, int], list[Result]]] = {
    "poll": poll,
    "at_once": at_once,
    "in_50_ms": in_50_ms,
    "hanging": hanging,
    "killed": killed,
}

if __name__ == "__main__":
    sys.exit(main())
