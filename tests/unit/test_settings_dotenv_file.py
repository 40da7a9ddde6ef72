"""An existing `.env` keeps its lines when `init` adds to it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncctl.settings.dotenv_file import DotenvFile, read_dotenv
from syncctl.settings.setup_files import draft_setup, merge_env, write_setup

ALL = "REDIS_URL=redis://h/1\nMONGO_URL=mongodb://h/d\nSOURCE_URL=\nPARTNER_URL=\nPARTNER_TOKEN=\n"


def read(directory: Path, text: str) -> DotenvFile:
    (directory / ".env").write_bytes(text.encode())
    return DotenvFile(directory)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("SOURCE_URL=", "SOURCE_URL=sqlite:///new"),
        ("SOURCE_URL=sqlite:///old # mine", "SOURCE_URL=sqlite:///new # mine"),
        ("  export SOURCE_URL = 'sqlite:///old'  # mine", "  export SOURCE_URL =sqlite:///new  # mine"),
        ("SOURCE_URL='a # b'", "SOURCE_URL=sqlite:///new"),
        ("source_url=sqlite:///old", "source_url=sqlite:///new"),
        ('SOURCE_URL="sqlite:///\nold"', "SOURCE_URL=sqlite:///new"),
        ("SOURCE_URL=first\n# then\nSOURCE_URL=last", "SOURCE_URL=first\n# then\nSOURCE_URL=sqlite:///new"),
        ("'SOURCE_URL'=sqlite:///old", "'SOURCE_URL'=sqlite:///new"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_value_is_changed_where_it_stands(tmp_path: Path, before: str, after: str, end: str) -> None:
    rest = ALL.replace("SOURCE_URL=\n", "")
    env = read(tmp_path, f"# top\n\n{before}\n# below\n{rest}".replace("\n", end))
    assert merge_env(env, {"SOURCE_URL": "sqlite:///new"}) == f"# top\n\n{after}\n# below\n{rest}".replace("\n", end)


def test_missing_lines_are_added_at_the_end(tmp_path: Path) -> None:
    merged = merge_env(read(tmp_path, "# mine\nMONGO_URL=mongodb://h/d"), {"PARTNER_URL": "https://new"})
    lines = merged.splitlines()
    assert lines[:2] == ["# mine", "MONGO_URL=mongodb://h/d"]
    assert [line for line in lines[2:] if not line.startswith("# ")] == [
        "REDIS_URL=redis://localhost:6379/0",
        "SOURCE_URL=",
        "PARTNER_URL=https://new",
        "PARTNER_TOKEN=",
    ]


def test_a_value_that_a_file_or_syncctl_toml_sets_is_not_missing(tmp_path: Path) -> None:
    env = read(tmp_path, "PARTNER_TOKEN_FILE=token\n")
    assert "PARTNER_TOKEN=" not in merge_env(env, {})
    assert "MONGO_URL=" not in merge_env(env, {}, elsewhere={"mongo_url"})
    assert env.find("PARTNER_TOKEN") == "PARTNER_TOKEN_FILE"
    assert env.find("MONGO_URL") is None


@given(st.text(st.sampled_from("ABC_=#'\"\\ \n\r\t$${}x"), max_size=40))
def test_a_file_that_lacks_nothing_stays_byte_for_byte(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    directory = tmp_path_factory.mktemp("env")
    env = read(directory, f"{ALL}{text}")
    assert merge_env(env, {}) == env.text == f"{ALL}{text}"
    if not read_dotenv(directory / ".env")[2]:
        (directory / ".env").write_bytes(merge_env(env, {"PARTNER_URL": "https://new"}).encode())
        assert read_dotenv(directory / ".env")[0]["PARTNER_URL"] == "https://new"


def test_a_kept_file_may_name_others_beside_it_and_what_the_environment_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINE", "h")
    (tmp_path / "token").write_text("abc")
    read(tmp_path, "PARTNER_TOKEN_FILE=token\nMONGO_URL=mongodb://${MINE}/d\n")
    assert set(draft_setup(tmp_path, {}, {})) == {".env", "syncctl.toml"}


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("old")
    (tmp_path / ".env").symlink_to("elsewhere")
    write_setup(tmp_path, {".env": "new"})
    assert (tmp_path / ".env").is_symlink()
    assert (tmp_path / "elsewhere").read_text() == "new"
