"""`syncctl init` and `syncctl config`, as a person runs them."""

import json
import stat
from pathlib import Path

import pytest

from tests.harness.commands import run_syncctl

CANARY = "cAn4ry-7f3e"
STREAM = ("--stream", "orders", "--table", "dbo.orders", "--start", "now")
AWAY = "mongodb://127.0.0.1:1/ledger?serverSelectionTimeoutMS=200"


def test_init_writes_both_files_and_config_shows_them(tmp_path: Path) -> None:
    done = run_syncctl(
        *("init", "--no-indexes", *STREAM, "--partner-url", "https://api.example", "--key", "id", "--key", "line"),
        *("--mode", "increasing", "--cursor", "id", "--endpoint", "PUT /orders/{id}"),
        cwd=tmp_path,
        env={"SOURCE_URL": f"mssql+pyodbc://reader:{CANARY}@sql/erp", "PARTNER_TOKEN": CANARY},
    )
    assert (done.exit_code, done.stdout) == (0, "")
    assert "took SOURCE_URL from the environment" in done.stderr
    assert "next: syncctl doctor" in done.stderr
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600
    assert CANARY in (tmp_path / ".env").read_text()
    assert CANARY not in (tmp_path / "syncctl.toml").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".env", "syncctl.toml"]

    shown = run_syncctl("config", "--json", cwd=tmp_path)
    assert shown.exit_code == 0
    settings = {entry["key"]: (entry["value"], entry["origin"]) for entry in shown.json["settings"]}
    assert settings["streams.orders.key"][0] == ["id", "line"]
    assert settings["streams.orders.endpoint"][0] == "PUT /orders/{id}"
    assert settings["streams.orders.table"][1].startswith("syncctl.toml line ")
    assert settings["source_url"][0] == "mssql+pyodbc://reader:***@sql/erp"
    assert settings["source_url"][1].startswith(".env line ")
    assert settings["partner_token"][0] == "***"
    assert settings["worker.concurrency"] == (4, "default")
    assert shown.json["files"] == [".env", "syncctl.toml"]
    assert shown.json["missing"] == []
    assert shown.json["directory"] == str(tmp_path)
    assert CANARY not in done.stderr + shown.stdout + shown.stderr


def test_a_bare_init_says_what_is_left_to_do(tmp_path: Path) -> None:
    done = run_syncctl("init", "--no-indexes", "--json", cwd=tmp_path)
    assert done.exit_code == 0
    assert done.json == {
        "directory": str(tmp_path),
        "written": [".env", "syncctl.toml"],
        "indexes": None,
        "warnings": [],
    }
    assert "set SOURCE_URL and PARTNER_URL in .env; add a stream to syncctl.toml" in done.stderr
    assert run_syncctl("config", cwd=tmp_path).exit_code == 0


def test_a_value_that_the_environment_overrules_is_a_warning(tmp_path: Path) -> None:
    flags = ("--mongo-url", "mongodb://here/logs", "--redis-url", "redis://here/1")
    env = {"MONGO_URL": "mongodb://other/logs", "REDIS_URL": "redis://here/1"}
    done = run_syncctl("init", "--no-indexes", "--json", *flags, cwd=tmp_path, env=env)
    overruled = "MONGO_URL in the environment overrules MONGO_URL in .env: unset MONGO_URL"
    assert [warning.partition(",")[0] for warning in done.json["warnings"]] == [overruled]
    assert overruled in done.stderr


def test_init_after_local_up_keeps_what_it_put_into_env(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("# of local up\nMONGO_URL=mongodb://localhost:4711/here\nREDIS_URL=redis://h/3\n")
    done = run_syncctl("init", "--no-indexes", "--json", *STREAM, cwd=tmp_path, env={"MONGO_URL": "mongodb://other/x"})
    assert done.exit_code == 0, done.stderr
    assert done.json["written"] == [".env", "syncctl.toml"]
    assert "added missing values to" in done.stderr
    text = (tmp_path / ".env").read_text()
    assert text.startswith(
        "# of local up\nMONGO_URL=mongodb://localhost:4711/here\nREDIS_URL=redis://h/3\n# SQL Server: "
    )
    assert text.count("MONGO_URL=") == text.count("REDIS_URL=") == text.count("SOURCE_URL=") == 1
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600

    again = run_syncctl("init", "--no-indexes", "--json", "--redis-url", "redis://h/3", cwd=tmp_path)
    assert (again.exit_code, again.json["written"]) == (0, [])
    assert (tmp_path / ".env").read_text() == text


OTHERWISE = [
    (("--mongo-url", "mongodb://new/db"), "--mongo-url contradicts .env", ".env line 2 already sets MONGO_URL"),
    (
        ("--partner-token", "x"),
        "--partner-token contradicts .env",
        ".env line 3 already sets PARTNER_TOKEN_FILE",
    ),
    (STREAM, "syncctl.toml already exists", "init does not replace streams unless asked"),
]


@pytest.mark.parametrize(("flags", "what", "why"), OTHERWISE)
def test_a_flag_that_contradicts_a_file_writes_nothing(
    tmp_path: Path, flags: tuple[str, ...], what: str, why: str
) -> None:
    texts = {
        ".env": f"# mine\nMONGO_URL=mongodb://me:{CANARY}@old/db\nPARTNER_TOKEN_FILE=secret\n",
        "syncctl.toml": "# a\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    done = run_syncctl("init", "--no-indexes", *flags, cwd=tmp_path)
    assert done.exit_code == 2
    assert f"error: {what}\n" in done.stderr
    assert why in done.stderr
    assert CANARY not in done.stderr
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == texts


def test_force_replaces_and_loses_no_value(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SOURCE_URL=sqlite:///mine.db\nMINE='a b'\nMONGO_URL=mongodb://old/db\n")
    (tmp_path / "syncctl.toml").write_text("# mine\n")
    done = run_syncctl("init", "--no-indexes", "--force", "--mongo-url", "mongodb://new/db", *STREAM, cwd=tmp_path)
    assert done.exit_code == 0
    lines = (tmp_path / ".env").read_text().splitlines()
    assert lines[:3] == ["SOURCE_URL=sqlite:///mine.db", "MINE='a b'", "MONGO_URL=mongodb://new/db"]
    assert (tmp_path / "syncctl.toml.old").read_text() == "# mine\n"
    assert "# mine" not in (tmp_path / "syncctl.toml").read_text()


def test_force_without_a_stream_leaves_the_streams_alone(tmp_path: Path) -> None:
    toml = 'mongo_url = "mongodb://of-toml/db"\n[streams.a]\ntable = "t"\nstart = "now"\n'
    (tmp_path / "syncctl.toml").write_text(toml)
    done = run_syncctl("init", "--no-indexes", "--force", "--redis-url", "redis://h/1", cwd=tmp_path)
    assert done.exit_code == 0, done.stderr
    assert "left syncctl.toml unchanged" in done.stderr
    assert done.stderr.endswith("next: set SOURCE_URL and PARTNER_URL in .env; then run: syncctl doctor\n")
    assert (tmp_path / "syncctl.toml").read_text() == toml


WRONG = [
    (("--mongo-url", f"http://u:{CANARY}@h"), "mongo_url (--mongo-url): must begin with mongodb://"),
    (("--source-url", "nonsense"), "source_url (--source-url): is neither an SQLAlchemy URL"),
    ((*STREAM, "--mode", "newest"), "streams.orders.mode (--mode): must be one of"),
    ((*STREAM, "--endpoint", "GET /"), "streams.orders.endpoint (--endpoint): 'GET /' is not an endpoint"),
    (("--stream", "Big", "--table", "t", "--start", "now"), "--stream 'Big' is not a name; use a lower-case letter"),
    (("--stream", "a.b", "--table", "t", "--start", "now"), "--stream 'a.b' is not a name"),
    (("--stream", "orders", "--table", "t"), "--stream orders needs --start"),
    (("--stream", "orders", "--start", "now"), "--stream orders needs --table"),
    (("--table", "t"), "--table needs --stream"),
    (("--partner-token", "-"), "--partner-token - has nothing to read"),
]


@pytest.mark.parametrize(("flags", "text"), WRONG)
def test_a_wrong_flag_writes_nothing(tmp_path: Path, flags: tuple[str, ...], text: str) -> None:
    done = run_syncctl("init", "--no-indexes", *flags, cwd=tmp_path)
    assert (done.exit_code, done.stdout) == (2, "")
    assert text in done.stderr
    assert "hint: " in done.stderr
    assert CANARY not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_secret_can_come_from_stdin(tmp_path: Path) -> None:
    done = run_syncctl(
        *("init", "--no-indexes", "--source-url", "-", "--partner-token", "-"),
        cwd=tmp_path,
        stdin=f"mssql://u:{CANARY}@h/d\n{CANARY}\n",
    )
    assert (done.exit_code, "history" in done.stderr) == (0, False)
    lines = (tmp_path / ".env").read_text().splitlines()
    assert {f"SOURCE_URL=mssql://u:{CANARY}@h/d", f"PARTNER_TOKEN={CANARY}"} <= set(lines)


def test_a_secret_in_a_flag_warns_of_the_history(tmp_path: Path) -> None:
    done = run_syncctl("init", "--no-indexes", "--json", "--partner-token", CANARY, cwd=tmp_path)
    assert "warning: the secret in --partner-token is now in the shell's history" in done.stderr
    assert len(done.json["warnings"]) == 1
    assert CANARY not in done.stderr + done.stdout


def test_a_directory_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    done = run_syncctl("--directory", tmp_path / "gone", "init", "--no-indexes", cwd=tmp_path)
    assert done.exit_code == 2
    assert "error: cannot enter the directory " in done.stderr


def test_init_creates_the_indexes(tmp_path: Path, mongo_url: str) -> None:
    done = run_syncctl("init", "--json", "--mongo-url", mongo_url, cwd=tmp_path)
    assert done.exit_code == 0
    assert done.json["indexes"]
    lines = done.stderr.splitlines()
    assert lines[-2].startswith("the ledger's indexes are in place: ")
    assert lines[-1].startswith("next: ")
    again = run_syncctl("init", "--indexes", "--json", cwd=tmp_path)
    assert (again.exit_code, again.json["written"], again.json["indexes"]) == (0, [], [])


def test_without_mongodb_the_files_are_written_and_the_command_is_named(tmp_path: Path) -> None:
    done = run_syncctl("init", "--json", "--mongo-url", AWAY, cwd=tmp_path)
    assert done.exit_code == 69
    assert json.loads(done.stdout)["written"] == [".env", "syncctl.toml"]
    assert json.loads(done.stdout)["indexes"] is None
    assert "warning: no indexes were created: cannot reach MongoDB" in done.stderr
    assert done.stderr.endswith("start MongoDB (on this machine: syncctl local up); then run: syncctl init --indexes\n")


def test_config_shows_a_table_and_warns_of_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "syncctl.toml").write_text('[streams.a]\ntable = "t"\nstart = "now"\n')
    shown = run_syncctl("config", cwd=tmp_path, env={"PARTNER_URL": "https://h"})
    assert shown.exit_code == 0
    rows = [line.split() for line in shown.stdout.splitlines()]
    assert rows[0] == ["SETTING", "VALUE", "ORIGIN"]
    assert ["streams.a.table", "t", "syncctl.toml", "line", "2"] in rows
    assert ["partner_url", "https://h", "environment"] in rows
    assert ["worker.concurrency", "4", "default"] in rows
    assert "warning: sources.default.url (default): is not set; set SOURCE_URL" in shown.stderr


def test_config_without_files_names_the_way_to_them(tmp_path: Path) -> None:
    shown = run_syncctl("config", cwd=tmp_path)
    assert shown.exit_code == 0
    assert "next: syncctl init" in shown.stderr


def test_wrong_settings_end_every_command_with_code_2(tmp_path: Path) -> None:
    (tmp_path / "syncctl.toml").write_text('[streams.a]\ntable = "t"\n[stream.b]\n')
    shown = run_syncctl("config", cwd=tmp_path)
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert "error: 2 settings are wrong" in shown.stderr
    assert "streams.a.start (syncctl.toml line 1): is required" in shown.stderr
    assert "stream (syncctl.toml line 3): is unknown; did you mean streams?" in shown.stderr


def test_a_former_name_of_a_setting_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "syncctl.toml").write_text('[streams.orders]\ntable = "orders"\nstart = "now"\nbatch = 2\n')
    shown = run_syncctl("config", "--json", cwd=tmp_path)
    assert shown.exit_code == 0
    assert "warning: streams.orders.batch (syncctl.toml line 4) is deprecated; rename it to" in shown.stderr
    assert {entry["key"]: entry["value"] for entry in shown.json["settings"]}["streams.orders.rows_per_call"] == 2


def test_config_changed_shows_only_what_differs_from_the_defaults(tmp_path: Path) -> None:
    toml = '[streams.a]\ntable = "t"\nstart = "now"\npoll_every = "5s"\npage_size = 10\n[worker]\nconcurrency = 4\n'
    (tmp_path / "syncctl.toml").write_text(toml)
    shown = run_syncctl("config", "--changed", "--json", cwd=tmp_path)
    changed = {entry["key"]: entry["value"] for entry in shown.json["settings"]}
    assert changed == {"streams.a.table": "t", "streams.a.start": "now", "streams.a.page_size": 10}
