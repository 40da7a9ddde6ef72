"""`python -m benchmarks`: everything that docs/performance.md reports, in one run on one machine."""

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from benchmarks.measurements import MEASUREMENTS, Result


def main() -> int:
    """Run the chosen benchmarks and print their table; return exit code 1 if one did not finish."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000, help="rows of each throughput measurement")
    parser.add_argument("--only", nargs="*", choices=sorted(MEASUREMENTS), help="these alone")
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
        for name in chosen.only or MEASUREMENTS:
            try:
                for result in MEASUREMENTS[name](directory / name, rows):
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
    """Return the ratios of those pairs whose results are both there."""
    speed = {result.name: result.rows_per_second for result in results}
    lines = [""]
    for ours, theirs in RATIOS:
        if ours in speed and theirs in speed:
            lines.append(f"{ours} / {theirs}: {speed[ours] / speed[theirs]:.2f}")
    for name, most in MOST_PER_SECOND.items():
        if name in speed:
            lines.append(f"{name} / the {most:,.0f} rows/s that this limit allows: {speed[name] / most:.2f}")
    return lines


RATIOS = (
    ("syncctl, 0 ms", "drt, 0 ms"),
    ("syncctl, 0 ms", "plain Celery, 0 ms"),
    ("syncctl, 50 ms, 32 in flight", "bare client, 50 ms, 32 threads"),
    ("syncctl, 50 ms, 128 in flight", "bare client, 50 ms, 128 threads"),
    ("syncctl, 50 ms, defaults", "bare client, 50 ms, 32 threads"),
    ("poll, 10 lines a row", "poll, no lines"),
    ("1 % of rows hang", "no row hangs"),
)

#: The upper bound of rows per second with this many calls of 50 ms at a time, if a free place never waits for a call.
MOST_PER_SECOND = {f"syncctl, 50 ms, {limit} in flight": limit / 0.05 for limit in (32, 128)}


if __name__ == "__main__":
    sys.exit(main())
