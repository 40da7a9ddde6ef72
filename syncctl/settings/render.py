"""The settings as files: `.env`, `syncctl.toml`, their examples, and the reference in the documentation.

Run `python -m syncctl.settings.render` in the project to write the examples and the reference anew.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from syncctl.settings.dotenv_file import ENV_FILE
from syncctl.settings.model import Settings
from syncctl.settings.schema_paths import find_section, is_named, list_fields, list_values
from syncctl.settings.sections import StreamSettings
from syncctl.settings.toml_file import TOML_FILE

SAMPLE_STREAM = {"table": "dbo.orders", "start": "beginning", "endpoint": "POST /orders"}
_SAMPLE_NAMES = {"sources": ("default",), "partners": ("default",), "streams": ("orders",)}
CONNECTIONS = ("redis_url", "mongo_url", "source_url", "partner_url", "partner_token")
_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+,~?&=!*;\[\]|^-]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_MARK = "<!-- from the settings model: python -m syncctl.settings.render -->"
_COMMENT_COLUMN = 41
_INLINE_AT_MOST = 6
"""A section within another with more keys than this has a line for each of them."""

_ENV_HEAD = """\
# Read by every syncctl command and by Celery from the directory they run in.
# flag > environment > .env > syncctl.toml > default. Keep this file to yourself: it holds secrets.
# NAME_FILE=/path in place of NAME takes the value from a file, ${NAME} in a value takes that of another.
"""
_ENV_STREAM = """\
# A single stream needs no syncctl.toml: the rest can stand here too. Without a # it counts.
"""
_TOML_HEAD = """\
# Read by every syncctl command and by Celery from the directory they run in.
# flag > environment > .env > syncctl.toml > default. Lines that begin with # show the default or a sample.
# No secrets here: "${NAME}" takes a value from the environment, from .env, or from the file of NAME_FILE.
"""


def render_env(values: Mapping[str, str], *, complete: bool = False) -> str:
    """Return a `.env` file.

    Args:
        values: By name; connections that are not among them take their default, foreign names come last.
        complete: Whether to add, commented out, everything else that can be set.
    """
    lines = [_ENV_HEAD]
    known = [name.upper() for name in CONNECTIONS]
    for key, name in zip(CONNECTIONS, known, strict=True):
        lines += render_connection(key, values.get(name))
    lines += [f"{name}={quote_env(value)}" for name, value in values.items() if name not in known]
    if complete:
        lines += ["", _ENV_STREAM.rstrip()]
        for path, field in list_values(Settings, _SAMPLE_NAMES):
            if path[0] not in CONNECTIONS:
                lines.append(f"#{'__'.join(path).upper()}={quote_env(_show_env(_pick_sample(path, field)))}")
    return "\n".join(lines) + "\n"


def render_connection(key: str, value: str | None) -> list[str]:
    """Return the lines of a connection in `.env`: what it is, and its value or its default."""
    field = Settings.model_fields[key]
    return [f"# {_sentence(field)}", f"{key.upper()}={quote_env(field.default or '' if value is None else value)}"]


def render_toml(streams: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a `syncctl.toml` with these streams in force, and every default commented out."""
    lines = [_TOML_HEAD]
    for name, field in Settings.model_fields.items():
        section = find_section(field)
        if section is None:
            sample = field.default or f"${{{name.upper()}}}"
            lines += _comment(f"#{name} = {_show_toml(sample)}", field)
        elif name == "streams":
            for stream, values in streams.items():
                lines += ["", f"[streams.{stream}]", *_list_lines(section, values)]
            if not streams:
                lines += ["", "#[streams.orders]", *_list_lines(section, {})]
        else:
            header = f"{name}.default" if is_named(field) else name
            lines += ["", f"[{header}]", *_list_lines(section, {})]
    return "\n".join(lines) + "\n"


def render_stream(name: str, values: Mapping[str, Any], remarks: Mapping[str, str]) -> str:
    """Return the section of one stream.

    Args:
        remarks: By key, what stands behind its value; one of a key without a value stands behind a line that is
            commented out, with a sample.
    """
    fields = StreamSettings.model_fields
    lines = [f"[streams.{name}]"]
    for key in [*values, *(key for key in remarks if key not in values)]:
        line = f"{key} = {_show_toml(values[key])}" if key in values else f"#{key} = {_show_toml(_sample(fields[key]))}"
        lines.append(f"{line:<{_COMMENT_COLUMN}}# {remarks[key]}" if key in remarks else line)
    return "\n".join(lines) + "\n"


def render_reference() -> str:
    """Return the tables of all settings in Markdown."""
    lines: list[str] = []
    for name, field in [("", None), *Settings.model_fields.items()]:
        section = Settings if field is None else find_section(field)
        if section is None:
            continue
        title = f"[{name}.NAME]" if field and is_named(field) else f"[{name}]" if name else "Above the sections"
        lines += [f"### {title}", "", "| key | default | meaning |", "|---|---|---|"]
        inner = list_fields(section).items() if name else _list_plain(Settings)
        for key, below in inner:
            lines += _list_rows(key, below)
        lines.append("")
    return "\n".join(lines)


def _list_rows(key: str, field: FieldInfo) -> list[str]:
    large = _find_large(field)
    default = "" if large else _show_default(field)
    rows = [f"| `{key}` | {default} | {_escape(field.description or '')} |"]
    for name, inner in list_fields(large).items() if large else ():
        rows += _list_rows(f"{key}.{name}", inner)
    return rows


def quote_env(value: str) -> str:
    """Return a value as `.env` takes it: as it is, or in single quotes."""
    if _PLAIN.fullmatch(value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _list_plain(model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    yield from ((key, field) for key, field in model.model_fields.items() if find_section(field) is None)


def _list_lines(section: type[BaseModel], values: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for key, field in list_fields(section).items():
        if key not in values and (inner := _find_large(field)):
            yield f"# {key}: {field.description}"
            yield from _list_lines(inner, {}, above=f"{above}{key}.")
            continue
        begin, value = ("", values[key]) if key in values else ("#", _sample(field))
        yield from _comment(f"{begin}{above}{key} = {_show_toml(value)}", field)


def _find_large(field: FieldInfo) -> type[BaseModel] | None:
    """Return the section that a field holds where it is too large for a single line."""
    section = find_section(field)
    return section if section is not None and len(section.model_fields) > _INLINE_AT_MOST else None


def _sample(field: FieldInfo) -> Any:
    """Return the default of a field; where that is nothing, its sample."""
    section = find_section(field)
    if section is not None:
        return {key: _sample(inner) for key, inner in list_fields(section).items()}
    if field.default in (None, (), {}, PydanticUndefined):
        return field.examples[0] if field.examples else ""
    return field.default


def _pick_sample(path: tuple[str, ...], field: FieldInfo) -> Any:
    return SAMPLE_STREAM.get(path[-1], _sample(field)) if path[0] == "streams" else _sample(field)


def _comment(line: str, field: FieldInfo) -> list[str]:
    """Return a line with what it is for: behind it, or above where it is long."""
    if len(line) < _COMMENT_COLUMN:
        return [f"{line:<{_COMMENT_COLUMN}}# {field.description}"]
    return [f"# {field.description}", line]


def _sentence(field: FieldInfo) -> str:
    text = field.description or ""
    return text[:1].upper() + text[1:]


def _show_toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_show_key(key)} = {_show_toml(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_show_toml(inner) for inner in value) + "]"
    if isinstance(value, float):
        return f"{value:g}"
    # JSON's text is TOML's, but for DEL, which TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _show_key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else json.dumps(key, ensure_ascii=False)


def _show_env(value: Any) -> str:
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | tuple):
        return ",".join(str(inner) for inner in value)
    return value if isinstance(value, str) else _show_toml(value)


def _show_default(field: FieldInfo) -> str:
    if find_section(field) is not None or field.default is not PydanticUndefined:
        value = _sample(field) if find_section(field) else field.default
        return "" if value in (None, (), {}) else f"`{_escape(_show_toml(value))}`"
    return "required"


def _escape(text: str) -> str:
    return text.replace("|", "\\|")


def _replace_reference(text: str) -> str:
    before, _, rest = text.partition(_MARK)
    _, _, after = rest.partition(_MARK)
    return f"{before}{_MARK}\n\n{render_reference()}\n{_MARK}{after}"


def write_examples(project: Path) -> None:
    """Write the examples and the reference of a project anew. Safe to repeat."""
    sample = {"SOURCE_URL": "source_url", "PARTNER_URL": "partner_url"}
    values = {name: str((Settings.model_fields[key].examples or [""])[0]) for name, key in sample.items()}
    (project / f"{ENV_FILE}.example").write_text(render_env(values, complete=True), encoding="utf-8")
    (project / f"{TOML_FILE}.example").write_text(render_toml({"orders": SAMPLE_STREAM}), encoding="utf-8")
    document = project / "docs" / "configuration.md"
    document.write_text(_replace_reference(document.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    write_examples(Path.cwd())
