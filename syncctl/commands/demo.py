"""`syncctl demo`: the whole way of a row on this machine, and the account of it."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from syncctl.commands.options import AsJson
from syncctl.commands.stopping import StopSignal
from syncctl.console import out
from syncctl.errors import ExitCode, TroubleFound

if TYPE_CHECKING:
    from syncctl.local.demo.account import Account
    from syncctl.local.demo.screen import Screen
    from syncctl.local.demo.snapshot import Snapshot
    from syncctl.local.demo.stage import Stage
    from syncctl.pipeline.report import Report

_STREAM = "orders"
_FAILURE_COLUMNS = ("count", "status", "message", "fingerprint")
_REPORT_COLUMNS = ("logged", "delivered", "failed", "superseded", "attempts", "retries", "p95_ms")


def demo(
    *,
    rows: Annotated[int, typer.Option("--rows", min=1, max=1_000_000, metavar="N", help="Rows of the source.")] = 2000,
    fail: Annotated[
        float, typer.Option("--fail", min=0.0, max=1.0, metavar="RATE", help="Share of calls that go wrong.")
    ] = 0.1,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Another seed, other failures.")] = 1,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the directory to look around in.")] = False,
    as_json: AsJson = False,
) -> ExitCode:
    """Watch rows travel on this machine, and prove that none was lost.

    Starts a real MongoDB and Redis, a worker and Beat in a temporary directory, fills a SQL table while it is
    read, and lets a partner answer slowly, with 429, 500, cut connections and a few permanent 422s. Then the
    partner is fixed, what failed is replayed, and every row is held against what the partner holds. Exit
    code 0: the account is exact.

    Examples:
        syncctl demo
        syncctl demo --rows 20000 --fail 0.3
        syncctl demo --rows 500 --json
        syncctl demo --keep                   and look around in it afterwards
    """
    from syncctl.local.demo.play import Stopped, perform
    from syncctl.local.demo.screen import open_screen
    from syncctl.local.demo.stage import Stage

    screen = open_screen()
    with StopSignal(notice="stopping; once more to stop at once") as stop:
        try:
            with Stage(rows=rows, fail=fail, seed=seed, keep=keep) as stage:
                try:
                    audience = _Audience(screen, as_json=as_json)
                    account = perform(stage, rows=rows, audience=audience, wait=stop.wait)
                finally:
                    screen.rest()
                    if keep:
                        out.say(f"stopping; everything stays in {stage.directory}")
        except Stopped:
            return stop.exit_code
        except TroubleFound as error:
            for note in getattr(error, "__notes__", ()):
                out.say(f"| {note}")
            raise
    if keep:
        account = replace(account, directory=str(stage.directory))
    if as_json:
        out.print_json(account)
    else:
        _show_account(account)
    _say_next(stage, account, keep=keep)
    return ExitCode.DONE if account.exact else ExitCode.TROUBLE


class _Audience:
    """Shows the demo to a person; with `--json`, stdout is kept for the account."""

    def __init__(self, screen: "Screen", *, as_json: bool) -> None:
        self._screen = screen
        self._as_json = as_json

    def tell(self, text: str) -> None:
        """Say what happens now."""
        self._screen.rest()
        out.say(text)

    def show(self, snapshot: "Snapshot") -> None:
        """Draw how it stands."""
        self._screen.show(snapshot)

    def show_failures(self, groups: Sequence[Any]) -> None:
        """List failed records by their error, as `syncctl failures` does."""
        self._screen.rest()
        if not self._as_json:
            rows = [[group[name] for name in _FAILURE_COLUMNS] for group in groups]
            out.table(_FAILURE_COLUMNS, rows, title="failed records by error", count="red")

    def show_report(self, report: "Report") -> None:
        """Show what happened, as `syncctl report` does."""
        self._screen.rest()
        if not self._as_json:
            rows = [[row.get(name) for name in _REPORT_COLUMNS] for row in report.rows]
            names = [name.replace("_", " ") for name in _REPORT_COLUMNS]
            out.table(names, rows, title=f"report of {_STREAM}", delivered="green", failed="red")


def _show_account(account: "Account") -> None:
    lines = (
        ("rows in the source", account.source_rows, f"written and changed {account.changes:,} times"),
        ("rows delivered", account.delivered, "newest content, compared value by value"),
        ("lost", account.lost, f"{account.stale:,} of them stale"),
        ("records in the ledger", account.records, "one for each version that a poll found"),
        ("calls the partner counted", account.calls, f"{account.distinct_keys:,} distinct keys applied"),
        ("repeated calls", account.repeated_calls, f"same key; {account.applied_before:,} were applied before"),
        ("sent again to be sure", account.resent, "an older version might have come later"),
        ("violations", account.violations, "same key, other bytes"),
        ("duplicated effects", account.duplicated_effects, "same key, applied twice"),
        ("failed, then replayed", account.replayed, f"{account.overtaken:,} more had a newer version by then"),
    )
    out.table(("account", "count", ""), lines, title="account")
    took = f"{account.duration_ms / 1000:.1f} s, {account.rows_per_second:,.0f} rows/s"
    if account.exact:
        out.show(f"exact: {account.source_rows:,} rows, none lost, none stale, each one accounted for")
        out.show(f"       {took}")
        return
    out.show(f"not exact ({took}):")
    for difference in account.differences:
        out.show(f"  {difference}")


def _say_next(stage: "Stage", account: "Account", *, keep: bool) -> None:
    if keep:
        mongo, redis = stage.services.mongod.port, stage.services.redis.port
        here = shlex.quote(str(stage.directory))
        out.say(f"look around: syncctl -C {here} local up --mongo-port {mongo} --redis-port {redis}")
        out.say(f"             syncctl -C {here} status     (or report, failures, show {_STREAM} 1)")
        out.say(f"             syncctl -C {here} local down && rm -r {here}")
    elif not account.exact:
        out.say("next: syncctl demo --keep, and read the logs in the directory that it names")
    out.say("next: syncctl init --help     your own table and partner")
    out.say("      syncctl local up        MongoDB and Redis to try it with")
