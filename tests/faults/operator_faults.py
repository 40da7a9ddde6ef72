"""The operations of operators while everything else breaks: rewind, replay, repair, discard."""

from collections.abc import Sequence
from functools import partial
from random import Random

from pymongo.errors import PyMongoError

from tests.faults.fault import Draw, Fault
from tests.harness.commands import Completed
from tests.harness.deployment import Deployment, Layout

DIFFERENCES_FOUND = 1


def rewind(deployment: Deployment, _random: Random, *, resend: bool) -> Fault:
    """Read all rows again, once no poll holds the lease; with `resend` each of them is sent once more."""

    def act() -> bool:
        more = ["--resend"] if resend else []
        return run(deployment, "rewind", "orders", "--to", "beginning", "--yes", *more).exit_code == 0

    return Fault(kind="rewind and resend" if resend else "rewind", first=act)


def repair(deployment: Deployment, _random: Random) -> Fault:
    """Compare the source with the ledger, and log rows that are missing."""

    def act() -> bool:
        done = run(deployment, "reconcile", "orders", "--repair", "--yes", "--json")
        return done.exit_code in (0, DIFFERENCES_FOUND) and done.stdout != ""

    return Fault(kind="repair", first=act)


def replay(deployment: Deployment, _random: Random) -> Fault:
    """Send delivered and failed records again."""

    def act() -> bool:
        states = ("--state", "failed", "--state", "delivered")
        done = run(deployment, "replay", *states, "--yes", "--json")
        return done.exit_code == 0 and int(done.json["replayed"]) > 0

    return Fault(kind="replay", first=act)


def discard(deployment: Deployment, random: Random) -> Fault:
    """Give up a record that has failed, once there is one."""

    def act() -> bool:
        try:
            failed = sorted(record["_id"] for record in deployment.ledger.records.find({"state": "failed"}))
        except PyMongoError:
            return False
        if not failed:
            return False
        done = run(deployment, "discard", random.choice(failed), "--reason", "$given up", "--yes", "--json")
        return done.exit_code == 0 and int(done.json["discarded"]) == 1

    return Fault(kind="discard", first=act)


def run(deployment: Deployment, *args: str) -> Completed:
    """Run a command that may find its services unavailable."""
    return deployment.run(*args, timeout=300)


OPERATIONS: Sequence[Draw] = (partial(rewind, resend=False), partial(rewind, resend=True), repair, replay)


def draw_operator(layout: Layout) -> Sequence[Draw]:
    """Return the operations of operators; records are discarded only if the layout makes some fail."""
    return (*OPERATIONS, discard) if layout.partner.reject_rate > 0 else OPERATIONS
