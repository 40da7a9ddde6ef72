"""`syncctl discard`: give up on failed records, with a reason."""

from typing import Annotated

import typer

from syncctl.commands.options import AsJson, DryRun, Yes
from syncctl.commands.session import ask_consent, name_operator, open_session
from syncctl.console import format_count, out
from syncctl.errors import ExitCode, UsageError


def discard(
    ctx: typer.Context,
    *,
    ids: Annotated[
        list[str], typer.Argument(metavar="ID", help="A record's id or the beginning of one; may be repeated.")
    ],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="The reason, which is kept on the record.")],
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> ExitCode:
    """Give up on failed records, with a reason.

    A discarded record is never sent. The record and the audit log keep the reason, the user and the time.
    `syncctl replay --state discarded --id ID` undoes it.

    Examples:
        syncctl discard orders-55035a --reason "order was cancelled"
        syncctl discard ID ID --reason "test data" --yes --json
        syncctl discard ID --reason "test data" --dry-run
    """
    from syncctl.pipeline.record_ids import complete_ids
    from syncctl.pipeline.replay import Selection, discard_records

    if not reason.strip():
        raise UsageError(
            "--reason is empty", why="the audit log would not say why", hint="give the reason in a few words"
        )
    with open_session(ctx, acts=True) as connections:
        selection = Selection(ids=complete_ids(connections.ledger, ids), states=("failed", "pending"))
        ledger, who = connections.ledger, name_operator()
        result = discard_records(ledger=ledger, selection=selection, reason=reason, who=who, dry_run=True)
        if result.matched and not dry_run:
            if not ask_consent(f"discard {format_count(result.matched, 'record')}?", yes=yes):
                return ExitCode.TROUBLE
            streams = connections.settings.streams
            result = discard_records(
                ledger=ledger,
                selection=selection,
                reason=reason,
                who=who,
                written_back=[name for name, stream in streams.items() if stream.write_back],
            )
    if as_json:
        out.print_json({"matched": result.matched, "discarded": result.discarded, "dry_run": result.dry_run})
    elif result.dry_run:
        out.show(f"would discard {format_count(result.matched, 'record')}")
    else:
        out.show(f"discarded {result.discarded:,} of {format_count(result.matched, 'record')}")
    if result.matched < len(selection.ids):
        missed = len(selection.ids) - result.matched
        out.warn(f"{missed:,} of {format_count(len(selection.ids), 'id')} not failed or pending; run: syncctl show ID")
        return ExitCode.TROUBLE
    if result.discarded and not result.dry_run:
        out.say("next: syncctl failures")
    return ExitCode.DONE
