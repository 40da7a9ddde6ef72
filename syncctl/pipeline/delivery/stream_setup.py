"""The parts that the delivery of one stream needs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from syncctl.core.batch_sizes import Sizes
from syncctl.core.stream import Partner, Stream
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.rolling_rate import RollingRate
from syncctl.partner.client import PartnerClient
from syncctl.pipeline.delivery.delivery_gate import DeliveryGate
from syncctl.pipeline.delivery.dispatch import Taken, take_batch

if TYPE_CHECKING:
    from syncctl.broker.rate import SharedRate


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamSetup:
    """The parts that the delivery of one stream needs."""

    stream: Stream
    partner: Partner
    client: PartnerClient
    sizes: Sizes
    #: The partner's rate limit, which all workers share; None if it has none.
    rate: "SharedRate | RollingRate | None" = None
    #: Chooses the records of the next batch, and claims them.
    take: Callable[..., Taken] = take_batch
    #: Opens the gate that says whether calls may begin.
    open_gate: Callable[[Ledger, Stream], DeliveryGate] = DeliveryGate
