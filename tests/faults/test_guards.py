"""Guards of the invariants that no other test covers: each test fails when its guard is removed."""

import tracemalloc
from itertools import islice
from urllib.parse import urlsplit

from syncctl.core.rows import Row
from syncctl.partner.call_deadline import call_deadline
from syncctl.partner.response import BODY_AT_MOST_BYTES
from syncctl.partner.transport import Transport
from syncctl.pipeline.identity import identify
from tests.harness.cases import make_partner
from tests.harness.hostile_partner import HostilePartner, answering
from tests.harness.source_db import SourceDb
from tests.harness.source_reading import open_stream


def test_rows_whose_key_holds_a_null_are_failed_and_not_versions_of_one_another() -> None:
    """Invariant 9. Fails without the look for a NULL in `identify`."""
    rows = [Row(key={"id": None, "line": 1}, payload={"id": None, "line": 1}, version=None, at=at) for at in ("1", "2")]
    named = [identify(row) for row in rows]
    assert len({key for _, key in named}) == 2
    for row, _ in named:
        assert row.payload is None
        assert row.error == "key column id is NULL, so the key names no row"


def test_an_answer_is_read_up_to_its_cap_and_its_connection_closed() -> None:
    """Invariant 11: a partner's answer without end takes no memory without end. Fails without the cap."""
    with HostilePartner(answering("200 OK", b"x" * 8_000_000)) as server:
        transport = Transport(make_partner(server.url), urlsplit(server.url))
        responses = []
        for _ in range(2):
            call_deadline.begin(20.0)
            responses.append(transport.exchange("GET", "/", {}, None)[0])
        transport.close()
    assert BODY_AT_MOST_BYTES <= 1_000_000
    assert [len(response.body) for response in responses if response] == [BODY_AT_MOST_BYTES] * 2
    assert server.connections == 2


def test_a_page_costs_the_memory_of_a_page(source_db: SourceDb) -> None:
    """Invariant 11: however long the table is. Fails without the limit of the statement."""
    source_db.create_orders()
    source_db.add_orders(range(1, 5001), note="x" * 2000)
    with open_stream(source_db, page_size=50) as reader:
        pages = reader.pages(reader.start_cursor())
        assert len(next(pages).rows) == 50
        tracemalloc.start()
        try:
            assert [len(page.rows) for page in islice(pages, 3)] == [50, 50, 50]
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 3_000_000, "50 rows hold 0.1 MB, the table 10 MB"
