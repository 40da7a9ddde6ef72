"""Time that has passed, as a ledger's documents tell it."""

from datetime import datetime, timedelta
from typing import Any


def shift(value: Any, by: timedelta) -> Any:
    """Return a document with every date in it moved."""
    if isinstance(value, datetime):
        return value + by
    if isinstance(value, dict):
        return {name: shift(each, by) for name, each in value.items()}
    if isinstance(value, list):
        return [shift(each, by) for each in value]
    return value


def let_hours_pass(database: Any, hours: float) -> None:
    """Let everything that is in the ledger have happened earlier, as if nobody had looked since."""
    by = timedelta(hours=-hours)
    for name in ("records", "keys", "streams", "runs"):
        for document in database[name].find():
            database[name].replace_one({"_id": document["_id"]}, shift(document, by))
    reports = [shift(document, by) for document in database.reports.find()]
    database.reports.delete_many({})
    for document in reports:
        if "stream" in document:
            document["_id"] = f"{document['stream']}:{document['window_start']:%Y-%m-%dT%H}"
        database.reports.insert_one(document)
