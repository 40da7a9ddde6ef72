"""The state of a partner that all workers share: exact permits, and pauses."""

import threading
from datetime import UTC, datetime
from typing import Any

from syncctl.ledger.ledger import Ledger

PAST = datetime(2020, 1, 1, tzinfo=UTC)


def take(ledger: Ledger, token: str, wanted: int, *, at_most: int = 5, seconds: float = 60.0) -> int:
    return ledger.partners.acquire_permits("erp", token=token, wanted=wanted, at_most=at_most, seconds=seconds)


def test_no_more_permits_are_given_than_there_are(ledger: Ledger) -> None:
    assert [take(ledger, token, 3) for token in ("a", "b", "c")] == [3, 2, 0]
    ledger.partners.release_permits("erp", token="a")
    ledger.partners.release_permits("erp", token="a")
    assert take(ledger, "c", 9) == 3


def test_asking_again_gives_no_more_than_was_asked_for(ledger: Ledger, database: Any) -> None:
    """The answer to the first request was lost. Fails where permits of one holder add up."""
    assert [take(ledger, "a", 3), take(ledger, "a", 3), take(ledger, "b", 3), take(ledger, "a", 4)] == [3, 3, 2, 3]
    assert [permit["calls"] for permit in database.partners.find_one({"_id": "erp"})["permits"]] == [2, 3]


def test_a_lower_limit_takes_no_permit_away_from_a_call_under_way(ledger: Ledger) -> None:
    assert take(ledger, "a", 4) == 4
    assert take(ledger, "a", 4, at_most=2) == 4
    assert take(ledger, "b", 1, at_most=2) == 0


def test_permits_are_exact_with_many_at_once(ledger: Ledger) -> None:
    granted: list[int] = []
    threads = [threading.Thread(target=lambda n=n: granted.append(take(ledger, f"t{n}", 3))) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(granted) == 5


def test_a_dead_holders_permits_end_and_a_living_ones_are_renewed(ledger: Ledger, database: Any) -> None:
    take(ledger, "dead", 3)
    take(ledger, "alive", 2)
    database.partners.update_one(
        {"_id": "erp"}, {"$set": {"permits.$[each].until": PAST}}, array_filters=[{"each.token": "dead"}]
    )
    assert ledger.partners.renew_permits("erp", token="alive", seconds=60.0)
    assert not ledger.partners.renew_permits("erp", token="dead", seconds=60.0)
    assert not ledger.partners.renew_permits("nobody", token="dead", seconds=60.0)
    assert take(ledger, "next", 9) == 3


def test_the_permits_of_one_partner_do_not_affect_another(ledger: Ledger) -> None:
    take(ledger, "a", 5)
    assert ledger.partners.acquire_permits("other", token="b", wanted=5, at_most=5, seconds=60.0) == 5


def test_an_operator_pauses_and_resumes(ledger: Ledger) -> None:
    ledger.partners.pause("erp", who="$me", reason="$why")
    assert ledger.partners.load_gate("erp").paused
    assert ledger.partners.load_all()["erp"]["paused"]["reason"] == "$why"
    assert ledger.partners.resume("erp")
    assert not ledger.partners.resume("erp")
    gate = ledger.partners.load_gate("erp")
    assert not gate.paused
    assert gate.back_at is not None


def test_a_pause_by_syncctl_never_replaces_an_operators_reason(ledger: Ledger) -> None:
    for pause, load in (
        (ledger.partners.pause, ledger.partners.load_all),
        (ledger.streams.pause, ledger.streams.load_all),
    ):
        pause("erp", who="syncctl", reason="HTTP 401")
        pause("erp", who="ops", reason="maintenance until Monday")
        pause("erp", who="syncctl", reason="HTTP 401")
        assert load()["erp"]["paused"]["reason"] == "maintenance until Monday"
        pause("erp", who="night shift", reason="")
        assert load()["erp"]["paused"].items() >= {"by": "night shift", "reason": "maintenance until Monday"}.items()
        pause("other", who="ops", reason="")
        assert load()["other"]["paused"]["reason"] == ""
