"""The types of the settings that shape a call: a mapping of fields, templates, headers, a content type."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from syncctl.core.mapping import parse_fields
from syncctl.errors import ConfigurationError
from syncctl.partner.headers import is_header_name, is_json, is_reserved, looks_secret
from syncctl.settings.fields import OptionalText

SHAPING = ("endpoint", "delete_endpoint", "fields", "body", "headers", "content_type", "body_schema")
"""Settings that are the same on every machine: they take no `${NAME}`, and hold no secret."""
NO_REFERENCE = (
    "takes no ${NAME}: it is the same on every machine and shown in clear; a secret belongs to the partner's auth or "
    "headers, and $${ stands for a plain ${"
)
_CONTENT_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+(; ?[A-Za-z0-9_-]+=[A-Za-z0-9_.-]+)*")


def takes_no_reference(path: Sequence[str]) -> bool:
    """Tell whether a setting takes no `${NAME}`."""
    return len(path) > 2 and path[0] == "streams" and path[2] in SHAPING


def _read_table(value: object) -> object:
    """Take a table, or JSON text of one (the form for environment variables)."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        table = json.loads(value)
    except ValueError:
        table = None
    if not isinstance(table, dict):
        raise ValueError(  # noqa: TRY004 - pydantic takes this one for a wrong value
            'is not a table; write { "order.id" = "id" }, in a variable as JSON: {"order.id": "id"}'
        )
    return table


def _check_fields(table: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if table is not None:
        parse_fields(table)
    return table


def _check_headers(headers: Mapping[str, str] | None) -> Mapping[str, str] | None:
    for name, source in (headers or {}).items():
        if not is_header_name(name):
            raise ValueError(f"{name!r} cannot be the name of a header")
        if is_reserved(name):
            raise ValueError(
                f"{name} is set by syncctl or by the partner's auth; leave it out (there is content_type, and auth)"
            )
        if looks_secret(name) and "{{" not in source:
            raise ValueError(f"{name} looks like a secret; set it as the partner's auth, type api_key")
        compile_template(source, where=name)
    return headers


def _check_content_type(text: str | None) -> str | None:
    if text is not None and _CONTENT_TYPE.fullmatch(text.strip()) is None:
        raise ValueError(f"{text!r} is not a content type; write for example application/json")
    return None if text is None else text.strip()


def compile_template(source: str, *, where: str = "", content_type: str = "text/plain") -> None:
    """Check a template.

    Raises:
        ValueError: It cannot be used; the text says where and why.
    """
    from syncctl.partner.request.template import TextTemplate

    try:
        TextTemplate(source, title="template", is_json=is_json(content_type))
    except ValueError as error:
        raise ValueError(f"{where}: {error}" if where else str(error)) from None


def check_schema(path: Path) -> None:
    """Check a JSON Schema file.

    Raises:
        ValueError: It cannot be used; the text says why.
    """
    from syncctl.partner.request.schema import BodySchema

    try:
        BodySchema(path, key="body_schema")
    except ConfigurationError as error:
        raise ValueError(f"{path.name} cannot be used: {' '.join(error.why.split())}; {error.hint}") from None


FieldTable = Annotated[dict[str, Any] | None, BeforeValidator(_read_table), AfterValidator(_check_fields)]
HeaderTable = Annotated[dict[str, str] | None, BeforeValidator(_read_table), AfterValidator(_check_headers)]
ContentType = Annotated[OptionalText, AfterValidator(_check_content_type)]
