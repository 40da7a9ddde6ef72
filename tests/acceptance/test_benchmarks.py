"""The benchmarks run to their end; what they measure here says nothing, on a machine that runs other tests."""

import json
import subprocess
import sys
from pathlib import Path

from tests.harness.commands import clean_environment


def test_the_benchmarks_measure_and_report(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--only", "poll", "flat", "--json", str(results)],
        cwd=Path(__file__).parents[2],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
    )
    assert done.returncode == 0, done.stderr
    poll, flat = json.loads(results.read_text())
    assert (poll["name"], poll["rows"]) == ("poll", 5_000)
    assert poll["cpu_us"]["poll"] > 0
    assert flat["name"] == "long backlog"
    assert flat["extra"]["last tenth/s"] > 0
    assert all(name in done.stdout for name in ("poll", "long backlog"))
