"""Invariant 7: a crash can at worst repeat calls under the same key with the same bytes."""

from collections.abc import Callable

from syncctl.local.mock_partner import PartnerConfig
from tests.harness.deployment import Deployment

ROWS = 1500
KILLS = 5
IN_FLIGHT = 40


def test_five_killed_workers_lose_no_row_and_repeat_only_calls_that_were_under_way(
    make_deployment: Callable[..., Deployment], eventually: Callable[..., object]
) -> None:
    deployment = make_deployment(
        timeout_seconds=2,
        partner=PartnerConfig(latency_seconds=0.05),
        partner_section={"max_in_flight": IN_FLIGHT},
    )
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
    # Each kill: the calls under way, and answers of the last half second that were not on record yet.
    assert account.repeats <= KILLS * 2 * IN_FLIGHT
    # And the calls that were noted to begin next, which may have begun as far as the ledger can tell.
    assert 0 < account.lost <= KILLS * 3 * IN_FLIGHT
    assert account.calls == ROWS + account.repeats
