"""mongodb, indexes: whether MongoDB answers, is new enough, has a majority, and has the right time and indexes."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from syncctl.doctor.check import Finding, Unit, explain, failed, join_findings, passed, warned
from syncctl.doctor.redis import read_version
from syncctl.doctor.sql_server import CLOCKS_APART_SECONDS
from syncctl.errors import ConfigurationError, ServiceUnavailable
from syncctl.ledger.member_clocks import compare_clocks

if TYPE_CHECKING:
    from syncctl.doctor.examination import Services

MEMBERS_APART_SECONDS = 2.0
HISTORY_SECONDS = 60
"""A longer history is reported, because syncctl reads none of it."""

# MongoDB's clock is read with $documents, which 5.0 does not know.
OLDEST = (6, 0)


def list_units(services: "Services") -> Sequence[Unit]:
    """Return the checks of MongoDB and of the ledger's indexes."""
    return (
        Unit(name="mongodb", look=lambda: check_server(services)),
        Unit(name="mongodb majority", look=lambda: check_majority(services), needs=("mongodb",)),
        Unit(name="mongodb clock", look=lambda: check_clock(services), needs=("mongodb",)),
        Unit(name="mongodb members", look=lambda: check_members(services), needs=("mongodb",)),
        Unit(name="mongodb ledger", look=lambda: check_version(services), needs=("mongodb",)),
        Unit(name="indexes", look=lambda: check_indexes(services), needs=("mongodb",)),
    )


def check_server(services: "Services") -> Finding:
    """Check whether MongoDB answers, and its version."""
    try:
        # The driver would wait for a server that may still start; here, a refused connection ends the wait.
        services.ledger.check_reachable(timeout_seconds=services.timeout_seconds)
        version = str(services.ledger.describe_server()["version"])
        seconds = services.ledger.read_history_seconds()
    except ServiceUnavailable as error:
        start = "start it (for a try on this machine: syncctl local up), or correct MONGO_URL"
        return explain(error, hint=start if "refused" in error.why else "")
    if read_version(version) < OLDEST:
        return failed(f"MongoDB {version} is too old", "upgrade MongoDB to 6.0 or later")
    detail = f"MongoDB {version} answers, database {services.settings.mongo_database}"
    if seconds > HISTORY_SECONDS:
        detail += f"\nit keeps {seconds} s of history: with less, a long backlog is sent faster (docs/production.md)"
    return passed(detail)


def check_majority(services: "Services") -> Finding:
    """Check whether a majority is more than one machine's journal, and whether this primary takes writes."""
    facts = services.ledger.describe_server()
    if not facts["primary"]:
        return failed(
            "this member is not the primary, so nothing can be written",
            "name the replica set in MONGO_URL: mongodb://host1,host2,host3/celery_logs?replicaSet=NAME",
        )
    try:
        services.ledger.check_writable(timeout_seconds=services.timeout_seconds)
    except (ConfigurationError, ServiceUnavailable) as error:
        return explain(error)
    if not facts["replica_set"]:
        return warned(
            "not a replica set: a write that a majority acknowledged is in the journal of one machine only",
            "start mongod with --replSet NAME, best on three machines, and run: mongosh --eval 'rs.initiate()'",
        )
    return passed(f"primary of the replica set {facts['replica_set']}")


def check_clock(services: "Services") -> Finding:
    """Check how far MongoDB's clock is from this machine's."""
    before = datetime.now(UTC)
    there = services.ledger.streams.server_time()
    after = datetime.now(UTC)
    # A difference of up to half the round trip is ignored.
    apart = abs((there - (before + (after - before) / 2)).total_seconds())
    detail = f"MongoDB's clock and this machine's are {apart:.1f} s apart"
    if apart < CLOCKS_APART_SECONDS:
        return passed(detail)
    return warned(
        f"{detail}; leases are safe, because only MongoDB's clock counts, but logs and --since use another time",
        "synchronise both machines: timedatectl set-ntp true",
    )


def check_members(services: "Services") -> Finding:
    """Check whether every member of the replica set answers, and how far their clocks are apart."""
    clocks = services.ledger.read_member_clocks(timeout_seconds=services.timeout_seconds / 2)
    if len(clocks) < 2:
        return passed("a single member: it has no clocks to compare")
    silent = [clock.member for clock in clocks if clock.ahead_seconds is None]
    apart, ahead, behind = compare_clocks(clocks)
    findings = []
    if silent:
        findings.append(
            warned(
                f"{', '.join(silent)} of {len(clocks)} members cannot be reached from here",
                "start it, or open its port: if one more is lost, there may be no majority, and no write succeeds",
            )
        )
    if apart >= MEMBERS_APART_SECONDS:
        findings.append(
            warned(
                f"the clock of {ahead} is {apart:.1f} s ahead of that of {behind}; if one of them "
                "follows the other as the primary, leases end and retries come too early or too late by that much",
                "synchronise the machines of all members: timedatectl set-ntp true",
            )
        )
    return join_findings(findings or [passed(f"{len(clocks)} members answer; their clocks agree")])


def check_version(services: "Services") -> Finding:
    """Check whether the ledger's version is the one that this syncctl writes."""
    schema = services.ledger.schema
    form = schema.check()
    if form.version > schema.known:
        return warned(
            f"the ledger has version {form.version}, and this syncctl writes {schema.known}: it can use the "
            "ledger, but does not know what is new in it",
            f"run {form.written_by} or later on this machine too",
        )
    if form.version < schema.known and not form.is_empty:
        return warned(
            f"the ledger has version {form.version}, and this syncctl writes {schema.known}",
            "run: syncctl upgrade",
        )
    return passed(f"the ledger has version {schema.known}, which this syncctl writes")


def check_indexes(services: "Services") -> Finding:
    """Report indexes of the ledger that are missing or different."""
    differences = services.ledger.compare_indexes()
    if not differences:
        return passed("all indexes exist")
    # Each line is `collection.name is missing` or `collection.name differs ...`.
    labels = [line.partition(" ")[0] for line in differences]
    missing = [label for label, line in zip(labels, differences, strict=True) if line.endswith("is missing")]
    different = [label for label in labels if label not in missing]
    lists = [("missing", missing), ("different from the expected index", different)]
    detail = "\n".join(f"{what}: {', '.join(names)}" for what, names in lists if names)
    drops = "; ".join('db.{}.dropIndex("{}")'.format(*label.split(".", 1)) for label in different)
    hint = "run: syncctl init --indexes"
    return failed(detail, f"in mongosh: {drops}; then {hint}" if drops else hint)
