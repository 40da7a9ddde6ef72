"""`syncctl status`: streams, queue, workers and beat as they are now."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from syncctl.commands.options import AsJson
from syncctl.commands.session import open_session
from syncctl.commands.stopping import StopSignal
from syncctl.console import out
from syncctl.console.counts import say_count
from syncctl.core.durations import format_age
from syncctl.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from syncctl.pipeline.status import Status

_COUNTS = ("pending", "retrying", "queued", "sending", "delivered", "failed", "superseded", "discarded")
COLUMNS = ("stream", "cursor", "last poll", "oldest due", *_COUNTS, "held", "breaker")
_SOMETIMES = ("oldest due", "held", "queued", "sending", "superseded", "discarded", "breaker")
_UNREMARKABLE = (None, 0, "closed")
_WATCH_SECONDS = 2.0


def status(
    ctx: typer.Context,
    *,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again and again until Ctrl-C.")] = False,
) -> ExitCode:
    """Show streams, queue, workers and beat as they are now.

    Counts of finished records come from the reports and may be a minute behind; all others are counted now.

    Examples:
        syncctl status
        syncctl status --watch
        syncctl status --json
    """
    if as_json and watch:
        raise UsageError(
            "--json and --watch exclude each other", why="stdout carries one document", hint="leave one out"
        )
    with open_session(ctx) as connections:
        from syncctl.wiring.operators import read_status

        if not watch:
            found = read_status(connections)
            if as_json:
                out.print_json(found)
            else:
                _show(found)
            return ExitCode.DONE
        with StopSignal(notice="") as stop:
            while not stop.is_set and not out.reader_gone:
                found = read_status(connections)
                out.clear()
                _show(found)
                stop.wait(_WATCH_SECONDS)
        return stop.exit_code


def _show(found: "Status") -> None:
    rows = [_describe_stream(each) for each in found.streams]
    # A person at a terminal of 80 columns sees the counts that say something.
    columns = [
        name
        for name in COLUMNS
        if name not in _SOMETIMES or not out.is_watched() or any(row[name] not in _UNREMARKABLE for row in rows)
    ]
    if rows:
        shown = [[row[name] for name in columns] for row in rows]
        out.table(columns, shown, delivered="green", failed="red", retrying="yellow")
    else:
        out.show("no streams yet; add one to syncctl.toml, or run: syncctl init --help")
    now = datetime.now(UTC)
    messages = found.queue["messages"]
    out.show(f"queue    {'unknown: Redis cannot be reached' if messages is None else say_count(messages, 'message')}")
    for each in found.partners:
        if each["paused"] or each["breaker"] != "closed":
            out.show(f"partner  {_describe_partner(each, now)}")
    down = {each["partner"] for each in found.partners if each["paused"] or each["breaker"] == "open"}
    for each in found.streams:
        if each["paused"]:
            why = each["paused_reason"] or "no reason given"
            out.show(f"stream   {each['stream']} is paused: {why}; syncctl resume {each['stream']}")
        if each["breaker"] == "open" and each["partner"] not in down:
            left = format_age(max((each["next_probe_at"] - now).total_seconds(), 0.0))
            out.show(
                f"stream   {each['stream']} fails at its endpoint: {each['breaker_reason']}; asked again in {left}"
            )
    names = [str(worker["worker"]) for worker in found.workers]
    out.show(f"workers  {f'{len(names)}: ' + ', '.join(names) if names else 'none; run: syncctl worker'}")
    out.show(f"beat     {_describe_beat(found.beat, now)}")
    stale = [str(worker["worker"]) for worker in found.workers if worker["settings_differ"]]
    for name in [*stale, *(["beat"] if found.beat["settings_differ"] and not found.beat["late"] else [])]:
        out.warn(f"{name} runs with other settings than syncctl.toml: restart it")
    for each in found.streams:
        if each.get("last_error"):
            out.warn(f"{each['stream']}: {each['last_error']}")
    for at, step in enumerate(_list_steps(found)):
        out.say(f"{'next:' if at == 0 else '     '} {step}")


def _list_steps(found: "Status") -> list[str]:
    """Return the useful commands, the one without which the others do little first."""
    steps = [f"syncctl resume --partner {each['partner']}" for each in found.partners if each["paused"]]
    paused = [each["stream"] for each in found.streams if each["paused"]]
    steps += [f"syncctl resume {' '.join(paused)}"] if paused else []
    steps += ["syncctl failures"] if any(each["counts"]["failed"] for each in found.streams) else []
    return steps


def _describe_stream(stream: Mapping[str, Any]) -> dict[str, Any]:
    marks = ["paused"] if stream["paused"] else []
    if not stream.get("configured", True):
        marks.append("not configured")
    name = stream["stream"] + (f" ({', '.join(marks)})" if marks else "")
    at, oldest = stream["last_poll_at"], stream["oldest_due_seconds"]
    last_poll = _describe_age(at, datetime.now(UTC)) if at else None
    oldest_due = None if oldest is None else format_age(oldest)
    return {
        "stream": name,
        "cursor": stream["cursor"],
        "last poll": last_poll,
        "oldest due": oldest_due,
        **{state: stream["counts"][state] for state in _COUNTS},
        "held": stream["held"],
        "breaker": stream["breaker"],
    }


def _describe_partner(partner: Mapping[str, Any], now: datetime) -> str:
    name = partner["partner"]
    if partner["paused"]:
        return f"{name} is paused: {partner['paused_reason'] or 'no reason given'}; syncctl resume --partner {name}"
    reason = f": {partner['breaker_reason']}" if partner["breaker_reason"] else ""
    if partner["breaker"] == "half_open":
        return f"{name} is back and is called gently"
    left = max((partner["next_probe_at"] - now).total_seconds(), 0.0)
    return f"{name} counts as down{reason}; one record asks again in {format_age(left)}"


def _describe_beat(beat: Mapping[str, Any], now: datetime) -> str:
    if beat["last_tick_at"] is None:
        return "never seen; run: syncctl beat"
    return _describe_age(beat["last_tick_at"], now) + ("; it is late, run: syncctl beat" if beat["late"] else "")


def _describe_age(at: datetime, now: datetime) -> str:
    return f"{format_age(max((now - at).total_seconds(), 0.0))} ago"
