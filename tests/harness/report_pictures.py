"""`python -m tests.harness.report_pictures DIRECTORY`: the pictures of the HTML report for the documents.

MongoDB, the source and the partner are real, and six hours pass in a minute or two. Needs chromium; with Pillow, which
the benchmarks install, the pictures take a third of the space.
"""

import io
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, timedelta
from pathlib import Path

from syncctl.commands.report import make_page
from syncctl.core.stream import BreakerRules, Partner
from syncctl.ledger.ledger import Ledger
from syncctl.local.mock_partner import MockPartner
from syncctl.local.mock_partner_behaviour import PartnerConfig
from syncctl.pipeline.reporting.report import draw_report
from tests.harness import servers
from tests.harness.cases import make_source
from tests.harness.chromium import CHROMIUM, open_chromium
from tests.harness.outage import run_outage
from tests.harness.source_db import SourceDb
from tests.harness.testbed import Testbed

HOURS = 6
_ROWS = 12
_VIEWS = {
    "report-wide": {"width": 1000, "media": "screen", "scheme": "light"},
    "report-phone": {"width": 360, "media": "screen", "scheme": "dark"},
    "report-print": {"width": 760, "media": "print", "scheme": "light"},
}
_COLOURS = 256


def main(arguments: Sequence[str]) -> int:
    """Make the pictures; exit code 2 without a directory or a browser."""
    if len(arguments) != 1 or CHROMIUM is None:
        why = __doc__ if CHROMIUM else "chromium is missing; as root: apt-get install chromium"
        sys.stderr.write(f"{why}\n")
        return 2
    target = Path(arguments[0])
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="syncctl-pictures-", ignore_cleanup_errors=True) as directory:
        page = Path(directory) / "report.html"
        page.write_text(make_report(Path(directory)), encoding="utf-8")
        with open_chromium(Path(directory) / "profile") as browser:
            for name, view in _VIEWS.items():
                browser.open(page, height=600, **view)  # type: ignore[arg-type]
                picture = reduce_colours(browser.take_picture())
                (target / f"{name}.png").write_bytes(picture)
                sys.stdout.write(f"{target / name}.png: {len(picture) / 1000:.0f} kB\n")
    return 0


def make_report(directory: Path) -> str:
    """Return the page of six hours in which the partner could not be reached for ten minutes."""
    config = PartnerConfig(latency_seconds=0.02, error_rate=0.01, reject_rate=0.004)
    with servers.serve_mongod() as mongod, MockPartner(config) as partner, ExitStack() as stack:
        ledger = stack.enter_context(Ledger(mongod.url("pictures"), "pictures"))
        client = stack.enter_context(servers.connect(mongod.url("pictures")))
        ledger.prepare()
        ledger.streams.ensure("orders")
        source = SourceDb(directory / "source.sqlite")
        testbed = Testbed(
            ledger=ledger,
            database=client["pictures"],
            source=make_source(source.url),
            partner=Partner(
                name="default", url=partner.url, timeout_seconds=20.0, breaker=BreakerRules(minimum_calls=5)
            ),
        )
        down = {HOURS * 12 * 2 // 3, HOURS * 12 * 2 // 3 + 1}
        start = run_outage(testbed, source, slices=HOURS * 12, down=down, rows=_ROWS)
        drawn = draw_report(
            ledger=ledger,
            since=start,
            until=start + timedelta(hours=HOURS),
            by="stream",
            zone=UTC,
            compare=False,
            streams=(),
            states=(),
            error=None,
            limit=None,
        )
        return make_page(drawn, zone=UTC, streams=(), failed_now=drawn.report.totals["failed"])


def reduce_colours(png: bytes) -> bytes:
    """Return a picture with 256 colours, which is all that text and bars need."""
    try:
        from PIL import Image
    except ImportError:
        return png
    reduced = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(_COLOURS, method=Image.Quantize.MEDIANCUT, kmeans=3).save(
        reduced, "png", optimize=True
    )
    return reduced.getvalue()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
