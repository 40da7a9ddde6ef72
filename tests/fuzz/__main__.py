"""Try random settings and command lines: `python -m tests.fuzz --settings 10000 --commands 1000 --seed 1`."""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from syncctl.local.mock_partner import MockPartner
from tests.fuzz.command_fuzz import try_command
from tests.fuzz.settings_fuzz import try_settings
from tests.harness import servers
from tests.harness.settings_files import write_settings
from tests.harness.source_db import SourceDb


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all trials; print each that ends in a traceback, in exit code 70 or not at all, and return 1 if one does."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--settings", type=int, default=10_000, metavar="N", help="set-ups to load")
    parser.add_argument("--commands", type=int, default=1_000, metavar="N", help="command lines to run")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="the same seed draws the same trials")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="the number of the first trial")
    chosen = parser.parse_args(arguments)
    faults = try_all("settings", chosen.first, chosen.settings, partial(try_settings, chosen.seed))
    if chosen.commands:
        with open_directory() as directory:
            one = partial(try_command, chosen.seed, template=directory)
            faults += try_all("command", chosen.first, chosen.commands, one)
    return 1 if faults else 0


def try_all(kind: str, first: int, count: int, one: Callable[[int], str | None]) -> int:
    """Run trials of one kind, and return how many ended badly."""
    began, faults = time.monotonic(), 0
    for number in range(first, first + count):
        fault = one(number)
        if fault is not None:
            faults += 1
            say(f"{kind} {number}: {fault}\n")
    say(f"{kind}: {count} trials in {time.monotonic() - began:.0f} s, {faults} ended badly")
    return faults


@contextmanager
def open_directory() -> Iterator[Path]:
    """Give a set-up of a stream over real servers; the table has rows of every kind of trouble."""
    with ExitStack() as stack:
        mongod = stack.enter_context(servers.serve_mongod())
        redis = stack.enter_context(servers.serve_redis())
        partner = stack.enter_context(MockPartner())
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="syncctl-fuzz-home-")))
        source = SourceDb(home / "source.db")
        source.create_orders(20)
        source.execute('create table "order lines" (sku text, n integer)')
        yield write_settings(
            home / "settings",
            mongo_url=mongod.url("fuzz"),
            redis_url=redis.url(),
            source_url=source.url,
            partner_url=partner.url,
            project="fuzz",
        )


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
