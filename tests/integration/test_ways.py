"""How many files one reads to follow a record, a row, a setting or a template; `tests.harness.way_tracer`."""

import json

import pytest

from tests.harness.commands import run_module
from tests.harness.way_tracer import AT_MOST


@pytest.fixture(scope="module")
def ways() -> dict[str, dict[str, str]]:
    """The files of each way with the main function in each, followed in a process of its own."""
    ways: dict[str, dict[str, str]] = json.loads(run_module("tests.harness.way_tracer", "--json", timeout=120))
    return ways


@pytest.mark.parametrize("name", AT_MOST)
def test_a_way_passes_few_files(ways: dict[str, dict[str, str]], name: str) -> None:
    assert len(ways[name]) <= AT_MOST[name], "\n".join(f"{file} {function}" for file, function in ways[name].items())
