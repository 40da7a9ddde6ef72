"""`syncctl tail`: attempts on a terminal, as JSON lines, and across an outage of MongoDB."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.cli.conftest import Settled
from tests.harness.commands import run_on_terminal
from tests.harness.json_pages import describes, keys_of, read_page
from tests.harness.source_db import SourceDb
from tests.harness.tcp_proxy import Proxy

Run = Callable[..., Any]
Start = Callable[..., Any]
Eventually = Callable[..., Any]


def test_the_past_as_json_lines_is_what_the_page_says(run_syncctl: Run, settled: Settled) -> None:
    printed = run_syncctl("tail", "--since", "2020-01-01", "--no-follow", "--json", cwd=settled.directory)
    assert (printed.exit_code, printed.stderr) == (0, "")
    attempts = [json.loads(line) for line in printed.stdout.splitlines()]
    ends = [attempt["state"] for attempt in attempts]
    assert {name: ends.count(name) for name in ("delivered", "failed")} == {
        name: settled.counts[name] for name in ("delivered", "failed")
    }
    assert [attempt["at"] for attempt in attempts] == sorted(attempt["at"] for attempt in attempts)
    documented = read_page()["tail"]
    keys = set[str]().union(*(keys_of(attempt) for attempt in attempts))
    assert {key for key in keys if not any(describes(known, key) for known in documented)} == set()
    assert {known for known in documented - keys if not any(describes(known, key) for key in keys)} == set()


def test_filters_and_a_limit_end_it(run_syncctl: Run, settled: Settled) -> None:
    args = ("tail", "--since", "2020-01-01", "--state", "failed")
    shown = run_syncctl(*args, "--limit", "1", cwd=settled.directory)
    assert shown.exit_code == 0
    assert re.fullmatch(
        r"\S+Z  orders +\d+ +failed +422 +[\d,]+ ms  HTTP 422: this row is not valid\n", shown.stdout
    ), shown.stdout
    every = run_syncctl(*args, "--no-follow", "--stream", "orders", cwd=settled.directory)
    assert len(every.stdout.splitlines()) == settled.counts["failed"]


def test_a_line_is_cut_to_the_terminal(settled: Settled) -> None:
    command = [sys.executable, "-m", "syncctl", "tail", "--since", "2020-01-01", "--no-follow"]
    shown = run_on_terminal(command, cwd=settled.directory, env={"NO_COLOR": "1"}).stderr.splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d UTC", shown[0])
    assert len(shown) == 1 + settled.counts["delivered"] + settled.counts["failed"]
    assert all(len(line) <= 80 for line in shown)


def test_what_makes_no_sense_is_refused(run_syncctl: Run, settled: Settled) -> None:
    for args, why in {
        ("--stream", "ordres"): "did you mean orders?",
        ("--state", "pending"): "--state takes delivered, retrying, failed",
        ("--error", "c9"): "is not the fingerprint",
        ("--key", "customer=5", "--since", "1h"): "is not a key of this stream",
    }.items():
        result = run_syncctl("tail", *args, cwd=settled.directory)
        assert (result.exit_code, result.stdout) == (2, "")
        assert why in result.stderr


def test_it_follows_across_an_outage_and_ends_with_0(
    run_syncctl: Run,
    start_syncctl: Start,
    make_settings: Callable[..., Path],
    source_db: SourceDb,
    mongo_url: str,
    eventually: Eventually,
) -> None:
    source_db.create_orders(2)
    directory = make_settings()
    run_syncctl("poll", "--once", cwd=directory)
    with Proxy(int(re.findall(r":(\d+)/", mongo_url)[0])) as proxy:
        through = re.sub(r":\d+/", f":{proxy.port}/", mongo_url)
        through += f"{'&' if '?' in through else '?'}directConnection=true"
        tail = start_syncctl("tail", "--since", "1h", "--json", cwd=directory, env={"MONGO_URL": through})
        run_syncctl("send", "orders", "1", cwd=directory)
        eventually(lambda: '"key": {"id": 1}' in tail.log)
        proxy.set("refuse")
        tail.wait_for_log("trying again until it answers")
        run_syncctl("send", "orders", "2", cwd=directory)
        proxy.set("open")
        tail.wait_for_log("MongoDB answers again; no attempt was missed")
        eventually(lambda: '"key": {"id": 2}' in tail.log)
        tail.interrupt()
        assert tail.wait() == 0
    assert tail.log.count('"attempt": 1') == 2
