"""All invariants at once, on real processes under seeded faults; `python -m tests.faults.soak` runs more seeds."""

from pathlib import Path

import pytest

from tests.faults.seeded_runs import run_seed


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [12, 15, 29])
def test_after_faults_the_account_is_exact(tmp_path: Path, seed: int) -> None:
    finished = run_seed(seed, tmp_path / "deployment")
    assert finished.account.rows > 200
    assert len(finished.faults) >= 8, "each fault that was drawn took effect"
