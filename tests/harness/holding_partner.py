"""A partner that holds calls until a test releases them."""

import json
from dataclasses import dataclass, replace

from syncctl.local.mock_partner import MockPartner, PartnerConfig
from syncctl.local.mock_partner_behaviour import find_row
from syncctl.local.mock_partner_http import MockPartnerProtocol, Reply, Request

NEVER_SECONDS = 1e6


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """A call that was received and not applied yet."""

    request: Request
    protocol: MockPartnerProtocol


def name_object(row: int | str) -> str:
    """Return the partner's own id of a row."""
    return f"P-{row}"


class HoldingPartner(MockPartner):
    """Neither applies nor answers the calls of some rows until they are released. All others are applied at once.

    Args:
        has_ids: Whether the answers to accepted calls name the partner's own id of the row.
    """

    def __init__(self, config: PartnerConfig | None = None, *, has_ids: bool = False) -> None:
        self._has_ids = has_ids
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
            held = self._held.pop(0)
            held.protocol._finish(self._name_row(self.account.receive(held.request), find_row(held.request)), False)

    def _name_row(self, reply: Reply, row: str) -> Reply:
        if not self._has_ids or not 200 <= reply.status <= 299:
            return reply
        return replace(reply, body=json.dumps({"data": {"id": name_object(row)}}).encode())

    def _make_protocol(self) -> MockPartnerProtocol:
        protocol = MockPartnerProtocol(lambda request: self._hold_or_receive(request, protocol), self._connections)
        return protocol

    def _hold_or_receive(self, request: Request, protocol: MockPartnerProtocol) -> Reply:
        row = find_row(request)
        if row not in self._holds:
            return self._name_row(self._receive(request), row)
        self._holds.remove(row)
        self._held.append(Held(request=request, protocol=protocol))
        return Reply(status=500, delay_seconds=NEVER_SECONDS)
