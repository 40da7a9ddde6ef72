"""Invariants 1 to 8 under interleavings that Hypothesis draws; `python -m tests.faults.soak` draws more."""

import os

import pytest

from .protocol.steps import STEPS_PER_EXAMPLE, VARIANTS, Variant, take_steps

EXAMPLES = int(os.environ.get("SYNCCTL_PROTOCOL_EXAMPLES", "10"))
STEPS = int(os.environ.get("SYNCCTL_PROTOCOL_STEPS", str(STEPS_PER_EXAMPLE)))
SEED = int(os.environ.get("SYNCCTL_PROTOCOL_SEED", "1"))


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.timeout(0)
def test_no_interleaving_breaks_an_invariant(mongo_url: str, variant: Variant) -> None:
    examples = max(1, round(variant.share * EXAMPLES))
    taken = take_steps(mongo_url, variant, seed_number=SEED, examples=examples, steps=STEPS)
    assert taken.steps > examples
    assert taken.calls > examples / 2
