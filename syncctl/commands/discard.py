"""`syncctl discard`: give up on failed records, with a reason."""

from typing import Annotated

import typer

from syncctl.commands.filters import Error, Key, Limit, is_any_given, read_filters
from syncctl.commands.operator_name import name_operator
from syncctl.commands.options import AsJson, DryRun, Streams, Yes
from syncctl.commands.session import ask_consent, open_session
from syncctl.commands.stop_signal import AFTER_BATCH, StopSignal
from syncctl.commands.times import Since, Until
from syncctl.console import format_count, out
from syncctl.core.states import RETRYING, State
from syncctl.errors import ExitCode, UsageError

_ALLOWED = (State.FAILED.value, State.PENDING.value, RETRYING)


def discard(
    ctx: typer.Context,
    *,
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID", help="A record's id or the beginning of one; may be repeated.")
    ] = None,
    reason: Annotated[str, typer.Option("--reason", metavar="REASON", help="The reason, which is kept on the record.")],
    state: Annotated[
        list[str] | None,
        typer.Option(
            "--state",
            metavar="STATE",
            help="failed, pending or retrying; may be repeated. Default: failed; with an ID, all three.",
        ),
    ] = None,
    stream: Streams = None,
    key: Key = None,
    since: Since = None,
    until: Until = None,
    error: Error = None,
    limit: Limit = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> ExitCode:
    """Give up on failed records, with a reason.

    Records are named by their ids or selected by the filters; without either nothing is discarded. A discarded record
    is not sent any more, unless `syncctl replay --state discarded --id ID` sends it after all. The record and the audit
    log keep the reason, the user and the time.

    Examples:
        syncctl discard orders-55035a --reason "order was cancelled"
        syncctl discard ID ID --reason "test data" --yes --json
        syncctl discard --stream orders --error 4f1d2c77b05e --reason "test data" --dry-run
    """
    from syncctl.pipeline.operations.replay import discard_records

    if not reason.strip():
        raise UsageError(
            "--reason is empty", why="the audit log would not say why", hint="give the reason in a few words"
        )
    if not is_any_given(ids, state, stream, key, since, until, error):
        raise UsageError(
            "no record is selected",
            why="this command has no default",
            hint="name ids, or select records: --stream, --state, --error, --key, --since, --until",
        )
    filters = read_filters(
        streams=stream, states=state, allowed=_ALLOWED, by_default=_ALLOWED if ids else (State.FAILED.value,),
        error=error, key=key, since=since, until=until, limit=limit,
    )  # fmt: skip
    with open_session(ctx, acts=True) as connections:
        selection = filters.select(connections, ids=ids or ())
        ledger, who = connections.prepared_ledger, name_operator()
        with out.progress("counting the records to discard") as show:
            result = discard_records(
                ledger=ledger, selection=selection, reason=reason, who=who, dry_run=True, show=show
            )
        stop = StopSignal(notice=AFTER_BATCH)
        if result.matched and not dry_run:
            if not ask_consent(f"discard {format_count(result.matched, 'record')}?", yes=yes):
                return ExitCode.TROUBLE
            streams = connections.settings.streams
            with stop, out.progress("discarding", total=result.matched, unit="records") as show:
                result = discard_records(
                    ledger=ledger,
                    selection=selection,
                    reason=reason,
                    who=who,
                    written_back=[name for name, stream in streams.items() if stream.write_back],
                    should_stop=lambda: stop.is_set,
                    show=show,
                )
    if as_json:
        out.print_json({"matched": result.matched, "discarded": result.discarded, "dry_run": result.dry_run})
    elif result.dry_run:
        out.show(f"would discard {format_count(result.matched, 'record')}")
    else:
        out.show(f"discarded {result.discarded:,} of {format_count(result.matched, 'record')}")
    if stop.is_set:
        return stop.conclude(ExitCode.DONE)
    if not result.matched and not selection.ids:
        out.say(f"no selected record is {'/'.join(selection.states)}; next: syncctl failures")
    if result.matched < len(selection.ids) and limit is None:
        missed = len(selection.ids) - result.matched
        out.warn(f"{missed:,} of {format_count(len(selection.ids), 'id')} not failed or pending; run: syncctl show ID")
        return ExitCode.TROUBLE
    if result.discarded and not result.dry_run:
        out.say("next: syncctl failures")
    return ExitCode.DONE
