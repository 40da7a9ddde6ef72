"""The origin of values: flag > environment > .env > syncctl.toml > default."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from syncctl.errors import ConfigurationError, UsageError
from syncctl.partner.tls import make_tls_context
from syncctl.settings import describe_settings, load_settings
from syncctl.settings.toml_file import read_toml

STREAM = '[streams.orders]\ntable = "dbo.orders"\nstart = "now"\n'


def write(directory: Path, *, env: str = "", toml: str = "") -> Path:
    if env:
        (directory / ".env").write_text(env, encoding="utf-8")
    if toml:
        (directory / "syncctl.toml").write_text(toml, encoding="utf-8")
    return directory


def origin_of(settings, key: str) -> str:
    return next(entry.origin for entry in describe_settings(settings) if entry.key == key)


def test_an_empty_directory_has_the_defaults(tmp_path: Path) -> None:
    settings = load_settings(directory=tmp_path, environment={})
    assert settings.redis_url == "redis://localhost:6379/0"
    assert settings.mongo_url == "mongodb://localhost:27017/celery_logs"
    assert settings.redis_prefix == "syncctl"
    assert settings.stream_names == ()
    assert settings.retention.delivered == 30 * 86400
    assert settings.retention.failed == 90 * 86400
    assert settings.retention.superseded == 7 * 86400
    assert settings.beat.upkeep_every == 5
    assert (settings.worker.pool, settings.worker.concurrency) == ("prefork", 4)
    assert (settings.log.level, settings.log.format) == ("info", "auto")


LAYERS = ["command line", "environment", ".env line 1", "syncctl.toml line 2", "default"]


@pytest.mark.parametrize("strongest", range(5))
def test_each_layer_overrides_those_below_it(tmp_path: Path, strongest: int) -> None:
    given = [place if rank >= strongest else None for rank, place in enumerate([1, 2, 3, 4])]
    write(
        tmp_path,
        env=f"WORKER__CONCURRENCY={given[2]}" if given[2] else "",
        toml=f"[worker]\nconcurrency = {given[3]}" if given[3] else "",
    )
    settings = load_settings(
        directory=tmp_path,
        flags={"worker.concurrency": given[0]},
        environment={"WORKER__CONCURRENCY": str(given[1])} if given[1] else {},
    )
    assert settings.worker.concurrency == [1, 2, 3, 4, 4][strongest]
    assert origin_of(settings, "worker.concurrency") == LAYERS[strongest]


def test_layers_merge_key_by_key(tmp_path: Path) -> None:
    write(tmp_path, env="STREAMS__ORDERS__PAGE_SIZE=7", toml=STREAM + 'retry = { schedule = ["1s"], jitter = 0.5 }')
    stream = load_settings(
        directory=tmp_path, environment={"STREAMS__ORDERS__RETRY__JITTER": "0", "STREAMS__ORDERS__LEASE": "10m"}
    ).stream("orders")
    assert (stream.table, stream.page_size, stream.lease_seconds) == ("dbo.orders", 7, 600)
    assert (stream.retry.delays_seconds, stream.retry.jitter) == ((1.0,), 0.0)


def test_one_stream_lives_in_env_alone(tmp_path: Path) -> None:
    write(
        tmp_path,
        env="""\
# everything
export SOURCE_URL='Driver=x;Server=tcp:sql,1433;UID=reader;PWD={p;w}'
PARTNER_URL=https://api.partner.example/v1
PARTNER_TOKEN="token-1"
STREAMS__ORDERS__TABLE=dbo.orders
STREAMS__ORDERS__START=41100
STREAMS__ORDERS__KEY=id, line
STREAMS__ORDERS__MODE=increasing
STREAMS__ORDERS__CURSOR=id
STREAMS__ORDERS__ENDPOINT=PUT /orders/{id}
STREAMS__ORDERS__RETRY__SCHEDULE=["5s", "1m"]
RETENTION__DELIVERED=10d
""",
    )
    settings = load_settings(directory=tmp_path, environment={})
    stream = settings.stream("orders")
    assert (stream.table, stream.start, stream.key) == ("dbo.orders", "41100", ("id", "line"))
    assert (stream.mode, stream.cursor, stream.method, stream.path) == ("increasing", "id", "PUT", "/orders/{id}")
    assert stream.retry.delays_seconds == (5.0, 60.0)
    assert settings.retention.delivered == 10 * 86400
    assert settings.source("default").url == "Driver=x;Server=tcp:sql,1433;UID=reader;PWD={p;w}"
    assert settings.partner("default").auth.values["token"] == "token-1"
    assert origin_of(settings, "streams.orders.table") == ".env line 5"
    settings.check()


def test_a_table_can_be_json_in_a_variable(tmp_path: Path) -> None:
    settings = load_settings(
        directory=write(tmp_path, toml=STREAM), environment={"STREAMS__ORDERS__RETRY": '{"schedule": [], "jitter": 1}'}
    )
    assert settings.stream("orders").retry.delays_seconds == ()
    assert settings.stream("orders").retry.jitter == 1.0


def test_the_environment_is_read_and_never_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_PREFIX", "mine")
    monkeypatch.delenv("PARTNER_TOKEN", raising=False)
    before = dict(os.environ)
    settings = load_settings(directory=write(tmp_path, env="PARTNER_TOKEN=abc\nOTHER=1\n"))
    assert settings.redis_prefix == "mine"
    assert settings.partner_token == "abc"
    assert dict(os.environ) == before


def test_the_working_directory_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write(tmp_path, toml='redis_prefix = "here"'))
    assert load_settings(environment={}).redis_prefix == "here"


def test_a_missing_directory_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no directory"):
        load_settings(directory=tmp_path / "gone", environment={})


def test_empty_and_foreign_variables_are_left_alone(tmp_path: Path) -> None:
    settings = load_settings(
        directory=write(tmp_path, env="REDIS_URL=\nLOG=x\nSTREAMS=y\nFOO__BAR=1\n"),
        environment={"WORKER__CONCURRENCY": "", "MONGO_URL": " ", "PATH": "/bin", "LOGNAME": "me"},
    )
    assert settings.redis_url == "redis://localhost:6379/0"
    assert settings.worker.concurrency == 4


def test_names_of_variables_may_be_lower_case(tmp_path: Path) -> None:
    settings = load_settings(
        directory=write(tmp_path, env="redis_prefix=small\nREDIS_PREFIX=large\nlog__level=DEBUG\n")
    )
    assert settings.redis_prefix == "large"
    assert settings.log.level == "debug"


def test_files_written_on_windows_are_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"\xef\xbb\xbfREDIS_PREFIX=a\r\nLOG__LEVEL=error\r\n")
    (tmp_path / "syncctl.toml").write_bytes(b"\xef\xbb\xbf[worker]\r\nconcurrency = 3\r\n")
    settings = load_settings(directory=tmp_path, environment={})
    assert (settings.redis_prefix, settings.log.level, settings.worker.concurrency) == ("a", "error", 3)
    assert origin_of(settings, "worker.concurrency") == "syncctl.toml line 2"


@pytest.mark.parametrize(
    ("environment", "env", "expected"),
    [
        ({"NAME": "environment", "NAME_FILE": "file"}, "NAME=dotenv\n", "environment"),
        ({"NAME_FILE": "file"}, "NAME=dotenv\n", "from-file"),
        ({}, "NAME=dotenv\nNAME_FILE=file\n", "dotenv"),
        ({}, "NAME_FILE=file\n", "from-file"),
        ({"NAME": ""}, "NAME_FILE=file\n", "from-file"),
        ({"INNER": "deep"}, "NAME=${INNER}-er\n", "deep-er"),
    ],
)
def test_references_are_filled_in(tmp_path: Path, environment: dict[str, str], env: str, expected: str) -> None:
    (tmp_path / "file").write_text("from-file\n")
    write(tmp_path, env=env, toml='redis_prefix = "a-${NAME}-$${NAME}"')
    assert load_settings(directory=tmp_path, environment=environment).redis_prefix == f"a-{expected}-${{NAME}}"


def test_the_file_of_a_value_that_another_place_replaces_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("redis://mine:6379/0")
    environment = {"REDIS_URL_FILE": "mine"}
    settings = load_settings(directory=write(tmp_path, env="REDIS_URL_FILE=roots\n"), environment=environment)
    assert settings.redis_url == "redis://mine:6379/0"


def test_references_work_inside_lists_and_urls(tmp_path: Path) -> None:
    toml = STREAM + 'key = ["${KEY}"]\n[sources.default]\nurl = "mssql://u:${PW}@h/db"\n'
    settings = load_settings(directory=write(tmp_path, toml=toml), environment={"KEY": "id", "PW": "geheim"})
    assert settings.stream("orders").key == ("id",)
    assert settings.source("default").url == "mssql://u:geheim@h/db"


def test_references_of_the_environment_are_plain_text(tmp_path: Path) -> None:
    assert load_settings(directory=tmp_path, environment={"REDIS_PREFIX": "${X}"}).redis_prefix == "${X}"


@pytest.mark.parametrize(
    ("variable", "key"),
    [
        ("MONGO_URL_FILE", "mongo_url"),
        ("PARTNERS__DEFAULT__AUTH__TOKEN_FILE", "partners.default.auth.token"),
        ("STREAMS__ORDERS__QUERY_FILE", "streams.orders.query"),
    ],
)
@pytest.mark.parametrize("place", ["environment", ".env line 1"])
def test_a_file_gives_the_value(tmp_path: Path, variable: str, key: str, place: str) -> None:
    value = "mongodb://u:pw@host/ledger" if key == "mongo_url" else "value"
    (tmp_path / "secret").write_text(f"{value}\r\n\n")
    toml = '[streams.orders]\nstart = "now"\nkey = ["id"]\ncursor = "id"\nmode = "increasing"\n'
    toml += "" if "query" in key else 'query = "select 1"\n'
    write(tmp_path, env=f"{variable}=secret\n" if place.startswith(".env") else "", toml=toml)
    environment = {variable: str(tmp_path / "secret")} if place == "environment" else {}
    settings = load_settings(directory=tmp_path, environment=environment)
    found = settings
    for part in key.split("."):
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    assert found == value
    assert origin_of(settings, key) == f"{place}, {variable}"


def test_a_file_that_was_written_made_or_deleted_since_it_was_read_has_changed(tmp_path: Path) -> None:
    write(tmp_path, toml=STREAM)
    layers = load_settings(directory=tmp_path, environment={}).layers
    assert layers.list_changed_files() == ()
    write(tmp_path, env="PARTNER_TOKEN=token-1", toml=STREAM)
    os.utime(tmp_path / "syncctl.toml", ns=(1, 1))
    assert layers.list_changed_files() == (".env", "syncctl.toml")
    layers = load_settings(directory=tmp_path, environment={}).layers
    assert layers.list_changed_files() == ()
    (tmp_path / "syncctl.toml").unlink()
    assert layers.list_changed_files() == ("syncctl.toml",)


def test_streams_keep_the_order_they_are_written_in(tmp_path: Path) -> None:
    toml = "".join(f'[streams.{name}]\ntable = "t"\nstart = "now"\n' for name in ("zeta", "alpha", "mid"))
    write(tmp_path, toml=toml, env="STREAMS__BETA__TABLE=t\nSTREAMS__BETA__START=now\n")
    assert load_settings(directory=tmp_path, environment={}).stream_names == ("zeta", "alpha", "mid", "beta")


def test_lines_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "syncctl.toml"
    path.write_text(
        '# head\nredis_prefix = "a"\n\n[streams."orders"] # c\nquery = """\nselect *\n[x]\nfrom t"""\n'
        'retry = { schedule = ["5s",\n  "1m"], jitter = 0.1 }\nkey = [\n  "id",\n]\npage_size = 1\nsource.x = 1\n'
    )
    lines = read_toml(path)[1]
    assert lines[("redis_prefix",)] == 2
    assert lines[("streams", "orders")] == 4
    assert lines[("streams", "orders", "query")] == 5
    assert lines[("streams", "orders", "retry", "jitter")] == 9
    assert lines[("streams", "orders", "key")] == 11
    assert lines[("streams", "orders", "page_size")] == 14
    assert lines[("streams", "orders", "source", "x")] == 15


@pytest.mark.parametrize(
    ("content", "position"),
    [
        (b"a = 1\nb = = 2\n", "line 2, column 5"),
        (b'[streams.orders]\nstart = "now', "line 2, column 13"),
        (b"a = 1\na = 2\n", "line 2, column 6"),
        (b"a = [1,\n", "line 2, column 1"),
    ],
)
def test_broken_toml_names_line_and_column(tmp_path: Path, content: bytes, position: str) -> None:
    (tmp_path / "syncctl.toml").write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(directory=tmp_path, environment={})
    assert caught.value.what == "syncctl.toml is not valid TOML"
    assert f"syncctl.toml {position}" in caught.value.why
    assert "syncctl config" in caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", [".env", "syncctl.toml"])
def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(ConfigurationError, match=r"cannot read .*: Is a directory"):
        load_settings(directory=tmp_path, environment={})


def test_an_env_file_in_another_encoding_is_an_error(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"A=\xff\n")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        load_settings(directory=tmp_path, environment={})


def test_former_names_still_work_with_a_warning(tmp_path: Path) -> None:
    write(tmp_path, env="STREAMS__ORDERS__AMBIGUOUS=Hold", toml=f"{STREAM}batch = 50\n")
    settings = load_settings(directory=tmp_path, environment={})
    assert (settings.streams["orders"].rows_per_call, settings.streams["orders"].ambiguous) == (50, "fail")
    assert origin_of(settings, "streams.orders.rows_per_call") == "syncctl.toml line 4"
    assert settings.layers.list_deprecated() == (
        'streams.orders.ambiguous = "Hold" (.env line 1) is deprecated; write "fail"',
        "streams.orders.batch (syncctl.toml line 4) is deprecated; rename it to rows_per_call",
    )


def measure(directory: Path, *, toml: str = "", environment: dict[str, str] | None = None) -> float:
    write(directory, toml=toml)
    started = time.process_time()
    load_settings(directory=directory, environment=environment or {})
    return time.process_time() - started


def test_the_time_to_load_settings_grows_with_their_size_alone(tmp_path: Path) -> None:
    key = "key = [\n" + "".join(f'  "column_{n}",  # ] "\n' for n in range(4000)) + "]\n"
    assert measure(tmp_path, toml=f"{STREAM}{key}") < 2
    body = 'content_type = "text/plain"\nbody = """\n' + 'line [ \\" \n' * 4000 + '"""\n'
    assert measure(tmp_path, toml=f"{STREAM}{body}") < 2
    streams = {f"STREAMS__S{n}__{key}": "now" for n in range(400) for key in ("TABLE", "START")}
    assert measure(tmp_path, toml=STREAM, environment=streams) < 4


def test_the_line_of_each_value_is_known_whatever_is_written_around_it(tmp_path: Path) -> None:
    lines = (
        '# [not.a.table] "',
        'a = "[ # not a comment"  # ] a comment',
        "b = '''",
        "[ \" '' ''''",
        'c = """two \\""" ]',
        'quotes"""""',
        'd = [ "]", # ]',
        "  { e = '\"' },",
        "]",
        "[t]  # [",
        '"x.y" = { z = 1 }',
        "[[u]]",
        "v = 2",
    )
    write(tmp_path, toml="\n".join(lines))
    found = {".".join(path): line for path, line in read_toml(tmp_path / "syncctl.toml")[1].items()}
    assert found == {"a": 2, "b": 3, "c": 5, "d": 7, "t": 10, "t.x.y": 11, "t.x.y.z": 11, "u": 12, "u.v": 13}


@pytest.mark.parametrize(
    ("toml", "environment"),
    [
        (f"{STREAM}key = {'[' * 5000}{']' * 5000}", {}),
        (f"{STREAM}key = {'[' * 60}{']' * 60}", {}),
        (f"{STREAM}mask = {'{a=' * 5000}1{'}' * 5000}", {}),
        (f"{STREAM}{'.'.join('a' * 3000)} = 1", {}),
        (STREAM, {f"STREAMS__ORDERS__{'__'.join('A' * 5000)}": "1"}),
        (STREAM, {"STREAMS__ORDERS__RETRY": '{"a":' * 100_000}),
        (STREAM, {"STREAMS__ORDERS__KEY": "[" * 100_000}),
    ],
    ids=["lists", "a few lists", "tables", "dotted key", "name of a variable", "JSON of a table", "JSON of a list"],
)
def test_settings_that_are_nested_too_deeply_are_an_error_of_settings(
    tmp_path: Path, toml: str, environment: dict[str, str]
) -> None:
    write(tmp_path, toml=toml)
    with pytest.raises(ConfigurationError, match="nested too deeply"):
        load_settings(directory=tmp_path, environment=environment)


@pytest.mark.parametrize("place", [".env", "syncctl.toml", "PARTNER_TOKEN_FILE", "body_schema", "ca"])
def test_a_pipe_that_nobody_writes_to_holds_up_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setattr("syncctl.core.files.PIPE_SECONDS", 0.1)
    toml = f'{STREAM}body_schema = "pipe"\n' if place == "body_schema" else STREAM
    write(tmp_path, toml=toml)
    pipe = tmp_path / (place if place in (".env", "syncctl.toml") else "pipe")
    pipe.unlink(missing_ok=True)
    os.mkfifo(pipe)
    environment = {"PARTNER_TOKEN_FILE": str(pipe)} if place.endswith("_FILE") else {"PARTNER_URL": "https://h"}

    def use() -> None:
        partner = load_settings(directory=tmp_path, environment=environment).partner("default")
        make_tls_context(replace(partner, tls=replace(partner.tls, ca=str(pipe))))

    with pytest.raises(ConfigurationError) as caught:
        use()
    assert "pipe" in caught.value.why


def test_a_pipe_that_is_written_to_is_read(tmp_path: Path) -> None:
    read, written = os.pipe()
    os.write(written, b"a-token\n")
    os.close(written)
    settings = load_settings(directory=tmp_path, environment={"PARTNER_TOKEN_FILE": f"/dev/fd/{read}"})
    os.close(read)
    assert settings.partner_token == "a-token"


NINES = "9" * 400


@pytest.mark.parametrize(
    "toml",
    [
        *(f"{STREAM}{key} = {value}" for key in ("lease", "window") for value in (NINES, "9" * 5000, "1e999")),
        *(f'{STREAM}{key} = "{NINES}s"' for key in ("lease", "poll_every", "lookback")),
        *(f"[partners.default]\n{line}" for line in (f"rate = '{NINES}/second'", f"max_in_flight = {NINES}")),
        *(f"[partners.default]\ntimeout_seconds = {value}" for value in (NINES, f"'{NINES}'", "nan", "inf")),
    ],
    ids=lambda toml: f"{toml.rpartition(chr(10))[2][:30]}-{len(toml)}",
)
def test_a_number_of_hundreds_of_digits_is_an_error_of_its_setting(tmp_path: Path, toml: str) -> None:
    write(tmp_path, toml=toml)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(directory=tmp_path, environment={})
    assert len(caught.value.why) < 200
