"""Runs of the state machine from a seed, which makes the same moves each time."""

import os
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.errors import Flaky
from hypothesis.stateful import invariant, run_state_machine_as_test

from syncctl.core.stream import Ambiguous, Mode
from tests.harness.servers import name_database

from .clock import simulated_time
from .machine import Protocol
from .simulation import Objects, open_gated_ledger

STEPS_PER_EXAMPLE = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One kind of stream that the protocol carries."""

    order: str
    mode: Mode
    append_only: bool = False
    #: How many rows go in one call.
    rows: int = 1
    ambiguous: Ambiguous = "retry"
    max_in_flight: int | None = None
    #: Whether rows are sent with a line of another table.
    lines: bool = False
    #: Whether outcomes are written back into the source.
    write_back: bool = False
    objects: Objects | None = None
    #: Whether the partner is asked even before the first create of an object.
    always_asks: bool = False
    #: The share of the usual number of examples; less than 1 if a step costs twice as much.
    share: float = 1.0

    def __str__(self) -> str:
        more = ["append-only"] if self.append_only else []
        more += [f"{self.rows}-rows-a-call"] if self.rows > 1 else []
        more += ["never-twice"] if self.ambiguous == "fail" else []
        more += [f"{self.max_in_flight}-in-flight"] if self.max_in_flight is not None else []
        more += ["lines"] if self.lines else []
        more += ["write-back"] if self.write_back else []
        more += [f"objects-by-{self.objects}"] if self.objects is not None else []
        more += ["always"] if self.always_asks else []
        return "-".join([self.order, self.mode, *more])


VARIANTS = (
    Variant(order="latest", mode="rowversion"),
    Variant(order="none", mode="rowversion"),
    Variant(order="strict", mode="rowversion"),
    Variant(order="latest", mode="increasing"),
    Variant(order="none", mode="increasing"),
    Variant(order="strict", mode="increasing"),
    Variant(order="latest", mode="change_tracking"),
    Variant(order="latest", mode="flag"),
    Variant(order="latest", mode="snapshot"),
    Variant(order="strict", mode="snapshot"),
    Variant(order="latest", mode="increasing", append_only=True),
    Variant(order="latest", mode="rowversion", rows=2),
    Variant(order="latest", mode="rowversion", ambiguous="fail"),
    Variant(order="latest", mode="increasing", max_in_flight=1),
    Variant(order="strict", mode="rowversion", max_in_flight=2),
    Variant(order="latest", mode="rowversion", lines=True, write_back=True, objects="lookup", share=0.5),
    Variant(order="latest", mode="snapshot", write_back=True, objects="keys", share=0.5),
    Variant(order="strict", mode="change_tracking", lines=True, objects="lookup", share=0.5),
    Variant(order="latest", mode="rowversion", rows=2, objects="keys", share=0.3),
    Variant(order="latest", mode="snapshot", rows=2, objects="lookup", always_asks=True, share=0.3),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """The result of a number of examples."""

    #: How many moves were made.
    steps: int
    #: How many calls landed at the partner before the final quiet; without any, nothing was at stake.
    calls: int
    #: How often each event happened to records.
    counts: Counter[str]


def take_steps(mongo_url: str, variant: Variant, *, seed_number: int, examples: int, steps: int) -> Taken:
    """Run a number of examples, of at most `steps` steps each.

    With SYNCCTL_PROTOCOL_SHRINK=1, Hypothesis looks for the shortest way to a failure.

    Raises:
        AssertionError: an invariant was broken; with the moves that led there.
    """
    database = name_database(mongo_url)
    opened, gates = open_gated_ledger(mongo_url, database)
    with opened, simulated_time():

        class Machine(Protocol):
            ledger = opened
            gated = gates
            order = variant.order
            mode = variant.mode
            append_only = variant.append_only
            rows_per_call = variant.rows
            ambiguous = variant.ambiguous
            max_in_flight = variant.max_in_flight
            has_lines = variant.lines
            writes_back = variant.write_back
            objects = variant.objects
            always_asks = variant.always_asks
            failures: ClassVar[list[str]] = []
            taken = 0
            calls = 0
            counts: ClassVar[Counter[str]] = Counter()

            @invariant()
            def count(self) -> None:
                # Hypothesis calls this after each rule.
                Machine.taken += 1

            def teardown(self) -> None:
                Machine.calls += len(self.partner.log)
                Machine.counts.update(self.oracle.counts)
                super().teardown()

        try:
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
        except Flaky as error:
            # MongoDB's clock is real: two of its times may be equal in one run and not in the next.
            raise AssertionError("\n".join(Machine.failures[:1] or [str(error)])) from error
        return Taken(steps=Machine.taken, calls=Machine.calls, counts=Machine.counts)
