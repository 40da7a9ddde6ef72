"""Order `strict`, judged from outside: each version of a key follows those before it, and no record waits in vain."""

from typing import Any

HOLDING = ("pending", "sending", "failed")


class Strictness:
    """Judges the order of the calls, and whether records wait for a good reason."""

    def __init__(self, database: Any) -> None:
        self._database = database
        self._called: dict[str, list[dict[str, Any]]] = {}

    def check_call(self, record: dict[str, Any], key: dict[str, Any]) -> None:
        """Judge a call that the holder of the lease is about to make."""
        older = {"key_id": record["key_id"], "seq": {"$lt": record["seq"], "$gte": key.get("delivered_seq", 0)}}
        # Left out are versions without a try, which came late, from a poll that was taken over; those that operators
        # have sent again; and delivered ones, which may be sent again because of a late call. The others were there
        # when this one was chosen.
        tried = {
            **older,
            "state": {"$in": HOLDING},
            "claims": {"$gt": 0},
            "replays": {"$exists": False},
            "delivered_at": {"$exists": False},
        }
        before = self._database.records.find_one(tried)
        assert before is None, f"{record['_id']} is sent before {before} is done (invariant 5)"
        for called in self._called.setdefault(record["key_id"], []):
            is_again = record.get("replays") or "delivered_at" in record
            assert called["seq"] <= record["seq"] or is_again, (
                f"{record['_id']} is sent for the first time after {called['_id']}, which is newer (invariant 5)"
            )
        self._called[record["key_id"]].append(record)

    def check_waiting(self) -> None:
        """Judge the records that still wait once all is quiet."""
        for record in self._database.records.find({"waits_for": {"$exists": True}}):
            assert record["state"] == "pending", f"{record} is not pending and waits"
            assert "due_at" not in record, f"{record} waits and is due"
            if record["waits_for"] == "poll":
                continue
            holder = self._database.records.find_one({"_id": record["waits_for"]})
            assert holder is not None, f"{record['_id']} waits for a record that is gone"
            assert holder["state"] in HOLDING, f"{record['_id']} waits for one that is {holder['state']}"

    def check_account(self) -> None:
        """Judge the end: only versions that were already out of date were passed over."""
        for record in self._database.records.find({"state": "superseded", "replays": {"$exists": False}}):
            key = self._database.keys.find_one({"_id": f"orders:{record['key_id']}"})
            assert key["seq"] > record["seq"], f"{record} is superseded by nothing newer"
            # A version that was delivered before is sent once more only as long as no newer one was delivered.
            assert not record.get("claims") or "delivered_at" in record, f"{record} was tried and then passed over"
