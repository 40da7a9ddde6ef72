"""What operators ask for that needs the source as well as the ledger: rewind and reconcile."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

from syncctl.wiring.operators import OperatorServices

if TYPE_CHECKING:
    from syncctl.pipeline.reconcile import Reconciliation
    from syncctl.pipeline.rewind import Plan, Rewound


class RepairServices(OperatorServices):
    """What a command does where the ledger and the source must agree again."""

    def plan_rewind(self, name: str, to: str | datetime) -> "Plan":
        """Find the place to go back to; see `pipeline.rewind.plan_rewind`."""
        from syncctl.pipeline.rewind import plan_rewind
        from syncctl.sources import open_reader

        stream = self.settings.stream(name)
        with open_reader(self.settings.source(stream.source), stream) as reader:
            return plan_rewind(ledger=self.ledger, stream=stream, reader=reader, to=to)

    def rewind(self, plan: "Plan", *, resend: bool, who: str) -> "Rewound":
        """Set the cursor of a stream; see `pipeline.rewind.rewind_stream`."""
        from syncctl.pipeline.rewind import rewind_stream

        return rewind_stream(ledger=self.ledger, plan=plan, resend=resend, who=who, worker=self.worker)

    @contextmanager
    def reconciliation(
        self, name: str, *, since: datetime | None = None, show: Callable[[int], None] = lambda _: None
    ) -> "Iterator[Reconciliation]":
        """Compare a stream's source with the ledger, and repair it; see `pipeline.reconcile.Reconciliation`."""
        from syncctl.pipeline.merge import open_scratch
        from syncctl.pipeline.reconcile import Reconciliation
        from syncctl.sources import open_reader

        stream, kept = self.settings.stream(name), self.settings.retention
        self.ledger.ensure_prepared()
        with open_scratch() as directory, open_reader(self.settings.source(stream.source), stream) as reader:
            yield Reconciliation(
                ledger=self.ledger,
                stream=stream,
                reader=reader,
                directory=directory,
                since=since,
                retention_seconds=min(kept.delivered, kept.failed, kept.discarded),
                dispatch=self._dispatch_while_polling(name),
                worker=self.worker,
                show=show,
            )
