"""The examples and the reference say what the model says."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic_core import PydanticUndefined

from syncctl.settings import Settings, load_settings
from syncctl.settings.dotenv_file import quote_env, read_dotenv
from syncctl.settings.render import render_toml, write_examples
from syncctl.settings.schema_paths import list_values

PROJECT = Path(__file__).parents[2]
NAMES = {
    "sources": ("default",),
    "partners": ("default",),
    "streams": ("orders",),
    "streams.orders.children": ("lines",),
}
SAMPLED = {  # Settings without a default, or with one that only an example can show.
    "source_url",
    "partner_url",
    "partner_token",
    "mask_secret",
    "project",
    "partners.default.max_in_flight",
    "retention.archive",
    "sources.default.url",
    "partners.default.url",
    *(
        f"partners.default.auth.{key}"
        for key in (
            *("token", "name", "value", "user", "password", "token_url", "client_id", "client_secret"),
            *("scope", "audience", "secret", "previous_secret"),
        )
    ),
    *(
        f"partners.default.{key}"
        for key in ("headers", "ca", "client_cert", "client_key", "client_key_password", "proxy", "rate")
    ),
    *(
        f"streams.orders.{key}"
        for key in (
            *("table", "query", "start", "key", "mode", "cursor", "endpoint"),
            *("where", "columns", "exclude", "mask", "timezone", "acknowledge", "acknowledge_failed", "accepted_when"),
            *("rejected_when", "outcomes", "json"),
            *(
                f"batch_shape.{key}"
                for key in ("under", "results", "result_key", "result_status", "result_accepted_when")
            ),
            *("retry.give_up_after", "delete_endpoint", "content_type", "body", "headers", "body_schema", "fields"),
            *("strict_hold", "after", "quiet_hours", "write_back", "capture", "update_endpoint"),
            *("lookup.endpoint", "lookup.capture"),
        )
    ),
    *(
        f"streams.orders.children.lines.{key}"
        for key in ("table", "query", "on", "sort", "columns", "exclude", "json", "where", "mask", "cursor")
    ),
    *(f"alerts.{key}" for key in ("webhook", "proxy", "smtp", "email_from", "email_to", "ca")),
}
SECRETS = {
    "REDIS_URL": "redis://h/0",
    "MONGO_URL": "mongodb://h/d",
    "SOURCE_URL": "sqlite:///x",
    "PARTNER_URL": "https://h",
    "PARTNER_TOKEN": "abc",
    "ALERT_WEBHOOK_URL": "https://h/secret",
    "SMTP_PASSWORD": "abcdefgh",
}


def defaults() -> dict[str, Any]:
    return {".".join(path): field.default for path, field in list_values(Settings, NAMES)}


def flatten(tree: dict[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{above}.{key}" if above else key
        flat |= flatten(value, path) if isinstance(value, dict) and path not in defaults() else {path: value}
    return flat


def uncomment(text: str) -> str:
    """Put every setting in force: those that stand behind a `#` without a space."""
    return re.sub(r"^#(?=\S)", "", text, flags=re.MULTILINE)


def without_rivals(text: str) -> str:
    """Remove settings that would contradict the sample: a query beside a table, settings of another mode or auth."""
    names = "query|body|exclude|json|acknowledge|acknowledge_failed"
    names += "|name|in|value|user|password|token_url|client_id|client_secret|client_auth|scope|audience|secret"
    names += "|after|strict_hold|previous_secret|proxy|headers|client_key_password"
    text = re.sub(r"^(rows_per_call = |STREAMS__ORDERS__ROWS_PER_CALL=)1\b", r"\g<1>10", text, flags=re.MULTILINE)
    return re.sub(rf"^\S*\b({names}) = .*$|^\S*__({names})=.*$", "", text, flags=re.MULTILINE | re.IGNORECASE)


def assert_default(key: str, shown: Any) -> None:
    default = defaults()[key]
    if key in SAMPLED:
        assert default in (None, (), {}, PydanticUndefined, "POST /")
    else:
        assert (tuple(shown) if isinstance(shown, list) else shown) == default


def test_the_toml_example_shows_every_setting_with_its_default_and_nothing_else() -> None:
    text = (PROJECT / "syncctl.toml.example").read_text(encoding="utf-8")
    shown = flatten(tomllib.loads(uncomment(text)))
    assert shown.keys() == defaults().keys()
    for key, value in shown.items():
        assert_default(key, value)


def test_the_env_example_shows_every_setting_with_its_default_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(uncomment((PROJECT / ".env.example").read_text(encoding="utf-8")))
    values, _, problems = read_dotenv(tmp_path / ".env")
    assert not problems
    assert {name.lower().replace("__", ".") for name in values} == defaults().keys()
    for name, value in values.items():
        key = name.lower().replace("__", ".")
        default = defaults()[key]
        if isinstance(default, tuple):
            assert_default(key, value.split(",") if value else [])
        elif isinstance(default, dict) and default:
            assert_default(key, json.loads(value))
        elif isinstance(default, str) or default in (None, {}, PydanticUndefined):
            assert_default(key, value)
        else:
            assert_default(key, {"true": True, "false": False}[value] if isinstance(default, bool) else float(value))


@pytest.mark.parametrize("in_force", [False, True])
def test_the_examples_load(tmp_path: Path, in_force: bool) -> None:
    (tmp_path / "orders.schema.json").write_text("{}")
    for name in (".env", "syncctl.toml"):
        text = (PROJECT / f"{name}.example").read_text(encoding="utf-8")
        text = without_rivals(uncomment(text)) if in_force else text
        (tmp_path / name).write_text(text)
    settings = load_settings(directory=tmp_path, environment=SECRETS if in_force else {})
    settings.check()
    assert settings.stream("orders").table == "dbo.orders"
    assert settings.partner("default").rate == ((50, 1.0) if in_force else None)


def test_each_example_loads_alone_with_everything_in_force(tmp_path: Path) -> None:
    for name in (".env", "syncctl.toml"):
        alone = tmp_path / name.removeprefix(".")
        alone.mkdir()
        (alone / "orders.schema.json").write_text("{}")
        text = (PROJECT / f"{name}.example").read_text(encoding="utf-8")
        (alone / name).write_text(without_rivals(uncomment(text)))
        settings = load_settings(directory=alone, environment=SECRETS)
        assert settings.stream("orders").cursor == "row_version"


def test_the_files_are_those_that_the_model_writes(tmp_path: Path) -> None:
    """When this fails: python -m syncctl.settings.render"""
    names = (".env.example", "syncctl.toml.example", "docs/configuration.md")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/configuration.md").write_bytes((PROJECT / "docs/configuration.md").read_bytes())
    write_examples(tmp_path)
    for name in names:
        assert (tmp_path / name).read_text(encoding="utf-8") == (PROJECT / name).read_text(encoding="utf-8"), name


def test_the_reference_has_every_setting() -> None:
    text = (PROJECT / "docs/configuration.md").read_text(encoding="utf-8")
    sections = {part.split("\n")[0]: part for part in text.split("\n### ")[1:]}
    for key in defaults():
        first, *rest = key.split(".")
        named = first in NAMES
        title = f"[{first}.NAME]" if named else f"[{first}]" if rest else "Top-level keys"
        setting = rest[1] if named else rest[0] if rest else first
        assert f"| `{setting}` |" in sections[title]


AWKWARD = ['a"b', "a\\b", "a\nb", "a\tb", "a # b", "'", "ü 漢 🚚", "\x7f", "a=b;c", " a ", "$X", "{id}", "a'b\\'c"]


@pytest.mark.parametrize("value", AWKWARD)
def test_values_survive_the_way_into_a_file_and_back(tmp_path: Path, value: str) -> None:
    (tmp_path / ".env").write_text(f"VALUE={quote_env(value)}\nNEXT=1\n", encoding="utf-8")
    assert read_dotenv(tmp_path / ".env")[0] == {"VALUE": value, "NEXT": "1"}
    written = render_toml({"orders": {"table": "t", "start": "now", "key": [value]}})
    assert tomllib.loads(written)["streams"]["orders"]["key"] == [value]
