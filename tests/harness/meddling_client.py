"""A partner's client that lets a test act right before and right after its calls, in a separate thread."""

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
        before: Called before a call is made, as if the process had stood still; other calls continue.
        after: Called with the outcomes of a call before the delivery loop gets them.
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
        """Close the idle connections; raise the first error of the test's own functions."""
        super().close()
        for error in self._errors:
            raise error

    def _meddle(self, act: Callable[..., Any], *args: Any) -> None:
        try:
            act(*args)
        except Exception as error:  # noqa: BLE001 - otherwise it would look like a bug of the client
            self._errors.append(error)


def once(act: Callable[[], Any]) -> Callable[..., None]:
    """Return a function that acts only at its first call, whatever its arguments are."""
    done: list[bool] = []

    def act_once(*_: object) -> None:
        if not done:
            done.append(True)
            act()

    return act_once
