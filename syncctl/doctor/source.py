"""source: whether each source is fit to be read from, and each stream can be read: by reading one row."""

from collections.abc import Callable, Iterator, Sequence

from syncctl.core.rows import Row
from syncctl.core.stream import Stream
from syncctl.doctor import cursor, server
from syncctl.doctor.check import Finding, Unit, join_findings, passed, skipped, warned
from syncctl.doctor.examined import Examined
from syncctl.errors import ConfigurationError, ServiceUnavailable
from syncctl.partner.client import PartnerClient
from syncctl.pipeline.preview import Sketch, preview_row
from syncctl.sources import open_reader
from syncctl.sources.diagnostics import is_sqlite


def list_units(examined: Examined) -> Sequence[Unit]:
    """Return the checks of each source, and those of each stream."""
    names = examined.settings.stream_names
    if not names:
        return (Unit(name="source", look=lambda: skipped("no stream is configured")),)
    streams = [stream for name in names if (stream := _find_stream(examined, name)) is not None]
    by_source: dict[str, list[Stream]] = {}
    for stream in streams:
        by_source.setdefault(stream.source, []).append(stream)
    kinds = {name: _is_sqlite(examined, name) for name in by_source}
    units = [unit for name in by_source for unit in _list_source(examined, name, by_source[name], kinds[name])]
    for name in names:
        units.append(Unit(name=f"source {name}", look=lambda name=name: check_stream(examined, name)))  # type: ignore[misc]
        stream = next((each for each in streams if each.name == name), None)
        if stream is not None:
            units += _list_stream(examined, stream, kinds[stream.source])
    return units


def check_stream(examined: Examined, name: str) -> Finding:
    """Read one row, and tell how the stream is read, and whether the row could be sent."""
    stream = examined.settings.stream(name)
    hint = f"correct streams.{name} in syncctl.toml, or what it reads"
    with open_reader(examined.source(stream.source), stream) as reader:
        row, columns_fingerprint = reader.first_row(), reader.columns_fingerprint
        column = reader.start_cursor().get("column")
        driver = getattr(reader, "driver", "")
        how = f"{reader.mode} by {column}, key {', '.join(reader.key_columns)}" + (f"; {driver}" if driver else "")
        # Without a word in the settings it is the first layout that will do, which need not be the safest.
        is_chosen = stream.mode is None and stream.cursor is None and reader.mode == "increasing"
        safer = f"; see which mode is safer: syncctl inspect {stream.table}" if is_chosen and stream.table else ""
        findings = [warned(text, hint + safer) for text in reader.warnings()]
    if row is None:
        return join_findings([passed(f"read as {how}; it has no row yet"), *findings])
    if reason := _find_fault(examined, stream, row, columns_fingerprint):
        findings.insert(0, warned(reason, hint))
    return join_findings([passed(f"read one row as {how}"), *findings])


def _find_fault(examined: Examined, stream: Stream, row: Row, columns_fingerprint: str) -> str | None:
    """Return why a row could not be sent, by the request that it would be; nothing is sent, and no ledger is asked."""
    if row.error:
        return f"its first row would be logged as failed: {row.error}"
    try:
        client = PartnerClient(examined.partner(stream.partner), stream, max_connections=1)
    except ConfigurationError:
        # No call could be made at all, which the partner's own check tells.
        return None
    try:
        error = preview_row(stream, row, columns_fingerprint, Sketch(client=client)).request.error
    finally:
        client.close()
    return f"its first row could not be sent: {error}" if error else None


def _find_stream(examined: Examined, name: str) -> Stream | None:
    """Return a stream; None where its settings are wrong, which its own check tells."""
    try:
        return examined.settings.stream(name)
    except ConfigurationError:
        return None


def _is_sqlite(examined: Examined, name: str) -> bool:
    try:
        return is_sqlite(examined.source(name))
    except ConfigurationError:
        # Its URL is not set, which the first check tells: the others wait for it.
        return False


def _list_source(examined: Examined, name: str, streams: Sequence[Stream], is_file: bool) -> Iterator[Unit]:
    checks = server.FILE_CHECKS if is_file else server.CHECKS
    first = f"source {name} server"
    for aspect, check in checks.items():
        needs = () if aspect == "server" else (first, "mongodb") if aspect == "clock" else (first,)
        yield Unit(
            name=f"source {name} {aspect}",
            look=lambda check=check: _skip_without_ledger(lambda: check(examined, name, streams)),  # type: ignore[misc]
            needs=needs,
        )


def _list_stream(examined: Examined, stream: Stream, is_file: bool) -> Iterator[Unit]:
    first = f"source {stream.source} server"
    name = f"source {stream.name}"
    if stream.table is not None:
        if not is_file:
            yield Unit(name=f"{name} rights", look=lambda: cursor.check_rights(examined, stream), needs=(first,))
        if stream.mode not in ("flag", "change_tracking"):
            yield Unit(name=f"{name} index", look=lambda: cursor.check_index(examined, stream), needs=(name,))
        if stream.mode == "change_tracking" and not is_file:
            yield Unit(
                name=f"{name} tracking",
                look=lambda: _skip_without_ledger(lambda: cursor.check_tracking(examined, stream)),
                needs=(first, "mongodb"),
            )
    if stream.mode in (None, "increasing"):
        yield Unit(
            name=f"{name} gaps",
            look=lambda: _skip_without_ledger(lambda: cursor.check_gaps(examined, stream)),
            needs=("mongodb",),
        )


def _skip_without_ledger(look: Callable[[], Finding]) -> Finding:
    """Skip what the ledger would tell: that MongoDB is away is no trouble of the source."""
    try:
        return look()
    except ServiceUnavailable as error:
        if error.service != "mongodb":
            raise
        return skipped(f"needs mongodb: {error}", "run: syncctl doctor mongodb")
