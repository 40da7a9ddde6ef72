"""A partner that is down for a night: rows are still read, no record fails, and in the morning everything arrives."""

from collections.abc import Callable
from pathlib import Path

from tests.harness.deployment import Layout, open_deployment

TRIES = 8
ROWS_OF_AN_HOUR = 60
HOURS = 6


def test_a_night_without_the_partner_costs_no_row_and_few_calls(
    tmp_path: Path, eventually: Callable[..., object]
) -> None:
    """Each record has eight tries, which would be over within two seconds of the night."""
    with open_deployment(
        tmp_path / "deployment", Layout(concurrency=2, schedule=["200ms"] * (TRIES - 1))
    ) as deployment:
        wire, records = deployment.wires["partner"], deployment.ledger.records
        deployment.writer.insert(ROWS_OF_AN_HOUR)
        deployment.start_worker()
        deployment.start_beat()
        eventually(lambda: deployment.delivered() == ROWS_OF_AN_HOUR, 120)

        wire.set("cut")
        before = wire.affected
        for hour in range(1, HOURS + 1):
            asked = wire.affected
            deployment.writer.insert(ROWS_OF_AN_HOUR)
            eventually(lambda rows=(hour + 1) * ROWS_OF_AN_HOUR: records.count_documents({}) == rows, 60)
            # Every hour the status is read.
            eventually(lambda asked=asked: wire.affected > asked, 60)
        (shown,) = deployment.run("status", "--json").json["partners"]
        calls = wire.affected - before
        assert shown["breaker"] == "open"
        assert shown["breaker_reason"], shown
        waiting = records.count_documents({"state": "pending"})
        assert waiting > ROWS_OF_AN_HOUR * (HOURS - 1)
        assert records.count_documents({"state": "pending", "attempts": 0}) > waiting / 2
        assert calls < waiting / 2, "who is down is asked now and then, and not called for each row"

        wire.set("open")
        deployment.wait_until_quiet()
        deployment.stop()
        account = deployment.account()
    assert account.rows == ROWS_OF_AN_HOUR * (HOURS + 1)
    assert account.states == {"delivered": account.rows}, "no record has failed, with eight tries each"
