"""What the protocol does without a Beat, and what it does about a call that comes back from the dead."""

from pathlib import Path

from tests.faults.harness.plant import Layout, Plant, open_plant

LATENCY_SECONDS = 0.6


def poll(plant: Plant) -> None:
    done = plant.run("poll", "--once", "--json")
    assert done.exit_code == 0, done.stderr


def test_what_is_due_at_once_needs_no_beat(tmp_path: Path) -> None:
    """Each batch asks for what comes after it: many windows go through, and no tick of a Beat helps."""
    with open_plant(tmp_path / "plant", Layout(window=40, batch_size=10, lease_seconds=30.0)) as plant:
        plant.writer.insert(400)
        poll(plant)
        plant.start_worker()
        plant.wait_until_quiet()
        plant.writer.update(range(1, 200))
        poll(plant)
        plant.wait_until_quiet()
        plant.stop()
        account = plant.account()
    assert account.states == {"delivered": 599}
    assert account.calls == account.distinct_keys == 599
