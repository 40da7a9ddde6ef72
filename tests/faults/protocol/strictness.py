"""Order `strict`, checked from outside: each version of a key follows those before it, and no version waits in vain."""

from typing import Any

HOLDING = ("pending", "queued", "sending", "failed")


class Strictness:
    """The order of the calls that were made, and the records that the ledger lets wait."""

    def __init__(self, database: Any) -> None:
        self._database = database
        self._called: dict[str, list[dict[str, Any]]] = {}

    def check_call(self, record: dict[str, Any], key: dict[str, Any]) -> None:
        """Check a call that the holder of the lease is about to make."""
        older = {"key_id": record["key_id"], "seq": {"$lt": record["seq"], "$gte": key.get("delivered_seq", 0)}}
        # Untried versions came late, from a poll that was taken over; and operators send again what they
        # like. The others were there when this one was chosen.
        tried = {**older, "state": {"$in": HOLDING}, "claims": {"$gt": 0}, "replays": {"$exists": False}}
        before = self._database.records.find_one(tried)
        assert before is None, f"{record['_id']} is sent before {before} is done (invariant 5)"
        for each in self._called.setdefault(record["key_id"], []):
            assert each["seq"] <= record["seq"] or record.get("replays"), (
                f"{record['_id']} is sent for the first time after {each['_id']}, which is newer (invariant 5)"
            )
        self._called[record["key_id"]].append(record)

    def check_waiting(self) -> None:
        """Check, once everything is at rest, the records that still wait."""
        for each in self._database.records.find({"waits_for": {"$exists": True}}):
            assert each["state"] == "pending", f"{each} is not pending and waits"
            assert "due_at" not in each, f"{each} waits and is due"
            holder = self._database.records.find_one({"_id": each["waits_for"]})
            assert holder is not None, f"{each['_id']} waits for a record that is gone"
            assert holder["state"] in HOLDING, f"{each['_id']} waits for one that is {holder['state']}"

    def check_account(self) -> None:
        """Check the end: no version was passed over that was not out of date already."""
        for each in self._database.records.find({"state": "superseded", "replays": {"$exists": False}}):
            key = self._database.keys.find_one({"_id": f"orders:{each['key_id']}"})
            assert key["seq"] > each["seq"], f"{each} is superseded by nothing newer"
            assert not each.get("claims"), f"{each} was tried and then passed over"
