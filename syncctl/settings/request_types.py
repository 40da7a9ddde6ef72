"""The types of the settings that make a request: endpoint, fields, templates, headers, content type, statuses."""

import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ValidationInfo

from syncctl.core.mapping import parse_fields
from syncctl.core.outcome import CONFLICT, OutcomeRules, Verdict
from syncctl.core.remote_values import check_name, parse_capture
from syncctl.core.rows import Operation
from syncctl.errors import ConfigurationError
from syncctl.partner.address import parse_endpoint, parse_lookup_endpoint
from syncctl.partner.encoding import BodyContent, find_codec, is_form, is_json
from syncctl.partner.request_headers import is_header_name, is_reserved, looks_secret
from syncctl.settings.field_types import OptionalText, Text, read_absent, read_choices, read_table

NO_DELETES = "none"
WITHOUT_REFERENCES = (
    "endpoint", "delete_endpoint", "update_endpoint", "lookup", "capture", "fields", "body", "headers", "content_type",
    "body_schema",
)  # fmt: skip
"""Settings of a stream that are the same on every machine: they take no `${NAME}`, and hold no secret."""
NO_REFERENCE = (
    "cannot contain ${NAME}: it is the same on every machine and is shown unmasked; put a secret into the partner's "
    "auth or headers, or write $${ for a plain ${"
)
_CONTENT_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+(; ?[A-Za-z0-9_-]+=[A-Za-z0-9_.-]+)*")
_OPERATIONS: tuple[str, ...] = typing.get_args(Operation)
StatusTable = dict[str, str | dict[str, str]]
_VERDICTS = tuple(verdict.value for verdict in (Verdict.ACCEPTED, Verdict.RETRY_LATER, Verdict.REJECTED))


def takes_no_reference(path: Sequence[str]) -> bool:
    """Tell whether a setting takes no `${NAME}`."""
    return len(path) > 2 and path[0] == "streams" and path[2] in WITHOUT_REFERENCES


def check_body(template: str | None, info: ValidationInfo) -> str | None:
    """Check the template of a body against the stream's content type."""
    if template is not None:
        _compile_template(template, content_type=get_content_type(info), remote=get_remote_names(info))
    return template


def check_body_schema(file: str | None, info: ValidationInfo) -> str | None:
    """Check a JSON Schema file; its path is relative to the directory of the settings."""
    if file is None:
        return None
    content_type = get_content_type(info)
    if not is_json(content_type):
        raise ValueError(f"checks JSON, and content_type is {content_type}; remove one of the two")
    from syncctl.partner.request.body_schema import BodySchema

    layers: Any = info.context
    path: Path = layers.directory / file
    try:
        BodySchema(path, key="body_schema")
    except ConfigurationError as error:
        raise ValueError(f"{path.name} cannot be used: {' '.join(error.why.split())}; {error.hint}") from None
    return file


def get_content_type(info: ValidationInfo) -> str:
    """Return the content type of the stream that is being checked."""
    return info.data.get("content_type") or "application/json"


def get_remote_names(info: ValidationInfo) -> tuple[str, ...] | None:
    """Return the names of the partner's values that a stream captures; None if `capture` or `lookup` has an error."""
    if "capture" not in info.data or "lookup" not in info.data:
        return None
    return tuple(dict.fromkeys([*info.data["capture"], *info.data["lookup"].capture]))


def _compile_template(
    source: str, *, where: str = "", content_type: str = "text/plain", remote: tuple[str, ...] | None
) -> None:
    from syncctl.partner.request.template import TextTemplate

    try:
        template = TextTemplate(
            source, title="template", is_json=is_json(content_type), is_form=is_form(content_type), remote=remote
        )
        BodyContent(content_type, source).check_own_texts(template.texts)
    except ValueError as error:
        raise ValueError(f"{where}: {error}" if where else str(error)) from None


def _check_endpoint(text: str) -> str:
    return " ".join(parse_endpoint(text))


def _check_update_endpoint(text: str | None) -> str | None:
    return None if text is None else _check_endpoint(text)


def _check_lookup_endpoint(text: str | None) -> str | None:
    return None if text is None else " ".join(parse_lookup_endpoint(text))


def _check_delete_endpoint(text: str | None) -> str | None:
    if text is None or text.strip().lower() == NO_DELETES:
        return None if text is None else NO_DELETES
    return " ".join(parse_endpoint(text))


def _check_capture(rules: dict[str, str]) -> dict[str, str]:
    for name, place in rules.items():
        check_name(name)
        try:
            parse_capture(place)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return rules


def _check_fields(table: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if table is not None:
        parse_fields(table)
    return table


def _check_headers(headers: Mapping[str, str] | None, info: ValidationInfo) -> Mapping[str, str] | None:
    for name, template in (headers or {}).items():
        if not is_header_name(name):
            raise ValueError(f"{name!r} cannot be the name of a header")
        if is_reserved(name):
            raise ValueError(
                f"{name} is set by syncctl or by the partner's auth; remove it (use content_type, or auth)"
            )
        if looks_secret(name) and "{{" not in template:
            raise ValueError(f"{name} looks like a secret; set it as the partner's auth, type api_key")
        _compile_template(template, where=name, remote=get_remote_names(info))
    return headers


def _check_content_type(text: str | None) -> str | None:
    if text is not None and _CONTENT_TYPE.fullmatch(text.strip()) is None:
        raise ValueError(f"{text!r} is not a content type; write for example application/json")
    if text is not None:
        find_codec(text)
    return None if text is None else text.strip()


def _check_outcomes(outcomes: StatusTable) -> StatusTable:
    for status, meaning in outcomes.items():
        if isinstance(meaning, dict):
            _check_outcomes({**meaning})
        elif status in _OPERATIONS:
            raise ValueError(f'{status} holds a table, as in {status} = {{ 404 = "rejected" }}')
        elif not (status.isascii() and status.isdigit() and 200 <= int(status) <= 599):
            raise ValueError(f"{status} is not an HTTP status from 200 to 599, and no operation (upsert, delete)")
    return outcomes


def _read_outcomes(value: object) -> object:
    table = read_table(value)
    if not isinstance(table, dict):
        return table
    own = {name: read_choices(read_table(table[name]), _VERDICTS) for name in _OPERATIONS if name in table}
    common = read_choices({name: meaning for name, meaning in table.items() if name not in own}, _VERDICTS)
    return {**common, **own} if isinstance(common, dict) else common


def make_outcome_rules(outcomes: StatusTable, *, accepts_conflict: bool) -> OutcomeRules:
    """Return the verdicts of the setting `outcomes`, with that of `accept_conflict`."""

    def read(table: Mapping[str, Any]) -> dict[int, Verdict]:
        return {int(status): Verdict(meaning) for status, meaning in table.items() if status not in _OPERATIONS}

    conflict = {CONFLICT: Verdict.ACCEPTED} if accepts_conflict else {}
    by_operation = {name: read(table) for name, table in outcomes.items() if isinstance(table, dict)}
    return OutcomeRules(common={**conflict, **read(outcomes)}, by_operation=by_operation)


Endpoint = Annotated[str, AfterValidator(_check_endpoint)]
DeleteEndpoint = Annotated[OptionalText, AfterValidator(_check_delete_endpoint)]
UpdateEndpoint = Annotated[OptionalText, AfterValidator(_check_update_endpoint)]
LookupEndpoint = Annotated[OptionalText, AfterValidator(_check_lookup_endpoint)]
Fields = Annotated[
    dict[str, Any] | None, BeforeValidator(read_table), BeforeValidator(read_absent), AfterValidator(_check_fields)
]
Capture = Annotated[dict[str, Text], BeforeValidator(read_table), AfterValidator(_check_capture)]
ContentType = Annotated[OptionalText, AfterValidator(_check_content_type)]
Body = Annotated[OptionalText, AfterValidator(check_body)]
BodySchemaFile = Annotated[OptionalText, AfterValidator(check_body_schema)]
Headers = Annotated[
    dict[str, str] | None, BeforeValidator(read_table), BeforeValidator(read_absent), AfterValidator(_check_headers)
]
Outcomes = Annotated[StatusTable, BeforeValidator(_read_outcomes), AfterValidator(_check_outcomes)]
