"""`syncctl cleanup`: delete finished records that are older than their retention period."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from syncctl.commands.operator_name import name_operator
from syncctl.commands.options import AsJson, DryRun, Streams, Yes
from syncctl.commands.session import ask_consent, choose_known, open_session
from syncctl.commands.stop_signal import AFTER_BATCH, StopSignal
from syncctl.commands.times import parse_seconds
from syncctl.console import format_count, out
from syncctl.core.states import TERMINAL
from syncctl.errors import ExitCode

if TYPE_CHECKING:
    from syncctl.pipeline.maintenance.cleanup import Cleaned


def cleanup(
    ctx: typer.Context,
    *,
    stream: Streams = None,
    older_than: Annotated[
        str | None,
        typer.Option(
            "--older-than",
            metavar="DURATION",
            help="Delete records older than this, such as 7d, whatever [retention] says.",
        ),
    ] = None,
    archive: Annotated[
        str | None,
        typer.Option(
            "--archive",
            metavar="DIR",
            help="Archive the records in this directory first; default: that of [retention] archive, if any.",
        ),
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> ExitCode:
    """Delete finished records that are older than their retention period.

    Beat does this automatically, by [retention] in syncctl.toml. Reports keep their counts, and the ledger still
    knows the newest version of every row, so that it never takes an old row for a new one.

    With --archive, records are written to compressed files, one for each stream and day, and read back before they are
    deleted; if that fails, nothing more of their stream is deleted, and the exit code is 1. syncctl archive finds them.

    Examples:
        syncctl cleanup --dry-run
        syncctl cleanup --yes --json
        syncctl cleanup --stream orders --older-than 7d
        syncctl cleanup --archive /srv/syncctl-archive --yes
    """
    from syncctl.archive.archive_files import ArchiveError, require_archive
    from syncctl.pipeline.maintenance.cleanup import clean_up
    from syncctl.wiring.use_cases import retention_seconds

    ages: Mapping[str, float] | None = None
    if older_than is not None:
        ages = dict.fromkeys((state.value for state in TERMINAL), parse_seconds(older_than, flag="--older-than"))
    with open_session(ctx, acts=True) as connections:
        streams = choose_known(connections, stream)
        kept = ages or retention_seconds(connections.settings)
        directory = Path(archive) if archive is not None else connections.settings.archive_directory
        ledger, who = connections.ledger, name_operator()
        with out.progress("counting the records to delete"):
            plan = clean_up(
                ledger=ledger, retention_seconds=kept, streams=streams, who=who, dry_run=True, archive=directory
            )
        total = sum(plan.deleted.values())
        if total and directory is not None:
            try:
                require_archive(directory)
            except ArchiveError as error:
                if not dry_run:
                    raise
                out.warn(f"{error}; {error.hint}")
        if dry_run or not total:
            return _report(plan, as_json=as_json)
        does = f"archive in {directory} and delete" if directory is not None else "permanently delete"
        if not ask_consent(f"{does} {format_count(total, 'finished record')}?", yes=yes):
            return ExitCode.TROUBLE
        with StopSignal(notice=AFTER_BATCH) as stop, out.progress("deleting", total=total, unit="records") as show:
            done = clean_up(
                ledger=ledger,
                retention_seconds=kept,
                streams=streams,
                who=who,
                archive=directory,
                should_stop=lambda: stop.is_set,
                show=show,
            )
    return stop.conclude(_report(done, as_json=as_json))


def _report(result: "Cleaned", *, as_json: bool) -> ExitCode:
    if as_json:
        out.print_json(result)
        return ExitCode.DONE
    verbs = [verb for verb, count in (("archive", result.archived), ("delete", True)) if count]
    verb = " and ".join(verbs) if result.dry_run else " and ".join(f"{verb}d" for verb in verbs)
    verb = f"would {verb}" if result.dry_run else verb
    counts = [f"{count:,} {state}" for state, count in result.deleted.items() if count]
    total = format_count(sum(result.deleted.values()), "record")
    out.show(f"{verb} {total}" + (f": {', '.join(counts)}" if counts else ""))
    if counts and not result.dry_run:
        out.say("next: syncctl status")
    return ExitCode.DONE
