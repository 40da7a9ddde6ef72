"""source: whether each stream can be read, by reading one row."""

from collections.abc import Sequence

from syncctl.doctor.check import Finding, Unit, join_findings, passed, skipped, warned
from syncctl.doctor.examined import Examined
from syncctl.sources import open_reader


def list_units(examined: Examined) -> Sequence[Unit]:
    """Return a check for each stream."""
    names = examined.settings.stream_names
    if not names:
        return (Unit(name="source", look=lambda: skipped("no stream is configured")),)
    return tuple(Unit(name=f"source {name}", look=lambda name=name: check_stream(examined, name)) for name in names)  # type: ignore[misc]


def check_stream(examined: Examined, name: str) -> Finding:
    """Read one row, and tell how the stream is read."""
    stream = examined.settings.stream(name)
    hint = f"correct streams.{name} in syncctl.toml, or what it reads"
    with open_reader(examined.source(stream.source), stream) as reader:
        row = reader.first_row()
        column = reader.start_cursor().get("column")
        driver = getattr(reader, "driver", "")
        how = f"{reader.mode} by {column}, key {', '.join(reader.key_columns)}" + (f"; {driver}" if driver else "")
        findings = [warned(text, hint) for text in reader.warnings()]
    if row is None:
        return join_findings([passed(f"read as {how}; it has no row yet"), *findings])
    if row.error:
        findings.insert(0, warned(f"its first row would be logged as failed: {row.error}", hint))
    return join_findings([passed(f"read one row as {how}"), *findings])
