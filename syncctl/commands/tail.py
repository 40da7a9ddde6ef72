"""`syncctl tail`: attempts as they happen."""

from collections.abc import Callable, Iterator, Sequence
from datetime import date
from typing import TYPE_CHECKING, Annotated

import typer

from syncctl.commands.filters import Key, choose_states, read_fingerprint
from syncctl.commands.options import Streams
from syncctl.commands.records import format_key
from syncctl.commands.session import choose_known, open_session
from syncctl.commands.silence import Patience, Silence
from syncctl.commands.stop_signal import StopSignal
from syncctl.commands.times import Since, parse_window
from syncctl.console import format_time, out
from syncctl.core.safe_text import make_safe_line
from syncctl.core.states import State
from syncctl.errors import ExitCode, ServiceUnavailable

if TYPE_CHECKING:
    from syncctl.ledger.attempt_feed import Attempt
    from syncctl.pipeline.inspection.tail import AttemptFeed

READ_EVERY_SECONDS = 1.0
STATES = ("delivered", "retrying", "failed", "superseded", "discarded")
"""The states in which an attempt may leave a record."""
_STYLES = {"delivered": "green", "retrying": "yellow", "failed": "red"}
_WIDTHS = {"stream": 12, "key": 12, "state": 12}


def tail(
    ctx: typer.Context,
    *,
    stream: Streams = None,
    state: Annotated[
        list[str] | None,
        typer.Option(
            "--state",
            metavar="STATE",
            help="Only attempts after which the record was delivered, retrying, failed, superseded or discarded.",
        ),
    ] = None,
    error: Annotated[
        str | None,
        typer.Option(
            "--error", metavar="FINGERPRINT", help="Only attempts with this error; its first 6 digits are enough."
        ),
    ] = None,
    key: Key = None,
    since: Since = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="End after N attempts.")] = None,
    follow: Annotated[
        bool, typer.Option("--follow/--no-follow", help="Wait for attempts to come, or end with the last one.")
    ] = True,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document for each attempt, each on its own line.")
    ] = False,
) -> ExitCode:
    """Show attempts as they happen, until Ctrl-C.

    Each attempt is one line: when it was answered, the row, what became of the record, the HTTP status, the latency and
    the error. None is missed, and none comes twice. If MongoDB cannot be reached for a while, tail says so, waits, and
    goes on where it stopped.

    Without --since it begins now. A record keeps only its last 50 attempts.

    Examples:
        syncctl tail
        syncctl tail --stream orders --state failed --state retrying
        syncctl tail --stream orders --key 5 --since 24h
        syncctl tail --error 4f1d2c --json
        syncctl tail --since 1h --no-follow --json > attempts.jsonl
    """
    begin, _ = parse_window(since, None)
    states = choose_states(state, allowed=STATES, by_default=())
    mark = None if error is None else read_fingerprint(error, (State.FAILED.value,))
    with open_session(ctx) as connections:
        from syncctl.pipeline.inspection.tail import AttemptFeed, AttemptFilter
        from syncctl.wiring.use_cases import prove_answering

        names = choose_known(connections, stream)
        ledger = connections.prepared_ledger
        wanted = AttemptFilter(streams=names, states=states, error=mark, key=key)
        feed = AttemptFeed(ledger, wanted, begin or ledger.streams.server_time())
        write = out.print_json_lines if as_json else _Lines().write
        if follow and begin is None and not as_json:
            out.say("waiting for attempts; Ctrl-C ends")
        patience = Patience(lambda: prove_answering(connections))
        silence = Silence("MongoDB", patience, after="; no attempt was missed")
        with StopSignal(notice="") as stop:
            _follow(feed, write, stop, silence, limit=limit, follow=follow)
    return stop.exit_code if stop.exit_code == ExitCode.TERMINATED else ExitCode.DONE


def _follow(
    feed: "AttemptFeed",
    write: "Callable[[Sequence[Attempt]], None]",
    stop: StopSignal,
    silence: Silence,
    *,
    limit: int | None,
    follow: bool,
) -> None:
    """Write attempts until a signal or the limit; without `follow`, until the last attempt.

    Raises:
        ServiceUnavailable: MongoDB cannot be reached, and `follow` is false or no reading has succeeded yet.
    """
    left, has_read = limit, False
    while not (stop.is_set or out.reader_gone):
        try:
            for attempts in _read(feed, stop, silence if follow else None):
                shown = attempts[:left]
                write(shown)
                left = None if left is None else left - len(shown)
                if left == 0 or out.reader_gone:
                    return
            has_read = True
            if not stop.is_set:
                silence.end()
        except ServiceUnavailable as error:
            if not (has_read and follow):
                raise
            silence.note(str(error))
        if not follow:
            return
        stop.wait(READ_EVERY_SECONDS)


def _read(feed: "AttemptFeed", stop: StopSignal, silence: Silence | None) -> "Iterator[Sequence[Attempt]]":
    """Yield the attempts of one reading; a signal ends it at once, and a silent service is reported."""
    reading = feed.read()
    while not stop.is_set:
        attempts = stop.await_result(
            lambda: next(reading, None), on_wait=silence.wait if silence else lambda _waited: None
        )
        if attempts is None:
            return
        yield attempts


class _Lines:
    """Writes attempts for a person; on a terminal, a line with the date precedes the attempts of each day."""

    def __init__(self) -> None:
        self._day: date | None = None
        #: The widest value of each column so far, so that the columns stay in line.
        self._widths = dict(_WIDTHS)

    def write(self, attempts: "Sequence[Attempt]") -> None:
        """Write a line for each attempt."""
        lines: list[list[tuple[str, str]]] = []
        for attempt in attempts:
            if out.is_watched() and attempt.at.date() != self._day:
                self._day = attempt.at.date()
                lines.append([(f"{self._day} UTC", "dim")])
            lines.append(self._describe(attempt))
        out.show_lines(lines)

    def _describe(self, attempt: "Attempt") -> list[tuple[str, str]]:
        from syncctl.console.lines import fill, measure

        state = "late" if attempt.late else attempt.state or "-"
        what = attempt.error or ("" if attempt.lookup is None else f"asked for the partner's object: {attempt.lookup}")
        cells = {
            "stream": attempt.stream,
            "key": make_safe_line(format_key(attempt.key)),
            "state": state if attempt.attempt <= 1 else f"{state} #{attempt.attempt}",
        }
        is_watched = out.is_watched()
        for name, cell in cells.items():
            at_most = 2 * _WIDTHS[name] if is_watched else 10_000
            self._widths[name] = max(self._widths[name], min(measure(cell), at_most))
        stream, key, shown = (fill(cell, self._widths[name]) for name, cell in cells.items())
        at = f"{attempt.at:%H:%M:%S}" if is_watched else format_time(attempt.at)
        latency = "" if attempt.latency_ms is None else f"{attempt.latency_ms:,.0f} ms"
        return [
            (f"{at}  ", "dim"),
            (f"{stream}  {key}  ", ""),
            (shown, _STYLES.get(state, "")),
            (f"  {attempt.status or '-':>3}  {latency:>9}  ", ""),
            (what, _STYLES.get(state, "")),
        ]
