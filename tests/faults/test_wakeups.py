"""Dispatch without a Beat, and a call that arrives after its lease ran out."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.harness.deployment import Deployment, Layout, open_deployment
from tests.harness.passing_time import expire_batch_leases, make_retries_due, settle_calls
from tests.harness.process_groups import is_suspended
from tests.harness.waiting import eventually

pytestmark = pytest.mark.timeout(600)
SOON_SECONDS = 120.0


def poll(deployment: Deployment) -> None:
    done = deployment.run("poll", "--once", "--json")
    assert done.exit_code == 0, done.stderr


def versions(deployment: Deployment) -> list[dict[str, Any]]:
    """Return the records of row 1, the oldest first."""
    return list(deployment.ledger.records.find({"key.id": 1}).sort("seq", 1))


def held_body(deployment: Deployment) -> int:
    """Return which version of row 1 the partner holds."""
    body = deployment.partner.rows().get("1", b"")
    changed = [
        version.changed
        for version in deployment.writer.versions[1]
        if f'"changed":{version.changed}}}'.encode() in body
    ]
    return changed[0] if changed else 0


def test_due_records_are_sent_without_a_beat(tmp_path: Path) -> None:
    """A delivery loop takes batch after batch: many windows go through without a tick of a Beat.

    Fails when a loop ends while records are due, and when finished records count against the window.
    """
    with open_deployment(
        tmp_path / "deployment", Layout(window=40, batch_size=10, lease_seconds=900.0, timeout_seconds=20.0)
    ) as deployment:
        deployment.writer.insert(400)
        poll(deployment)
        deployment.start_worker()
        deployment.wait_until_quiet()
        deployment.writer.update(range(1, 200))
        poll(deployment)
        deployment.wait_until_quiet()
        deployment.stop()
        account = deployment.account()
    assert account.states == {"delivered": 599}
    assert account.calls == account.distinct_keys == 599


def test_a_call_that_arrives_after_a_newer_version_has_that_one_sent_again(tmp_path: Path) -> None:
    """Invariant 5, by real processes: the partner holds the call of v1, its process is suspended past its lease, v2 is
    delivered; then v1 is applied, and its process comes back with a late outcome.

    The test never waits for time to pass: leases and deadlines are long, and are ended by hand. Fails without `resend`
    in deliver, without `note_unsettled` in maintenance, and if an outcome is written without its token.
    """
    layout = Layout(lease_seconds=900.0, timeout_seconds=300.0, concurrency=3, batch_size=1)
    with open_deployment(tmp_path / "deployment", layout) as deployment:
        deployment.partner.hold("1")
        deployment.writer.insert(1)
        poll(deployment)
        deployment.start_worker()
        eventually(lambda: deployment.partner.held() == 1, SOON_SECONDS)
        (process,) = deployment.find_holders()
        os.kill(process, signal.SIGSTOP)
        eventually(lambda: is_suspended(process), SOON_SECONDS)

        deployment.writer.update([1])
        poll(deployment)
        assert [version["state"] for version in versions(deployment)] == ["sending", "pending"], (
            "never two versions in flight"
        )
        assert expire_batch_leases(deployment.ledger) == 1
        deployment.start_beat()
        # Accepted, and not delivered: the call of v1 may still arrive.
        eventually(lambda: versions(deployment)[1]["attempts"] == 1, SOON_SECONDS)
        older, newer = versions(deployment)
        assert (older["state"], newer["state"], newer["generation"]) == ("pending", "pending", 1)
        settle_calls(deployment.ledger)
        make_retries_due(deployment.ledger)
        eventually(lambda: versions(deployment)[1]["state"] == "delivered", SOON_SECONDS)
        assert held_body(deployment) == 2

        # The late call arrives.
        deployment.partner.release_held()
        eventually(lambda: held_body(deployment) == 1, SOON_SECONDS)
        os.kill(process, signal.SIGCONT)
        eventually(lambda: held_body(deployment) == 2, SOON_SECONDS)
        deployment.wait_until_quiet()
        deployment.stop()
        account = deployment.account()
        older, newer = versions(deployment)
    assert (account.late, account.resent, account.lost) == (1, 1, 1)
    assert (older["state"], newer["state"], newer["generation"]) == ("superseded", "delivered", 2)
    assert [event["action"] for event in older["history"]] == ["lost", "attempt"]
