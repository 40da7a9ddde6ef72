"""Real workers and Beats watch: several of them and a restart send each message of an alert once."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.harness.alert_receivers import WebhookReceiver
from tests.harness.source_db import SourceDb


@pytest.mark.timeout(240)
def test_workers_beats_and_a_restart_send_each_message_once(
    run_syncctl: Callable[..., Any],
    start_syncctl: Callable[..., Any],
    make_settings: Callable[..., Path],
    source_db: SourceDb,
    mongo_database: Any,
    eventually: Callable[..., Any],
) -> None:
    source_db.create_orders(1)
    with WebhookReceiver() as webhook:
        directory = make_settings(sections={"alerts": {"webhook": "${ALERT_WEBHOOK_URL}", "rules": {"paused": "1h"}}})
        with (directory / ".env").open("a") as env:
            env.write(f"ALERT_WEBHOOK_URL={webhook.url}/services/a-secret-path-42\n")
        assert run_syncctl("poll", "--once", cwd=directory).exit_code == 0
        paused = {"by": "anna", "at": datetime.now(UTC) - timedelta(hours=2), "reason": "", "until": None}
        mongo_database.streams.update_one({"_id": "orders"}, {"$set": {"paused": paused}})
        workers = [start_syncctl("worker", "--beat", "--pool", "threads", cwd=directory) for _ in range(2)]
        eventually(lambda: webhook.states == [("paused", "firing")], timeout=90)
        workers[0].close()
        workers.append(start_syncctl("worker", "--pool", "threads", cwd=directory))
        assert "1 firing: paused (orders)" in run_syncctl("status", cwd=directory).stdout
        check = run_syncctl("alerts", "check", cwd=directory)
        assert (check.exit_code, webhook.states) == (1, [("paused", "firing")])
        assert run_syncctl("resume", "orders", cwd=directory).exit_code == 0
        eventually(lambda: ("paused", "resolved") in webhook.states, timeout=90)
        assert run_syncctl("alerts", "check", cwd=directory).exit_code == 0
        for worker in workers:
            worker.close()
            assert "a-secret-path" not in worker.log
    assert webhook.states == [("paused", "firing"), ("paused", "resolved")]
