"""The settings as files: `.env`, `syncctl.toml`, their examples, and the reference in the documentation.

Run `python -m syncctl.settings.render` in the project to regenerate the examples and the reference.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from syncctl.settings.child_section import ChildSettings
from syncctl.settings.dotenv_file import ENV_FILE, quote_env
from syncctl.settings.field_types import show_toml
from syncctl.settings.model import Settings
from syncctl.settings.schema_paths import find_section, is_named, list_fields, list_values
from syncctl.settings.stream_section import StreamSettings
from syncctl.settings.toml_file import TOML_FILE

SAMPLE_STREAM = {"table": "dbo.orders", "start": "beginning", "endpoint": "POST /orders"}
_SAMPLE_NAMES = {
    "sources": ("default",),
    "partners": ("default",),
    "streams": ("orders",),
    "streams.orders.children": ("lines",),
}
CONNECTIONS = ("redis_url", "mongo_url", "source_url", "partner_url", "partner_token")
_MARK = "<!-- from the settings model: python -m syncctl.settings.render -->"
_COMMENT_COLUMN = 41
_LINE_AT_MOST = 120

_ENV_HEAD = """\
# Read by every syncctl command, and by Celery, in the directory they run in.
# Precedence: flag > environment > .env > syncctl.toml > default. This file holds secrets: keep it private.
# NAME_FILE=/path reads the value of NAME from a file; ${NAME} in a value is replaced by the value of NAME.
"""
_ENV_STREAM = """\
# With a single stream you do not need a syncctl.toml: every setting can be set here. Uncomment a line to set it.
"""
_TOML_HEAD = """\
# Read by every syncctl command, and by Celery, in the directory they run in.
# Precedence: flag > environment > .env > syncctl.toml > default. Commented lines show the default or a sample:
# uncomment a line to set it. No secrets here: "${NAME}" is replaced by the value of NAME in the environment, in .env,
# or in the file that NAME_FILE names.
"""


def render_env(values: Mapping[str, str], *, complete: bool = False) -> str:
    """Return a `.env` file.

    Args:
        values: Values by name; missing connections get their default, and other variables come last.
        complete: Whether to add all other settings, commented out.
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
    """Return the lines of a connection in `.env`: its explanation, and its value or its default."""
    field = Settings.model_fields[key]
    return [f"# {_sentence(field)}", f"{key.upper()}={quote_env(field.default or '' if value is None else value)}"]


def render_toml(streams: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a `syncctl.toml` with these streams in force, and every default commented out."""
    lines = [_TOML_HEAD]
    for name, field in Settings.model_fields.items():
        section = find_section(field)
        if section is None:
            sample = field.default or (_sample(field) if field.repr else f"${{{name.upper()}}}")
            lines += _comment(f"#{name} = {show_toml(sample)}", field)
        elif name == "streams":
            for stream, values in streams.items():
                lines += [*_begin(section, f"[streams.{stream}]"), *_list_lines(section, values)]
                lines += [
                    *_begin(ChildSettings, f"#[streams.{stream}.children.lines]"),
                    *_list_lines(ChildSettings, {}),
                ]
            if not streams:
                lines += [*_begin(section, "#[streams.orders]"), *_list_lines(section, {})]
                lines += _list_child_lines("orders")
        else:
            header = f"[{name}.default]" if is_named(field) else f"[{name}]"
            lines += [*_begin(section, header), *_list_lines(section, {})]
    return "\n".join(lines) + "\n"


def render_stream(name: str, values: Mapping[str, Any], remarks: Mapping[str, str]) -> str:
    """Return the section of one stream.

    Args:
        remarks: Comments to write after the values, by key; for a key without a value, a line with a sample is written,
            commented out.
    """
    fields = StreamSettings.model_fields
    lines = [f"[streams.{name}]"]
    for key in [*values, *(key for key in remarks if key not in values)]:
        line = f"{key} = {show_toml(values[key])}" if key in values else f"#{key} = {show_toml(_sample(fields[key]))}"
        lines.append(f"{line + ' ':<{_COMMENT_COLUMN}}# {remarks[key]}" if key in remarks else line)
    return "\n".join(lines) + "\n"


def render_child(stream: str, name: str, values: Mapping[str, Any]) -> str:
    """Return the section of a child, commented out."""
    lines = [f"[streams.{stream}.children.{name}]", *(f"{key} = {show_toml(value)}" for key, value in values.items())]
    return "".join(f"#{line}\n" for line in lines)


def render_reference() -> str:
    """Return the tables of all settings in Markdown."""
    lines: list[str] = []
    for name, field in [("", None), *Settings.model_fields.items()]:
        section = Settings if field is None else find_section(field)
        if section is None:
            continue
        title = f"[{name}.NAME]" if field and is_named(field) else f"[{name}]" if name else "Top-level keys"
        lines += [f"### {title}", "", "| key | default | meaning |", "|---|---|---|"]
        inner = list_fields(section).items() if name else _list_plain(Settings)
        for key, below in inner:
            lines += _list_rows(key, below)
        lines.append("")
    return "\n".join(lines)


def _list_rows(key: str, field: FieldInfo) -> list[str]:
    section = find_section(field)
    default = "" if section else _show_default(field)
    rows = [f"| `{key}` | {default} | {_escape(field.description or '')} |"]
    if section is not None and is_named(field):
        # Children of children have the same keys as children.
        rows += [] if ".NAME." in key else _list_section(f"{key}.NAME", section)
    elif section is not None:
        rows += _list_section(key, section)
    return rows


def _list_section(key: str, section: type[BaseModel]) -> list[str]:
    return [row for name, inner in list_fields(section).items() for row in _list_rows(f"{key}.{name}", inner)]


def _list_plain(model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    yield from ((key, field) for key, field in model.model_fields.items() if find_section(field) is None)


def _list_lines(section: type[BaseModel], values: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for key, field in list_fields(section).items():
        inner = find_section(field)
        if is_named(field):
            continue
        if inner is not None and key not in values:
            yield f"# {key}: {field.description}"
            yield from _list_lines(inner, {}, above=f"{above}{key}.")
        else:
            begin, value = ("", values[key]) if key in values else ("#", _sample(field))
            yield from _comment(f"{begin}{above}{key} = {show_toml(value)}", field)


def _list_child_lines(stream: str) -> list[str]:
    return [*_begin(ChildSettings, f"#[streams.{stream}.children.lines]"), *_list_lines(ChildSettings, {})]


def _sample(field: FieldInfo) -> Any:
    """Return the default of a field, or its sample if the default is empty."""
    if field.default in (None, (), {}, PydanticUndefined):
        return field.examples[0] if field.examples else ""
    return field.default


def _pick_sample(path: tuple[str, ...], field: FieldInfo) -> Any:
    return SAMPLE_STREAM.get(path[-1], _sample(field)) if path[0] == "streams" and len(path) == 3 else _sample(field)


def _begin(section: type[BaseModel], header: str) -> list[str]:
    return ["", f"# {section.__doc__}", header]


def _comment(line: str, field: FieldInfo) -> list[str]:
    """Return a line with its explanation: after it, or above it if that would be too long."""
    joined = f"{line:<{_COMMENT_COLUMN}}# {field.description}"
    if len(line) < _COMMENT_COLUMN and len(joined) <= _LINE_AT_MOST:
        return [joined]
    return [f"# {field.description}", line]


def _sentence(field: FieldInfo) -> str:
    text = field.description or ""
    return text[:1].upper() + text[1:]


def _show_env(value: Any) -> str:
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | tuple):
        return ",".join(str(inner) for inner in value)
    return value if isinstance(value, str) else show_toml(value)


def _show_default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    return "" if field.default in (None, (), {}) else f"`{_escape(show_toml(field.default))}`"


def _escape(text: str) -> str:
    return text.replace("|", "\\|")


def _replace_reference(text: str) -> str:
    before, _, rest = text.partition(_MARK)
    _, _, after = rest.partition(_MARK)
    return f"{before}{_MARK}\n\n{render_reference()}\n{_MARK}{after}"


def write_examples(project: Path) -> None:
    """Regenerate the examples and the reference of a project. Safe to repeat."""
    sample = {"SOURCE_URL": "source_url", "PARTNER_URL": "partner_url"}
    values = {name: str((Settings.model_fields[key].examples or [""])[0]) for name, key in sample.items()}
    (project / f"{ENV_FILE}.example").write_text(render_env(values, complete=True), encoding="utf-8")
    (project / f"{TOML_FILE}.example").write_text(render_toml({"orders": SAMPLE_STREAM}), encoding="utf-8")
    document = project / "docs" / "configuration.md"
    document.write_text(_replace_reference(document.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    write_examples(Path.cwd())
