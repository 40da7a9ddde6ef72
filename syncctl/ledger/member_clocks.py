"""The clocks of a replica set's members: any may be the next primary, and judge leases that the present one granted."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pymongo import MongoClient, ReadPreference
from pymongo.errors import PyMongoError

from syncctl.ledger.mongo_client import connect


@dataclass(frozen=True, kw_only=True, slots=True)
class MemberClock:
    """The time of one member, compared with this machine's."""

    #: Its host and port.
    member: str
    #: How far its clock is ahead of this machine's; None if it does not answer.
    ahead_seconds: float | None
    #: The uncertainty of that in either direction: half of the round trip.
    uncertain_seconds: float = 0.0


def read_clock(url: str, member: str, *, timeout_seconds: float) -> MemberClock:
    """Ask a member, `host:port`, for its time."""
    with connect(url, timeout_seconds=timeout_seconds, member=member) as client:
        try:
            # The first call only opens the connection: it takes too long for its time to be compared.
            _say_hello(client)
            before = datetime.now(UTC)
            there = _say_hello(client)["localTime"]
            half = (datetime.now(UTC) - before) / 2
        except PyMongoError:
            return MemberClock(member=member, ahead_seconds=None)
    ahead = (there - (before + half)).total_seconds()
    return MemberClock(member=member, ahead_seconds=ahead, uncertain_seconds=half.total_seconds())


def _say_hello(client: "MongoClient[dict[str, Any]]") -> dict[str, Any]:
    return client.admin.command("hello", read_preference=ReadPreference.NEAREST, codec_options=client.codec_options)


def compare_clocks(clocks: Sequence[MemberClock]) -> tuple[float, str, str]:
    """Return by how many seconds the two furthest members differ at least; then the one ahead, and the one behind."""
    ahead = [(clock.ahead_seconds, clock) for clock in clocks if clock.ahead_seconds is not None]
    if not ahead:
        return 0.0, "", ""
    latest, first = max(ahead, key=lambda pair: pair[0])
    earliest, last = min(ahead, key=lambda pair: pair[0])
    apart = latest - earliest - first.uncertain_seconds - last.uncertain_seconds
    return max(0.0, apart), first.member, last.member
