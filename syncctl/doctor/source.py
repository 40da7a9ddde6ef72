"""source: whether each source is fit to be read, and whether each stream can be read, by reading one row."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from syncctl.core.gaps import read_memory, show_gaps, show_ranges
from syncctl.core.rows import Row
from syncctl.core.stream import Child, Stream
from syncctl.doctor import sql_server
from syncctl.doctor.check import Finding, Unit, failed, join_findings, passed, skipped, warned
from syncctl.errors import ConfigurationError, ServiceUnavailable, SourceError
from syncctl.partner.client import PartnerClient
from syncctl.partner.endpoint import add_columns, find_placeholders
from syncctl.pipeline.inspection.preview import RequestPreviewer, preview_steps
from syncctl.settings.child_section import is_among
from syncctl.sources.diagnostics import Diagnostics, is_sqlite
from syncctl.sources.reader import StreamReader

if TYPE_CHECKING:
    from syncctl.doctor.examination import Services

RUNS_LOOKED_AT = 100


def list_units(services: "Services") -> Sequence[Unit]:
    """Return the checks of each source, and those of each stream."""
    names = services.settings.stream_names
    if not names:
        return (Unit(name="source", look=lambda: skipped("no stream is configured")),)
    streams = [stream for name in names if (stream := _find_stream(services, name)) is not None]
    by_source: dict[str, list[Stream]] = {}
    for stream in streams:
        by_source.setdefault(stream.source, []).append(stream)
    is_file = {name: _is_sqlite(services, name) for name in by_source}
    units = [unit for name in by_source for unit in _list_source(services, name, by_source[name], is_file[name])]
    for name in names:
        units.append(Unit(name=f"source {name}", look=lambda name=name: check_stream(services, name)))  # type: ignore[misc]
        units += [
            unit
            for stream in streams
            if stream.name == name
            for unit in _list_stream(services, stream, is_file[stream.source])
        ]
    return units


def _find_stream(services: "Services", name: str) -> Stream | None:
    """Return a stream; None if its settings are wrong, which its own check reports."""
    try:
        return services.settings.stream(name)
    except ConfigurationError:
        return None


def _is_sqlite(services: "Services", name: str) -> bool:
    try:
        return is_sqlite(services.source(name))
    except ConfigurationError:
        # The source has no URL, which its first check reports; the other checks wait for that one.
        return False


def _list_source(services: "Services", name: str, streams: Sequence[Stream], is_file: bool) -> Iterator[Unit]:
    first = f"source {name} server"
    setting = "SOURCE_URL" if name == "default" else f"sources.{name}.url"
    checks: dict[str, Callable[[Diagnostics], Finding]] = {
        "server": sql_server.check_server,
        "encryption": lambda source: sql_server.check_encryption(source, setting),
        "isolation": lambda source: sql_server.check_isolation(source, streams),
        "role": lambda source: sql_server.check_role(source, streams),
        "clock": lambda source: sql_server.check_clock(source, services.ledger.streams.server_time),
        "transactions": sql_server.check_transactions,
    }
    for aspect, check in ({"server": sql_server.check_sqlite} if is_file else checks).items():
        needs = () if aspect == "server" else (first, "mongodb") if aspect == "clock" else (first,)
        yield Unit(name=f"source {name} {aspect}", look=lambda check=check: _ask(services, name, check), needs=needs)  # type: ignore[misc]


def _list_stream(services: "Services", stream: Stream, is_file: bool) -> Iterator[Unit]:
    first, name = f"source {stream.source} server", f"source {stream.name}"
    if stream.table is not None:
        if not is_file:
            look = lambda: _ask(services, stream.source, lambda source: sql_server.check_rights(source, stream))  # noqa: E731
            yield Unit(name=f"{name} rights", look=look, needs=(first,))
        if stream.write_back:
            yield Unit(name=f"{name} write_back", look=lambda: check_write_back(services, stream), needs=(name,))
        if stream.mode not in ("flag", "change_tracking"):
            yield Unit(name=f"{name} index", look=lambda: check_index(services, stream), needs=(name,))
        if stream.mode == "change_tracking" and not is_file:
            yield Unit(name=f"{name} tracking", look=lambda: check_tracking(services, stream), needs=(first, "mongodb"))
    if any(child.table for child in list_children(stream)):
        yield Unit(
            name=f"{name} children", look=lambda: check_children(services, stream, is_file=is_file), needs=(name,)
        )
    if stream.mode in (None, "increasing"):
        yield Unit(
            name=f"{name} gaps",
            look=lambda: _skip_without_ledger(lambda: check_gaps(services, stream)),
            needs=("mongodb",),
        )


def _ask(services: "Services", name: str, check: Callable[[Diagnostics], Finding]) -> Finding:
    with Diagnostics(services.source(name)) as source:
        return _skip_without_ledger(lambda: check(source))


def _skip_without_ledger(look: Callable[[], Finding]) -> Finding:
    """Skip a check that needs the ledger too: an unreachable MongoDB is not a fault of the source."""
    try:
        return look()
    except ServiceUnavailable as error:
        if error.service != "mongodb":
            raise
        return skipped(f"needs mongodb: {error}", "run: syncctl doctor mongodb")


def check_stream(services: "Services", name: str) -> Finding:
    """Read one row, report how the stream is read, and check whether the row could be sent."""
    stream = services.settings.stream(name)
    hint = f"correct streams.{name} in syncctl.toml, or the table that it reads"
    with StreamReader(services.source(stream.source), stream) as reader:
        row, columns_fingerprint = reader.first_row(), reader.columns_fingerprint
        column = reader.start_cursor().get("column")
        how = f"{reader.mode} by {column}, key {', '.join(reader.key_columns)}; {reader.driver}"
        # Without mode and cursor in the settings, the first layout that works was chosen, which may not be the safest.
        is_default = stream.mode is None and stream.cursor is None and reader.mode == "increasing"
        safer = f"; see which mode is safer: syncctl inspect {stream.table}" if is_default and stream.table else ""
        findings = [warned(text, hint + safer) for text in reader.warnings()]
        findings += find_shared_addresses(stream, reader.key_columns)
    if row is None:
        return join_findings([passed(f"read as {how}; it has no row yet"), *findings])
    if reason := _find_fault(services, stream, row, columns_fingerprint):
        findings.insert(0, warned(reason, hint))
    return join_findings([passed(f"read one row as {how}"), *findings])


def _find_fault(services: "Services", stream: Stream, row: Row, columns_fingerprint: str) -> str | None:
    """Return why a row could not be sent, by building its request without sending it or asking the ledger."""
    if row.error:
        return f"its first row would be logged as failed: {row.error}"
    try:
        client = PartnerClient(services.partner(stream.partner), stream)
    except ConfigurationError:
        # No call could be made at all, which the partner's own check reports.
        return None
    try:
        previews = preview_steps(stream, row, columns_fingerprint, RequestPreviewer(client=client))
        error = next((preview.request.error for preview in previews if preview.request.error), None)
    finally:
        client.close()
    return f"its first row could not be sent: {error}" if error else None


def find_shared_addresses(stream: Stream, key: Sequence[str]) -> Iterator[Finding]:
    """Report each address that names only a part of the key: rows that differ in the rest share it.

    A POST is no problem, because it adds to the rows at its address. An address with a value from outside the key, such
    as the partner's own id, may still name a single row.
    """
    if stream.batching.size > 1:
        return
    addresses = {
        "endpoint": (stream.method, stream.path),
        "update_endpoint": (stream.update_method, stream.update_path),
        "delete_endpoint": (stream.delete_method, stream.delete_path),
    }
    for setting, (method, path) in addresses.items():
        named = find_placeholders(path)
        missing = [column for column in key if not is_among(column, named)]
        if method in (None, "POST") or not named or not missing or not all(is_among(name, key) for name in named):
            continue
        whole = add_columns(path, missing)
        yield warned(
            f"{setting} {method} {path} leaves out {', '.join(missing)} of the key: rows that differ only there "
            "share one address at the partner",
            f"set streams.{stream.name}.{setting} to an address with the whole key, "
            + (f'such as "{method} {whole}"' if whole else "read by a query that renames its columns"),
        )


def check_index(services: "Services", stream: Stream) -> Finding:
    """Check whether an index serves the order in which the stream is read."""
    with StreamReader(services.source(stream.source), stream) as reader:
        if reader.mode in ("flag", "change_tracking"):
            return passed(f"mode {reader.mode} follows no column")
        ties = [name for name in reader.key_columns if name != reader.cursor_column]
        columns = [reader.cursor_column, *ties]
    return _ask(services, stream.source, lambda source: sql_server.check_index(source, stream, columns))


def check_write_back(services: "Services", stream: Stream) -> Finding:
    """Check whether the login may update the columns of `write_back`: try an update of no row, and roll it back."""
    columns = ", ".join(stream.write_back)
    with StreamReader(services.source(stream.source), stream) as reader:
        try:
            reader.try_write_back()
        except SourceError as error:
            return failed(f"outcomes cannot be written to {columns}: {error.why}", error.hint)
    return passed(f"outcomes can be written to {columns}")


def list_children(owner: Stream | Child) -> Iterator[Child]:
    """Yield the children of a stream, and the children of those."""
    for child in owner.children:
        yield child
        yield from list_children(child)


def check_children(services: "Services", stream: Stream, *, is_file: bool) -> Finding:
    """Check rights on the tables of children, and indexes by which their rows and their changes are found."""

    def check(source: Diagnostics) -> Finding:
        findings = []
        for child in list_children(stream):
            if child.table is None:
                continue
            on = [column for column, _ in child.on]
            is_tracked = child.cursor == "change_tracking"
            table = replace(
                stream,
                table=child.table,
                columns=(*child.columns, *on, *child.sort) if child.columns else (),
                exclude=child.exclude,
                key=(),
                cursor=None if is_tracked else child.cursor,
                mode="change_tracking" if is_tracked else None,
            )
            facts = [] if is_file else [sql_server.check_rights(source, table)]
            by_column = [sql_server.check_index(source, table, [*on[at:], *on[:at]]) for at in range(len(on))]
            # An index on one of these columns is enough to find the rows of a parent.
            facts.append(next((finding for finding in by_column if finding.status == "ok"), by_column[0]))
            if child.cursor and not is_tracked:
                facts.append(sql_server.check_index(source, table, [child.cursor, *on]))
            findings += [replace(fact, detail=f"{child.table}: {fact.detail}") for fact in facts]
        return join_findings(findings)

    return _ask(services, stream.source, check)


def check_tracking(services: "Services", stream: Stream) -> Finding:
    """Check whether the changes since the last poll are still known."""

    def check(source: Diagnostics) -> Finding:
        document = services.ledger.streams.load_all().get(stream.name, {})
        polled_at = _find_last_poll(services, stream.name, document)
        age = None if polled_at is None else (services.ledger.streams.server_time() - polled_at).total_seconds()
        return sql_server.check_tracking(source, stream, document.get("cursor"), age)

    return _ask(services, stream.source, check)


def _find_last_poll(services: "Services", stream: str, document: Mapping[str, Any]) -> datetime | None:
    """Return when the last poll without an error ended, or when it began if only its run is recorded."""
    health = document.get("health", {})
    if health.get("last_poll_at") and not health.get("error"):
        return health["last_poll_at"]  # type: ignore[no-any-return]
    runs = services.ledger.runs.load(stream, limit=RUNS_LOOKED_AT)
    return next((run["started_at"] for run in runs if not run.get("error")), None)


def check_gaps(services: "Services", stream: Stream) -> Finding:
    """Report the numbers of an identity column that never appeared, and those that are still awaited."""
    memory = read_memory(services.ledger.streams.load_all().get(stream.name, {}).get("cursor") or {})
    waiting = passed(f"waits for {show_gaps(memory.gaps)}" if memory.gaps else "waits for no missing number")
    if not memory.given_up:
        return waiting
    gave_up = warned(
        f"gave up {memory.given_up:,} gaps, the last ones: {show_ranges(memory.last_given_up)}"
        " (rolled back or deleted, or committed too late to be read)",
        f"run: syncctl reconcile {stream.name} --repair",
    )
    return join_findings([gave_up, waiting])
