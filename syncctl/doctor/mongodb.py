"""mongodb, indexes: reachable, new enough, really acknowledged by a majority, on time, and fast."""

from collections.abc import Sequence
from datetime import UTC, datetime

from syncctl.doctor.check import Finding, Unit, failed, passed, warned
from syncctl.doctor.examined import Examined
from syncctl.doctor.redis_server import read_version
from syncctl.doctor.runner import explain
from syncctl.errors import ServiceUnavailable

# MongoDB's clock is read with $documents, which 5.0 does not know.
OLDEST = (6, 0)
CLOCKS_APART_SECONDS = 10.0


def list_units(examined: Examined) -> Sequence[Unit]:
    """Return the checks of MongoDB and of the ledger's indexes."""
    return (
        Unit(name="mongodb", look=lambda: check_server(examined)),
        Unit(name="mongodb majority", look=lambda: check_majority(examined), needs=("mongodb",)),
        Unit(name="mongodb clock", look=lambda: check_clock(examined), needs=("mongodb",)),
        Unit(name="indexes", look=lambda: check_indexes(examined), needs=("mongodb",)),
    )


def check_server(examined: Examined) -> Finding:
    """Tell whether MongoDB answers, and its version."""
    try:
        # The driver waits for a server that may yet come up; a refusal is an answer.
        examined.ledger.check_reachable(timeout_seconds=examined.timeout_seconds)
        version = str(examined.ledger.describe_server()["version"])
    except ServiceUnavailable as error:
        start = "start it (for a try on this machine: syncctl local up), or correct MONGO_URL"
        return explain(error, hint=start if "refused" in error.why else "")
    if read_version(version) < OLDEST:
        return failed(f"MongoDB {version} is too old", "upgrade MongoDB to 6.0 or later")
    return passed(f"MongoDB {version} answers, database {examined.settings.mongo_database}")


def check_majority(examined: Examined) -> Finding:
    """Tell whether a majority is more than one machine's journal, and whether writes go to the primary."""
    facts = examined.ledger.describe_server()
    if not facts["primary"]:
        return failed(
            "this member is not the primary, so nothing can be written",
            "name the replica set in MONGO_URL: mongodb://host1,host2,host3/celery_logs?replicaSet=NAME",
        )
    if not facts["replica_set"]:
        return warned(
            "no replica set: what a majority acknowledged is in the journal of one machine",
            "start mongod with --replSet NAME and run: mongosh --eval 'rs.initiate()'; better, with three members",
        )
    return passed(f"primary of the replica set {facts['replica_set']}")


def check_clock(examined: Examined) -> Finding:
    """Tell how far MongoDB's clock is from this machine's."""
    before = datetime.now(UTC)
    there = examined.ledger.streams.server_time()
    after = datetime.now(UTC)
    # Up to half the round trip is not the clock's fault.
    apart = abs((there - (before + (after - before) / 2)).total_seconds())
    detail = f"MongoDB's clock and this machine's are {apart:.1f} s apart"
    if apart < CLOCKS_APART_SECONDS:
        return passed(detail)
    return warned(
        f"{detail}; leases hold, since only MongoDB's counts, but logs and --since tell another time",
        "synchronise both machines: timedatectl set-ntp true",
    )


def check_indexes(examined: Examined) -> Finding:
    """Tell which index of the ledger is missing, or is not what it should be."""
    differences = examined.ledger.compare_indexes()
    if not differences:
        return passed("all are there")
    # Each line is `collection.name is missing` or `collection.name differs ...`.
    labels = [line.partition(" ")[0] for line in differences]
    missing = [label for label, line in zip(labels, differences, strict=True) if line.endswith("is missing")]
    different = [label for label in labels if label not in missing]
    found = [("missing", missing), ("different from what it should be", different)]
    detail = "\n".join(f"{what}: {', '.join(names)}" for what, names in found if names)
    drops = "; ".join('db.{}.dropIndex("{}")'.format(*label.split(".", 1)) for label in different)
    hint = "run: syncctl init --indexes"
    return failed(detail, f"in mongosh: {drops}; then {hint}" if drops else hint)
