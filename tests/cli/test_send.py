"""One row, sent at once: read, logged, claimed, and answered on the screen."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from syncctl.local.mock_partner import MockPartner, PartnerConfig
from tests.harness.source_db import SourceDb

Run = Callable[..., Any]
ROWS = 3


def send(run_syncctl: Run, directory: Path, *args: str, exit_code: int = 0) -> Any:
    """Run `syncctl send ... --json` and return its document."""
    result = run_syncctl("send", *args, "--json", cwd=directory)
    assert result.exit_code == exit_code, result.stderr
    return result.json


def test_a_row_is_sent_before_any_poll_and_the_next_poll_finds_it_unchanged(
    run_syncctl: Run, settings_dir: Path, source_db: SourceDb, partner: MockPartner
) -> None:
    source_db.create_orders(ROWS)
    sent = send(run_syncctl, settings_dir, "orders", "2")
    assert (sent["logged"], sent["sent"], sent["accepted"], sent["state"]) == (True, True, True, "delivered")
    assert (sent["key"], sent["outcome"], sent["obstacle"]) == ({"id": 2}, "accepted", None)
    assert 200 <= sent["status"] < 300
    assert list(partner.rows()) == ["2"]
    (run,) = run_syncctl("poll", "--once", "--json", cwd=settings_dir).json["runs"]
    assert (run["cursor_before"], run["logged"], run["unchanged"]) == (None, ROWS - 1, 1)
    (entry,) = run_syncctl("audit", "--action", "send", "--json", cwd=settings_dir).json["entries"]
    assert (entry["count"], entry["error"], entry["detail"]["record"]) == (1, None, sent["id"])


def test_the_answer_is_on_the_screen(run_syncctl: Run, polled: Path) -> None:
    shown = run_syncctl("send", "--stream", "orders", "--key", "id=1", cwd=polled)
    assert shown.exit_code == 0, shown.stderr
    fields = dict(line.split(maxsplit=1) for line in shown.stdout.splitlines())
    assert (fields["state"], fields["outcome"]) == ("delivered", "accepted")


def test_a_row_that_was_delivered_is_sent_again_only_on_request(
    run_syncctl: Run, polled: Path, partner: MockPartner
) -> None:
    first = send(run_syncctl, polled, "orders", "1")
    known = run_syncctl("send", "orders", "1", cwd=polled)
    assert (known.exit_code, known.stdout.splitlines()[0]) == (0, "not sent: it was delivered before")
    assert "--again" in known.stderr
    again = send(run_syncctl, polled, "orders", "1", "--again")
    assert (again["id"], again["logged"], again["sent"]) == (first["id"], False, True)
    keys = [call.key for call in partner.calls()]
    assert len(keys) == 2
    assert len(set(keys)) == 2


def test_a_changed_row_is_a_new_version(
    run_syncctl: Run, polled: Path, source_db: SourceDb, partner: MockPartner
) -> None:
    before = send(run_syncctl, polled, "orders", "1")
    source_db.execute("update orders set note = 'changed' where id = 1")
    after = send(run_syncctl, polled, "orders", "1")
    assert after["logged"]
    assert after["id"] != before["id"]
    assert b"changed" in partner.rows()["1"]


@pytest.mark.parametrize("args", [("orders", "99"), ("orders", "x")])
def test_a_row_that_is_not_there_is_not_sent(run_syncctl: Run, polled: Path, args: tuple[str, str]) -> None:
    result = run_syncctl("send", *args, cwd=polled)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: the source has no row with the key {args[1]}\n")


@pytest.mark.parametrize("args", [(), ("orders",), ("orders", "1", "2"), ("--stream", "orders")])
def test_a_stream_and_a_key_are_needed(run_syncctl: Run, polled: Path, args: tuple[str, ...]) -> None:
    result = run_syncctl("send", *args, cwd=polled)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "write for example: syncctl send orders 5" in result.stderr


def test_a_pause_is_obeyed_and_said_unless_it_is_overruled(
    run_syncctl: Run, polled: Path, partner: MockPartner
) -> None:
    run_syncctl("pause", "orders", "--reason", "wrong prices", cwd=polled)
    waited = run_syncctl("send", "orders", "1", "--timeout", "1s", cwd=polled)
    assert (waited.exit_code, waited.stdout) == (1, "")
    assert "waiting: stream orders is paused by " in waited.stderr
    assert "wrong prices" in waited.stderr
    assert partner.calls() == []
    document = send(run_syncctl, polled, "orders", "1", "--timeout", "0s", exit_code=1)
    assert (document["sent"], document["state"]) == (False, "pending")
    assert send(run_syncctl, polled, "orders", "1", "--force")["accepted"]
    assert len(partner.calls()) == 1
    assert run_syncctl("status", "--json", cwd=polled).json["streams"][0]["paused"]


class TestRefusing:
    """A partner that refuses every row."""

    @pytest.fixture
    def partner(self) -> Iterator[MockPartner]:
        with MockPartner(PartnerConfig(reject_rate=1.0)) as server:
            yield server

    def test_a_refusal_is_exit_code_1_and_a_failed_record_goes_again(
        self, run_syncctl: Run, polled: Path, partner: MockPartner
    ) -> None:
        refused = send(run_syncctl, polled, "orders", "1", exit_code=1)
        assert (refused["sent"], refused["accepted"], refused["state"]) == (True, False, "failed")
        assert (refused["outcome"], refused["status"]) == ("rejected", 422)
        assert refused["error"]
        partner.fix()
        assert send(run_syncctl, polled, "orders", "1")["accepted"]


class TestFailing:
    """A partner that answers 500."""

    @pytest.fixture
    def partner(self) -> Iterator[MockPartner]:
        with MockPartner(PartnerConfig(error_rate=1.0)) as server:
            yield server

    def test_a_retry_does_not_wait_for_its_time(self, run_syncctl: Run, polled: Path, partner: MockPartner) -> None:
        failing = send(run_syncctl, polled, "orders", "1", exit_code=1)
        assert (failing["sent"], failing["state"], failing["status"]) == (True, "retrying", 500)
        assert failing["due_at"]
        partner.fix()
        assert send(run_syncctl, polled, "orders", "1", "--timeout", "90s")["accepted"]
