"""The newest version of each row, written only over the state that was read."""

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from pymongo.write_concern import WriteConcern

from syncctl.errors import ServiceUnavailable
from syncctl.ledger.keys import Observation, SentCall
from syncctl.ledger.ledger import Ledger
from tests.harness.passing_time import PAST


def observation(number: int, *, before: int | None = None, seq: int = 1, version: str = "v1") -> Observation:
    return Observation(
        key_id=f"k{number}", key={"id": number}, previous_seq=before, seq=seq, version=version, hash="h", op="upsert"
    )


def call(seq: int, name: str, *, key_id: str = "k1") -> SentCall:
    return SentCall(key_id=key_id, seq=seq, call=name, mapping_hash="mapping")


def observe(ledger: Ledger, *observations: Observation) -> Sequence[str]:
    return ledger.keys.observe("orders", observations)


def known(ledger: Ledger, number: int = 1) -> Any:
    return ledger.keys.load("orders", [f"k{number}"])[f"k{number}"]


def test_a_row_seen_for_the_first_time_and_again(ledger: Ledger) -> None:
    assert ledger.keys.load("orders", ["k1"]) == {}
    assert observe(ledger, observation(1), observation(2)) == []
    assert observe(ledger, observation(1, before=1, seq=2, version="v2")) == []
    assert (known(ledger).seq, known(ledger).version, known(ledger, 2).seq) == (2, "v2", 1)
    assert ledger.keys.load("others", ["k1"]) == {}
    assert observe(ledger) == []


def test_a_poll_that_was_taken_over_writes_over_nothing(ledger: Ledger) -> None:
    observe(ledger, observation(1), observation(2))
    observe(ledger, observation(1, before=1, seq=5, version="newer"))
    stale = [observation(1, before=1, seq=3, version="old"), observation(2, before=1, seq=3, version="old")]
    assert observe(ledger, *stale) == ["k1"]
    assert (known(ledger).version, known(ledger, 2).version) == ("newer", "old")
    assert observe(ledger, observation(1, seq=4, version="old"), observation(3)) == ["k1"]
    assert (known(ledger).version, known(ledger, 3).version) == ("newer", "v1")


def test_the_same_observation_twice_is_one(ledger: Ledger) -> None:
    """The driver repeats a bulk after a cut connection."""
    for before, seq in ((None, 1), (1, 2)):
        for _ in range(2):
            assert observe(ledger, observation(1, before=before, seq=seq)) == []


def test_a_row_that_somebody_removed_from_the_ledger_is_a_conflict(ledger: Ledger) -> None:
    assert observe(ledger, observation(1, before=1, seq=2)) == ["k1"]


def test_an_unacknowledged_write_is_not_an_observation(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = ledger.keys._keys
    monkeypatch.setattr(ledger.keys, "_keys", keys.with_options(write_concern=WriteConcern(w=5)))
    with pytest.raises(ServiceUnavailable):
        observe(ledger, observation(1))


def test_the_key_itself_is_kept_exactly(ledger: Ledger, database: Any) -> None:
    key = {"$id": "$x", "line": Decimal("1" * 38)}
    each = Observation(key_id="k", key=key, previous_seq=None, seq=1, version="v", hash="h", op="upsert")
    assert observe(ledger, each) == []
    assert ledger.keys.column_names("orders") == ("$id", "line")
    assert ledger.keys.column_names("others") == ()


def test_the_newest_delivery_is_remembered_whatever_comes_after(ledger: Ledger) -> None:
    observe(ledger, observation(1))
    for seq in (3, 7, 5):
        ledger.keys.note_delivered("orders", [call(seq, f"call {seq}")])
    assert known(ledger).delivered_seq == 7
    ledger.keys.note_delivered("orders", [call(1, "call", key_id="k9")])
    assert ledger.keys.load("orders", ["k9"]) == {}


def test_a_call_that_an_earlier_version_noted_is_outdated_only_by_a_newer_version(
    ledger: Ledger, database: Any
) -> None:
    observe(ledger, observation(1))
    noted = {"seq": 3, "call": "c", "until": PAST}
    database["keys"].update_one({"_id": "orders:k1"}, {"$set": {"unsettled": [noted]}})
    (unsettled,) = known(ledger).unsettled
    assert not unsettled.is_outdated(seq=3, mapping_hash="mapping")
    assert unsettled.is_outdated(seq=4, mapping_hash="mapping")


def test_a_call_is_unsettled_until_it_is_accepted_or_its_time_is_over(ledger: Ledger, database: Any) -> None:
    observe(ledger, observation(1))
    ledger.keys.note_unsettled("orders", [call(1, "a"), call(2, "b")], seconds=3600)
    ledger.keys.note_unsettled("orders", [call(1, "a")], seconds=3600)
    assert [(key.seq, key.call) for key in known(ledger).unsettled] == [(2, "b"), (1, "a")]
    assert all(key.until > datetime.now(UTC) for key in known(ledger).unsettled)
    ledger.keys.note_delivered("orders", [call(2, "b")])
    assert [key.call for key in known(ledger).unsettled] == ["a"]
    database.keys.update_one({}, {"$set": {"unsettled.0.until": PAST}})
    ledger.keys.note_unsettled("orders", [call(3, "c")], seconds=3600)
    assert [key.call for key in known(ledger).unsettled] == ["c"]
