"""The flags that several commands share."""

from typing import Annotated

import typer

from syncctl.errors import UsageError

AsJson = Annotated[bool, typer.Option("--json", help="Print exactly one JSON document on stdout.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would change, but change nothing.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]
Streams = Annotated[
    list[str] | None, typer.Option("--stream", metavar="STREAM", help="Only this stream; may be repeated.")
]


def require_one_form(*, json: bool, csv: bool) -> None:
    """Check that at most one output format is given.

    Raises:
        UsageError: both are given.
    """
    if json and csv:
        raise UsageError(
            "--json and --csv cannot be combined", why="stdout carries one document", hint="omit one of them"
        )
