"""The mark by which a worker with old settings is seen."""

import hashlib
from pathlib import Path

from syncctl.settings import load_settings
from syncctl.wiring.settings_mark import mark_settings
from tests.harness.settings_files import write_settings


def mark(directory: Path, *, token: str = "", schema: str = "{}", **sections: object) -> str:
    write_settings(
        directory,
        mongo_url="mongodb://localhost/ledger",
        redis_url="redis://localhost/0",
        source_url="sqlite:///erp.db",
        partner_url="https://partner.example",
        partner_token=token,
        stream={"body_schema": "orders.schema.json"} | dict(sections.pop("stream", {})),  # type: ignore[call-overload]
        sections=sections,
    )
    (directory / "orders.schema.json").write_text(schema)
    return mark_settings(load_settings(directory=directory))


def test_other_settings_secrets_and_schemas_have_another_mark(tmp_path: Path) -> None:
    same = mark(tmp_path)
    assert mark(tmp_path) == same
    others = {
        mark(tmp_path, stream={"page_size": 7}),
        mark(tmp_path, token="other"),
        mark(tmp_path, schema='{"type": "object"}'),
        mark(tmp_path, retention={"failed": "1d"}),
    }
    assert len(others | {same}) == 5


def test_what_each_machine_may_have_its_own_way_is_left_out(tmp_path: Path) -> None:
    same = mark(tmp_path)
    assert mark(tmp_path, worker={"concurrency": 9}, log={"level": "debug"}) == same


def test_a_schema_that_is_gone_is_another(tmp_path: Path) -> None:
    same = mark(tmp_path)
    (tmp_path / "orders.schema.json").unlink()
    assert mark_settings(load_settings(directory=tmp_path)) != same


def test_a_mark_holds_too_little_to_confirm_a_guess(tmp_path: Path) -> None:
    found = mark(tmp_path, token="hunter2")
    assert len(found) == 8
    assert found not in {hashlib.sha256(b"hunter2").hexdigest()[:8], b"hunter2".hex()[:8]}
