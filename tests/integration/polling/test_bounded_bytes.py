"""Pages and batches are bounded in bytes: rows of megabytes cost the memory of a few, and none is passed over."""

from pathlib import Path

import sqlalchemy as sa

from syncctl.core.stream import Source
from syncctl.sources.reader import StreamReader
from tests.harness.cases import make_stream
from tests.harness.testbed import ListReader, Testbed, version_row


def fill(path: Path, rows: int, size: int) -> Source:
    """Return a source whose table has rows of this size."""
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE orders (id INTEGER PRIMARY KEY, note TEXT NOT NULL)"))
        connection.execute(sa.text("INSERT INTO orders VALUES (:id, :note)"), [
            {"id": number, "note": "x" * size} for number in range(1, rows + 1)
        ])  # fmt: skip
    engine.dispose()
    return Source(name="default", url=f"sqlite:///{path}")


def test_a_page_of_large_rows_ends_early_and_the_next_goes_on(tmp_path: Path) -> None:
    source = fill(tmp_path / "erp.db", rows=120, size=100_000)
    stream = make_stream(cursor="id", mode="increasing", page_size=1000, page_bytes=1_000_000)
    with StreamReader(source, stream) as reader:
        pages = list(reader.pages(reader.start_cursor()))
    sizes = [len(page.rows) for page in pages if page.rows]
    assert max(sizes) <= 11
    assert [row.key["id"] for page in pages for row in page.rows] == list(range(1, 121))


def test_a_row_larger_than_a_page_is_a_page(tmp_path: Path) -> None:
    source = fill(tmp_path / "erp.db", rows=3, size=2_000_000)
    stream = make_stream(cursor="id", mode="increasing", page_bytes=1000)
    with StreamReader(source, stream) as reader:
        pages = [page for page in reader.pages(reader.start_cursor()) if page.rows]
    assert [len(page.rows) for page in pages] == [1, 1, 1]


def test_a_batch_of_large_rows_ends_early_and_the_next_goes_on(testbed: Testbed) -> None:
    """Invariant 11. Fails without the bound in `dispatch.py:_cut_at_bytes`."""
    testbed.change_stream(batch_size=100, batch_bytes=70_000)
    testbed.poll(ListReader([version_row(number, "x" * 20_000, None) for number in range(1, 9)]))
    first = testbed.take()
    assert first.claim is not None
    assert [record.key["id"] for record in first.claim.records] == [1, 2, 3]
    assert first.has_more, "other processes have work to do"
    assert testbed.take_all() == [[4, 5, 6], [7, 8]]


def test_a_row_larger_than_a_batch_is_a_batch(testbed: Testbed) -> None:
    """It would never be taken otherwise, nor would any row behind it (invariant 12)."""
    testbed.change_stream(batch_size=100, batch_bytes=1000)
    testbed.poll(ListReader([version_row(number, "x" * 20_000, None) for number in (1, 2)]))
    assert testbed.take_all() == [[1], [2]]
