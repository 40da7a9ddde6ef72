"""One seeded run: a deployment under faults, then quiet, then the account."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from syncctl.local.mock_partner import PartnerConfig
from tests.faults.fault import play
from tests.faults.process_faults import draw_script
from tests.harness import passing_time
from tests.harness.account import Account
from tests.harness.deployment import Deployment, Layout, open_deployment
from tests.harness.waiting import eventually

FAULTS_WITHIN_SECONDS = 6.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """A run whose account was exact.

    Args:
        faults: The kinds of the faults that took effect, including a clock that was off.
    """

    seed: int
    script: tuple[str, ...]
    faults: tuple[str, ...]
    replayed: int
    account: Account

    def __str__(self) -> str:
        return f"faults: {', '.join(self.faults)}; replayed={self.replayed} {self.account}"


def draw_layout(random: Random, *, seed: int) -> Layout:
    """Draw the shape of a run."""
    mood = PartnerConfig(
        seed=seed,
        latency_seconds=random.choice([0.05, 0.15, 0.3]),
        too_many_rate=random.choice([0.0, 0.02]),
        error_rate=random.choice([0.0, 0.05]),
        drop_before_rate=random.choice([0.0, 0.02]),
        drop_after_rate=random.choice([0.0, 0.02]),
        reject_rate=random.choice([0.0, 0.02]),
    )
    return Layout(
        partner=mood,
        seed=seed,
        concurrency=2,
        pool=random.choice(["prefork", "prefork", "threads"]),
        batch_size=random.choice([5, 20]),
        page_size=random.choice([50, 500]),
        lease_seconds=random.choice([4.0, 6.0]),
        order=random.choice(["latest", "latest", "strict", "none"]),
        partner_section={"rate": "500/second"},
        journal=random.choice(["wal", "delete"]),
        wired=seed % 2 == 1,
        documents=seed % 3 == 0,
        members=3 if seed % 4 == 0 else 1,
        clock_seconds=random.choice([0.0, 0.0, 3600.0, -3600.0]),
    )


def run_seed(seed: int, directory: Path, note: Callable[[str], None] = lambda _: None) -> Finished:
    """Run the faults of a seed and return the account.

    Raises:
        AssertionError: something did not arrive, did not end correctly, or is not accounted for; with the script.
    """
    random = Random(seed)
    layout = draw_layout(random, seed=seed)
    script: list[str] = [str(layout)]

    def tell(line: str) -> None:
        script.append(line)
        note(line)

    note(script[0])
    with open_deployment(directory, layout) as deployment:
        try:
            faults, replayed = break_and_mend(deployment, random, tell)
            account = deployment.account()
            clean_up_and_read_again(deployment, tell)
        except (AssertionError, OSError, TimeoutError) as error:
            raise AssertionError("\n".join([f"seed {seed}", *script, str(error)])) from error
    return Finished(seed=seed, script=tuple(script), faults=faults, replayed=replayed, account=account)


def clean_up_and_read_again(deployment: Deployment, tell: Callable[[str], None]) -> None:
    """Let days pass, remove finished records, and read every row again: nothing is sent that was sent before.

    Raises:
        AssertionError: something was sent, or the source and the ledger differ.
    """
    tell("clean up")
    passing_time.let_hours_pass(deployment.ledger, 48)
    cleaned = deployment.run("cleanup", "--older-than", "1h", "--yes", "--json")
    assert cleaned.exit_code == 0, cleaned.stderr
    left = deployment.ledger.records.count_documents({"state": {"$in": ["delivered", "superseded"]}})
    assert left == 0, f"{left} finished records were not removed: {cleaned.stdout}"
    calls = len(deployment.partner.calls())
    done = deployment.run("rewind", "orders", "--to", "beginning", "--yes")
    assert done.exit_code == 0, done.stderr
    deployment.start_worker()
    deployment.start_beat()
    deployment.wait_until_quiet()
    compared = deployment.run("reconcile", "orders", "--json")
    assert compared.exit_code == 0, compared.stdout
    deployment.stop()
    assert len(deployment.partner.calls()) == calls, "rows were sent again that had not changed"


def break_and_mend(deployment: Deployment, random: Random, tell: Callable[[str], None]) -> tuple[tuple[str, ...], int]:
    """Play the faults, let the deployment come to rest, replay failed records.

    Returns:
        The kinds of the faults that took effect, and how many records were replayed.
    """
    deployment.writer.insert(300)
    deployment.start_worker()
    deployment.start_worker()
    deployment.start_beat()
    eventually(deployment.partner.calls, 120)
    deployment.writer.start(rows=4, pause_seconds=0.1)
    faults = play(draw_script(deployment, random, seconds=FAULTS_WITHIN_SECONDS), tell)
    deployment.writer.stop()
    deployment.wait_for_leaving()
    tell("quiet")
    deployment.wait_until_quiet()
    if deployment.check_clocks():
        faults += (f"clock of a worker {'ahead' if deployment.layout.clock_seconds > 0 else 'behind'}",)
    deployment.partner.fix()
    replayed = 0
    if deployment.ledger.records.count_documents({"state": "failed"}):
        done = deployment.run("replay", "--yes", "--wait", "--json")
        assert done.exit_code == 0, done.stderr
        replayed = int(done.json["replayed"])
        deployment.wait_until_quiet()
    tell("stop")
    deployment.stop()
    return faults, replayed
