"""`syncctl demo`: deliver rows on this machine to an unreliable partner, and account for every row."""

import shlex
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from syncctl.commands.options import AsJson
from syncctl.commands.stop_signal import StopSignal
from syncctl.console import out
from syncctl.errors import ExitCode, TroubleFound

if TYPE_CHECKING:
    from collections.abc import Mapping

    from syncctl.local.demo.account import Account
    from syncctl.local.demo.environment import DemoEnvironment


def demo(
    *,
    rows: Annotated[
        int, typer.Option("--rows", min=1, max=1_000_000, metavar="N", help="Number of rows in the source.")
    ] = 2000,
    fail: Annotated[
        float, typer.Option("--fail", min=0.0, max=1.0, metavar="RATE", help="Share of calls that fail.")
    ] = 0.1,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", help="The same seed produces the same rows and failures.")
    ] = 1,
    documents: Annotated[
        bool,
        typer.Option(
            "--documents",
            help="Send orders with their lines, to a partner with ids of its own and without idempotency.",
        ),
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the directory so that you can look around.")] = False,
    as_json: AsJson = False,
) -> ExitCode:
    """Watch rows arrive on this machine, and prove that none is lost.

    Starts a real MongoDB and Redis, a worker and Beat in a temporary directory, and fills a SQL table while syncctl
    reads it. The partner answers slowly, sometimes with 429 or 500, drops connections, and refuses a few rows for good
    with 422. Then the partner is fixed, the failed records are replayed, and every row is compared with the partner's
    copy. Exit code 0: every row is accounted for.

    With --documents, each order is sent with its lines and its JSON column. The partner creates the order under an id
    of its own, which later versions use to update it, and ignores the Idempotency-Key: after a lost answer, syncctl
    asks the partner for the order before it creates the order again. The partner's ids are written back into the
    source.

    Examples:
        syncctl demo
        syncctl demo --rows 20000 --fail 0.3
        syncctl demo --rows 500 --json
        syncctl demo --documents
        syncctl demo --keep                   and look around in it afterwards
    """
    from syncctl.local.demo.environment import DemoEnvironment
    from syncctl.local.demo.scenario import Stopped, run_demo
    from syncctl.local.demo.screen import DemoDisplay

    display = DemoDisplay(as_json=as_json)
    with StopSignal(notice="stopping; press Ctrl-C again to stop at once") as stop:
        try:
            with DemoEnvironment(rows=rows, fail=fail, seed=seed, keep=keep, documents=documents) as environment:
                try:
                    account = run_demo(environment, rows=rows, display=display, wait=stop.wait)
                finally:
                    display.pause()
                    if keep:
                        out.say(f"stopping; everything is kept in {environment.directory}")
        except Stopped:
            return stop.exit_code
        except TroubleFound as error:
            for note in getattr(error, "__notes__", ()):
                out.say(f"| {note}")
            raise
    if keep:
        account = replace(account, directory=str(environment.directory))
    if as_json:
        out.print_json(account)
    else:
        _show_account(account)
    _say_next(environment, account, keep=keep)
    return ExitCode.DONE if account.exact else ExitCode.TROUBLE


def _show_account(account: "Account") -> None:
    lines: tuple[tuple[str, int, str], ...] = (
        ("rows in the source", account.source_rows, f"inserted and updated {account.changes:,} times"),
        ("rows delivered", account.delivered, "newest content, compared value by value"),
        ("lost", account.lost, f"{account.stale:,} of them stale"),
        ("records in the ledger", account.records, "one for each version that a poll found"),
        ("calls the partner received", account.calls, f"{account.distinct_keys:,} distinct keys applied"),
        ("repeated calls", account.repeated_calls, f"same key; {account.applied_before:,} had been applied before"),
        ("sent again to be sure", account.resent, "an older version might have arrived later"),
        ("violations", account.violations, "same key, different bytes"),
        ("duplicated effects", account.duplicated_effects, "same key, applied twice"),
        ("failed, then replayed", account.replayed, f"{account.overtaken:,} more had a newer version by then"),
    )
    if account.documents is not None:
        lines += _list_document_lines(account.documents)
    out.table(("account", "count", ""), lines, title="account", prose=("",))
    took = f"{account.duration_ms / 1000:.1f} s, {account.rows_per_second:,.0f} rows/s"
    if account.exact:
        out.show(f"exact: {account.source_rows:,} rows, none lost, none stale, each one accounted for")
        out.show(f"       {took}")
        return
    out.show(f"not exact ({took}):")
    for difference in account.differences:
        out.show(f"  {difference}")


def _list_document_lines(counts: "Mapping[str, int]") -> tuple[tuple[str, int, str], ...]:
    return (
        ("lines in the source", counts["lines"], "compared as part of their rows"),
        ("objects created", counts["created"], f"by POST; {counts['updated']:,} updates by PUT under their ids"),
        ("created twice", counts["created_twice"], "the partner ignores the Idempotency-Key"),
        ("asked before creating", counts["lookups"], f"{counts['found']:,} were there: only the answer was lost"),
        ("ids written back", counts["written_back"], "rows that have the id of their object, and no error"),
    )


def _say_next(environment: "DemoEnvironment", account: "Account", *, keep: bool) -> None:
    if keep:
        mongo, redis = environment.services.mongod.port, environment.services.redis.port
        here = shlex.quote(str(environment.directory))
        out.say(f"look around: syncctl -C {here} local up --mongo-port {mongo} --redis-port {redis}")
        out.say(f"             syncctl -C {here} status     (or report, failures, show orders 1)")
        out.say(f"             syncctl -C {here} local down && rm -r {here}")
    elif not account.exact:
        out.say("next: run syncctl demo --keep, and read the logs in the directory that it names")
    out.say("next: syncctl init --help     set up your own table and partner")
    out.say("      syncctl local up        start MongoDB and Redis to try it with")
