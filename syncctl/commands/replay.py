"""`syncctl replay`: send existing records again."""

import time
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from syncctl.commands.filters import Error, Key, Limit, read_filters
from syncctl.commands.operator_name import name_operator
from syncctl.commands.options import AsJson, DryRun, Streams, Yes
from syncctl.commands.session import ask_consent, open_session
from syncctl.commands.stop_signal import AFTER_BATCH, StopSignal
from syncctl.commands.times import Since, Until, parse_seconds
from syncctl.console import out
from syncctl.core.states import TERMINAL, State
from syncctl.errors import ExitCode, TroubleFound

if TYPE_CHECKING:
    from syncctl.pipeline.operations.replay import Replayed
    from syncctl.pipeline.selection import Selection
    from syncctl.wiring.connections import Connections

_POLL_SECONDS = 0.5
_LOOK_SECONDS = 5.0
_FINISHED = tuple(state.value for state in TERMINAL)


def replay(
    ctx: typer.Context,
    *,
    state: Annotated[
        list[str] | None,
        typer.Option(
            "--state",
            metavar="STATE",
            help="failed (the default), delivered, superseded or discarded; may be repeated.",
        ),
    ] = None,
    stream: Streams = None,
    record_id: Annotated[
        list[str] | None,
        typer.Option("--id", metavar="ID", help="Only this record, by its id or the beginning of it; may be repeated."),
    ] = None,
    key: Key = None,
    since: Since = None,
    until: Until = None,
    error: Error = None,
    limit: Limit = None,
    new_key: Annotated[
        bool, typer.Option("--new-key", help="Use a new Idempotency-Key even for records that were never delivered.")
    ] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until every replayed record is finished.")] = False,
    timeout: Annotated[str, typer.Option("--timeout", metavar="DURATION", help="How long --wait may take.")] = "10m",
    as_json: AsJson = False,
) -> ExitCode:
    """Send existing records again.

    A record keeps its Idempotency-Key if its bytes are unchanged and it was never delivered; otherwise, or with
    --new-key, it gets a new one. A record whose row has a newer version is skipped. It is safe to repeat:
    a record that is already being delivered is not replayed twice. With --limit the oldest are sent, as a canary;
    syncctl records --oldest-first lists them.

    Examples:
        syncctl replay --dry-run                          count the failed records
        syncctl replay --stream orders --yes --wait       all failed records of a stream, and wait
        syncctl replay --error 4f1d2c77b05e --since 24h   one error, from the last day only
        syncctl replay --limit 10 --wait                  ten first, before all others
        syncctl replay --id orders-3f2a9c --state delivered
        syncctl replay --error 4f1d2c77b05e --new-key     the partner remembers its rejection of the old key
    """
    from syncctl.wiring import use_cases

    seconds = parse_seconds(timeout, flag="--timeout")
    filters = read_filters(
        streams=stream, states=state, allowed=_FINISHED, error=error, key=key, since=since, until=until, limit=limit
    )
    with open_session(ctx, acts=True) as connections:
        selection = filters.select(connections, ids=record_id or ())
        with out.progress("counting the records to replay") as show:
            plan = use_cases.replay(connections, selection, dry_run=True, who=name_operator(), show=show)
        if dry_run or plan.matched == plan.skipped:
            _report(plan, as_json=as_json, is_empty=not dry_run)
            if not plan.matched:
                _explain_nothing(selection)
            elif dry_run:
                _warn_of_outdated_workers(connections)
            return ExitCode.DONE
        _warn_of_outdated_workers(connections)
        count = plan.matched - plan.skipped
        if not ask_consent(f"replay {count:,} {'/'.join(selection.states)} records?", yes=yes):
            return ExitCode.TROUBLE
        replayed: list[str] = []
        with StopSignal(notice=AFTER_BATCH) as stop, out.progress("replaying", total=count, unit="records") as show:
            done = use_cases.replay(
                connections,
                selection,
                who=name_operator(),
                new_key=new_key,
                replayed_ids=replayed if wait else None,
                should_stop=lambda: stop.is_set,
                show=show,
            )
        _report(done, as_json=as_json)
        if stop.is_set:
            return stop.conclude(ExitCode.DONE)
        code = _wait_until_finished(connections, replayed, seconds=seconds) if wait else ExitCode.DONE
    if done.replayed and code is ExitCode.DONE:
        out.say("next: syncctl status" + ("; then the others, without --limit" if limit is not None else ""))
    return code


def _warn_of_outdated_workers(connections: "Connections") -> None:
    """Warn of workers that would send the records with other settings, another schema or another version."""
    from syncctl.wiring.use_cases import find_outdated_workers

    for worker in find_outdated_workers(connections):
        out.warn(f"{worker.name} {worker.difference}: restart it before the replay, or it sends as before")


def _explain_nothing(selection: "Selection") -> None:
    """Say why no record matches the given ids or error."""
    states = "/".join(selection.states)
    if selection.ids:
        out.say(f"none of the {len(selection.ids)} ids belongs to a {states} record")
        out.say(f"next: syncctl show {selection.ids[0]}, then give its state with --state")
    if selection.error is not None:
        out.say(f"no selected {states} record has the error {selection.error}")
        out.say("next: syncctl failures")


def _wait_until_finished(connections: "Connections", ids: list[str], *, seconds: float) -> ExitCode:
    """Wait until every record is finished, and show their states; return TROUBLE if a record failed again.

    While waiting, show the obstacle that delays them whenever it changes.
    """
    until = time.monotonic() + seconds
    obstacle: str | None = None
    looked_at: float | None = None
    # An id consists of the stream's name and a hash.
    streams = {record_id.rpartition("-")[0] for record_id in ids}
    with (
        StopSignal(notice="no longer waiting; the records are still being delivered") as stop,
        out.progress("waiting", total=len(ids), unit="records") as show,
    ):
        while (
            left := _count_left(counts := connections.ledger.records.count_by_state(ids))
        ) and time.monotonic() < until:
            show(len(ids) - left)
            if looked_at is None or time.monotonic() - looked_at > _LOOK_SECONDS:
                looked_at = time.monotonic()
                if (current := _find_obstacle(connections, streams)) != obstacle:
                    obstacle = current
                    out.say(f"{left:,} to go; {obstacle}" if obstacle else f"{left:,} to go")
            if stop.wait(_POLL_SECONDS):
                return stop.exit_code
    if left:
        raise TroubleFound(
            f"{left:,} of {len(ids):,} replayed records are not finished after {seconds:g} s",
            why=obstacle or "they are waiting for their next attempt, or for a worker",
            hint="run: syncctl status",
        )
    ended = ", ".join(f"{count:,} {state}" for state, count in sorted(counts.items()))
    out.say(f"all {len(ids):,} records are finished: {ended}")
    if counts.get(State.FAILED.value):
        out.say("next: syncctl failures")
        return ExitCode.TROUBLE
    return ExitCode.DONE


def _count_left(counts: Mapping[str, int]) -> int:
    """Return how many records are not finished."""
    return sum(count for state, count in counts.items() if State(state) not in TERMINAL)


def _find_obstacle(connections: "Connections", streams: Collection[str]) -> str | None:
    """Return the obstacle that keeps records of these streams from being sent; None if there is none."""
    from syncctl.wiring.use_cases import read_status

    status = read_status(connections)
    selected = [stream for stream in status.streams if stream["stream"] in streams]
    partners = {stream["partner"] for stream in selected}
    for partner in (partner for partner in status.partners if partner["partner"] in partners):
        if partner["paused"]:
            reason = partner["paused_reason"] or "no reason given"
            return f"partner {partner['partner']} is paused: {reason}"
        if partner["breaker"] == "open":
            return f"partner {partner['partner']} is down (circuit open): {partner['breaker_reason']}"
    for stream in selected:
        if stream["paused"]:
            return f"stream {stream['stream']} is paused: {stream['paused_reason'] or 'no reason given'}"
        if stream["breaker"] == "open":
            return f"the endpoint of stream {stream['stream']} is down (circuit open): {stream['breaker_reason']}"
    return None if status.workers else "no worker is running"


def _report(result: "Replayed", *, as_json: bool, is_empty: bool = False) -> None:
    if as_json:
        out.print_json(
            {
                "matched": result.matched,
                "replayed": result.replayed,
                "skipped": result.skipped,
                "dry_run": result.dry_run,
            }
        )
    elif is_empty:
        out.show("nothing to replay")
    elif result.dry_run:
        out.show(f"would replay {result.matched - result.skipped:,} of {result.matched:,} records")
    else:
        out.show(f"replayed {result.replayed:,} of {result.matched:,} records")
    if result.skipped:
        out.say(f"skipped {result.skipped:,}: the ledger has a newer version of the row, or the record cannot be sent")
