"""The time of the simulation: leases and pauses end when the simulation says so, however long it takes to get there."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from syncctl.ledger import batches
from syncctl.pipeline.delivery import delivery_gate, delivery_lane, dispatch, refusals
from syncctl.pipeline.maintenance import cleanup, maintenance
from syncctl.pipeline.polling import acknowledge, delete_detection, write_back

from .actors import current_actor

LONG_SECONDS = 10_000.0


class ActorTime:
    """Stands in for the module `time`: the monotonic clock is that of the process whose actor asks."""

    @staticmethod
    def monotonic() -> float:
        """Return the time of the process that the calling thread belongs to."""
        actor = current_actor()
        return 0.0 if actor is None or actor.process is None else actor.process.clock


@contextmanager
def simulated_time() -> Iterator[None]:
    """Make processes judge their leases by the simulation's clocks, so that nothing runs out by itself."""
    own: Any = ActorTime()
    with pytest.MonkeyPatch.context() as patch:
        for module in (batches, delivery_gate, delivery_lane):
            patch.setattr(module, "boot_time", own.monotonic)
        for module in (delivery_lane, refusals, write_back):
            assert module.time is time
            patch.setattr(module, "time", own)
        patch.setattr(dispatch, "LEASE_SECONDS", LONG_SECONDS)
        patch.setattr(batches, "SEIZED_FOR_SECONDS", LONG_SECONDS)
        # So that some calls of a batch of three may have begun, and others not.
        patch.setattr(delivery_lane, "BEGIN_AT_ONCE", 1)
        # So that a batch of three names fewer once one of them has its outcome.
        patch.setattr(delivery_lane, "NARROWED_BY", 1)
        # Otherwise each run would begin at another place.
        patch.setattr(cleanup.secrets, "token_hex", lambda size: "0" * 2 * size)
        # So that a poll or a rescue that is stopped may be in the middle of its work.
        patch.setattr(delete_detection, "KEYS_AT_ONCE", 2)
        patch.setattr(acknowledge, "ACKNOWLEDGED_AT_ONCE", 2)
        patch.setattr(write_back, "WRITTEN_AT_ONCE", 2)
        patch.setattr(write_back, "BETWEEN_PAGES_SECONDS", 0.0)
        patch.setattr(maintenance, "BATCHES_AT_ONCE", 2)
        patch.setattr(maintenance, "HELD_AT_ONCE", 2)
        yield
