"""`syncctl reconcile`: compare the source with the ledger, and log what it lacks."""

from typing import TYPE_CHECKING, Annotated

import typer

from syncctl.commands.options import AsJson, DryRun, Since, Yes, parse_window
from syncctl.commands.session import ask_consent, choose_configured, name_operator, open_session
from syncctl.console import out
from syncctl.console.counts import say_count
from syncctl.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from syncctl.pipeline.differences import Differences
    from syncctl.pipeline.repair import Repair

_KINDS = {
    "missing": "in the source, not in the ledger",
    "stale": "in the ledger with another content",
    "extra": "in the ledger, not in the source",
}


def reconcile(
    ctx: typer.Context,
    *,
    stream: Annotated[str, typer.Argument(metavar="STREAM", help="Which stream.")],
    since: Since = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Log rows that are missing or stale, and send them.")
    ] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> ExitCode:
    """Compare the rows of the source with what the ledger knows of them.

    Every row is read once; tables of many millions of rows need little memory, but room in TMPDIR. What seems
    to differ is looked at again before it counts. Exit code 1: rows are missing, stale or extra.

    Examples:
        syncctl reconcile orders
        syncctl reconcile orders --since 24h --json
        syncctl reconcile orders --repair --dry-run
        syncctl reconcile orders --repair --yes
    """
    begin, _ = parse_window(since, None)
    if dry_run and not repair:
        raise UsageError("--dry-run needs --repair", why="without it nothing is changed", hint="leave --dry-run out")
    if repair and not (dry_run or yes or out.is_interactive()):
        # Before all rows are read, for nobody will be there to answer.
        ask_consent("log and send the rows that are missing or stale", yes=False)
    with open_session(ctx) as connections:
        (name,) = choose_configured(connections.settings, [stream])
        from syncctl.wiring.operators import open_reconciliation

        with open_reconciliation(connections, name, since=begin) as work:
            with out.progress(f"rows of {name}") as work.show:
                found = work.compare()
            if not repair or dry_run or not found.repairable:
                return _report(found, as_json=as_json, repair=repair)
            if not (as_json or yes):
                _show(found)
            if not ask_consent(f"log and send {say_count(found.repairable, 'row')} of {name}?", yes=yes):
                return ExitCode.TROUBLE
            done = work.repair(who=name_operator())
    return _report(found, as_json=as_json, repair=repair, done=done, is_shown=not (as_json or yes))


def _report(
    found: "Differences", *, as_json: bool, repair: bool, done: "Repair | None" = None, is_shown: bool = False
) -> ExitCode:
    if as_json:
        out.print_json(found)
    elif not is_shown:
        _show(found)
    if done is not None:
        out.say(f"logged {say_count(done.logged, 'row')}; next: syncctl status")
        if done.failed or done.unreadable:
            out.warn(f"{say_count(done.failed + done.unreadable, 'row')} cannot be sent; run: syncctl failures")
    elif found.repairable:
        rows = say_count(found.repairable, "row")
        out.say(f"would log {rows}" if repair else f"next: syncctl reconcile {found.stream} --repair")
    if found.extra:
        out.say(f"extra rows are left as they are: {found.extra:,}, the partner may still have them (docs/sources.md)")
    left = found.extra if done is not None and not done.failed and not done.unreadable else found.all
    return ExitCode.TROUBLE if left else ExitCode.DONE


def _show(found: "Differences") -> None:
    rows: list[tuple[str, object, str]] = [
        ("source rows", found.source_rows, "compared"),
        ("accounted", found.accounted, "the ledger holds them so"),
    ]
    rows.append(("ahead", found.ahead, "the next poll finds them"))
    for kind, meaning in _KINDS.items():
        count = getattr(found, kind)
        samples = [",".join(f"{name}={value}" for name, value in key.items()) for key in found.samples[kind][:3]]
        told = f"{meaning}: {'; '.join(samples)}" if samples else meaning
        rows.append((kind, "-" if count is None else count, "not compared" if count is None else told))
    out.table(("rows", "count", ""), rows)
