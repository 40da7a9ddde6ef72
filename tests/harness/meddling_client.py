"""A partner's client that lets a test act right before and right after its calls, in a thread of their own."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from syncctl.core.outcome import Outcome
from syncctl.partner.bulk import BulkCall
from syncctl.partner.client import PartnerClient
from tests.harness.testbed import Testbed


class MeddlingClient(PartnerClient):
    """The real client of a testbed's stream.

    Args:
        before: Called before a call is made, as if the process had stood still; other calls go on meanwhile.
        after: Called with its outcomes before the delivery loop hears of them.
    """

    def __init__(
        self,
        testbed: Testbed,
        *,
        before: Callable[[BulkCall], Any] = lambda _: None,
        after: Callable[[BulkCall, Sequence[Outcome]], Any] = lambda *_: None,
    ) -> None:
        super().__init__(testbed.partner, testbed.stream)
        self._before = before
        self._after = after
        self._errors: list[Exception] = []

    async def send_bulk(self, bulk: BulkCall) -> list[Outcome]:
        """Make a bulk call."""
        await asyncio.to_thread(self._meddle, self._before, bulk)
        outcomes = await super().send_bulk(bulk)
        await asyncio.to_thread(self._meddle, self._after, bulk, outcomes)
        return outcomes

    def close(self) -> None:
        """Close the idle connections; raise what a test's own part has raised."""
        super().close()
        for error in self._errors:
            raise error

    def _meddle(self, act: Callable[..., Any], *args: Any) -> None:
        try:
            act(*args)
        except Exception as error:  # noqa: BLE001 - else it would pass for a bug of the client
            self._errors.append(error)


def once(act: Callable[[], Any]) -> Callable[..., None]:
    """Return what acts the first time it is called, whatever it is called with."""
    done: list[bool] = []

    def act_once(*_: object) -> None:
        if not done:
            done.append(True)
            act()

    return act_once
