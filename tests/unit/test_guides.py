"""The how-to guides: each has the same parts, its settings load, its JSON is what the command prints."""

import ast
import json
import re
import textwrap
from pathlib import Path

import pytest

from syncctl.settings import load_settings
from tests.harness.json_pages import describes, keys_of, read_page

PROJECT = Path(__file__).parents[2]
GUIDES = sorted((PROJECT / "docs" / "guides").glob("*.md"))
RIGHTS = PROJECT / "docs" / "guides" / "sql-server-rights.md"
VALUES = {
    "SOURCE_URL": "sqlite:///x",
    "PARTNER_URL": "https://h",
    "PARTNER_TOKEN": "abc",
    "ACME_CLIENT_SECRET": "abcdefgh",
}
"""The secrets of all guides."""
_FENCE = re.compile(r"^ *(?:\d+\. +)?```([\w-]*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^###? (.+)$", re.MULTILINE)
_ASKED = re.compile(
    r"\bsys\.\w+|@@DBTS|\b(?:MIN_ACTIVE_ROWVERSION|CHANGETABLE|CHANGE_TRACKING_[A-Z]+_[A-Z_]*VERSION|HAS_PERMS_BY_NAME"
    r"|SERVERPROPERTY|DATABASEPROPERTYEX|IDENT_CURRENT)\b"
)

of_each_guide = pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)


def read_blocks(guide: Path) -> list[tuple[str, str]]:
    """Return the blocks of code of a guide with their languages, without the indent of the step they belong to."""
    blocks = _FENCE.findall(guide.read_text(encoding="utf-8"))
    return [(language, textwrap.dedent(body)) for language, body in blocks]


@of_each_guide
def test_a_guide_says_how_to_check_that_it_worked_and_what_goes_wrong(guide: Path) -> None:
    headings = _HEADING.findall(guide.read_text(encoding="utf-8"))
    for part in ("Check that it worked", "What goes wrong"):
        assert any(heading.startswith(part) for heading in headings), f"{guide.name} lacks the section {part}"


@of_each_guide
def test_the_settings_of_a_guide_load(tmp_path: Path, guide: Path) -> None:
    """A block without a header goes on with the section of the guide's stream."""
    blocks = [body for language, body in read_blocks(guide) if language == "toml"]
    base = blocks[0] if blocks else ""
    for block in blocks:
        text = block
        if not block.startswith("["):
            (header,) = re.findall(r"^\[streams\.\w+\]\n", base, re.MULTILINE)
            text = base.replace(header, header + block)
        for name in re.findall(r'"(\w+)"', next(iter(re.findall(r"^after = .*", text, re.MULTILINE)), "")):
            # A stream of the settings that the guide adds to.
            text += f'\n[streams.{name}]\ntable = "dbo.{name}"\nstart = "now"\n'
        (tmp_path / "syncctl.toml").write_text(text, encoding="utf-8")
        load_settings(directory=tmp_path, environment=VALUES).check()


@of_each_guide
def test_the_documents_of_a_guide_are_what_its_commands_print(guide: Path) -> None:
    """The block of JSON belongs to the last `--json` command before it."""
    command = ""
    for language, body in read_blocks(guide):
        if language == "sh":
            asked = [line for line in body.splitlines() if "--json" in line]
            command = asked[-1].split()[1] if asked else command
        elif language == "json":
            documented = read_page()[command]
            unknown = {
                key for key in keys_of(json.loads(body)) if not any(describes(known, key) for known in documented)
            }
            assert unknown == set(), f"docs/json.md has not these keys of {command}"


def test_the_rights_are_those_of_all_that_is_asked() -> None:
    """A new view or function of SQL Server needs a place in the table, with the right that it takes."""
    asked = set()
    for path in (*(PROJECT / "syncctl/sources").rglob("*.py"), *(PROJECT / "syncctl/doctor").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                asked |= set(_ASKED.findall(node.value))
    table = RIGHTS.read_text(encoding="utf-8").partition("## Statements and the rights")[2].partition("\n## ")[0]
    assert set(re.findall(r"`([^`]+)`", table)) & {*asked, *_ASKED.findall(table)} == asked | {"IDENT_CURRENT"}
