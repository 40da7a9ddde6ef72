"""docs/exit-codes.md has each exit code, and a row for each command."""

import re
from pathlib import Path

import pytest

from syncctl.cli import MODULES
from syncctl.errors import ExitCode
from tests.cli.catalogue import list_commands

PROJECT = Path(__file__).parents[2]
PAGE = (PROJECT / "docs" / "exit-codes.md").read_text(encoding="utf-8")
_CODE = re.compile(r"^\| (\d+) \| \S", re.MULTILINE)
_COMMAND = re.compile(r"^\| (`[^|]+`) \| ([^|]*?) ?\| ?([^|]*?) ?\|$", re.MULTILINE)


def read_rows() -> dict[str, tuple[str, str]]:
    """Return what 1 and 75 mean of each command."""
    return {name: (one, held) for names, one, held in _COMMAND.findall(PAGE) for name in re.findall(r"`(.+?)`", names)}


def test_the_page_has_each_exit_code_and_no_other() -> None:
    assert [int(code) for code in _CODE.findall(PAGE)] == [code.value for code in ExitCode]


def test_the_page_has_a_row_for_each_command_and_no_other() -> None:
    runnable = {" ".join(path) for path in list_commands()} - {"local", "archive"}
    assert set(read_rows()) == runnable


@pytest.mark.parametrize(
    "path", sorted((PROJECT / "syncctl" / "commands").glob("[a-z]*.py")), ids=lambda path: path.stem
)
def test_a_command_that_can_end_with_1_or_75_says_when(path: Path) -> None:
    code = path.read_text(encoding="utf-8")
    of_file = {name for name in read_rows() if MODULES.get(name, name.partition(" ")[0]) == path.stem}
    if of_file and "ExitCode.TROUBLE" in code:
        assert any(read_rows()[name][0] for name in of_file)
    if of_file and "ExitCode.LEASE_HELD" in code:
        assert any(read_rows()[name][1] for name in of_file)
