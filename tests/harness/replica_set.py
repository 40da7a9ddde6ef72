"""A replica set of three mongods, of which two are a majority, and which elect another primary."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from syncctl.local.mongod import REPLICA_SET
from syncctl.local.server import is_listening
from tests.harness.faulty_mongod import FaultyMongod
from tests.harness.waiting import eventually

MEMBERS = 3
SOON_SECONDS = 60.0
# Elections within about two seconds, where MongoDB's own settings take more than ten.
SETTINGS: Mapping[str, int] = {"electionTimeoutMillis": 1500, "heartbeatIntervalMillis": 300}


class Member(FaultyMongod):
    """One of the mongods; it is ready once it answers, in any role."""

    def check_ready(self, *, timeout_seconds: float) -> bool:
        """Tell whether this very process answers."""
        if not is_listening(self.port):
            return False
        client: MongoClient[dict[str, Any]] = MongoClient(
            f"mongodb://{self.address}/?directConnection=true", timeoutMS=int(timeout_seconds * 1000) + 1
        )
        with client:
            try:
                return bool(client.admin.command("serverStatus")["pid"] == self.pid)
            except PyMongoError:
                return False

    def read_role(self) -> str:
        """Return `primary` or `secondary`; empty if it is neither, or does not answer."""
        if not self.is_running():
            return ""
        client: MongoClient[dict[str, Any]] = MongoClient(
            f"mongodb://{self.address}/?directConnection=true", timeoutMS=1000
        )
        with client:
            try:
                hello = client.admin.command("hello")
            except PyMongoError:
                return ""
        return "primary" if hello.get("isWritablePrimary") else "secondary" if hello.get("secondary") else ""


class ReplicaSet:
    """Three members; each fault strikes the current primary, unless it says otherwise."""

    name = "replica set"

    def __init__(self, directory: Path) -> None:
        self.members = [Member(directory / f"member{number}") for number in range(MEMBERS)]
        self._failing: Member | None = None

    def start(self, *, timeout_seconds: float = SOON_SECONDS) -> None:
        """Start every member, and wait for a primary."""
        for member in self.members:
            member.start(timeout_seconds=timeout_seconds)
        members = [{"_id": number, "host": member.address} for number, member in enumerate(self.members)]
        config = {"_id": REPLICA_SET, "members": members, "settings": dict(SETTINGS)}
        self.members[0].administer({"replSetInitiate": config})
        eventually(lambda: len(self.find("secondary")) == MEMBERS - 1 and self.find("primary"), timeout_seconds)

    def kill(self) -> None:
        """Kill every member."""
        for member in self.members:
            member.kill()

    def is_running(self) -> bool:
        """Tell whether every member is alive."""
        return all(member.is_running() for member in self.members)

    @property
    def port(self) -> int:
        """The port of the first member."""
        return self.members[0].port

    def url(self, database: str) -> str:
        """Return the URL of a database, which names every member."""
        hosts = ",".join(member.address for member in self.members)
        return f"mongodb://{hosts}/{database}?replicaSet={REPLICA_SET}"

    def find(self, role: str, *, but: Member | None = None) -> list[Member]:
        """Return the members in a role, except the one in `but`, which is not asked."""
        return [member for member in self.members if member is not but and member.read_role() == role]

    def primary(self) -> Member:
        """Return the primary, once there is one."""
        return eventually(lambda: self.find("primary"), SOON_SECONDS)[0]

    def fail(self, what: Mapping[str, Any], *, times: int) -> int:
        """Make commands fail at the primary; return how many have failed so far."""
        self._failing = self.primary()
        return self._failing.fail(what, times=times)

    def count_failed(self) -> int:
        """Return how many commands a fail point has made fail."""
        assert self._failing is not None
        return self._failing.count_failed()

    def stop_failing(self) -> None:
        """Let every command succeed again."""
        assert self._failing is not None
        self._failing.stop_failing()

    def read_term(self) -> tuple[int, bool]:
        """Return the term of the last election, and whether there is a primary."""
        primaries = self.find("primary")
        return primaries[0].read_term() if primaries else (0, False)

    def step_down(self, *, seconds: int) -> None:
        """Make the primary step down for a while, so that another member is elected."""
        self.primary().step_down(seconds=seconds)
