"""`syncctl upgrade`: bring an older ledger to the version of this syncctl."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from syncctl.commands.operator_name import name_operator
from syncctl.commands.options import AsJson
from syncctl.commands.session import open_session
from syncctl.console import format_count, out
from syncctl.errors import ExitCode

if TYPE_CHECKING:
    from syncctl.ledger.ledger import Ledger
    from syncctl.ledger.ledger_version import PendingMigration, Upgraded
    from syncctl.ledger.migrations import Advance, Migration


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerUpgrade:
    """The result of `upgrade`."""

    version_before: int
    version: int
    #: The version that this syncctl writes.
    latest: int
    #: The syncctl that wrote the version; None in version 0.
    written_by: str | None
    #: The migrations that are still to be done.
    pending: "list[PendingMigration]"
    #: The names of indexes that are still to be created.
    missing_indexes: list[str]
    #: The names of indexes that were created.
    created_indexes: list[str]
    changed: int
    duration_ms: float


def upgrade(
    ctx: typer.Context,
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Show what an upgrade would do; exit code 1 if there is anything to do.")
    ] = False,
    as_json: AsJson = False,
) -> ExitCode:
    """Upgrade an older ledger to the version of this syncctl.

    Workers, Beat and commands that need the upgrade do the same when they start; this command shows what the upgrade
    does, and how long it takes. Workers may go on in the meantime. It is safe to repeat and to interrupt: the next
    upgrade goes on where this one stopped.

    Examples:
        syncctl upgrade --check
        syncctl upgrade
        syncctl upgrade --json
    """
    with open_session(ctx, acts=True) as connections:
        ledger = connections.ledger
        done = _look(ledger) if check else _upgrade(ledger)
    if as_json:
        out.print_json(done)
    elif check:
        _show_plan(done)
    else:
        _show_result(done)
    return ExitCode.TROUBLE if check and (done.pending or done.missing_indexes) else ExitCode.DONE


def _look(ledger: "Ledger", upgraded: "Upgraded | None" = None, created: Sequence[str] = ()) -> LedgerUpgrade:
    form = ledger.schema.load()
    return LedgerUpgrade(
        version_before=upgraded.version_before if upgraded else form.version,
        version=form.version,
        latest=ledger.schema.known,
        written_by=form.written_by,
        pending=ledger.schema.list_pending(),
        missing_indexes=[line.partition(" ")[0] for line in ledger.compare_indexes() if line.endswith("is missing")],
        created_indexes=list(created),
        changed=upgraded.changed if upgraded else 0,
        duration_ms=upgraded.duration_ms if upgraded else 0.0,
    )


def _upgrade(ledger: "Ledger") -> LedgerUpgrade:
    total = sum(step.documents for step in ledger.schema.list_pending())
    with out.progress("upgrading the ledger", total=total or None, unit="documents") as show:
        changed = 0
        announced: set[str] = set()

        def watch(_: "Migration", advance: "Advance") -> None:
            nonlocal changed
            changed += advance.changed
            show(changed)
            if advance.waits_for and advance.waits_for not in announced:
                announced.add(advance.waits_for)
                out.say(f"waiting for {advance.waits_for}: {format_count(advance.left, 'document')} left")

        created, upgraded = ledger.upgrade(who=name_operator(), watch=watch)
    return _look(ledger, upgraded, created)


def _show_plan(done: LedgerUpgrade) -> None:
    if not done.pending and not done.missing_indexes:
        out.show(f"nothing to do: the ledger has version {done.version}, which this syncctl writes")
        return
    if done.pending:
        out.show(f"the ledger has version {done.version}, and this syncctl writes {done.latest}")
    for step in done.pending:
        out.show(f"version {step.version}: {step.title}: {format_count(step.documents, 'document')} to change")
    if done.missing_indexes:
        out.show(f"indexes to create: {', '.join(done.missing_indexes)}")
    out.say("next: syncctl upgrade    (workers do it too when they start)")


def _show_result(done: LedgerUpgrade) -> None:
    if done.created_indexes:
        out.show(f"indexes created: {', '.join(done.created_indexes)}")
    if done.version_before == done.version:
        out.show(f"the ledger has version {done.version}, which this syncctl writes")
        return
    out.show(
        f"the ledger has version {done.version} now, and had {done.version_before}: "
        f"{format_count(done.changed, 'document')} changed in {done.duration_ms / 1000:.1f} s"
    )
    out.say("next: restart workers and Beat of earlier versions, then: syncctl doctor")
