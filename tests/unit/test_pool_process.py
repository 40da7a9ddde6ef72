"""A pool process that ends does not wait for a main process that reads no results."""

from types import SimpleNamespace

import pytest
from billiard import pool

from syncctl.tasks.process import RESULTS_READ_WITHIN_SECONDS, limit_wait_for_results


def test_a_pool_process_that_ends_waits_for_a_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails with the half minute that billiard waits."""
    monkeypatch.setattr(pool, "GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT", 300)
    slept: list[float] = []
    monkeypatch.setattr(pool.time, "sleep", slept.append)
    limit_wait_for_results()
    process = pool.Worker.__new__(pool.Worker)
    process.on_ready_counter = SimpleNamespace(value=0)
    assert not process._ensure_messages_consumed(1)
    assert sum(slept) == pytest.approx(RESULTS_READ_WITHIN_SECONDS)
