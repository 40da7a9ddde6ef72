"""The benchmarks run to their end; what they measure here says nothing, on a machine that runs other tests."""

import json
from pathlib import Path

from tests.harness.commands import run_module


def test_the_benchmarks_measure_and_report(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    printed = run_module("benchmarks", "--quick", "--only", "poll", "flat", "--json", str(results), timeout=170)
    poll, flat = json.loads(results.read_text())
    assert (poll["name"], poll["rows"]) == ("poll", 5_000)
    assert poll["cpu_us"]["poll"] > 0
    assert flat["name"] == "long backlog"
    assert flat["extra"]["last tenth/s"] > 0
    assert all(name in printed for name in ("poll", "long backlog"))
