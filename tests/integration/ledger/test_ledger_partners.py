"""The state of a partner that all workers share: exact permits, and pauses."""

import threading
from datetime import UTC, datetime
from typing import Any

from syncctl.ledger.ledger import Ledger
from syncctl.ledger.partners import WAITING_SECONDS

PAST = datetime(2020, 1, 1, tzinfo=UTC)


def ask(ledger: Ledger, token: str, wanted: int, *, seconds: float = 60.0, **options: int) -> tuple[int, int]:
    """Ask for some of five permits; return how many are held, and how many of them are owed to others."""
    grant = ledger.partners.acquire_permits("erp", token=token, wanted=wanted, at_most=5, seconds=seconds, **options)
    return grant.calls, grant.owed


def take(ledger: Ledger, token: str, wanted: int, *, at_most: int = 5, seconds: float = 60.0) -> int:
    return ledger.partners.acquire_permits("erp", token=token, wanted=wanted, at_most=at_most, seconds=seconds).calls


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


def test_a_holder_has_all_that_others_leave_and_returns_it_once_they_lack_their_share(ledger: Ledger) -> None:
    assert ask(ledger, "a", 9, share=2) == (5, 0)
    assert ask(ledger, "b", 9, share=2) == (0, 0)
    # Calls may be under way under all of them, so they are kept, and two of them are owed.
    assert ask(ledger, "a", 9, share=2) == (5, 2)
    assert ask(ledger, "a", 9, share=2, kept=3) == (3, 0)
    assert ask(ledger, "b", 9, share=2) == (2, 0)
    # A third one gets its share of the first one's third permit, and the second gives up nothing.
    assert ask(ledger, "c", 9, share=2) == (0, 0)
    assert ask(ledger, "b", 9, share=2, kept=0) == (2, 0)
    assert ask(ledger, "a", 9, share=2, kept=0) == (2, 0)
    assert ask(ledger, "c", 9, share=2) == (1, 0)
    assert ask(ledger, "a", 9, share=2, kept=0) == (2, 0)


def test_a_holder_hears_whether_it_may_get_more(ledger: Ledger) -> None:
    assert not ledger.partners.acquire_permits("erp", token="a", wanted=5, at_most=5, seconds=60.0, share=2).may_grow
    assert ledger.partners.acquire_permits("erp", token="b", wanted=5, at_most=5, seconds=60.0, share=2).may_grow
    ask(ledger, "a", 5, share=2, kept=0)
    assert not ledger.partners.acquire_permits("erp", token="b", wanted=5, at_most=5, seconds=60.0, share=3).may_grow


def test_a_holder_returns_what_it_has_no_use_for(ledger: Ledger) -> None:
    assert ask(ledger, "a", 5, share=1) == (5, 0)
    assert ask(ledger, "a", 2, share=1, kept=3) == (3, 0)
    assert ask(ledger, "a", 2, share=1, kept=0) == (2, 0)
    assert ask(ledger, "b", 9, share=1) == (3, 0)


def test_what_is_kept_for_one_that_waits_is_free_soon_after_it_has_died(ledger: Ledger, database: Any) -> None:
    assert ask(ledger, "a", 9, share=2) == (5, 0)
    assert ask(ledger, "dead", 9, share=2, seconds=600.0) == (0, 0)
    waiting = database.partners.find_one({"_id": "erp"})["permits"][1]
    assert (waiting["calls"], waiting["lacking"]) == (0, 2)
    assert (waiting["until"] - ledger.streams.server_time()).total_seconds() <= WAITING_SECONDS


def test_permits_of_an_earlier_version_are_taken_as_they_are(ledger: Ledger, database: Any) -> None:
    until = datetime(2100, 1, 1, tzinfo=UTC)
    database.partners.insert_one({"_id": "erp", "permits": [{"token": "old", "calls": 2, "until": until}]})
    assert ask(ledger, "a", 9, share=2) == (3, 0)


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
    assert ledger.partners.acquire_permits("other", token="b", wanted=5, at_most=5, seconds=60.0).calls == 5


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
