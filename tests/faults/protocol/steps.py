"""Run the state machine from a seed, which always takes the same steps."""

import os
from dataclasses import dataclass

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import invariant, run_state_machine_as_test

from tests.harness.servers import name_database

from .machine import Protocol
from .simulation import open_gated_ledger

STEPS_PER_EXAMPLE = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One kind of stream.

    Args:
        versioned: The source assigns versions; otherwise the content distinguishes them.
    """

    order: str
    versioned: bool

    def __str__(self) -> str:
        return f"{self.order}-{'versions-of-the-source' if self.versioned else 'versions-by-content'}"


VARIANTS = tuple(
    Variant(order=order, versioned=versioned) for versioned in (True, False) for order in ("latest", "none", "strict")
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """The figures of many examples.

    Args:
        steps: How many moves were made.
        calls: How many calls the partner got before the end, when everything is finished; without any, no invariant
            was at risk.
    """

    steps: int
    calls: int


def take_steps(mongo_url: str, variant: Variant, *, seed_number: int, examples: int, steps: int) -> Taken:
    """Run examples of at most `steps` steps each.

    SYNCCTL_PROTOCOL_SHRINK=1 looks for the shortest sequence that breaks an invariant.

    Raises:
        AssertionError: an invariant was broken; with the rules that led there.
    """
    database = name_database(mongo_url)
    with open_gated_ledger(mongo_url, database) as opened:

        class Machine(Protocol):
            ledger = opened
            order = variant.order
            versioned = variant.versioned
            taken = 0
            calls = 0

            @invariant()
            def count(self) -> None:
                # Hypothesis comes by after each rule.
                Machine.taken += 1

            def teardown(self) -> None:
                Machine.calls += len(self.partner.log)
                super().teardown()

        run_state_machine_as_test(
            seed(f"{variant} {seed_number}")(Machine),
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.generate, *([Phase.shrink] if os.environ.get("SYNCCTL_PROTOCOL_SHRINK") else [])],
                report_multiple_bugs=False,
            ),
        )
        return Taken(steps=Machine.taken, calls=Machine.calls)
