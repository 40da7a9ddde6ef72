"""Rules that hold between settings: what one of them means for another."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path as FilePath
from typing import Any

from pydantic import BaseModel, ValidationError

from syncctl.core.durations import format_duration
from syncctl.core.spelling import suggest
from syncctl.core.stream import SCANS
from syncctl.partner.headers import is_json
from syncctl.settings.credentials import check_partner
from syncctl.settings.layers import Layers
from syncctl.settings.problems import Problem
from syncctl.settings.request_fields import check_schema, compile_template
from syncctl.settings.schema_paths import Path
from syncctl.settings.sections import BreakerSettings, PartnerSettings, RetrySettings, StreamSettings

Tree = Mapping[str, Any]


def check_rules(tree: Tree, layers: Layers) -> list[Problem]:
    """Return what breaks a rule. Reads the plain values, so that one wrong setting hides no other."""
    problems: list[Problem] = []
    partners = tree.get("partners")
    for name, partner in partners.items() if isinstance(partners, dict) else ():
        if isinstance(partner, dict):
            problems += check_partner(name, partner, layers)
            problems += _list_problems(("partners", name), _check_breaker(partner), layers)
    streams = tree.get("streams")
    for name, stream in streams.items() if isinstance(streams, dict) else ():
        if not isinstance(stream, dict):
            continue
        for rule in (
            *(_check_origin, _check_mode, _check_columns, _check_shape),
            *(_check_names, _check_sizes, _check_batch, _check_batch_shape, _check_lease, _check_order, _check_retry),
        ):
            problems += _list_problems(("streams", name), rule(tree, stream), layers)
        problems += _list_problems(("streams", name), _check_schema(stream, layers.directory), layers)
    return problems


def _list_problems(section: Path, found: Iterable[tuple[str, str]], layers: Layers) -> Iterator[Problem]:
    """Yield a problem for each key and text; a key within a table has a dot."""
    for key, text in found:
        path = (*section, *key.split("."))
        yield Problem(key=".".join(path), origin=layers.find_nearest_origin(path), text=text)


def _check_origin(tree: Tree, stream: Tree) -> Iterator[tuple[str, str]]:  # noqa: ARG001
    table, query = stream.get("table"), stream.get("query")
    if table and query:
        yield "query", "stands beside table; keep one of the two"
    elif not table and not query:
        yield "table", 'is missing; write table = "dbo.orders", or query = "select ..."'
    elif query:
        wanted = [("key", '["id"]'), ("mode", '"increasing"')]
        if _mode_of(stream) in (None, "rowversion", "increasing"):
            wanted.insert(1, ("cursor", '"updated_at"'))
        for key, sample in wanted:
            if not stream.get(key):
                yield (
                    key,
                    f"is required beside query, which tells neither key nor order; write {key} = {sample}",
                )


def _mode_of(stream: Tree) -> str | None:
    mode = stream.get("mode")
    return mode.strip().lower() if isinstance(mode, str) else None


def _check_mode(tree: Tree, stream: Tree) -> Iterator[tuple[str, str]]:  # noqa: ARG001
    """Ask for what a mode cannot do without, and against what it has no use for."""
    mode = _mode_of(stream)
    if mode == "change_tracking" and stream.get("query"):
        yield "query", "cannot be read in mode change_tracking, which follows a table; set table"
    if mode in ("flag", "snapshot"):
        start = stream.get("start")
        if isinstance(start, str) and start.strip().lower() != "beginning":
            yield "start", f'must be "beginning" in mode {mode}, which has no cursor to start at'
    if mode in SCANS and _read(StreamSettings, stream, "append_only"):
        yield "append_only", f"has no use in mode {mode}, which needs to know each row; leave it out"
    if mode == "flag":
        samples = {
            "where": "exported = 0",
            "acknowledge": "update ... set exported = 1 where id = :id and row_version = :row_version",
            "cursor": "row_version",
        }
        for key, sample in samples.items():
            if not stream.get(key):
                yield key, f'is required in mode flag; write {key} = "{sample}"'
    else:
        for key in ("acknowledge", "acknowledge_failed"):
            if stream.get(key):
                yield key, 'is for mode flag; set mode = "flag" or leave it out'


def _check_columns(tree: Tree, stream: Tree) -> Iterator[tuple[str, str]]:  # noqa: ARG001
    if stream.get("columns") and stream.get("exclude"):
        yield "exclude", "stands beside columns; keep one of the two"
    masks, key = _read(StreamSettings, stream, "mask") or {}, _read(StreamSettings, stream, "key") or ()
    cursor = _read(StreamSettings, stream, "cursor")
    for kind, names in (("key", key), ("cursor", (cursor,) if cursor else ())):
        for column in masks:
            if column.casefold() in {name.strip().casefold() for name in names}:
                yield "mask", f"{column} is in the {kind}, which the ledger must know as it is; leave it out of mask"


def _check_shape(tree: Tree, stream: Tree) -> Iterator[tuple[str, str]]:  # noqa: ARG001
    """Ask for one way to make the body, and that it is what its content type says."""
    body, content_type = stream.get("body"), _read(StreamSettings, stream, "content_type") or "application/json"
    if body and stream.get("fields"):
        yield "body", "stands beside fields; keep one of the two"
    if isinstance(body, str) and body.strip():
        try:
            compile_template(body, content_type=content_type)
        except ValueError as error:
            yield "body", str(error)
    if not is_json(content_type):
        if not body:
            yield "content_type", f"is {content_type}, and the row goes as JSON; write body, a template of that type"
        if stream.get("body_schema"):
            yield "body_schema", f"checks JSON, and content_type is {content_type}; leave one of the two out"


def _check_schema(stream: Tree, directory: FilePath) -> Iterator[tuple[str, str]]:
    file = _read(StreamSettings, stream, "body_schema")
    if file and is_json(_read(StreamSettings, stream, "content_type") or "application/json"):
        try:
            check_schema(directory / file)
        except ValueError as error:
            yield "body_schema", str(error)


def _check_names(tree: Tree, stream: Tree) -> Iterator[tuple[str, str]]:
    for key in ("source", "partner"):
        name = stream.get(key, "default")
        known = tree.get(f"{key}s", {})
        if isinstance(name, str) and isinstance(known, dict) and name.strip() not in known:
            yield key, f"there is no [{key}s.{name}]; {suggest(name, tuple(known))}"


def _check_sizes(tree: Tree, stream: Tree) -> Iterator[tuple[str, str]]:  # noqa: ARG001
    batch, window = (_read(StreamSettings, stream, key) for key in ("batch_size", "window"))
    if batch is not None and window is not None and batch > window:
        yield (
            "batch_size",
            f"{batch} is more than the window of {window} records; lower batch_size or raise window",
        )


def _check_batch(tree: Tree, stream: Tree) -> Iterator[tuple[str, str]]:  # noqa: ARG001
    """Ask that the rows of a call can go together."""
    rows, at_once = (_read(StreamSettings, stream, key) for key in ("batch", "batch_size"))
    if not rows or rows == 1:
        return
    if at_once is not None and rows > at_once:
        yield "batch", f"{rows} is more than the {at_once} records of a message; lower batch or raise batch_size"
    endpoint = stream.get("endpoint")
    if isinstance(endpoint, str) and "{" in endpoint:
        yield "endpoint", "names a column, and the rows of a batch go in one call; leave it out of the path"
    if not is_json(_read(StreamSettings, stream, "content_type") or "application/json"):
        yield "batch", "needs JSON; leave content_type out, or batch"


def _check_batch_shape(tree: Tree, stream: Tree) -> Iterator[tuple[str, str]]:  # noqa: ARG001
    """Ask that what is said of an answer can be used, and suffices to judge a row."""
    shape = stream.get("batch_shape")
    written = {key for key, value in shape.items() if value} if isinstance(shape, dict) else set()
    if written and _read(StreamSettings, stream, "batch") == 1:
        yield "batch_shape", "is for calls of many rows; set batch to more than 1, or leave it out"
        return
    judged = {"result_status", "result_accepted_when"} & written
    if "results" not in written:
        for key in sorted(judged | ({"result_key"} & written)):
            yield f"batch_shape.{key}", 'is about an item of results; write results = "PATH" beside it, or leave it out'
    elif not judged:
        text = 'does not tell what became of a row; write result_status = "PATH" or result_accepted_when beside it'
        yield "batch_shape.results", text


def _check_retry(tree: Tree, stream: Tree) -> Iterator[tuple[str, str]]:  # noqa: ARG001
    """Ask for a last delay that can be repeated."""
    retry = stream.get("retry")
    if not isinstance(retry, dict) or not _read(RetrySettings, retry, "give_up_after"):
        return
    schedule = _read(RetrySettings, retry, "schedule")
    if schedule == ():
        yield (
            "retry.schedule",
            'is empty, and give_up_after repeats its last delay; write schedule = ["1m"], or leave give_up_after out',
        )
    elif schedule and schedule[-1] == 0:
        yield (
            "retry.schedule",
            "ends in 0s, which give_up_after would repeat without a pause; end it in a delay such as 1m",
        )


def _check_breaker(partner: Tree) -> Iterator[tuple[str, str]]:
    breaker = partner.get("breaker")
    if not isinstance(breaker, dict):
        return
    pause, longest = (_read(BreakerSettings, breaker, key) for key in ("pause", "longest_pause"))
    if pause is not None and longest is not None and longest < pause:
        shown = f"{format_duration(longest)} is shorter than pause ({format_duration(pause)}), with which it begins"
        yield "breaker.longest_pause", f"{shown}; raise longest_pause or lower pause"


def _check_order(tree: Tree, stream: Tree) -> Iterator[tuple[str, str]]:  # noqa: ARG001
    order = _read(StreamSettings, stream, "order")
    if order == "strict" and _read(StreamSettings, stream, "append_only"):
        yield "order", "strict has no use beside append_only, which knows one version of a row; leave one of them out"
    if order != "strict" and stream.get("strict_hold") is not None:
        yield "strict_hold", 'is for order strict; set order = "strict" or leave it out'


def _check_lease(tree: Tree, stream: Tree) -> Iterator[tuple[str, str]]:
    """Ask that a lease outlives a call that began late: the call's deadline twice over."""
    partners, name = tree.get("partners"), stream.get("partner", "default")
    partner = partners.get(name) if isinstance(partners, dict) and isinstance(name, str) else None
    if not isinstance(partner, dict):
        return
    lease = _read(StreamSettings, stream, "lease")
    timeout = _read(PartnerSettings, partner, "timeout_seconds")
    if lease is None or timeout is None or lease > 2 * timeout:
        return
    text = (
        f"{format_duration(lease)} is not more than twice partners.{name}.timeout_seconds "
        f"(2 x {timeout:g} s = {2 * timeout:g} s), so a call could outlive its lease; "
        f"raise lease above {2 * timeout:g}s or lower timeout_seconds below {lease / 2:g}"
    )
    yield "lease", text


def _read(model: type[BaseModel], tree: Tree, key: str) -> Any:
    """Return one value of a section as the model reads it, None when it is wrong in itself."""
    needed = {"start": "now"} if model is StreamSettings else {}
    values = {key: tree[key]} if key in tree else {}
    try:
        return getattr(model.model_validate({**needed, **values}), key)
    except ValidationError:
        return None
