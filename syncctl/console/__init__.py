"""The only writer of stdout: tables, JSON, CSV. Everything but the answer of a command goes to stderr.

from syncctl.console import out
"""

from syncctl.console.console import Console
from syncctl.console.json_documents import format_time, to_document, to_json, to_line
from syncctl.console.tables import format_cell, format_count

__all__ = ["Console", "format_cell", "format_count", "format_time", "out", "to_document", "to_json", "to_line"]

out = Console()
