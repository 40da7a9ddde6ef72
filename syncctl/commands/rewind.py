"""`syncctl rewind`: read rows again from an earlier point."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from syncctl.commands.filters import OneStream, StreamArgument, require_stream
from syncctl.commands.operator_name import name_operator
from syncctl.commands.options import AsJson, DryRun, Yes
from syncctl.commands.session import ask_consent, choose_configured, open_session
from syncctl.commands.times import parse_time
from syncctl.console import out
from syncctl.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from syncctl.pipeline.operations.rewind import Plan, Rewound

_CURSOR = "cursor:"


def rewind(
    ctx: typer.Context,
    *,
    named: StreamArgument = None,
    stream: OneStream = None,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="TIME|CURSOR",
            help="A time or a cursor value: 2h, 2026-01-31T08:00Z, 4711, 0x7D1, or beginning.",
        ),
    ],
    resend: Annotated[
        bool, typer.Option("--resend", help="Send every row that is read again, even if it has not changed.")
    ] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> ExitCode:
    """Read rows again from an earlier point.

    Unchanged rows are not sent again, unless --resend is given. A time means the cursor that the stream had then. The
    rows are read by the next poll; this command only counts them. Exit code 75: a poll is in progress.

    Examples:
        syncctl rewind orders --to 2h --dry-run
        syncctl rewind orders --to 2026-01-31T08:00Z --yes
        syncctl rewind orders --to 0x00000000000007D1
        syncctl rewind orders --to beginning --resend
    """
    stream = require_stream(named, stream, command="rewind")
    place = parse_place(to)
    from syncctl.pipeline.operations.rewind import rewind_stream, show_plan
    from syncctl.wiring.use_cases import plan_rewind

    with open_session(ctx, acts=True) as connections:
        (name,) = choose_configured(connections.settings, [stream])
        with out.progress(f"counting the rows of {name}"):
            plan = plan_rewind(connections, name, place, resend=resend)
        if dry_run:
            return _report(show_plan(plan, resend=resend, dry_run=True), plan, as_json=as_json)
        if not ask_consent(_question(plan, resend=resend), yes=yes):
            return ExitCode.TROUBLE
        with out.progress(f"rewinding {name}"):
            done = rewind_stream(
                ledger=connections.ledger, plan=plan, resend=resend, who=name_operator(), worker=connections.worker
            )
    code = _report(done, plan, as_json=as_json)
    out.say(f"next: syncctl poll {name} --once")
    return code


def parse_place(text: str, *, now: datetime | None = None) -> str | datetime:
    """Return the meaning of `--to`: a time if the text is one, otherwise a cursor value.

    A number, a text that begins with 0x and a text after `cursor:` are always cursor values.

    Raises:
        UsageError: the time is in the future.
    """
    text = text.strip()
    if text.startswith(_CURSOR):
        return text.removeprefix(_CURSOR)
    if text.lower().startswith("0x") or text.lstrip("+-").replace(".", "", 1).isdigit():
        return text
    now = now or datetime.now(UTC)
    try:
        at = parse_time(text, flag="--to", now=now)
    except UsageError:
        return text
    if at > now:
        raise UsageError(
            f"--to {text} is in the future",
            why="a stream is rewound to the cursor that it had at that time",
            hint=f"if it is a value of the cursor column, use: --to {_CURSOR}{text}",
        )
    return at


def _question(plan: "Plan", *, resend: bool) -> str:
    rows = "the rows after it" if plan.rows is None else f"{plan.rows:,} rows"
    sending = "send them all again" if resend else "send those that have changed"
    skipping = f", skip {plan.skipped:,} rows that were never read" if plan.skipped else ""
    return f"rewind {plan.stream} to {plan.after['at']}{skipping}, read {rows} again and {sending}?"


def _report(done: "Rewound", plan: "Plan", *, as_json: bool) -> ExitCode:
    if as_json:
        out.print_json(done)
    else:
        verb = "would rewind" if done.dry_run else "rewound"
        before = "its start" if done.cursor_before is None else done.cursor_before
        rows = "an unknown number of" if done.rows is None else f"{done.rows:,}"
        out.show(f"{verb} {done.stream} from {before} to {done.cursor_after}: {rows} rows come after it")
        if not done.resend:
            out.say("unchanged rows are not sent again; add --resend to send them too")
    if plan.skipped:
        out.warn(f"{plan.skipped:,} rows before that point were never read, and are skipped")
    return ExitCode.DONE
