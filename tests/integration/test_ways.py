"""How many files one reads to follow a record, a row, a setting or a template; `tests.harness.way_tracer`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.commands import clean_environment
from tests.harness.way_tracer import AT_MOST


@pytest.fixture(scope="module")
def ways() -> dict[str, dict[str, str]]:
    """The files of each way with the main function in each, followed in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.harness.way_tracer", "--json"],
        cwd=Path(__file__).parents[2],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    ways: dict[str, dict[str, str]] = json.loads(done.stdout)
    return ways


@pytest.mark.parametrize("name", AT_MOST)
def test_a_way_passes_few_files(ways: dict[str, dict[str, str]], name: str) -> None:
    assert len(ways[name]) <= AT_MOST[name], "\n".join(f"{file} {function}" for file, function in ways[name].items())
