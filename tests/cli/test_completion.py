"""What bash, zsh and fish complete, by the script that `--show-completion` prints for each."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.harness.commands import clean_environment, run_python

TOML = """
[streams.orders]
[streams.order_lines]
[partners.acme]
[sources.erp]
"""

BASH = """
eval "$(syncctl --show-completion bash)"
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _syncctl_completion syncctl; printf '%s\\n' "${COMPREPLY[@]}"
"""
ZSH = """
autoload -U compinit; compinit -u -D; eval "$(syncctl --show-completion zsh)"
_arguments() { print -r -- "$@" }
words=("$@"); CURRENT=$#; _syncctl_completion
"""
FISH = """
syncctl --show-completion fish | source
complete --do-complete (string join ' ' $argv)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory with streams in both files."""
    (tmp_path / "syncctl.toml").write_text(TOML)
    (tmp_path / ".env").write_text("STREAMS__STOCK__TABLE=dbo.stock\n")
    return tmp_path


def run_shell(shell: str, script: str, words: tuple[str, ...], *, cwd: Path, env: Mapping[str, str] = {}) -> str:
    """Return what a shell completes to for the last word; nothing is written to the line that is typed."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    flags = {"bash": ("--norc", "-c"), "zsh": ("-f", "-c"), "fish": ("--no-config", "-c")}[shell]
    arguments = words if shell == "fish" else (shell, *words)
    done = subprocess.run(
        [shell, *flags, script, *arguments],
        cwd=cwd, env=clean_environment({"PATH": path, "HOME": str(cwd), **env}), capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout


COMPLETED = {
    "syncctl rep": {"report", "replay"},
    "syncctl pause ": {"orders", "order_lines", "stock"},
    "syncctl records --stream order_": {"order_lines"},
    "syncctl show st": {"stock"},
    "syncctl resume --partner a": {"acme"},
    "syncctl inspect --source e": {"erp"},
    "syncctl replay --state ": {"failed", "delivered", "superseded", "discarded"},
    "syncctl init --mode r": {"rowversion"},
    "syncctl report --by h": {"hour"},
    "syncctl doctor so": {"source"},
    "syncctl local d": {"down"},
    "syncctl replay --new": {"--new-key"},
    "syncctl no-such-command --": set(),
    "syncctl pause -C /no/such/directory ": set(),
}


@pytest.mark.parametrize("line", COMPLETED)
def test_bash_completes(line: str, project: Path) -> None:
    assert set(run_shell("bash", BASH, tuple(line.split(" ")), cwd=project).split()) == COMPLETED[line]


@pytest.mark.parametrize(("shell", "script"), [("zsh", ZSH), ("fish", FISH)])
def test_zsh_and_fish_complete_streams_and_commands_with_their_help(shell: str, script: str, project: Path) -> None:
    shown = run_shell(shell, script, ("syncctl", "pause", "o"), cwd=project)
    assert "orders" in shown
    assert "order_lines" in shown
    assert "stock" not in shown
    assert "Show what was delivered" in run_shell(shell, script, ("syncctl", "repo"), cwd=project)


@pytest.mark.parametrize(
    ("words", "env"),
    [
        (("syncctl", "pause", "o"), {"SYNCCTL_DIRECTORY": "project"}),
        (("syncctl", "-C", "project", "pause", "o"), {}),
        (("syncctl", "pause", "-C", "project", "o"), {"SYNCCTL_DIRECTORY": "elsewhere"}),
    ],
)
def test_the_names_are_those_of_the_projects_directory(
    words: tuple[str, ...], env: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "syncctl.toml").write_text(TOML)
    assert set(run_shell("bash", BASH, words, cwd=tmp_path, env=env).split()) == {"orders", "order_lines"}


@pytest.mark.parametrize("text", ["streams = 1", "[streams", "\x00", "streams = []"])
def test_files_that_cannot_be_read_complete_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "syncctl.toml").write_text(text)
    (tmp_path / ".env").write_bytes(b"\xff\xfe=\n")
    assert run_shell("bash", BASH, ("syncctl", "pause", ""), cwd=tmp_path) == "\n"


def test_completing_loads_neither_the_settings_model_nor_a_driver(project: Path) -> None:
    code = """
import os, sys
os.environ |= {"_SYNCCTL_COMPLETE": "complete_bash", "COMP_WORDS": "syncctl pause o", "COMP_CWORD": "2"}
from syncctl.cli import run
assert run([]) == 0
heavy = ("celery", "pymongo", "sqlalchemy", "redis", "aiohttp", "rich", "syncctl.settings")
assert not [name for name in heavy if name in sys.modules]
"""
    assert run_python(code, project).split() == ["order_lines", "orders"]
