"""A deployment for each test: real services, real processes."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.harness.deployment import Deployment, Layout, open_deployment


@pytest.fixture
def make_deployment(tmp_path: Path) -> Iterator[Callable[..., Deployment]]:
    """Start a deployment: `make_deployment(lease_seconds=10, ...)`; it ends with the test."""
    with ExitStack() as running:

        def make(**layout: Any) -> Deployment:
            return running.enter_context(open_deployment(tmp_path / "deployment", Layout(**layout)))

        yield make
