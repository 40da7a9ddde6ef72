"""The fixtures: databases of each test's own, empty, and settings that join them."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import pytest
from redis import Redis

from syncctl.settings import load_settings
from tests.harness.commands import Completed
from tests.harness.servers import connect
from tests.harness.source_db import SourceDb

if TYPE_CHECKING:
    from syncctl.local.mock_partner import MockPartner


@pytest.mark.parametrize("turn", [1, 2])
def test_each_test_finds_its_databases_empty(mongo_url: str, redis_url: str, turn: int) -> None:
    with connect(mongo_url) as client, Redis.from_url(redis_url) as redis:
        database = client.get_default_database()
        assert database.list_collection_names() == []
        assert redis.dbsize() == 0
        database.probe.insert_one({"turn": turn})
        redis.set("turn", turn)


def test_settings_join_the_services_of_this_test(
    settings_dir: Path, mongo_url: str, redis_url: str, source_db: SourceDb, partner: "MockPartner"
) -> None:
    settings = load_settings(directory=settings_dir)
    settings.check()
    assert (settings.mongo_url, settings.redis_url) == (mongo_url, redis_url)
    assert settings.source("default").url == source_db.url
    assert settings.partner("default").url == partner.url
    assert settings.stream_names == ("orders",)
    with urlopen(f"{partner.url}/_partner/stats", timeout=10) as answer:
        assert answer.status == 200


def test_the_source_has_the_rows_it_was_given(source_db: SourceDb) -> None:
    source_db.create_orders(3)
    source_db.execute("update orders set note = ? where id = ?", ["second", 2])
    assert source_db.count() == 3
    assert source_db.execute("select id, note from orders where note <> ''") == [(2, "second")]


def test_the_command_runs_apart_from_this_environment(
    tmp_path: Path, run_syncctl: Callable[..., Completed], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MONGO_URL", "not a URL")
    version = run_syncctl("--version", cwd=tmp_path)
    assert (version.exit_code, version.stderr) == (0, "")
    assert version.stdout.startswith("syncctl ")


def test_eventually_gives_up_at_its_deadline(eventually: Callable[..., Any]) -> None:
    with pytest.raises(AssertionError, match="last seen: 0"):
        eventually(lambda: 0, timeout=0.05, interval=0.01)
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        eventually(lambda: 1 // 0, timeout=0.05, interval=0.01, ignore=(ZeroDivisionError,))
    answers = iter([0, 0, 7])
    assert eventually(lambda: next(answers), timeout=5, interval=0.001) == 7
