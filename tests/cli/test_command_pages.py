"""docs/commands.md has a section for every command, with its examples and its flags."""

import re
from pathlib import Path

import pytest

from tests.cli.catalogue import examples_of, flags_of, list_commands

PAGE = Path(__file__).parents[2] / "docs" / "commands.md"
_SECTION = re.compile(r"^## (.+)$", re.MULTILINE)
_FLAG = re.compile(r"`(--[a-z-]+)`")
_BLOCK = re.compile(r"^```\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def read_sections() -> dict[str, str]:
    """Return the text of each section."""
    parts = _SECTION.split(PAGE.read_text())[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_the_page_has_a_section_for_every_command_and_no_other() -> None:
    assert set(read_sections()) == {" ".join(path) for path in list_commands()}


@pytest.mark.parametrize("path", list_commands(), ids=" ".join)
def test_a_section_has_the_examples_of_the_help(path: tuple[str, ...]) -> None:
    blocks = _BLOCK.findall(read_sections()[" ".join(path)])
    shown = [line for block in blocks for line in block.splitlines()]
    assert shown == examples_of(path)


@pytest.mark.parametrize("path", list_commands(), ids=" ".join)
def test_a_section_names_every_flag_and_no_other(path: tuple[str, ...]) -> None:
    tables = "\n".join(line for line in read_sections()[" ".join(path)].splitlines() if line.startswith("|"))
    assert set(_FLAG.findall(tables)) == flags_of(path)
