"""A partner that holds calls until a test releases them."""

from dataclasses import dataclass

from syncctl.local.mock_partner import MockPartner, PartnerConfig
from syncctl.local.mock_partner_account import find_row
from syncctl.local.mock_partner_http import MockPartnerProtocol, Reply, Request

NEVER_SECONDS = 1e6


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """A call that was received and not applied yet."""

    request: Request
    protocol: MockPartnerProtocol


class HoldingPartner(MockPartner):
    """Neither applies nor answers the calls of some rows until they are released. All others are applied at once."""

    def __init__(self, config: PartnerConfig | None = None) -> None:
        self._holds: set[str] = set()
        self._held: list[Held] = []
        super().__init__(config)

    def hold(self, row: str) -> None:
        """Hold the next call of a row."""
        self._holds.add(row)

    def held(self) -> int:
        """Return how many calls are being held."""
        return len(self._held)

    def release_held(self) -> None:
        """Apply the held calls, and answer those whose callers still listen."""
        self._loop.call_soon_threadsafe(self._release_held)

    def _release_held(self) -> None:
        while self._held:
            each = self._held.pop(0)
            each.protocol._finish(self.account.receive(each.request), False)

    def _make_protocol(self) -> MockPartnerProtocol:
        protocol = MockPartnerProtocol(lambda request: self._hold_or_receive(request, protocol), self._connections)
        return protocol

    def _hold_or_receive(self, request: Request, protocol: MockPartnerProtocol) -> Reply:
        row = find_row(request)
        if row not in self._holds:
            return self._receive(request)
        self._holds.remove(row)
        self._held.append(Held(request=request, protocol=protocol))
        return Reply(status=500, delay_seconds=NEVER_SECONDS)
