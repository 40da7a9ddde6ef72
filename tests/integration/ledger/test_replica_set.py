"""A replica set of three members: what is read and written there, and clocks that differ."""

import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pymongo
import pytest
from pymongo.read_concern import ReadConcern

from syncctl.doctor.mongodb import check_members
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.member_clocks import MemberClock, compare_clocks
from tests.harness.replica_set import Member, ReplicaSet
from tests.harness.testbed import new_record
from tests.harness.waiting import eventually

SHIFT_SECONDS = 40
SHIFTED_CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/time.h>
#include <time.h>
int clock_gettime(clockid_t clock, struct timespec *at) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(clock, at);
    if (clock == CLOCK_REALTIME) at->tv_sec += SHIFT;
    return failed;
}
int gettimeofday(struct timeval *at, void *zone) {
    int (*real)(struct timeval *, void *) = dlsym(RTLD_NEXT, "gettimeofday");
    int failed = real(at, zone);
    at->tv_sec += SHIFT;
    return failed;
}
time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"""


class ShiftedMember(Member):
    """A member whose machine has a clock that is ahead."""

    library: Path

    def command(self) -> list[str | Path]:
        return ["env", f"LD_PRELOAD={self.library}", *super().command()]


@pytest.fixture(scope="module")
def replica_set(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaSet]:
    """Three members; the clock of the last is ahead."""
    directory = tmp_path_factory.mktemp("members")
    source, library = directory / "clock.c", directory / "clock.so"
    source.write_text(SHIFTED_CLOCK)
    subprocess.run(
        ["cc", "-shared", "-fPIC", f"-DSHIFT={SHIFT_SECONDS}", "-o", library, source, "-ldl"], check=True, timeout=60
    )
    replica_set = ReplicaSet(directory)
    shifted = ShiftedMember(directory / "shifted")
    shifted.library = library
    replica_set.members[-1] = shifted
    try:
        replica_set.start()
        yield replica_set
    finally:
        replica_set.kill()


@pytest.fixture
def ledger(replica_set: ReplicaSet) -> Iterator[Ledger]:
    """A ledger whose URL asks for secondaries, as an operator's may."""
    with Ledger(f"{replica_set.url('ledger')}&readPreference=secondary", "ledger") as opened:
        opened.prepare()
        opened.streams.ensure("orders")
        yield opened
        opened._database.records.delete_many({})


class Examined:
    """What a check of the doctor sees of the services."""

    timeout_seconds = 10.0

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger


def test_members_whose_clocks_differ_are_a_warning(ledger: Ledger, replica_set: ReplicaSet) -> None:
    finding = check_members(Examined(ledger))  # type: ignore[arg-type]
    assert finding.status == "warn"
    ahead = replica_set.members[-1].address
    assert f"the clock of {ahead} is " in finding.detail
    seconds = float(finding.detail.partition(f"{ahead} is ")[2].partition(" s ")[0])
    assert SHIFT_SECONDS - 5 < seconds <= SHIFT_SECONDS
    assert "timedatectl" in finding.hint


def test_the_round_trip_is_taken_off() -> None:
    """A slow answer is no difference. Fails where half of the round trip counts."""
    clocks = [
        MemberClock(member="a:1", ahead_seconds=4.0, uncertain_seconds=4.0),
        MemberClock(member="b:1", ahead_seconds=0.0, uncertain_seconds=0.1),
        MemberClock(member="c:1", ahead_seconds=None),
    ]
    assert compare_clocks(clocks) == (0.0, "a:1", "b:1")
    assert compare_clocks([*clocks[1:], MemberClock(member="d:1", ahead_seconds=-9.0)]) == (8.9, "b:1", "d:1")
    assert compare_clocks([]) == (0.0, "", "")


def test_every_read_is_from_the_primary_and_of_what_a_majority_has(ledger: Ledger, replica_set: ReplicaSet) -> None:
    """Invariant 1, whatever the URL says. Fails without the read preference, and without the read concern."""
    primary = replica_set.primary()
    observer: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(
        f"mongodb://{primary.address}/?directConnection=true", timeoutMS=10_000
    )
    with observer:
        profiled = observer.get_database("ledger")
        profiled.command("profile", 2)
        try:
            ledger.records.log([new_record(1)], ledger.streams.server_time())
            assert [record.id for record in ledger.records.find_due("orders", fresh=True, limit=1)] == ["orders-1"]
        finally:
            profiled.command("profile", 0)
        (read,) = profiled["system.profile"].find({"ns": "ledger.records", "command.find": "records"})
        (written,) = profiled["system.profile"].find({"ns": "ledger.records", "op": "insert"})
        assert read["command"]["readConcern"] == {"level": "majority"}
        assert read["command"].get("$readPreference", {"mode": "primary"}) == {"mode": "primary"}
        assert written["command"]["writeConcern"].items() >= {"w": "majority", "j": True}.items()


def test_what_no_majority_has_is_not_read(ledger: Ledger, replica_set: ReplicaSet) -> None:
    """Invariant 1: it may be rolled back. Fails without the majority read concern."""
    primary = replica_set.primary()
    others = [member for member in replica_set.members if member is not primary]
    for member in others:
        member.administer({"configureFailPoint": "stopReplProducer", "mode": "alwaysOn"})
    try:
        alone: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(
            f"mongodb://{primary.address}/?directConnection=true", timeoutMS=10_000
        )
        with alone:
            records = alone.get_database("ledger", write_concern=pymongo.WriteConcern(w=1))["records"]
            records.insert_one({"_id": "orders-9", "hash": "h", "seq": 1, "logged_at": datetime.now(UTC)})
            assert records.with_options(read_concern=ReadConcern("local")).find_one({"_id": "orders-9"})
            assert ledger.records.load_logged(["orders-9"]) == []
    finally:
        for member in others:
            member.administer({"configureFailPoint": "stopReplProducer", "mode": "off"})
    assert eventually(lambda: ledger.records.load_logged(["orders-9"]), 30)


def test_a_member_that_does_not_answer_is_a_warning(ledger: Ledger, replica_set: ReplicaSet) -> None:
    """Comes last: it ends a member."""
    secondary = replica_set.find("secondary")[0]
    secondary.kill()
    finding = check_members(Examined(ledger))  # type: ignore[arg-type]
    assert finding.status == "warn"
    assert f"{secondary.address} of 3 members cannot be reached" in finding.detail
