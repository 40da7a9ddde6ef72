"""MongoDB's errors, translated for an operator."""

import os
import signal
from datetime import UTC, datetime
from typing import Any

import pytest
from pymongo.errors import OperationFailure

from syncctl.errors import ConfigurationError, ExitCode, ServiceUnavailable
from syncctl.ledger.ledger import Ledger
from syncctl.ledger.mongo_client import describe_hosts, translated
from syncctl.local.mongod import Mongod
from tests.harness.testbed import new_record

SECRET = "s3cr3t"


@pytest.mark.parametrize("host", ["localhost:1", "localhost:1,localhost:2", "no-such-host.invalid:27017"])
def test_a_server_that_is_away_is_reported_as_unavailable(host: str) -> None:
    with Ledger(f"mongodb://me:{SECRET}@{host}/x", "x", timeout_seconds=0.3) as ledger:
        for use in (ledger.prepare, ledger.streams.server_time):
            with pytest.raises(ServiceUnavailable) as caught:
                use()
            error = caught.value
            assert (error.what, error.service) == (f"cannot reach MongoDB at {host}", "mongodb")
            assert error.hint == "check MONGO_URL, then run: syncctl doctor mongodb"
            assert error.exit_code == ExitCode.UNAVAILABLE
            assert host.partition(":")[0] in error.why
            assert SECRET not in f"{error}{error.hint}"
            assert "\n" not in error.why


def test_a_server_that_hangs_is_reported_as_unavailable(own_mongod: Mongod) -> None:
    with Ledger(own_mongod.url("x"), "x", timeout_seconds=0.6) as ledger:
        now = datetime.now(UTC)
        assert own_mongod.pid
        os.kill(own_mongod.pid, signal.SIGSTOP)
        try:
            for use in (ledger.streams.server_time, lambda: ledger.records.log([new_record(1)], now)):
                with pytest.raises(ServiceUnavailable, match="cannot reach MongoDB"):
                    use()
        finally:
            os.kill(own_mongod.pid, signal.SIGCONT)


def test_a_server_that_comes_back_is_used_again(own_mongod: Mongod, eventually: Any) -> None:
    with Ledger(own_mongod.url("x"), "x", timeout_seconds=3.0) as ledger:
        ledger.streams.ensure("orders")
        own_mongod.kill()
        with pytest.raises(ServiceUnavailable):
            ledger.streams.server_time()
        own_mongod.start()
        now = eventually(ledger.streams.server_time, ignore=(ServiceUnavailable,))
        assert ledger.records.log([new_record(1)], now) == (1, 0, [])


@pytest.mark.parametrize("url", ["http://localhost", f"mongodb://me:{SECRET}@/x", "mongodb://a:b:c/x"])
def test_a_wrong_url_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Ledger(url, "x")
    assert caught.value.what == "MONGO_URL is not a MongoDB URL"
    assert SECRET not in f"{caught.value}{caught.value.hint}"


@pytest.mark.parametrize("code", [18, 8000])
def test_a_refused_login_is_a_configuration_error(code: int) -> None:
    with pytest.raises(ConfigurationError, match="refuses the login") as caught, translated("db:27017"):
        raise OperationFailure("Authentication failed.", code)
    assert caught.value.what == "MongoDB at db:27017 refuses the login"
    assert "MONGO_URL" in caught.value.hint


def test_a_login_that_lacks_a_right_is_a_configuration_error(ledger: Ledger) -> None:
    with pytest.raises(ConfigurationError, match="lacks a right") as caught, translated("db:27017"):
        raise OperationFailure("not authorized", 13, {"errmsg": "not authorized on x to execute command find"})
    assert caught.value.why == "not authorized on x to execute command find"


def test_a_server_that_wants_a_login_is_told_from_one_that_gives_no_right() -> None:
    with pytest.raises(ConfigurationError) as caught, translated("db:27017"):
        raise OperationFailure("command find requires authentication", 13)
    assert caught.value.what == "MongoDB at db:27017 wants a login"
    assert "MONGO_URL=mongodb://USER:PASSWORD@db:27017/" in caught.value.hint


def test_a_bug_of_ours_is_not_taken_for_a_server_that_is_away(ledger: Ledger) -> None:
    with pytest.raises(OperationFailure), translated("db:27017"):
        ledger._database.command("no such command")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"mongodb://me:{SECRET}@a:1,b:2/x?replicaSet=rs", "a:1,b:2"),
        ("mongodb://localhost/x", "localhost:27017"),
        (f"mongodb+srv://me:{SECRET}@cluster.example.net/x", "cluster.example.net"),
        (f"mongodb://me:{SECRET}@a:port/x", "a:port"),
    ],
)
def test_hosts_are_named_without_their_password(url: str, shown: str) -> None:
    assert describe_hosts(url) == shown
