"""`syncctl reconcile`: compare the source with the ledger, and log the rows that the ledger lacks."""

from typing import TYPE_CHECKING, Annotated

import typer

from syncctl.commands.filters import OneStream, StreamArgument, require_stream
from syncctl.commands.operator_name import name_operator
from syncctl.commands.options import AsJson, DryRun, Yes
from syncctl.commands.session import ask_consent, choose_configured, open_session
from syncctl.commands.times import parse_window
from syncctl.console import format_count, out
from syncctl.core.ids import show_key
from syncctl.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from syncctl.pipeline.operations.reconcile import Differences, Repair

_KINDS = {
    "missing": "in the source, not in the ledger",
    "stale": "in the ledger with different content",
    "extra": "in the ledger, not in the source",
}


def reconcile(
    ctx: typer.Context,
    *,
    named: StreamArgument = None,
    stream: OneStream = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="TIME",
            help="Compare only rows that were read after this time: 24h (ago), 7d, or 2026-01-31T08:00Z.",
        ),
    ] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Log missing and stale rows, and send them.")] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> ExitCode:
    """Compare the rows of the source with the ledger.

    Every row is read once. Tables of many millions of rows need little memory, but space in TMPDIR. Rows that seem to
    differ are checked again before they are reported. Exit code 1: rows are missing, stale or extra.

    Examples:
        syncctl reconcile orders
        syncctl reconcile orders --since 24h --json
        syncctl reconcile orders --repair --dry-run
        syncctl reconcile orders --repair --yes
    """
    stream = require_stream(named, stream, command="reconcile")
    begin, _ = parse_window(since, None)
    if dry_run and not repair:
        raise UsageError("--dry-run needs --repair", why="without it nothing is changed", hint="omit --dry-run")
    if repair and not (dry_run or yes or out.is_interactive()):
        # Fail before all rows are read if the question cannot be asked.
        ask_consent("log and send missing and stale rows?", yes=False)
    with open_session(ctx, acts=repair) as connections:
        (name,) = choose_configured(connections.settings, [stream])
        from syncctl.wiring.use_cases import open_reconciliation

        with open_reconciliation(connections, name, since=begin) as work:
            with out.progress(f"comparing {name}", unit="rows") as work.show:
                differences = work.compare()
            if not repair or dry_run or not differences.repairable:
                return _report(differences, as_json=as_json, repair=repair)
            if not (as_json or yes):
                _show(differences)
            if not ask_consent(f"log and send {format_count(differences.repairable, 'row')} of {name}?", yes=yes):
                return ExitCode.TROUBLE
            with out.progress(f"repairing {name}"):
                done = work.repair(who=name_operator())
    return _report(differences, as_json=as_json, repair=repair, done=done, is_shown=not (as_json or yes))


def _report(
    differences: "Differences", *, as_json: bool, repair: bool, done: "Repair | None" = None, is_shown: bool = False
) -> ExitCode:
    if as_json:
        out.print_json(differences)
    elif not is_shown:
        _show(differences)
    if done is not None:
        out.say(f"logged {format_count(done.logged, 'row')}; next: syncctl status")
        if done.failed or done.unreadable:
            out.warn(f"{format_count(done.failed + done.unreadable, 'row')} cannot be sent; run: syncctl failures")
    elif differences.repairable:
        rows = format_count(differences.repairable, "row")
        out.say(f"would log {rows}" if repair else f"next: syncctl reconcile {differences.stream} --repair")
    if differences.extra:
        out.say(f"extra rows are not changed: {differences.extra:,}; the partner may still have them (docs/sources.md)")
    left = differences.extra if done is not None and not done.failed and not done.unreadable else differences.all
    return ExitCode.TROUBLE if left else ExitCode.DONE


def _show(differences: "Differences") -> None:
    rows: list[tuple[str, object, str]] = [
        ("source rows", differences.source_rows, "compared"),
        ("accounted", differences.accounted, "the ledger has the same content"),
    ]
    rows.append(("ahead", differences.ahead, "the next poll will read them"))
    for kind, meaning in _KINDS.items():
        count = getattr(differences, kind)
        samples = [show_key(key) for key in differences.samples[kind][:3]]
        shown = f"{meaning}: {'; '.join(samples)}" if samples else meaning
        rows.append((kind, "-" if count is None else count, "not compared" if count is None else shown))
    out.table(("rows", "count", ""), rows, prose=("",))
