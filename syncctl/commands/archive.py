"""`syncctl archive create|show|search`: make an archive, and read the records that cleanup has archived."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from syncctl.commands.filters import Key, Listing, choose_states
from syncctl.commands.options import AsJson
from syncctl.commands.records import LISTED_BY_DEFAULT, show_table
from syncctl.commands.records import to_public as to_public_row
from syncctl.commands.session import load
from syncctl.commands.show import show_record
from syncctl.commands.show import to_public as to_public_record
from syncctl.commands.times import Since, Until, parse_window
from syncctl.console import out
from syncctl.core.states import TERMINAL
from syncctl.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from syncctl.settings import Settings

app = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="""Make an archive, and read the records that cleanup has archived.

    They are in the directory of [retention] archive, or in the one that --archive names. Neither MongoDB nor Redis is
    needed. Damaged files are named on stderr, and the rest is read.

    Examples:
      syncctl archive create
      syncctl archive search --stream orders --key 4711
      syncctl archive show orders-3f2a9c
    """,
)

_STATES = tuple(state.value for state in TERMINAL)
_Directory = Annotated[
    str | None,
    typer.Option("--archive", metavar="DIR", help="The archive's directory; default: that of [retention] archive."),
]


@app.command(short_help="Make a directory an archive, once")
def create(ctx: typer.Context, archive: _Directory = None, as_json: AsJson = False) -> None:
    """Make a directory an archive, once, before records are archived there.

    The directory is made if it is missing, and gets a file named syncctl-archive. Cleanup archives only into a
    directory that has this file: if the disk is not mounted, nothing is written under its mount point, and nothing is
    deleted. Safe to repeat.

    Examples:
        syncctl archive create
        syncctl archive create --archive /mnt/archive
    """
    from syncctl.archive.archive_files import create_archive

    directory = _find_directory(load(ctx), archive)
    is_new = create_archive(directory)
    if as_json:
        out.print_json({"archive": str(directory), "created": is_new})
        return
    out.show(f"{directory} is {'now' if is_new else 'already'} an archive")
    out.say("next: syncctl cleanup --dry-run")


@app.command(short_help="Show one archived record with its history")
def show(
    ctx: typer.Context,
    record: Annotated[str, typer.Argument(metavar="ID", help="A record's id, or the beginning of it.")],
    archive: _Directory = None,
    as_json: AsJson = False,
) -> None:
    """Show one archived record with its full history.

    All files of its stream are read. A record that was archived, replayed and archived again is shown in each form, the
    newest last. Exit code 1: there is no such record.

    Examples:
        syncctl archive show orders-3f2a9c
        syncctl archive show orders-3f2a9c --archive /mnt/archive --json
    """
    from syncctl.pipeline.maintenance.archive import find_archived

    records = find_archived(_find_directory(load(ctx), archive), record, warn=out.warn)
    if as_json:
        out.print_json({"records": [to_public_record(archived) for archived in records]})
        return
    for number, archived in enumerate(records):
        if number:
            out.show("")
        show_record(archived)


@app.command(short_help="List archived records")
def search(
    ctx: typer.Context,
    stream: Annotated[
        list[str] | None, typer.Option("--stream", metavar="STREAM", help="Only this stream; may be repeated.")
    ] = None,
    key: Key = None,
    since: Since = None,
    until: Until = None,
    state: Annotated[
        list[str] | None, typer.Option("--state", metavar="STATE", help=f"{', '.join(_STATES)}; may be repeated.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, metavar="N", help=f"At most N; a table shows {LISTED_BY_DEFAULT} by default."),
    ] = None,
    archive: _Directory = None,
    as_json: AsJson = False,
) -> ExitCode:
    """List archived records, the oldest day first.

    The time of a record is when it finished. --since and --until also choose the files that are read.
    Without --limit, --json prints every record, however many there are. Exit code 1: a file could not be read as a
    whole.

    Examples:
        syncctl archive search --stream orders --key 4711
        syncctl archive search --since 2026-01-01 --until 2026-02-01 --state failed --json
        syncctl archive search --archive /mnt/archive --stream orders --since 90d
    """
    from syncctl.pipeline.maintenance.archive import Wanted, search_archive

    begin, end = parse_window(since, until)
    wanted = Wanted(
        streams=tuple(stream or ()),
        states=choose_states(state, by_default=(), allowed=_STATES),
        since=begin,
        until=end,
        key=key,
    )
    directory = _find_directory(load(ctx), archive)
    at_most = limit if limit is not None or as_json else LISTED_BY_DEFAULT
    damages: list[str] = []

    def warn(damage: str) -> None:
        damages.append(damage)
        out.warn(damage)

    with out.progress("files of the archive") as on_file:
        listing = Listing(search_archive(directory, wanted, warn=warn, on_file=on_file), at_most)
        if as_json:
            out.print_json_list("records", map(to_public_row, listing), lambda: {"more": listing.has_more})
        else:
            show_table(listing, next_command="syncctl archive show")
    if listing.has_more and limit is None:
        out.say("more records match; to see them: --limit N or --json")
    return ExitCode.TROUBLE if damages else ExitCode.DONE


def _find_directory(settings: "Settings", flag: str | None) -> Path:
    """Return the directory of the archive.

    Raises:
        UsageError: Neither `--archive` nor the settings name one.
    """
    if flag is not None:
        return Path(flag)
    if (directory := settings.archive_directory) is None:
        raise UsageError(
            "no archive is named",
            why="neither --archive nor retention.archive in syncctl.toml names its directory",
            hint="add --archive DIR",
        )
    return directory
