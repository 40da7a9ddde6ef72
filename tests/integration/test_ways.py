"""How many files one reads to follow a row, a record, a setting or a template; `tests.harness.way_tracer`."""

import json
from typing import Any

import pytest

from tests.harness.commands import run_module
from tests.harness.way_tracer import AT_MOST


@pytest.fixture(scope="module")
def ways() -> dict[str, dict[str, Any]]:
    """The files of each way, followed in a process of its own."""
    ways: dict[str, dict[str, Any]] = json.loads(run_module("tests.harness.way_tracer", "--json", timeout=120))
    return ways


@pytest.mark.parametrize("name", AT_MOST)
def test_a_way_passes_few_files(ways: dict[str, dict[str, Any]], name: str) -> None:
    held, passed = AT_MOST[name]
    assert 0 < len(ways[name]["in_hand"]) <= held, "\n".join(ways[name]["in_hand"])
    assert len(ways[name]["files"]) <= passed, "\n".join(ways[name]["files"])
