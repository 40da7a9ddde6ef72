"""The program that writes to the demo's source while it is read.

    python -m syncctl.local.demo.writer orders.db --rows 2000 --seconds 5 --documents

prints {"inserted": N, "updated": N} after it has written everything.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from syncctl.local.demo.documents import DocumentsTable, DocumentWriter
from syncctl.local.demo.source import OrdersTable, OrderWriter


def main(arguments: Sequence[str] | None = None) -> int:
    """Write to existing tables and print how much was written."""
    parser = argparse.ArgumentParser(prog="python -m syncctl.local.demo.writer", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--documents", action="store_true", help="orders with lines")
    chosen = parser.parse_args(arguments)
    table, writer_of = (DocumentsTable, DocumentWriter) if chosen.documents else (OrdersTable, OrderWriter)
    writer = writer_of(table(chosen.file), rows=chosen.rows, seconds=chosen.seconds, seed=chosen.seed)
    writer.write()
    sys.stdout.write(json.dumps({"inserted": writer.inserted, "updated": writer.updated}) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
