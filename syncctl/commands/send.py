"""`syncctl send`: read one row now, send it, and show the partner's answer."""

from typing import TYPE_CHECKING, Annotated

import typer

from syncctl.commands.filters import merge_streams
from syncctl.commands.operator_name import name_operator
from syncctl.commands.options import AsJson
from syncctl.commands.session import choose_configured, open_session
from syncctl.commands.stop_signal import StopSignal
from syncctl.commands.times import parse_seconds
from syncctl.console import format_cell, out
from syncctl.errors import ExitCode, TroubleFound, UsageError

if TYPE_CHECKING:
    from syncctl.pipeline.operations.send import Sent


def send(
    ctx: typer.Context,
    *,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="STREAM KEY", help="A stream and the key of a row in it, such as 5 or a=1,b=2."),
    ] = None,
    stream: Annotated[
        str | None, typer.Option("--stream", metavar="STREAM", help="The stream, instead of the first argument.")
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", metavar="KEY", help="The row's key, instead of the last argument.")
    ] = None,
    again: Annotated[
        bool,
        typer.Option(
            "--again",
            help="Send the row under a new Idempotency-Key even if its present content was delivered or discarded.",
        ),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Send it even if the stream or partner is paused or its circuit is open.")
    ] = False,
    timeout: Annotated[
        str, typer.Option("--timeout", metavar="DURATION", help="How long to wait while something is in the way.")
    ] = "60s",
    as_json: AsJson = False,
) -> ExitCode:
    """Read one row now, send it, and show the partner's answer.

    The row is logged as by a poll, and its record is claimed and sent in this process by the same rules as any other.
    The cursor does not move. A record that failed or waits for its next attempt is sent at once. While something is in
    the way (a pause, an open circuit, a rate, a version in flight), the command says so and waits. A row that is logged
    but not sent in time is sent later, in its turn. Exit code 1: the partner has not accepted it. 75: a poll of the
    stream does not end.

    Examples:
        syncctl send orders 5
        syncctl send order_lines order_id=5,line=2 --json
        syncctl send orders 5 --again     it was delivered, and the partner has lost it
        syncctl send orders 5 --force     the stream is paused, and this row tests the partner
    """
    name, row = _read_words(words or [], stream, key)
    seconds = parse_seconds(timeout, flag="--timeout")
    from syncctl.wiring.use_cases import send_row

    notice = "no longer waiting; if the row is not sent yet, a worker sends it in its turn"
    with (
        open_session(ctx, acts=True) as connections,
        StopSignal(notice=notice) as stop,
        out.progress(f"sending a row of {name}"),
    ):
        (name,) = choose_configured(connections.settings, [name])
        sent = send_row(
            connections,
            name,
            row,
            who=name_operator(),
            show=lambda obstacle: out.say(f"waiting: {obstacle}"),
            should_stop=lambda: stop.is_set,
            again=again,
            force=force,
            timeout_seconds=seconds,
        )
    if as_json:
        out.print_json(sent)
    elif sent.obstacle is None:
        _show(sent)
    if stop.is_set:
        return stop.exit_code
    if sent.obstacle is not None:
        raise TroubleFound(
            f"row {row} of {name} was not sent",
            why=sent.obstacle,
            hint=f"its record waits for its turn: syncctl show {sent.id}",
        )
    _name_next_command(sent, row)
    return ExitCode.DONE if sent.accepted else ExitCode.TROUBLE


def _read_words(words: list[str], stream: str | None, key: str | None) -> tuple[str, str]:
    """Return the stream and the key, each named as an argument or by its option.

    Raises:
        UsageError: One is missing, or named twice.
    """
    streams = merge_streams(words[:1] if stream is None else None, [stream] if stream is not None else None)
    rest = words[1:] if stream is None else words
    keys = [*rest, *([key] if key is not None else [])]
    if streams is None or len(keys) != 1:
        raise UsageError(
            "a stream and a key are needed",
            why=f"{len(words)} arguments were given" if len(words) != 1 else "one argument was given",
            hint="write for example: syncctl send orders 5",
        )
    return streams[0], keys[0]


def _show(sent: "Sent") -> None:
    if not sent.sent:
        done = {"delivered": "it was delivered before", "discarded": "it was discarded"}
        reason = "" if sent.error is None else f": {sent.error}"
        out.show(f"not sent: {done.get(sent.state, f'it is {sent.state}')}{reason}")
    answer = {
        "record": sent.id,
        "state": sent.state,
        "outcome": sent.outcome,
        "status": sent.status,
        "latency": None if sent.latency_ms is None else f"{sent.latency_ms:,.0f} ms",
        "error": sent.error,
        "answer": sent.excerpt,
        "next attempt": sent.due_at if not sent.accepted else None,
        "Idempotency-Key": sent.idempotency_key,
    }
    for name, value in answer.items():
        if value not in (None, ""):
            out.show(f"{name:16} {format_cell(value)}")


def _name_next_command(sent: "Sent", row: str) -> None:
    if sent.state in ("delivered", "discarded") and not sent.sent:
        out.say(f"next: syncctl send {sent.stream} {row} --again, to send it under a new Idempotency-Key")
    elif not sent.accepted:
        out.say(f"next: syncctl show {sent.stream} {row} --request")
