"""Guards of the invariants that no other test covers: each test fails when its guard is removed."""

import threading
import tracemalloc
from itertools import islice
from urllib.parse import urlsplit

from syncctl.core.rows import Row
from syncctl.partner.call_deadline import call_deadline
from syncctl.partner.response import BODY_AT_MOST_BYTES
from syncctl.partner.transport import Transport
from syncctl.pipeline.identity import identify
from tests.harness.cases import make_partner
from tests.harness.hostile_partner import HostilePartner, Peer
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
    chunk, sent, hung_up = b"x" * 65_536, [0], threading.Event()

    def answer_without_end(peer: Peer) -> None:
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
        try:
            while sent[0] < 512 * 1024 * 1024:
                peer.sock.sendall(chunk)
                sent[0] += len(chunk)
        except OSError:
            hung_up.set()

    with HostilePartner(answer_without_end) as server:
        partner = make_partner(server.url)
        transport = Transport(partner, urlsplit(server.url))
        call_deadline.begin(partner.timeout_seconds)
        tracemalloc.start()
        try:
            answer, error = transport.exchange("POST", "/orders", {"Host": "partner"}, b"{}")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        # The server is told, rather than left with a connection on which nobody reads.
        assert hung_up.wait(20)
        transport.close()
    assert answer is not None
    assert (error, answer.status, answer.is_capped) == (None, 200, True)
    assert BODY_AT_MOST_BYTES <= 1_000_000
    assert len(answer.body) == BODY_AT_MOST_BYTES
    assert peak < 5_000_000


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
