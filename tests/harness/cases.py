"""A record, a stream, a source and a partner for tests, with defaults for everything that a test does not set."""

from collections.abc import Mapping
from typing import Any

from syncctl.core.records import Record
from syncctl.core.rows import Value
from syncctl.core.states import State
from syncctl.core.stream import Credentials, Partner, RetrySchedule, Source, Stream
from syncctl.partner.client import PartnerClient

TOKEN = "tok-5f1c0a7e"


def make_record(number: int = 7, payload: Mapping[str, Value] | None = None, **changes: Any) -> Record:
    """Return a record of the stream `orders`, about to be sent."""
    fields: dict[str, Any] = {
        "id": f"orders-{number:032x}",
        "stream": "orders",
        "key": {"id": number},
        "seq": number,
        "op": "upsert",
        "payload": {"id": number, "customer": "Ærø & søn"} if payload is None else payload,
        "state": State.SENDING,
    }
    return Record(**{**fields, **changes})


def make_stream(endpoint: str = "POST /orders", **changes: Any) -> Stream:
    """Return the stream `orders` of the table `orders`, or of the query among the changes, to this endpoint."""
    method, _, path = endpoint.partition(" ")
    fields: dict[str, Any] = {
        "name": "orders",
        "source": "default",
        "partner": "default",
        "table": None if "query" in changes else "orders",
        "method": method,
        "path": path,
        "retry": RetrySchedule(delays_seconds=(1.0,)),
    }
    return Stream(**{**fields, **changes})


def make_source(url: str, **changes: Any) -> Source:
    """Return the source `default` at this URL."""
    return Source(**{"name": "default", "url": url, **changes})


def make_partner(url: str, **changes: Any) -> Partner:
    """Return the partner `default` at this URL."""
    auth = Credentials(kind="bearer", values={"token": TOKEN})
    return Partner(**{"name": "default", "url": url, "auth": auth, "timeout_seconds": 20.0, **changes})


def make_client(url: str, endpoint: str = "POST /orders", **changes: Any) -> PartnerClient:
    """Return a client of the stream `orders`; `changes` are the partner's."""
    return PartnerClient(make_partner(url, **changes), make_stream(endpoint))
