"""The fingerprint by which a worker with old settings is recognized."""

from pathlib import Path

from syncctl.settings import load_settings
from syncctl.settings.describe import fingerprint_settings
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
    return fingerprint_settings(load_settings(directory=directory))


def test_other_settings_and_schemas_have_another_fingerprint(tmp_path: Path) -> None:
    same = mark(tmp_path)
    assert mark(tmp_path) == same
    others = {
        mark(tmp_path, stream={"page_size": 7}),
        mark(tmp_path, schema='{"type": "object"}'),
        mark(tmp_path, retention={"failed": "1d"}),
    }
    assert len(others | {same}) == 4


def test_settings_that_may_differ_between_machines_are_left_out(tmp_path: Path) -> None:
    same = mark(tmp_path)
    assert mark(tmp_path, worker={"concurrency": 9}, log={"level": "debug"}) == same


def test_no_secret_is_part_of_a_fingerprint(tmp_path: Path) -> None:
    assert mark(tmp_path, token="hunter2") == mark(tmp_path, token="hunter3")
    before = mark(tmp_path)
    environment = {"SOURCE_URL": "mssql+pyodbc://reader:secret@sqlserver:1433/erp"}
    marks = {
        fingerprint_settings(load_settings(directory=tmp_path, environment={"SOURCE_URL": url}))
        for url in (environment["SOURCE_URL"], environment["SOURCE_URL"].replace("secret", "other"))
    }
    assert len(marks | {before}) == 2
