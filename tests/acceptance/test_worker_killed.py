"""Invariant 7: a crash can at worst repeat calls under the same key with the same bytes."""

from collections.abc import Callable

from syncctl.local.mock_partner import PartnerConfig
from tests.harness.deployment import Deployment

ROWS = 1500
KILLS = 5


def test_five_killed_workers_lose_no_row_and_repeat_no_more_than_was_in_flight(
    make_deployment: Callable[..., Deployment], eventually: Callable[..., object]
) -> None:
    deployment = make_deployment(lease_seconds=10, timeout_seconds=2, partner=PartnerConfig(latency_seconds=0.05))
    deployment.writer.insert(ROWS)
    assert deployment.run("poll", "--once").exit_code == 0
    deployment.start_beat()
    for _ in range(KILLS):
        worker = deployment.start_worker()
        before = len(deployment.partner.calls())
        eventually(lambda before=before: len(deployment.partner.calls()) > before + 60, 60)
        assert deployment.delivered() < ROWS, "the backlog was gone before all the kills"
        deployment.kill(worker)
    deployment.start_worker()
    deployment.wait_until_quiet(90)
    deployment.stop()
    account = deployment.account()
    assert account.states == {"delivered": ROWS}
    assert account.distinct_keys == ROWS
    assert 0 < account.lost <= KILLS * deployment.layout.at_once
    assert account.repeats <= KILLS * deployment.layout.at_once
    assert account.calls == ROWS + account.repeats
