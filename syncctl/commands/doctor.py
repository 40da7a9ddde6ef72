"""`syncctl doctor`: check everything syncctl needs, and name the fix of what fails."""

import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from syncctl.commands.options import AsJson, parse_seconds
from syncctl.commands.session import load
from syncctl.console import out
from syncctl.errors import ConfigurationError, ExitCode, UsageError

if TYPE_CHECKING:
    from syncctl.doctor.check import Check

_SIGNS = {"ok": "✓", "warn": "!", "fail": "✗", "skip": "·"}
_PLAIN_SIGNS = {"ok": "+", "warn": "!", "fail": "x", "skip": "-"}
_STYLES = {"ok": "green", "warn": "yellow", "fail": "red", "skip": "dim"}
_WORDS = {"ok": "ok", "warn": "with a warning", "fail": "failed", "skip": "skipped"}


def doctor(
    ctx: typer.Context,
    *,
    checks: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CHECK",
            help="Only these: configuration, redis, mongodb, indexes, source, partner, workers, queue, beat, streams."
            " Or one check by the name that is shown.",
        ),
    ] = None,
    timeout: Annotated[str, typer.Option("--timeout", metavar="DURATION", help="How long one check may take.")] = "10s",
    as_json: AsJson = False,
) -> ExitCode:
    """Check everything syncctl needs, and name the fix of what fails.

    All checks run at once, and each runs even when others fail; one whose ground is missing is skipped and
    says why. Nothing is changed anywhere. Exit code 0: all is well, or a warning; 1: a check failed; 2: the
    settings cannot be read.

    Examples:
        syncctl doctor
        syncctl doctor source partner
        syncctl doctor source orders
        syncctl doctor redis --timeout 2s
        syncctl doctor --json
    """
    from syncctl.doctor.groups import choose_checks
    from syncctl.doctor.refusal import refuse

    chosen = choose_checks(checks or ())
    seconds = _parse_timeout(timeout)
    try:
        found = _examine(ctx, chosen, seconds)
        broken = ExitCode.TROUBLE
    except ConfigurationError as error:
        found = refuse(error, chosen)
        broken = ExitCode.USAGE
    ok = all(check.status != "fail" for check in found)
    if as_json:
        out.print_json({"ok": ok, "checks": found})
    else:
        _show(found)
    _say_next(found)
    return ExitCode.DONE if ok else broken


def _parse_timeout(text: str) -> float:
    seconds = parse_seconds(text, flag="--timeout")
    if seconds <= 0:
        raise UsageError("--timeout is zero", why="no check could ever pass", hint="write for example --timeout 10s")
    return seconds


def _examine(ctx: typer.Context, chosen: Sequence[str], timeout_seconds: float) -> "list[Check]":
    """Run the checks.

    Raises:
        ConfigurationError: the settings cannot be read.
        UsageError: there is no check of such a name.
    """
    settings = load(ctx)
    from syncctl.doctor.examination import Examination

    examination = Examination(settings, directory=ctx.obj.directory, chosen=chosen, timeout_seconds=timeout_seconds)
    with out.progress("checking", total=len(examination.units)) as advance:
        return examination.run(on_done=advance)


def _show(checks: "Sequence[Check]") -> None:
    """Write a line for each check; what else there is to say of it, and its hint, stand below it."""
    from syncctl.console.terminal import decide_colour

    colour = decide_colour(sys.stdout)
    signs = _SIGNS if _can_carry(sys.stdout, "".join(_SIGNS.values())) else _PLAIN_SIGNS
    width = max(len(check.name) for check in checks)
    told: set[str] = set()
    for check in checks:
        mark = f"{signs[check.status]} {check.status.value:4}"
        first, *others = check.detail.splitlines() or [""]
        if check.hint and check.hint not in told:
            others.append(f"hint: {check.hint}")
            told.add(check.hint)
        _write(mark, f"  {check.name:{width}}  {first}", style=_STYLES[check.status] if colour else "")
        for line in others:
            _write("", f"{' ' * len(mark)}  {' ' * width}  {line}")


def _write(mark: str, text: str, *, style: str = "") -> None:
    if not style:
        out.show(mark + text)
        return
    from rich.text import Text

    from syncctl.console.terminal import make_safe

    out.show(Text.assemble((mark, style), make_safe(text)))


def _can_carry(stream: TextIO, text: str) -> bool:
    try:
        text.encode(getattr(stream, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _say_next(checks: "Sequence[Check]") -> None:
    """Say how many checks ended how, and what to do next."""
    counts = Counter(check.status.value for check in checks)
    summary = ", ".join(f"{counts[status]} {word}" for status, word in _WORDS.items() if counts[status])
    failure = next((check for check in checks if check.status == "fail"), None)
    if failure is not None:
        step = f"follow the hint of {failure.name!r}, then run: syncctl doctor {failure.name}"
    else:
        step = "syncctl status"
    out.say(f"{summary}; next: {step}")
