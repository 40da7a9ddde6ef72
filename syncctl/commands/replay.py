"""`syncctl replay`: send existing records again."""

import re
import time
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from syncctl.commands.options import AsJson, DryRun, Since, Streams, Until, Yes, parse_seconds, parse_window
from syncctl.commands.session import ask_consent, choose_known, name_operator, open_session
from syncctl.commands.stopping import StopSignal
from syncctl.console import out
from syncctl.core.states import TERMINAL, State
from syncctl.errors import ExitCode, TroubleFound, UsageError

if TYPE_CHECKING:
    from syncctl.pipeline.replay import Replayed
    from syncctl.pipeline.selection import Selection
    from syncctl.wiring.connections import Connections

_POLL_SECONDS = 0.5
_LOOK_SECONDS = 5.0
FINGERPRINT_DIGITS = 12
_FINGERPRINT = re.compile(r"[0-9a-f]{6,12}")
_ERRORS_AT_MOST = 100_000
_SHOWN_AT_MOST = 5


def replay(
    ctx: typer.Context,
    *,
    state: Annotated[
        list[str] | None,
        typer.Option("--state", metavar="STATE", help="failed (default), delivered, superseded or discarded."),
    ] = None,
    stream: Streams = None,
    record_id: Annotated[
        list[str] | None, typer.Option("--id", metavar="ID", help="Only this record; may be repeated.")
    ] = None,
    since: Since = None,
    until: Until = None,
    error: Annotated[
        str | None,
        typer.Option("--error", metavar="FINGERPRINT", help="Only records that failed with this error; 6 digits do."),
    ] = None,
    new_key: Annotated[
        bool, typer.Option("--new-key", help="A new Idempotency-Key also for what was never delivered.")
    ] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until every replayed record is finished.")] = False,
    timeout: Annotated[str, typer.Option("--timeout", metavar="DURATION", help="How long --wait waits.")] = "10m",
    as_json: AsJson = False,
) -> ExitCode:
    """Send existing records again.

    A record goes out under its own Idempotency-Key as long as its bytes are the same and it was never
    delivered; else, or with --new-key, under a new one. One that a newer version of its row has overtaken is
    skipped. It is safe to repeat: what is already on its way is not replayed twice.

    Examples:
        syncctl replay --dry-run                          how many failed records there are
        syncctl replay --stream orders --yes --wait       all failed ones of a stream, and wait
        syncctl replay --error 4f1d2c77b05e --since 24h   one error of the last day
        syncctl replay --id 3f2a... --state delivered
        syncctl replay --error 4f1d2c77b05e --new-key     the partner keeps its refusal by the old key
    """
    from syncctl.pipeline.selection import Selection
    from syncctl.pipeline.status import group_failures
    from syncctl.wiring import operators

    states = _choose_states(state)
    mark = None if error is None else _read_fingerprint(error, states)
    begin, end = parse_window(since, until)
    seconds = parse_seconds(timeout, flag="--timeout")
    with open_session(ctx) as connections:
        names = choose_known(connections, stream)
        if mark is not None and len(mark) < FINGERPRINT_DIGITS:
            found = group_failures(
                ledger=connections.ledger, streams=names, since=begin, until=end, limit=_ERRORS_AT_MOST
            )
            mark = _complete_fingerprint(mark, [group["fingerprint"] for group in found.groups])
        selection = Selection(
            ids=tuple(record_id or ()), streams=names, states=states, since=begin, until=end, error=mark
        )
        plan = operators.replay(connections, selection, dry_run=True, who=name_operator())
        if dry_run or plan.matched == plan.skipped:
            _report(plan, as_json=as_json, nothing=not dry_run)
            if not plan.matched:
                _explain_nothing(selection)
            return ExitCode.DONE
        count = plan.matched - plan.skipped
        if not ask_consent(f"replay {count:,} {'/'.join(selection.states)} records?", yes=yes):
            return ExitCode.TROUBLE
        ids: list[str] = []
        done = operators.replay(connections, selection, who=name_operator(), new_key=new_key, replayed_ids=ids)
        _report(done, as_json=as_json)
        code = _wait_until_finished(connections, ids, seconds=seconds) if wait else ExitCode.DONE
    if ids and code is ExitCode.DONE:
        out.say("next: syncctl status")
    return code


def _choose_states(states: list[str] | None) -> tuple[str, ...]:
    """Return the states to replay from; records that are not finished are on their way already.

    Raises:
        UsageError: a state that no record is replayed from.
    """
    allowed = tuple(state.value for state in TERMINAL)
    for state in states or ():
        if state not in allowed:
            raise UsageError(
                f"records cannot be replayed from the state {state}",
                why="only finished records are sent again",
                hint=f"--state takes {', '.join(allowed)}",
            )
    return tuple(dict.fromkeys(states or ("failed",)))


def _read_fingerprint(text: str, states: tuple[str, ...]) -> str:
    """Return the fingerprint of an error, or its first digits, in small letters.

    Raises:
        UsageError: it is neither, or too short for the states.
    """
    mark = text.strip().lower()
    if _FINGERPRINT.fullmatch(mark) is None:
        raise UsageError(
            f"--error {text} is no fingerprint of an error",
            why=f"one has {FINGERPRINT_DIGITS} digits, 0 to 9 and a to f; its first 6 do where no other begins so",
            hint="run: syncctl failures",
        )
    if len(mark) < FINGERPRINT_DIGITS and states != ("failed",):
        raise UsageError(
            f"--error {text} is not a whole fingerprint",
            why="its first digits do for failed records alone",
            hint=f"write all {FINGERPRINT_DIGITS} digits",
        )
    return mark


def _complete_fingerprint(begin: str, known: Iterable[str]) -> str:
    """Return the one fingerprint that begins so; the text itself where there is none.

    Raises:
        UsageError: there are several.
    """
    found = sorted(mark for mark in known if mark.startswith(begin))
    if len(found) > 1:
        raise UsageError(
            f"--error {begin} is the beginning of {len(found)} errors",
            why=", ".join(found[:_SHOWN_AT_MOST]) + (", ..." if len(found) > _SHOWN_AT_MOST else ""),
            hint="write more of its digits",
        )
    return found[0] if found else begin


def _explain_nothing(selection: "Selection") -> None:
    """Say why nothing was meant, where something was named."""
    states = "/".join(selection.states)
    if selection.ids:
        out.say(f"none of the {len(selection.ids)} ids is that of a {states} record")
        out.say(f"next: syncctl show {selection.ids[0]}; then name its state: --state")
    if selection.error is not None:
        out.say(f"no {states} record that is meant has the error {selection.error}")
        out.say("next: syncctl failures")


def _wait_until_finished(connections: "Connections", ids: list[str], *, seconds: float) -> ExitCode:
    """Wait until none of the records is on its way, and tell what became of them; failed again is trouble.

    What they wait for is told when it changes.
    """
    until = time.monotonic() + seconds
    hold: str | None = None
    looked_at: float | None = None
    # An id is that of its stream and a hash.
    streams = {each.rpartition("-")[0] for each in ids}
    with (
        StopSignal(notice="not waiting any longer; the records go on") as stop,
        out.progress("replay", total=len(ids)) as show,
    ):
        while (
            left := _count_left(counts := connections.ledger.records.count_by_state(ids))
        ) and time.monotonic() < until:
            show(len(ids) - left)
            if looked_at is None or time.monotonic() - looked_at > _LOOK_SECONDS:
                looked_at = time.monotonic()
                if (found := _find_hold(connections, streams)) != hold:
                    hold = found
                    out.say(f"{left:,} to go; {hold}" if hold else f"{left:,} to go")
            if stop.wait(_POLL_SECONDS):
                return stop.exit_code
    if left:
        raise TroubleFound(
            f"{left:,} of {len(ids):,} replayed records are not finished after {seconds:g} s",
            why=hold or "they wait for their next attempt, or for a worker",
            hint="run: syncctl status",
        )
    ended = ", ".join(f"{count:,} {state}" for state, count in sorted(counts.items()))
    out.say(f"all {len(ids):,} are finished: {ended}")
    if counts.get(State.FAILED.value):
        out.say("next: syncctl failures")
        return ExitCode.TROUBLE
    return ExitCode.DONE


def _count_left(counts: Mapping[str, int]) -> int:
    """Return how many records are on their way."""
    return sum(count for state, count in counts.items() if State(state) not in TERMINAL)


def _find_hold(connections: "Connections", streams: Collection[str]) -> str | None:
    """Return what keeps records of these streams from being sent, in words; None where nothing does."""
    from syncctl.wiring.operators import read_status

    status = read_status(connections)
    meant = [each for each in status.streams if each["stream"] in streams]
    partners = {each["partner"] for each in meant}
    for partner in (each for each in status.partners if each["partner"] in partners):
        if partner["paused"]:
            reason = partner["paused_reason"] or "no reason given"
            return f"partner {partner['partner']} is paused: {reason}"
        if partner["breaker"] == "open":
            return f"partner {partner['partner']} counts as down: {partner['breaker_reason']}"
    for stream in meant:
        if stream["paused"]:
            return f"stream {stream['stream']} is paused: {stream['paused_reason'] or 'no reason given'}"
        if stream["breaker"] == "open":
            return f"stream {stream['stream']} fails at its endpoint: {stream['breaker_reason']}"
    return None if status.workers else "no worker is running"


def _report(result: "Replayed", *, as_json: bool, nothing: bool = False) -> None:
    if as_json:
        out.print_json(
            {
                "matched": result.matched,
                "replayed": result.replayed,
                "skipped": result.skipped,
                "dry_run": result.dry_run,
            }
        )
    elif nothing:
        out.show("nothing to replay")
    elif result.dry_run:
        out.show(f"would replay {result.matched - result.skipped:,} of {result.matched:,} records")
    else:
        out.show(f"replayed {result.replayed:,} of {result.matched:,} records")
    if result.skipped:
        out.say(f"{result.skipped:,} skipped: a newer version of the row was delivered")
