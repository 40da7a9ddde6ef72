"""Inject seeded faults: `python -m tests.faults.soak --runs 40 --steps 20000 --seed 1`."""

import argparse
import logging
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.faults.protocol.steps import STEPS_PER_EXAMPLE, VARIANTS, Variant, take_steps
from tests.faults.seeded_runs import run_seed
from tests.harness import servers

EXAMPLES_PER_RUN = 20


@dataclass(kw_only=True, slots=True)
class Tally:
    """The runs so far, and those that failed."""

    runs: int = 0
    steps: int = 0
    calls: int = 0
    broken: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    marks: Counter[str] = field(default_factory=Counter)

    def attempt(self, name: str, act: Callable[[], str]) -> None:
        """Do one run, and report it in one line, or in more if it failed."""
        began = time.monotonic()
        try:
            summary = act()
        except Exception as error:  # noqa: BLE001 - every error of a run is reported with its seed
            self.broken.append(name)
            say(f"{name}: BROKEN after {time.monotonic() - began:.0f} s\n{tell(error)}\n")
        else:
            say(f"{name}: {summary} ({time.monotonic() - began:.0f} s)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do the runs one after the other; return 1 if an invariant was broken or an account was not exact."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--runs", type=int, default=40, metavar="N", help="runs of real processes")
    parser.add_argument("--steps", type=int, default=20_000, metavar="N", help="steps of the state machine, in all")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="the first; each run takes the next")
    parser.add_argument("--verbose", action="store_true", help="print each fault as it happens")
    chosen = parser.parse_args(arguments)
    # The pipeline runs in this process and logs everything it does.
    logging.disable(logging.CRITICAL)
    tally = Tally()
    if chosen.steps:
        soak_protocol(tally, first_seed=chosen.seed, steps=chosen.steps)
    for seed in range(chosen.seed, chosen.seed + chosen.runs):
        tally.attempt(f"deployment seed {seed}", partial(break_deployment, tally, seed, chosen.verbose))
    say(f"{tally.steps} steps of the state machine with {tally.calls} calls, {tally.runs} of {chosen.runs} runs exact")
    say("faults that took effect: " + ", ".join(f"{kind} {times}" for kind, times in sorted(tally.faults.items())))
    say("what they did: " + ", ".join(f"{mark}={times}" for mark, times in sorted(tally.marks.items())))
    say(f"broken: {', '.join(tally.broken) or 'none'}")
    return 1 if tally.broken else 0


def soak_protocol(tally: Tally, *, first_seed: int, steps: int) -> None:
    """Run this many steps in all, an equal share with each kind of stream."""
    share = -(-steps // len(VARIANTS))
    with servers.serve_mongod() as mongod:
        for variant in VARIANTS:
            seed, goal = first_seed, tally.steps + share
            broken = len(tally.broken)
            while tally.steps < goal and len(tally.broken) == broken:
                act = partial(break_protocol, tally, mongod.url("protocol"), variant, seed)
                tally.attempt(f"protocol {variant} seed {seed}", act)
                seed += 1


def break_protocol(tally: Tally, url: str, variant: Variant, seed: int) -> str:
    """Run the state machine once from a seed; return a summary."""
    taken = take_steps(url, variant, seed_number=seed, examples=EXAMPLES_PER_RUN, steps=STEPS_PER_EXAMPLE)
    tally.steps += taken.steps
    tally.calls += taken.calls
    return f"steps={taken.steps} calls={taken.calls}"


def break_deployment(tally: Tally, seed: int, verbose: bool) -> str:
    """Run a deployment under the faults of a seed; return a summary."""
    with tempfile.TemporaryDirectory(prefix="syncctl-soak-") as directory:
        finished = run_seed(seed, Path(directory) / "deployment", say if verbose else lambda _: None)
    tally.runs += 1
    tally.faults.update(finished.faults)
    account = finished.account
    tally.marks.update(
        calls=account.calls, repeats=account.repeats, lost=account.lost, late=account.late, resent=account.resent
    )
    return str(finished)


def tell(error: BaseException) -> str:
    """Return an error with its notes, in which Hypothesis lists the steps that led to it."""
    return "\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())])


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
