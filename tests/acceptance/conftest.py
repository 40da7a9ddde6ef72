"""A deployment for each test: real services, real processes."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.harness.collections_page import find_undocumented
from tests.harness.deployment import Deployment, Layout, open_deployment
from tests.harness.servers import name_database


@pytest.fixture
def make_deployment(tmp_path: Path) -> Iterator[Callable[..., Deployment]]:
    """Start a deployment: `make_deployment(lease_seconds=10, ...)`; it ends with the test."""
    with ExitStack() as running:

        def make(**layout: Any) -> Deployment:
            return running.enter_context(open_deployment(tmp_path / "deployment", Layout(**layout)))

        yield make


@pytest.fixture
def mongo_url(mongo_url: str, mongo_client: Any) -> Iterator[str]:
    """The URL of a fresh database; what the test has written to it is in docs/collections.md."""
    yield mongo_url
    assert find_undocumented(mongo_client[name_database(mongo_url)]) == set(), "docs/collections.md lacks these fields"
