"""A mongod that fails on request."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from syncctl.local.mongod import Mongod

ANSWERS_WITHIN_MS = 30_000
FAIL_POINT = "failpoint.failCommand"


class FaultyMongod(Mongod):
    """A mongod with MongoDB's own fail points."""

    def command(self) -> list[str | Path]:
        """Return the command line."""
        return [*super().command(), "--setParameter", "enableTestCommands=1"]

    def administer(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Run an administrative command, bypassing every proxy, and return the answer."""
        url = f"mongodb://{self.address}/?directConnection=true"
        client: MongoClient[dict[str, Any]] = MongoClient(url, timeoutMS=ANSWERS_WITHIN_MS)
        with client:
            return client.admin.command(dict(command))

    def fail(self, what: Mapping[str, Any], *, times: int) -> int:
        """Make commands fail; return how many have failed so far."""
        order = {"configureFailPoint": "failCommand", "mode": {"times": times}, "data": dict(what)}
        return int(self.administer(order)["count"])

    def count_failed(self) -> int:
        """Return how many commands a fail point has made fail since this mongod was started."""
        return int(self.administer({"getParameter": 1, FAIL_POINT: 1})[FAIL_POINT]["timesEntered"])

    def stop_failing(self) -> None:
        """Let every command succeed again."""
        self.administer({"configureFailPoint": "failCommand", "mode": "off"})

    def read_term(self) -> tuple[int, bool]:
        """Return the term of the last election, and whether this is the primary."""
        status = self.administer({"replSetGetStatus": 1})
        return int(status["term"]), bool(self.administer({"hello": 1})["isWritablePrimary"])

    def step_down(self, *, seconds: int) -> None:
        """Step down as primary for a while."""
        try:
            self.administer({"replSetStepDown": seconds, "force": True})
        except PyMongoError as error:
            # It may cut the connection before it answers; its term shows whether it stepped down.
            if not error.has_error_label("RetryableWriteError") and not error.timeout:
                raise
