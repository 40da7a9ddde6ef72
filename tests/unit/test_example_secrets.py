"""Secrets that still have the value of an example are found, wherever they stand; the examples' own are all known."""

import re
from pathlib import Path

import pytest

from syncctl.settings import load_settings
from syncctl.settings.example_secrets import is_example, list_example_secrets

PROJECT = Path(__file__).parents[2]
STREAM = '[streams.orders]\ntable = "dbo.orders"\nstart = "now"\n'


def find(directory: Path, *, env: str = "", toml: str = "") -> dict[str, str]:
    (directory / ".env").write_text(env)
    (directory / "syncctl.toml").write_text(STREAM + toml)
    return {
        problem.key: problem.text
        for problem in list_example_secrets(load_settings(directory=directory, environment={}))
    }


def test_every_secret_of_the_examples_and_pages_is_known() -> None:
    pages = [PROJECT / name for name in (".env.example", "syncctl.toml.example", "README.md")]
    found = set()
    for page in (*pages, *(PROJECT / "docs").rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        found |= set(re.findall(r"\w://[^\s:/@`\"']+:([^\s@`\"'$]+)@", text))
        found |= set(re.findall(r"PASSWORD='([^'$]+)'", text))
    assert {"secret", "Str0ng-enough"} <= found
    assert [value for value in found if not is_example(value)] == []


@pytest.mark.parametrize(
    "value", ["changeme", "CHANGE-ME", "<token>", "your-api-key", "xxxx", "...", "Bearer changeme"]
)
def test_a_placeholder_is_one(value: str) -> None:
    assert is_example(value)


@pytest.mark.parametrize("value", ["tok-5f1c0a7e", "yourself", "s3cret", "9f86d081884c7d65", "whsec_MfKQ9r8GKYqr"])
def test_a_secret_is_none(value: str) -> None:
    assert not is_example(value)


def test_each_place_is_named_once_with_its_variable(tmp_path: Path) -> None:
    env = "SOURCE_URL=mssql+pyodbc://reader:secret@sqlserver:1433/erp\nPARTNER_URL=https://api.example\n"
    env += "PARTNER_TOKEN=changeme\nACME_KEY=<key>\nMONGO_URL=mongodb://syncctl:s3cret-9f@h/ledger\n"
    toml = '[partners.acme]\nurl = "https://acme.example"\n'
    toml += 'auth = { type = "api_key", name = "X-Api-Key", in = "header", value = "${ACME_KEY}" }\n'
    assert find(tmp_path, env=env, toml=toml) == {
        "source_url": "SOURCE_URL",
        "partner_token": "PARTNER_TOKEN",
        "partners.acme.auth.value": "ACME_KEY",
    }
