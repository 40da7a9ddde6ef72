"""Each wrong value is one line: the key, where it stands, and the fix."""

from pathlib import Path

import pytest

from syncctl.errors import ConfigurationError, ExitCode
from syncctl.settings import load_settings

STREAM = '[streams.orders]\ntable = "dbo.orders"\nstart = "now"\n'


def fail(directory: Path, *, toml: str = "", env: str = "", environment: dict[str, str] | None = None) -> list[str]:
    """Load settings that are wrong and return the lines of the error."""
    (directory / "syncctl.toml").write_text(toml, encoding="utf-8")
    (directory / ".env").write_text(env, encoding="utf-8")
    with pytest.raises(ConfigurationError) as caught:
        load_settings(directory=directory, environment=environment or {})
    assert caught.value.exit_code == ExitCode.USAGE
    assert caught.value.hint
    assert caught.value.__cause__ is None
    return caught.value.why.splitlines()


WRONG_IN_STREAM = [
    ('start = ""', "start", 'must be "beginning", "now" or a cursor value in quotes'),
    ("start = true", "start", 'must be "beginning", "now" or a cursor value in quotes'),
    ("start = 1.5", "start", "in quotes"),
    ("page_siz = 5", "page_siz", "is unknown; did you mean page_size?"),
    ("dialect = 5", "dialect", "is unknown; known: source, partner, table"),
    ('gap_timeout = "soon"', "gap_timeout", "'soon' is not a duration"),
    ('decimals = "text"', "decimals", 'must be one of "number", "string"'),
    ('after = ["order"]', "after", "there is no [streams.order]; did you mean orders?"),
    ('after = ["orders"]', "after", "names the stream itself; remove orders from it"),
    ('quiet_hours = "22-6"', "quiet_hours", "'22-6' is not a span of hours; write for example \"22:00-06:00\""),
    ('quiet_hours = "22:00-06:00 Mars/Base"', "quiet_hours", "'Mars/Base' is not a time zone"),
    ('timezone = "Mars/Base"', "timezone", "'Mars/Base' is not a time zone; write an IANA name such as Europe/Berlin"),
    ("max_delete_share = 2", "max_delete_share", "must be between 0 and 1"),
    ('mask = "drop"', "mask", 'must be a table, as in { ssn = "drop", iban = "last4" }; as a variable'),
    ('mask = { ssn = "drop", iban = "shorten" }', "mask", 'iban must be one of "drop", "hash", "last4"'),
    ('lease = "1ms"', "lease", "must be at least 1s; a shorter lease would run out before a call begins"),
    ("page_size = 0", "page_size", "must be greater than 0"),
    ("page_size = -1", "page_size", "must be greater than 0"),
    ("page_size = 1.5", "page_size", "must be a whole number"),
    ("page_size = true", "page_size", "must be a whole number"),
    ('page_size = "many"', "page_size", "must be a whole number"),
    ("table = 5", "table", "must be text in quotes"),
    ('query = "select 1"', "query", "cannot be combined with table; remove one"),
    ("key = 5", "key", 'must be a list: ["id", "line"]'),
    ("key = [5]", "key[0]", "must be text in quotes"),
    ('key = "[oops"', "key", "is not a JSON list"),
    ('acknowledge = "update t"', "acknowledge", 'is for mode flag; set mode = "flag" or remove it'),
    ('write_back = "state"', "write_back", "must be a table"),
    ('write_back = { sent_at = "delivered" }', "write_back", "sent_at: delivered is not an outcome; did you mean"),
    ('write_back = { ref = "remote.id" }', "write_back", "has remote.id, which is not known; write capture ="),
    (
        'write_back = { ref = "remote.di" }\ncapture = { id = "id" }',
        "write_back",
        "has remote.di, which is not captured",
    ),
    ('write_back = { a = "state", A = "error" }', "write_back", "names a twice"),
    ('write_back = { a = "state" }\nappend_only = true', "write_back", "append_only says that rows never change"),
    ('write_back = { ID = "state" }\nkey = ["id"]', "write_back", "ID is in the key, by which rows are found"),
    ('write_back = { at = "state" }\ncursor = "at"', "write_back", "at is the cursor"),
    ('write_back = { a = "state" }\ncolumns = ["a"]', "write_back", "a is sent"),
    (
        'write_back = { a = "state" }\nmode = "change_tracking"\nwhere = "[a] is null"',
        "write_back",
        "a is in where, and a row that leaves it is taken for a deleted one",
    ),
    ('mode = "newest"', "mode", 'must be one of "rowversion", "increasing"'),
    ('order = "strict"\nappend_only = true', "order", "strict has no effect with append_only"),
    ('strict_hold = "1h"', "strict_hold", 'is for order strict; set order = "strict" or remove it'),
    ('order = "any"', "order", 'must be one of "latest", "strict", "none"'),
    ('poll_every = "5 parsecs"', "poll_every", "'5 parsecs' is not a duration; write a number and a unit: 500ms, 5s"),
    ('poll_every = "0s"', "poll_every", "must be greater than 0"),
    ("poll_every = -5", "poll_every", "'-5' is not a duration"),
    ("poll_every = 5", "poll_every", '5 has no unit; write for example "5s" or "5d"'),
    ("retry = { schedule = [5] }", "retry.schedule[0]", '5 has no unit; write for example "5s" or "5d"'),
    ("poll_every = true", "poll_every", "is not a duration"),
    ("poll_every = inf", "poll_every", "'inf' is not a duration"),
    ("poll_every = nan", "poll_every", "'nan' is not a duration"),
    ('poll_every = ["5s"]', "poll_every", "is not a duration"),
    ('lookback = "soon"', "lookback", "'soon' is not a duration"),
    ("batch_size = 5000", "batch_size", "5000 is more than the window of 2000 records; lower batch_size or raise"),
    ("batch_size = 100\nwindow = 50", "batch_size", "100 is more than the window of 50 records"),
    ('endpoint = "GET /orders"', "endpoint", "'GET /orders' is not an endpoint; write POST, PUT, PATCH or DELETE"),
    ('endpoint = "/orders"', "endpoint", "is not an endpoint"),
    ('endpoint = "POST /my orders"', "endpoint", "is not an endpoint"),
    ('endpoint = "PUT /{id} x"', "endpoint", "is not an endpoint"),
    ('endpoint = "PUT /{order id"', "endpoint", "has an unpaired brace"),
    (f'endpoint = "PUT /{"{a b}" * 5000} x"', "endpoint", "is not an endpoint"),
    ('endpoint = "POST orders"', "endpoint", "is not an endpoint"),
    ('endpoint = "POST /orders/{id"', "endpoint", "has an unpaired brace"),
    ('endpoint = "POST /orders/{}"', "endpoint", "has an unpaired brace"),
    ('endpoint = "POST /a/../b"', "endpoint", "has a segment . or .., which servers resolve; write the path that is"),
    ('endpoint = "POST /./{id}"', "endpoint", "has a segment . or .."),
    ('endpoint = "POST /a/%2E%2e/b"', "endpoint", "has a segment . or .."),
    ('endpoint = "POST /a/.."', "endpoint", "has a segment . or .."),
    ('endpoint = "POST /a#b"', "endpoint", "has a #, and the text after it is never sent"),
    ('delete_endpoint = "DELETE /../{id}"', "delete_endpoint", "has a segment . or .."),
    (
        'retry = { schedule = [], give_up_after = "3d" }',
        "retry.schedule",
        "is empty, and give_up_after repeats its last",
    ),
    ('retry = { schedule = ["1m", "0s"], give_up_after = "3d" }', "retry.schedule", "ends in 0s, which give_up_after"),
    ('retry = { give_up_after = "0s" }', "retry.give_up_after", "must be greater than 0"),
    (
        "batch_shape = { under = 'rows' }",
        "batch_shape",
        "is for calls of several rows; set rows_per_call to more than 1, or",
    ),
    ('append_only = "maybe"', "append_only", "must be true or false"),
    ('retry = { schedule = ["5x"] }', "retry.schedule[0]", "'5x' is not a duration"),
    ("retry = { jitter = 1.5 }", "retry.jitter", "must be between 0 and 1"),
    ("retry = { jitter = -0.1 }", "retry.jitter", "must be between 0 and 1"),
    ("retry = { jiter = 0.1 }", "retry.jiter", "is unknown; did you mean jitter?"),
    ("retry = 5", "retry", "must be a table with keys of its own, not a single value"),
    ('source = "defualt"', "source", "there is no [sources.defualt]; did you mean default?"),
    ('partner = "acme"', "partner", "there is no [partners.acme]; known: default"),
    ('cursor = "${NOWHERE}"', "cursor", "${NOWHERE} is not set; set NOWHERE in the environment or in .env, or name"),
    ('cursor = "${NO WHERE}"', "cursor", "has a ${ without NAME} after it; write $${ for a plain ${"),
    ('cursor = "${OPEN"', "cursor", "has a ${ without NAME} after it"),
]


@pytest.mark.parametrize(("line", "key", "text"), WRONG_IN_STREAM)
def test_a_wrong_value_of_a_stream_is_refused_with_the_fix(tmp_path: Path, line: str, key: str, text: str) -> None:
    kept = [old for old in STREAM.splitlines() if old.split(" = ")[0] != line.split(" = ", maxsplit=1)[0]]
    lines = fail(tmp_path, toml="\n".join([*kept, line, ""]))
    place = "syncctl.toml line 1" if line.startswith("window") else f"syncctl.toml line {len(kept) + 1}"
    assert len(lines) == 1
    assert lines[0].startswith(f"streams.orders.{key} ({place}): ")
    assert text in lines[0]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            ['mode = "flag"', 'start = "now"'],
            {
                "start": 'must be "beginning" in mode flag, which has no cursor to start at',
                "where": 'is required in mode flag; write where = "exported = 0"',
                "acknowledge": "is required in mode flag; write acknowledge =",
                "cursor": 'is required in mode flag; write cursor = "row_version"',
            },
        ),
        (
            ['mode = "snapshot"', 'start = "5"', "append_only = true"],
            {"start": 'must be "beginning" in mode snapshot', "append_only": "cannot be used in mode snapshot"},
        ),
        (
            ['start = "now"', 'columns = ["a"]', 'exclude = ["b"]'],
            {"exclude": "cannot be combined with columns; remove one of the two"},
        ),
        (
            ['start = "now"', 'key = ["Id", "line"]', 'mask = { id = "drop", ssn = "drop" }'],
            {"mask": "id is in the key, which must stay unmasked; remove it from mask"},
        ),
        (
            ['start = "now"', 'key = ["Id"]', 'json = ["id", "doc"]'],
            {"json": "id is in key, which must stay text; remove it from json"},
        ),
        (
            ['start = "now"', 'cursor = "at"', 'json = ["AT"]'],
            {"json": "AT is in cursor, which must stay text; remove it from json"},
        ),
        (
            ['start = "now"', 'exclude = ["doc"]', 'json = ["doc"]'],
            {"json": "doc is in exclude, so it is not sent; remove it from one of the two"},
        ),
        (
            ['start = "now"', 'write_back = { doc = "error" }', 'json = ["Doc"]'],
            {"json": "Doc is in write_back, so it is not sent; remove it from json"},
        ),
        (
            ['start = "now"', 'columns = ["id"]', 'json = ["doc"]'],
            {"json": "doc is not in columns, so it is not sent; add it there, or remove it from json"},
        ),
        (
            ['start = "now"', 'mask = { doc = "hash" }', 'json = ["doc"]'],
            {"json": "doc is in mask, which sends a text in its place, or nothing; remove it from one of the two"},
        ),
        (
            ['start = "now"', 'endpoint = "PUT /orders/{id}/{Doc}"', 'json = ["doc"]'],
            {"endpoint": "names doc, which is in json, and a path takes a single value; use another column"},
        ),
        (
            ['start = "now"', 'delete_endpoint = "DELETE /orders/{doc}"', 'json = ["doc"]'],
            {"delete_endpoint": "names doc, which is in json, and a path takes a single value; use another column"},
        ),
        (
            ['start = "now"', 'cursor = "updated_at"', 'mask = { updated_at = "last4" }'],
            {"mask": "updated_at is in the cursor, which must stay unmasked; remove it from mask"},
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    tmp_path: Path, lines: list[str], expected: dict[str, str]
) -> None:
    errors = fail(tmp_path, toml="\n".join(["[streams.orders]", 'table = "dbo.orders"', *lines, ""]))
    assert len(errors) == len(expected)
    for key, text in expected.items():
        (line,) = [error for error in errors if error.startswith(f"streams.orders.{key} ")]
        assert text in line


@pytest.mark.parametrize("mode", ["change_tracking", "snapshot", "flag"])
def test_a_query_needs_no_cursor_in_modes_that_follow_none(tmp_path: Path, mode: str) -> None:
    lines = fail(tmp_path, toml=f'[streams.orders]\nquery = "select 1"\nstart = "beginning"\nmode = "{mode}"\n')
    beside_query = [line for line in lines if "required with query" in line]
    assert [each.split(" ")[0] for each in beside_query] == ["streams.orders.key"]
    assert any("cannot be read in mode change_tracking" in line for line in lines) == (mode == "change_tracking")


WRONG_ELSEWHERE = [
    ("[retention]\ndelivered = 'x'", "retention.delivered (syncctl.toml line 2): 'x' is not a duration"),
    ("[retention]\nfailed = '0d'", "retention.failed (syncctl.toml line 2): must be greater than 0"),
    ("[beat]\nupkeep = '5s'", "beat.upkeep (syncctl.toml line 2): is unknown; did you mean upkeep_every?"),
    ("[worker]\npool = 'gevent'", 'worker.pool (syncctl.toml line 2): must be one of "prefork", "threads", "solo"'),
    ("[worker]\nconcurrency = 0", "worker.concurrency (syncctl.toml line 2): must be greater than 0"),
    ("[log]\nlevel = 'loud'", 'log.level (syncctl.toml line 2): must be one of "debug", "info", "warning", "error"'),
    ("[stream.orders]\ntable = 'x'", "stream (syncctl.toml line 1): is unknown; did you mean streams?"),
    ("[zzz]\na = 1", "zzz (syncctl.toml line 1): is unknown; known: redis_url, mongo_url"),
    ("streams = 5", "streams (syncctl.toml line 1): must hold tables by name, as in [streams.NAME]"),
    ("[streams]\norders = 5", "streams.orders (syncctl.toml line 2): must be a table with keys of its own"),
    ("worker = 5", "worker (syncctl.toml line 1): must be a table with keys of its own"),
    ("mask_secret = 'm4sk-canary'", "mask_secret (syncctl.toml line 1): the secret is written out; write"),
    ("redis_prefix = ''", "redis_prefix (syncctl.toml line 1): is empty"),
    ("redis_url = 'localhost:6379'", "redis_url (syncctl.toml line 1): must begin with redis:// or rediss://"),
    ("redis_url = 'redis://'", "redis_url (syncctl.toml line 1): has no host"),
    ("redis_url = 'redis://h:99999/0'", "redis_url (syncctl.toml line 1): has a port that is not a number up to 65535"),
    ("redis_url = 'redis://h/zero'", "redis_url (syncctl.toml line 1): must end in the number of a database"),
    (
        "redis_url = 'unix:///run/redis.sock?db=0'",
        "redis_url (syncctl.toml line 1): is a socket, which Celery does not",
    ),
    (
        "redis_url = 'redis://h/0?db=3'",
        "redis_url (syncctl.toml line 1): has a query that Celery does not support; write",
    ),
    ("redis_url = 'redis://h/0?ssl_ca_certs=x'", "redis_url (syncctl.toml line 1): has a query that Celery does not"),
    ("redis_url = 'rediss://h/0?protocol=3'", "redis_url (syncctl.toml line 1): has a query that Celery does not"),
    ("mongo_url = 'mongo://h/db'", "mongo_url (syncctl.toml line 1): must begin with mongodb:// or mongodb+srv://"),
    ("mongo_url = 'mongodb:///db'", "mongo_url (syncctl.toml line 1): has no host"),
    ("mongo_url = 'mongodb://h/a b'", "mongo_url (syncctl.toml line 1): must end in the name of a database"),
    ("source_url = 'sqlserver'", "source_url (syncctl.toml line 1): is neither an SQLAlchemy URL"),
    ("partner_url = 'api.example'", "partner_url (syncctl.toml line 1): must begin with https:// or http://"),
    ("partner_url = 'https://'", "partner_url (syncctl.toml line 1): has no host"),
    ("partner_url = 'https://h:0/'", "partner_url (syncctl.toml line 1): has port 0"),
    ("partner_url = 'https://[::1/'", "partner_url (syncctl.toml line 1): is not a URL"),
    ("partner_url = 'https://h/#a'", "partner_url (syncctl.toml line 1): has a # in it"),
    ("partner_url = 'https://u@h/'", "partner_url (syncctl.toml line 1): contains a user or a password; remove them"),
    ("partner_url = 'https://h/?a=1'", "partner_url (syncctl.toml line 1): has a query; put a key into auth"),
    ("partner_url = 'https://h/a/../b'", "partner_url (syncctl.toml line 1): has a . or .. in its path"),
    (
        "[partners.default]\nbreaker.failures = 0",
        "partners.default.breaker.failures (syncctl.toml line 2): must be gre",
    ),
    (
        "[partners.default]\nbreaker.failures = 1.1",
        "partners.default.breaker.failures (syncctl.toml line 2): must be g",
    ),
    ("[partners.default]\nbreaker.calls = 0", "partners.default.breaker.calls (syncctl.toml line 2): must be greater"),
    (
        "[partners.default.breaker]\npause = '1m'\nlongest_pause = '30s'",
        "partners.default.breaker.longest_pause (syncctl.toml line 3): 30s is shorter than pause (1m), which is the",
    ),
    (
        "[partners.default.breaker]\npause = '1h'",
        "partners.default.breaker.longest_pause (syncctl.toml line 1): 10m is shorter than pause (1h)",
    ),
    ("mongo_url = 'mongodb://h:x/db'", "mongo_url (syncctl.toml line 1): has a host:port that cannot be read"),
    ("[partners.default]\nrate = '50'", "partners.default.rate (syncctl.toml line 2): '50' is not a rate; write"),
    ("[partners.default]\nrate = '0/second'", "partners.default.rate (syncctl.toml line 2): '0/second' is not a rate"),
    ("[partners.default]\ntimeout_seconds = 0", "partners.default.timeout_seconds (syncctl.toml line 2): must be gr"),
    ("[partners.default]\ntimeout_seconds = inf", "partners.default.timeout_seconds (syncctl.toml line 2): must be a"),
    ("[partners.default]\ntimeout_seconds = true", "partners.default.timeout_seconds (syncctl.toml line 2): must be"),
    (
        "[partners.default]\nauth = {type = 'digest'}",
        "partners.default.auth.type (syncctl.toml line 2): must be one of",
    ),
    ("[sources.default]\nulr = 'x'", "sources.default.ulr (syncctl.toml line 2): is unknown; did you mean url?"),
    (
        "[sources.Big]\nlogin_timeout = '1s'",
        "sources.Big (syncctl.toml line 1): is not a name; use a lower-case letter",
    ),
    (f"[sources.a{'b' * 60}]", f"sources.a{'b' * 60} (syncctl.toml line 1): is not a name"),
]


@pytest.mark.parametrize(("toml", "line"), WRONG_ELSEWHERE)
def test_a_wrong_value_elsewhere_is_refused_with_the_fix(tmp_path: Path, toml: str, line: str) -> None:
    lines = fail(tmp_path, toml=toml)
    assert len(lines) == 1
    assert lines[0].startswith(line)


@pytest.mark.parametrize(
    "text", ["garden.db", "./mine/garden.SQLite3", "{directory}/garden.sqlite", "a b.db", "C:/x.db"]
)
def test_the_path_of_a_file_as_a_sources_url_is_refused_with_the_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = text.format(directory=tmp_path)
    (line,) = fail(tmp_path, toml=f"source_url = '{path}'")
    url = f"sqlite:///{(tmp_path / path).as_posix()}"
    assert line == f"source_url (syncctl.toml line 1): is the path of a file; write it as a URL: {url}"
    assert load_settings(directory=tmp_path, environment={"SOURCE_URL": url}, flags={}).sources["default"].url == url


def test_a_file_of_any_name_is_refused_with_the_url_if_it_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "garden@home").touch()
    (line,) = fail(tmp_path, toml="source_url = 'garden@home'")
    assert line.endswith(f"write it as a URL: sqlite:///{tmp_path.as_posix()}/garden@home")


@pytest.mark.parametrize(
    "text", ["me:canary@h/orders.db", "canary@orders.db", "mysql:canary.db", "garden?.db", "canary.dbx"]
)
def test_a_text_that_may_hold_a_password_is_not_shown_as_a_path(tmp_path: Path, text: str) -> None:
    (line,) = fail(tmp_path, toml=f"source_url = '{text}'")
    assert line.startswith("source_url (syncctl.toml line 1): is neither an SQLAlchemy URL")
    assert "canary" not in line


def test_streams_that_wait_for_each_other_are_refused_once(tmp_path: Path) -> None:
    after = {"orders": "invoices", "customers": "orders", "invoices": "customers"}
    section = '[streams.{}]\ntable = "t"\nstart = "now"\nafter = ["{}"]\n'
    (line,) = fail(tmp_path, toml="".join(section.format(*names) for names in after.items()))
    assert line == (
        "streams.orders.after (syncctl.toml line 4): goes in a circle, orders -> invoices -> customers -> orders, and "
        "none would be sent; remove invoices from it"
    )


WRONG_VARIABLES = [
    ("STREAMS__ORDERS__TABEL", "x", "streams.orders.tabel ({}): is unknown; did you mean table?"),
    ("STREAMS__ORDERS__POLL_EVERY", "x", "streams.orders.poll_every ({}): 'x' is not a duration"),
    ("STREAMS__ORDERS__RETRY", "{oops", "streams.orders.retry ({}): must be a table with keys of its own"),
    ("STREAMS__ORDERS__RETRY__JITTERS", "1", "streams.orders.retry.jitters ({}): is unknown; did you mean jitter?"),
    ("STREAMS__TABLE", "x", "streams.table ({}): must be a table with keys of its own"),
    ("STREAMS__ORDERS__PAGE_SIZE__X", "1", "streams.orders.page_size ({}): must be a whole number"),
    ("SOURCES__DEFAULT__TIMEOUT", "1", "sources.default.timeout ({}): is unknown; did you mean query_timeout?"),
    ("PARTNERS__DEFAULT__AUTH__HOW", "x", "partners.default.auth.how ({}): is unknown; known: type, token, name"),
    ("RETENTION__DELIVERD", "1d", "retention.deliverd ({}): is unknown; did you mean delivered?"),
    ("RETENTION__DELIVERED", "30", 'retention.delivered ({}): 30 has no unit; write for example "30s" or "30d"'),
    ("BEAT__UPKEEP_EVERY", "never", "beat.upkeep_every ({}): 'never' is not a duration"),
    ("WORKER__CONCURRENCY", "four", "worker.concurrency ({}): must be a whole number"),
    ("LOG__LEVL", "info", "log.levl ({}): is unknown; did you mean level?"),
    ("STREAMS__ORDERS__MASK", "ssn", "streams.orders.mask ({}): must be a table"),
    ("MASK_SECRET", "short", "mask_secret ({}): has fewer than 32 characters"),
    ("REDIS_URL", "localhost", "redis_url ({}): must begin with redis://"),
    ("MONGO_URL_FILE", "gone", "mongo_url ({}): the file that MONGO_URL_FILE names cannot be read: No such file"),
    ("PARTNER_TOKEN_FILE", ".", "partner_token ({}): the file that PARTNER_TOKEN_FILE names cannot be read: Is a dir"),
    ("PARTNER_TOKEN_FILE", "empty", "partner_token ({}): the file that PARTNER_TOKEN_FILE names is empty"),
    (
        "PARTNER_TOKEN_FILE",
        "large",
        "partner_token ({}): the file that PARTNER_TOKEN_FILE names cannot be read: it is longer than 65,536",
    ),
    (
        "PARTNER_TOKEN_FILE",
        "binary",
        "partner_token ({}): the file that PARTNER_TOKEN_FILE names cannot be read: it is not UTF-8 text",
    ),
]


@pytest.mark.parametrize("place", ["environment", ".env line 2"])
@pytest.mark.parametrize(("name", "value", "line"), WRONG_VARIABLES)
def test_a_wrong_variable_is_refused_with_the_fix(tmp_path: Path, name: str, value: str, line: str, place: str) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "large").write_bytes(b"x" * 70000)
    (tmp_path / "binary").write_bytes(b"\xff")
    in_environment = place == "environment"
    lines = fail(
        tmp_path,
        toml="" if name == "STREAMS__TABLE" else STREAM,
        env="" if in_environment else f"# {name}\n{name}={value}\n",
        environment={name: value} if in_environment else {},
    )
    assert len(lines) == 1
    assert lines[0].startswith(line.format(place))


def test_a_variable_that_is_not_text_is_refused(tmp_path: Path) -> None:
    lines = fail(tmp_path, toml=STREAM, environment={"REDIS_PREFIX": "a\udc80b"})
    assert lines == ["redis_prefix (environment): is not UTF-8 text; correct it"]


def test_a_reference_to_a_variable_that_is_not_text_is_refused(tmp_path: Path) -> None:
    lines = fail(tmp_path, toml=STREAM, env="REDIS_PREFIX=a${B}\n", environment={"B": "b\udc80"})
    reason = "refers to ${B}, whose value in the environment is not UTF-8 text"
    assert lines == [f"redis_prefix (.env line 1): {reason}"]


def test_a_stream_without_start_says_why(tmp_path: Path) -> None:
    lines = fail(tmp_path, toml='# c\n[streams.orders]\ntable = "dbo.orders"\n')
    assert len(lines) == 1
    assert lines[0] == (
        'streams.orders.start (syncctl.toml line 2): is required: write start = "beginning" (all existing rows), '
        '"now" (only rows from now on) or a cursor value; '
        "it has no default, so that old rows are never sent by accident"
    )


def test_a_stream_in_variables_without_start_says_where(tmp_path: Path) -> None:
    lines = fail(tmp_path, env="STREAMS__ORDERS__TABLE=dbo.orders\n")
    assert len(lines) == 1
    assert lines[0].startswith("streams.orders.start (.env line 1): is required")


def test_a_stream_needs_a_table_or_a_query(tmp_path: Path) -> None:
    lines = fail(tmp_path, toml='[streams.orders]\nstart = "now"\n')
    assert lines == [
        'streams.orders.table (syncctl.toml line 1): is missing; write table = "dbo.orders", or query = "select ..."'
    ]


def test_a_query_needs_key_cursor_and_mode(tmp_path: Path) -> None:
    lines = fail(tmp_path, toml='[streams.orders]\nstart = "now"\nquery = "select 1"\n')
    assert [line.split(" ")[0] for line in lines] == [f"streams.orders.{key}" for key in ("key", "cursor", "mode")]
    assert 'write key = ["id"]' in lines[0]
    assert 'write cursor = "updated_at"' in lines[1]
    assert 'write mode = "increasing"' in lines[2]


@pytest.mark.parametrize("name", ["Orders", "1orders", "a b", "-a", "a" * 61, "straße"])
def test_a_wrong_stream_name_is_refused(tmp_path: Path, name: str) -> None:
    lines = fail(tmp_path, toml=f'[streams."{name}"]\ntable = "t"\nstart = "now"\n')
    assert len(lines) == 1
    assert lines[0].startswith(f"streams.{name} (syncctl.toml line 1): is not a name; use a lower-case letter")


def test_a_stream_name_of_sixty_letters_is_valid(tmp_path: Path) -> None:
    (tmp_path / "syncctl.toml").write_text(f'[streams.{"a" * 60}]\ntable = "t"\nstart = "now"\n')
    assert load_settings(directory=tmp_path, environment={}).stream_names == ("a" * 60,)


def test_a_batch_as_large_as_the_window_is_valid(tmp_path: Path) -> None:
    (tmp_path / "syncctl.toml").write_text(STREAM + "batch_size = 50\nwindow = 50\n")
    assert load_settings(directory=tmp_path, environment={}).stream("orders").batch_size == 50


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ('result_status = "s"', {"result_status": 'is about an item of results; write results = "PATH" too'}),
        ('result_accepted_when = "ok=true"', {"result_accepted_when": "is about an item of results"}),
        (
            'result_key = "k", result_status = "s"',
            {"result_key": "is about an item of results", "result_status": "is about an item of results"},
        ),
        (
            'results = "r"',
            {"results": 'does not say which rows were accepted; write result_status = "PATH" or'},
        ),
        ('results = "r", result_key = "k"', {"results": "does not say which rows were accepted"}),
        ('results = "r", result_key = "k", result_status = "s"', {}),
        ('results = "$", result_accepted_when = "ok=true"', {}),
        ('under = "rows", key = "ref"', {}),
    ],
)
def test_the_settings_of_a_bulk_answer_must_suffice_to_judge_a_row(
    tmp_path: Path, shape: str, expected: dict[str, str]
) -> None:
    toml = f"{STREAM}rows_per_call = 10\nbatch_shape = {{ {shape} }}\n"
    if not expected:
        (tmp_path / "syncctl.toml").write_text(toml)
        assert load_settings(directory=tmp_path, environment={}).stream("orders").batching.size == 10
        return
    lines = fail(tmp_path, toml=toml)
    assert len(lines) == len(expected)
    for key, text in expected.items():
        (line,) = [
            each for each in lines if each.startswith(f"streams.orders.batch_shape.{key} (syncctl.toml line 5): ")
        ]
        assert text in line


@pytest.mark.parametrize("schedule", ['["0s", "1m"]', '["5s"]'])
def test_a_last_delay_that_can_be_repeated_is_valid(tmp_path: Path, schedule: str) -> None:
    (tmp_path / "syncctl.toml").write_text(STREAM + f'retry = {{ schedule = {schedule}, give_up_after = "3d" }}\n')
    assert load_settings(directory=tmp_path, environment={}).stream("orders").retry.give_up_after_seconds == 3 * 86400
    (tmp_path / "syncctl.toml").write_text(STREAM + "retry = { schedule = [] }\n")
    assert load_settings(directory=tmp_path, environment={}).stream("orders").retry.delays_seconds == ()


def test_all_wrong_values_are_reported_at_once(tmp_path: Path) -> None:
    lines = fail(
        tmp_path,
        toml='[streams.orders]\ntable = "a"\nquery = "b"\nbatch_size = 9000\n[retention]\nfailed = "x"\n',
        env="WORKER__POOL=gevent\n=broken\n",
        environment={"LOG__LEVEL": "loud"},
    )
    assert {line.split(": ")[0] for line in lines} == {
        "line 2 (.env)",
        "streams.orders.start (syncctl.toml line 1)",
        "streams.orders.query (syncctl.toml line 3)",
        "streams.orders.batch_size (syncctl.toml line 4)",
        "retention.failed (syncctl.toml line 6)",
        "worker.pool (.env line 1)",
        "log.level (environment)",
    }


def test_a_wrong_value_hides_no_broken_rule_and_breaks_none_itself(tmp_path: Path) -> None:
    toml = STREAM + 'page_size = 0\nbatch_size = "many"\nwindow = 5\nmode = "flag"\nsource = "erp"\n'
    assert [line.split(":")[0] for line in fail(tmp_path, toml=toml)] == [
        "streams.orders.source (syncctl.toml line 8)",
        "streams.orders.page_size (syncctl.toml line 4)",
        "streams.orders.batch_size (syncctl.toml line 5)",
        "streams.orders.start (syncctl.toml line 3)",
        "streams.orders.where (syncctl.toml line 1)",
        "streams.orders.acknowledge (syncctl.toml line 1)",
        "streams.orders.cursor (syncctl.toml line 1)",
    ]


def test_the_summary_counts_the_wrong_values(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as one:
        load_settings(directory=tmp_path, environment={"LOG__LEVEL": "loud"})
    with pytest.raises(ConfigurationError) as two:
        load_settings(directory=tmp_path, environment={"LOG__LEVEL": "loud", "REDIS_URL": "x"})
    assert (one.value.what, two.value.what) == ("a setting is wrong", "2 settings are wrong")
    assert "syncctl config" in one.value.hint


def test_a_broken_line_of_env_is_named(tmp_path: Path) -> None:
    lines = fail(tmp_path, env="REDIS_PREFIX=a\n\n# c\nREDIS_URL redis://x\nMONGO_URL='open\n")
    assert lines == [
        "line 4 (.env): cannot be read; write NAME=value",
        "line 5 (.env): cannot be read; write NAME=value",
    ]


def test_name_and_name_file_exclude_each_other(tmp_path: Path) -> None:
    lines = fail(tmp_path, env="MONGO_URL=mongodb://h/db\nMONGO_URL_FILE=x\n")
    assert lines == ["mongo_url (.env line 2): MONGO_URL sets it too; keep one of the two"]


def test_a_value_and_a_table_exclude_each_other(tmp_path: Path) -> None:
    environment = {"RETENTION__FAILED": "1d", "RETENTION__FAILED__X": "1d"}
    assert fail(tmp_path, environment=environment) == [
        "retention.failed.x (environment): is set as a single value and as a table of keys; keep one of the two"
    ]


@pytest.mark.parametrize("env", ["A=${A}\n", "A=${B}\nB=${A}\n"])
def test_a_reference_to_itself_is_an_error(tmp_path: Path, env: str) -> None:
    lines = fail(tmp_path, toml='redis_prefix = "${A}"', env=env)
    assert len(lines) == 1
    assert lines[0].startswith("redis_prefix (syncctl.toml line 1): refers to itself through ${")


def test_a_wrong_flag_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(
            directory=tmp_path,
            environment={},
            flags={"worker.concurrency": 0, "log.level": "loud"},
            flag_names={"log.level": "--log-level"},
        )
    assert caught.value.why.splitlines() == [
        "worker.concurrency (command line): must be greater than 0",
        'log.level (--log-level): must be one of "debug", "info", "warning", "error"',
    ]
