"""`syncctl doctor`: check everything syncctl needs, and name a fix for each problem."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from syncctl.commands.options import AsJson
from syncctl.commands.session import load
from syncctl.commands.times import parse_seconds
from syncctl.console import out
from syncctl.errors import ConfigurationError, ExitCode, UsageError

if TYPE_CHECKING:
    from syncctl.doctor.check import Check

_SIGNS = {"ok": "✓", "warn": "!", "fail": "✗", "skip": "·"}
_PLAIN_SIGNS = {"ok": "+", "warn": "!", "fail": "x", "skip": "-"}
_STYLES = {"ok": "green", "warn": "yellow", "fail": "red", "skip": "dim"}
_WORDS = {"ok": "ok", "warn": "with a warning", "fail": "failed", "skip": "skipped"}


def complete_check(incomplete: str) -> list[str]:
    """Return the groups of checks whose names begin with an incomplete word."""
    from syncctl.doctor.groups import GROUPS

    return [name for name in GROUPS if name.startswith(incomplete)]


def doctor(
    ctx: typer.Context,
    *,
    checks: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CHECK",
            autocompletion=complete_check,
            help="Only these checks: configuration, redis, mongodb, indexes, source, partner, workers, queue, beat, "
            "streams, alerts. Or a single check by its displayed name.",
        ),
    ] = None,
    timeout: Annotated[
        str, typer.Option("--timeout", metavar="DURATION", help="How long each check may take.")
    ] = "10s",
    as_json: AsJson = False,
) -> ExitCode:
    """Check everything syncctl needs, and name a fix for each problem.

    All checks run in parallel, and each runs even if others fail; a check whose prerequisite fails is skipped and says
    why. Nothing is changed. Exit code 0: no check failed, warnings allowed; 1: a check failed; 2: the settings cannot
    be read.

    Examples:
        syncctl doctor
        syncctl doctor source partner
        syncctl doctor source orders
        syncctl doctor redis --timeout 2s
        syncctl doctor --json
    """
    from syncctl.doctor.check import report_unreadable_settings
    from syncctl.doctor.groups import choose_checks

    chosen = choose_checks(checks or ())
    seconds = _parse_timeout(timeout)
    try:
        results = _examine(ctx, chosen, seconds)
        broken = ExitCode.TROUBLE
    except ConfigurationError as error:
        results = report_unreadable_settings(error, chosen)
        broken = ExitCode.USAGE
    ok = all(check.status != "fail" for check in results)
    if as_json:
        out.print_json({"ok": ok, "checks": results})
    else:
        _show(results)
    _say_next(results)
    return ExitCode.DONE if ok else broken


def _parse_timeout(text: str) -> float:
    seconds = parse_seconds(text, flag="--timeout")
    if seconds <= 0:
        raise UsageError("--timeout is zero", why="no check could ever pass", hint="for example: --timeout 10s")
    return seconds


def _examine(ctx: typer.Context, chosen: Sequence[str], timeout_seconds: float) -> "list[Check]":
    """Run the checks.

    Raises:
        ConfigurationError: the settings cannot be read.
        UsageError: there is no check of that name.
    """
    settings = load(ctx)
    from syncctl.doctor.examination import Examination

    examination = Examination(settings, directory=ctx.obj.directory, chosen=chosen, timeout_seconds=timeout_seconds)
    with out.progress("checking", total=len(examination.units), unit="checks") as advance:
        return examination.run(on_done=advance)


def _show(checks: "Sequence[Check]") -> None:
    """Write a line for each check, with its details and its hint below."""
    from syncctl.console.lines import fill

    signs = choose_signs(sys.stdout)
    width = max(len(check.name) for check in checks)
    width = min(width, out.width // 3) if out.is_watched() else width
    hints: set[str] = set()
    for check in checks:
        mark = f"{signs[check.status]} {check.status.value:4}"
        first, *others = check.detail.splitlines() or [""]
        if check.hint and check.hint not in hints:
            others.append(f"hint: {check.hint}")
            hints.add(check.hint)
        label = f"{mark}  {fill(check.name, width)}  "
        out.show_sentence(label + first, indent=len(label), painted=len(mark), style=_STYLES[check.status])
        for line in others:
            out.show_sentence(" " * len(label) + line, indent=len(label))


def choose_signs(stream: TextIO) -> Mapping[str, str]:
    """Return a sign for each status: plain ASCII ones if the stream's encoding lacks the others."""
    return _SIGNS if _can_carry(stream, "".join(_SIGNS.values())) else _PLAIN_SIGNS


def _can_carry(stream: TextIO, text: str) -> bool:
    try:
        text.encode(getattr(stream, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _say_next(checks: "Sequence[Check]") -> None:
    """Count the results, and say what to do next."""
    counts = Counter(check.status.value for check in checks)
    summary = ", ".join(f"{counts[status]} {word}" for status, word in _WORDS.items() if counts[status])
    failure = next((check for check in checks if check.status == "fail"), None)
    if failure is not None:
        step = f"follow the hint of {failure.name!r}, then run: syncctl doctor {failure.name}"
    else:
        step = "syncctl status"
    out.say(f"{summary}; next: {step}")
