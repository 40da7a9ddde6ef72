"""`syncctl status`: the current state of streams, queue, workers and Beat."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from syncctl.commands.options import AsJson
from syncctl.commands.session import open_session
from syncctl.commands.stop_signal import StopSignal
from syncctl.console import format_count, out
from syncctl.core.durations import format_age
from syncctl.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from syncctl.pipeline.status import Status

_COUNTS = ("pending", "retrying", "queued", "sending", "delivered", "failed", "superseded", "discarded")
COLUMNS = ("stream", "cursor", "last poll", "oldest due", *_COUNTS, "held", "breaker")
_OPTIONAL = ("oldest due", "held", "queued", "sending", "superseded", "discarded", "breaker")
_SHOWN_APART = ("paused", "partner_paused", "polls_paused", "quiet_hours", "circuit_open", "unknown_keys")
"""The obstacles that have a line of their own."""
_UNREMARKABLE = (None, 0, "closed")
_WITHOUT_REDIS = "nothing is lost, and rows are polled and sent once Redis can be used; run: syncctl doctor redis"
_WATCH_SECONDS = 2.0


def status(
    ctx: typer.Context,
    *,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh every 2 seconds until Ctrl-C.")] = False,
) -> ExitCode:
    """Show the current state of streams, queue, workers and Beat.

    Counts of finished records come from the reports and may be a minute old; all others are current.

    Examples:
        syncctl status
        syncctl status --watch
        syncctl status --json
    """
    if as_json and watch:
        raise UsageError(
            "--json and --watch cannot be combined", why="stdout carries one document", hint="omit one of them"
        )
    with open_session(ctx) as connections:
        from syncctl.wiring.operators import read_status

        if not watch:
            current = read_status(connections)
            if current.queue["error"]:
                out.warn(f"{current.queue['error']}; {_WITHOUT_REDIS}")
            if as_json:
                out.print_json(current)
            else:
                _show(current)
            return ExitCode.DONE
        with StopSignal(notice="") as stop:
            while not stop.is_set and not out.reader_gone:
                current = read_status(connections)
                out.clear()
                _show(current)
                stop.wait(_WATCH_SECONDS)
        return stop.exit_code


def _show(current: "Status") -> None:
    rows = [_describe_stream(stream) for stream in current.streams]
    # On a terminal, hide optional columns without a remarkable value.
    columns = [
        name
        for name in COLUMNS
        if name not in _OPTIONAL or not out.is_watched() or any(row[name] not in _UNREMARKABLE for row in rows)
    ]
    if rows:
        shown = [[row[name] for name in columns] for row in rows]
        out.table(columns, shown, delivered="green", failed="red", retrying="yellow")
    else:
        out.show("no streams yet; add one to syncctl.toml, or run: syncctl init --help")
    now = datetime.now(UTC)
    messages = current.queue["messages"]
    out.show(f"queue    {'unknown: Redis cannot be used' if messages is None else format_count(messages, 'message')}")
    for partner in current.partners:
        if partner["paused"] or partner["breaker"] != "closed":
            out.show(f"partner  {_describe_partner(partner, now)}")
    down = {partner["partner"] for partner in current.partners if partner["paused"] or partner["breaker"] == "open"}
    for stream in current.streams:
        for line in _describe_standstills(stream, now, is_partner_down=stream["partner"] in down):
            out.show(f"stream   {line}")
    names = [str(worker["worker"]) for worker in current.workers]
    out.show(f"workers  {f'{len(names)}: ' + ', '.join(names) if names else 'none; run: syncctl worker'}")
    out.show(f"beat     {_describe_beat(current.beat, now)}")
    for warning in _list_warnings(current, now):
        out.warn(warning)
    for number, step in enumerate(_list_steps(current)):
        out.say(f"{'next:' if number == 0 else '     '} {step}")


def _describe_standstills(stream: Mapping[str, Any], now: datetime, *, is_partner_down: bool) -> Iterator[str]:
    """Yield a line for whatever holds a stream, or some of its records."""
    name = stream["stream"]
    if stream["paused"]:
        yield f"{name} is {_describe_pause(stream, now)}; syncctl resume {name}"
    for obstacle in stream["obstacles"]:
        if obstacle["kind"] == "polls_paused":
            yield f"the polls of {name} are {obstacle['detail'].partition(' are ')[2]}; syncctl resume {name} --polls"
        if obstacle["kind"] == "quiet_hours":
            yield f"{name} is {obstacle['detail']}"
    if stream["breaker"] == "open" and not is_partner_down:
        reason, probe = stream["breaker_reason"], _describe_probe(stream, now)
        yield f"the endpoint of {name} is down (circuit open): {reason}; {probe}"
    if stream["awaiting_poll"]:
        count = format_count(stream["awaiting_poll"], "record")
        yield f"{count} of {name} wait for a poll that reads to the end; syncctl doctor streams"


def _list_warnings(current: "Status", now: datetime) -> Iterator[str]:
    """Yield what holds streams, or could, in one line each."""
    queue, beat = current.queue, current.beat
    if queue["unserved"] and current.workers:
        unserved = ",".join(queue["unserved"])
        yield f"no worker serves {unserved}; run: syncctl worker --queues {unserved}"
    if queue["dropped_recently"]:
        count = format_count(queue["dropped"], "message")
        yield f"workers dropped {count} that are not this project's; syncctl doctor queue"
    for job in beat["overdue"]:
        at = job["last_done_at"]
        last = f"was last done {_describe_age(at, now)}" if at else "was never done"
        yield f"{job['job']} {last}, although Beat asks for it; syncctl doctor beat workers"
    stale = [str(worker["worker"]) for worker in current.workers if worker["settings_differ"]]
    for name in [*stale, *(["beat"] if beat["settings_differ"] and not beat["late"] else [])]:
        yield f"{name} runs with settings that differ from syncctl.toml: restart it"
    for stream in current.streams:
        for obstacle in stream["obstacles"]:
            if obstacle["kind"] not in _SHOWN_APART:
                yield f"{stream['stream']}: {obstacle['detail']}; {obstacle['hint']}"


def _list_steps(current: "Status") -> list[str]:
    """Return the useful commands; the first is the one that the others depend on."""
    steps = [f"syncctl resume --partner {partner['partner']}" for partner in current.partners if partner["paused"]]
    paused = [stream["stream"] for stream in current.streams if stream["paused"]]
    steps += [f"syncctl resume {' '.join(paused)}"] if paused else []
    unpolled = [stream["stream"] for stream in current.streams if stream["polls_paused"] and not stream["paused"]]
    steps += [f"syncctl resume {' '.join(unpolled)} --polls"] if unpolled else []
    steps += ["syncctl failures"] if any(stream["counts"]["failed"] for stream in current.streams) else []
    return steps


def _describe_stream(stream: Mapping[str, Any]) -> dict[str, Any]:
    marks = ["paused"] if stream["paused"] else []
    marks += ["polls paused"] if stream["polls_paused"] else []
    marks += ["quiet hours"] if stream["quiet_until"] else []
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
        return f"{name} is {_describe_pause(partner, now)}; syncctl resume --partner {name}"
    reason = f": {partner['breaker_reason']}" if partner["breaker_reason"] else ""
    if partner["breaker"] == "half_open":
        return f"{name} is recovering: circuit half-open, limited calls"
    return f"{name} is down (circuit open){reason}; {_describe_probe(partner, now)}"


def _describe_pause(paused: Mapping[str, Any], now: datetime) -> str:
    since = f" since {paused['paused_since']:%Y-%m-%d %H:%M:%SZ}" if paused.get("paused_since") else ""
    probe = ""
    if paused.get("pause_probe_at"):
        probe = f"; next probe in {format_age(max((paused['pause_probe_at'] - now).total_seconds(), 0.0))}"
    until = f" until {paused['paused_until']:%Y-%m-%d %H:%M:%SZ}" if paused.get("paused_until") else ""
    return f"paused{since}{until}: {paused['paused_reason'] or 'no reason given'}{probe}"


def _describe_probe(breaker: Mapping[str, Any], now: datetime) -> str:
    return f"next probe in {format_age(max((breaker['next_probe_at'] - now).total_seconds(), 0.0))}"


def _describe_beat(beat: Mapping[str, Any], now: datetime) -> str:
    if beat["last_tick_at"] is None:
        return "never seen; run: syncctl beat"
    return _describe_age(beat["last_tick_at"], now) + ("; it is late; run: syncctl beat" if beat["late"] else "")


def _describe_age(at: datetime, now: datetime) -> str:
    return f"{format_age(max((now - at).total_seconds(), 0.0))} ago"
