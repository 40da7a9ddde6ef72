"""Alerts: one message when one begins and one when it ends, whoever measures, sends, dies or is away meanwhile."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from syncctl.channels.mail import MailChannel
from syncctl.channels.webhook import WebhookChannel
from syncctl.commands.status_lines import list_warnings
from syncctl.core.alert_channels import MailTarget, WebhookTarget
from syncctl.core.alert_rules import DEFAULTS, RULES, parse_threshold
from syncctl.core.quiet_hours import parse_quiet_hours
from syncctl.core.schema_changes import SchemaChange
from syncctl.core.stream import BreakerRules
from syncctl.core.time_zone import floor_hour
from syncctl.doctor.alerts import check_channel, check_firing
from syncctl.doctor.check import Status
from syncctl.ledger.alerts import AlertKey, AlertMessage
from syncctl.ledger.ledger import Ledger
from syncctl.local.mock_partner import MockPartner
from syncctl.local.mock_partner_behaviour import PartnerConfig
from syncctl.local.mongod import Mongod
from syncctl.pipeline.monitoring.alert_measures import MEASURES
from syncctl.pipeline.monitoring.alert_sending import (
    AMBIGUOUS_WAITS_SECONDS,
    GIVEN_UP_AFTER,
    Channel,
    read_channels,
    send_messages,
)
from syncctl.pipeline.monitoring.alerts import Alert, AlertPlan, evaluate_alerts, read_alerts
from syncctl.pipeline.monitoring.obstacles import StreamPlan
from syncctl.pipeline.monitoring.status import read_status
from syncctl.pipeline.pause import EVERYTHING, POLLS, pause_streams, resume_streams
from syncctl.settings import load_settings
from syncctl.wiring.alerts import JOB, watch_alerts
from syncctl.wiring.connections import Connections
from tests.harness.alert_receivers import MailServer, WebhookReceiver
from tests.harness.passing_time import PAST, let_hours_pass
from tests.harness.source_db import SourceDb
from tests.harness.testbed import Testbed, new_record

MINUTE = 1 / 60
THRESHOLDS = {name: parse_threshold(RULES[name], str(text)) or 0.0 for name, text in DEFAULTS.items()}
OF_PROCESSES = ("no_worker", "no_beat")


def make_plan(*rules: str, **changes: Any) -> AlertPlan:
    """Return a plan with these rules at their default thresholds; without any, with all that are about streams."""
    names = rules or [name for name in THRESHOLDS if name not in OF_PROCESSES]
    plan = AlertPlan(
        thresholds={name: THRESHOLDS[name] for name in names},
        channels=("webhook",),
        streams={"orders": StreamPlan(partner="default")},
    )
    return replace(plan, **changes)


class Watcher:
    """A process that watches."""

    def __init__(self, ledger: Ledger, plan: AlertPlan, url: str) -> None:
        self.ledger = ledger
        self.plan = plan
        self.channel: Channel = WebhookChannel(WebhookTarget(url=url, timeout_seconds=5.0))

    def look(self) -> None:
        """Measure, and send what waits."""
        self.ledger.alerts.note_watched()
        evaluate_alerts(ledger=self.ledger, plan=self.plan, costly=True)
        self.send()

    def send(self) -> None:
        """Send what waits."""
        send_messages(ledger=self.ledger, channels=[self.channel], project="erp", partners={"orders": "default"})

    def list(self) -> list[tuple[str, str]]:
        """Return rule and state of each alert."""
        return [(alert.rule, alert.state) for alert in read_alerts(self.ledger, resolved_too=True)]


@pytest.fixture
def webhook() -> Iterator[WebhookReceiver]:
    with WebhookReceiver() as receiver:
        yield receiver


@pytest.fixture
def watcher(ledger: Ledger, webhook: WebhookReceiver) -> Watcher:
    return Watcher(ledger, make_plan(), f"{webhook.url}/services/a-secret-path-42")


def pass_minutes(watcher: Watcher, database: Any, minutes: float) -> None:
    """Let time pass while processes watch, and look at its end."""
    let_minutes_pass(database, minutes)
    watcher.look()


def let_minutes_pass(database: Any, minutes: float) -> None:
    """Let time pass while processes watch."""
    let_hours_pass(database, minutes * MINUTE)
    database.alerts.update_one({"_id": "watch"}, [{"$set": {"at": "$$NOW"}}])


def pause(testbed: Testbed) -> None:
    pause_streams(ledger=testbed.ledger, streams=("orders",), who="anna", reason="")


def resume(testbed: Testbed) -> None:
    resume_streams(
        ledger=testbed.ledger, streams=("orders",), configured={"orders": "default"}, wake=lambda _: None, who="anna"
    )


def test_a_partner_that_is_down_for_ten_minutes_gives_one_message_and_one_when_it_is_back(
    testbed: Testbed, source_db: SourceDb, watcher: Watcher, webhook: WebhookReceiver
) -> None:
    database = testbed.database
    up = testbed.partner
    source_db.create_orders(60)
    testbed.poll()
    testbed.change_stream(batch_size=10, window=10)
    with MockPartner(PartnerConfig(error_rate=1.0)) as down:
        testbed.partner = replace(up, url=down.url, breaker=BreakerRules(minimum_calls=10))
        testbed.deliver()
        watcher.look()
        assert webhook.taken == []
        for _ in range(5):
            pass_minutes(watcher, database, 2)
            testbed.poll()
            watcher.look()
    assert webhook.states == [("circuit_open", "firing")]
    testbed.partner = replace(up, breaker=BreakerRules(minimum_calls=10))
    for _ in range(3):
        database.streams.update_many({"breaker.until": {"$exists": True}}, {"$set": {"breaker.until": PAST}})
        testbed.make_retries_due()
        testbed.deliver()
        watcher.look()
    pass_minutes(watcher, database, 2)
    watcher.look()
    assert webhook.states == [("circuit_open", "firing"), ("circuit_open", "resolved")]
    firing, resolved = webhook.taken
    assert (firing["stream"], firing["partner"]) == (None, "default")
    assert "for orders: HTTP 500" in firing["detail"]
    assert firing["value"] >= firing["threshold"] == 300
    assert resolved["since"] < resolved["at"]
    assert "HTTP 500" in firing["text"]
    assert testbed.ledger.audit.load(limit=10) == []
    assert watcher.list() == [("circuit_open", "resolved")]


def test_many_processes_at_once_and_restarted_ones_repeat_nothing(
    testbed: Testbed, watcher: Watcher, webhook: WebhookReceiver, mongo_server: Mongod, database: Any
) -> None:
    watcher.plan = make_plan("paused")
    pause(testbed)
    watcher.look()
    let_hours_pass(database, 2)
    watchers = 6

    def look_at_once() -> None:
        start = threading.Barrier(watchers)

        def restart_and_look() -> None:
            with Ledger(mongo_server.url(database.name), database.name) as ledger:
                fresh = Watcher(ledger, watcher.plan, webhook.url)
                start.wait()
                fresh.look()

        threads = [threading.Thread(target=restart_and_look) for _ in range(watchers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    look_at_once()
    look_at_once()
    watcher.send()
    assert webhook.states == [("paused", "firing")]
    resume(testbed)
    look_at_once()
    look_at_once()
    watcher.send()
    assert webhook.states == [("paused", "firing"), ("paused", "resolved")]


def test_a_process_that_measured_before_another_ended_the_alert_does_not_begin_it_again(
    testbed: Testbed, watcher: Watcher
) -> None:
    key_id = "paused:stream:orders"
    pause(testbed)
    let_hours_pass(testbed.database, 2)
    before = watcher.ledger.alerts.load_all().get(key_id)
    watcher.look()
    resume(testbed)
    watcher.look()
    stale = watcher.ledger.alerts.fire(
        AlertKey(rule="paused", stream="orders"),
        before,
        value=1.0,
        threshold=1.0,
        since=datetime.now(UTC),
        detail="",
        channels=("webhook",),
    )
    assert not stale
    assert watcher.list() == [("paused", "resolved")]


def test_a_webhook_that_is_down_is_tried_again_and_gets_everything_in_order(
    testbed: Testbed, watcher: Watcher, webhook: WebhookReceiver
) -> None:
    database = testbed.database
    watcher.plan = make_plan("paused")
    webhook.status = 503
    pause(testbed)
    let_hours_pass(database, 2)
    watcher.look()
    watcher.look()
    assert webhook.refused == 1, "it rests before it is tried again"
    channel = watcher.ledger.alerts.load_channels()["webhook"]
    assert "HTTP 503" in channel["error"]
    assert channel["failing_since"]
    first_rest = channel["next_at"] - watcher.ledger.streams.server_time()
    pass_minutes(watcher, database, 1)
    assert webhook.refused == 2
    channel = watcher.ledger.alerts.load_channels()["webhook"]
    assert channel["next_at"] - watcher.ledger.streams.server_time() > first_rest
    resume(testbed)
    watcher.look()
    webhook.status = 202
    pass_minutes(watcher, database, 10)
    assert webhook.states == [("paused", "firing"), ("paused", "resolved")]
    channel = watcher.ledger.alerts.load_channels()["webhook"]
    assert "error" not in channel
    assert channel["failures"] == 0


def fire_two(testbed: Testbed, watcher: Watcher) -> None:
    """Let the alerts paused and no_poll begin."""
    watcher.plan = make_plan("paused", "no_poll", repeat_seconds=0.0)
    watcher.look()
    pause(testbed)
    let_minutes_pass(testbed.database, 90)


def test_a_message_that_may_have_been_taken_is_tried_a_few_times_and_given_up(
    testbed: Testbed, watcher: Watcher, webhook: WebhookReceiver
) -> None:
    database = testbed.database
    watcher.channel = WebhookChannel(WebhookTarget(url=webhook.url, timeout_seconds=0.2))
    watcher.plan = make_plan("paused")
    webhook.delay = 0.5
    pause(testbed)
    let_hours_pass(database, 2)
    for _ in range(3):
        watcher.look()
    assert len(webhook.taken) == 1, "it waits before it is tried again"
    for _ in range(8):
        pass_minutes(watcher, database, 20)
    assert len(webhook.taken) == 1 + len(AMBIGUOUS_WAITS_SECONDS)
    assert len({message["id"] for message in webhook.taken}) == 1
    (channel,) = read_channels(watcher.ledger, ["webhook"])
    assert channel.given_up is not None
    assert channel.given_up.line.startswith("paused (orders), firing, was given up: no full answer")
    webhook.delay = 0.0
    resume(testbed)
    watcher.look()
    assert webhook.states[-1] == ("paused", "resolved")
    (channel,) = read_channels(watcher.ledger, ["webhook"])
    assert (channel.error, channel.given_up is not None) == (None, True)
    let_hours_pass(database, 25)
    assert read_channels(watcher.ledger, ["webhook"])[0].given_up is None


@pytest.mark.parametrize(("status", "is_given_up"), [(400, True), (403, False)])
def test_a_message_that_is_refused_holds_no_other_and_does_not_come_after_its_own_end(
    testbed: Testbed, watcher: Watcher, webhook: WebhookReceiver, status: int, is_given_up: bool
) -> None:
    fire_two(testbed, watcher)
    webhook.refuses = {"paused": status}
    watcher.look()
    assert webhook.states == [("no_poll", "firing")]
    (channel,) = read_channels(watcher.ledger, ["webhook"])
    assert (channel.given_up is not None) == is_given_up
    watcher.look()
    assert webhook.refused == 1, "it is not tried again at once"
    webhook.refuses = {}
    resume(testbed)
    watcher.look()
    pass_minutes(watcher, testbed.database, 2)
    resolved = ("paused", "resolved")
    assert webhook.states[1:] == ([resolved] if is_given_up else [("paused", "firing"), resolved])


def test_a_recipient_that_is_refused_gets_no_second_mail_to_the_others_and_shows(
    testbed: Testbed, watcher: Watcher
) -> None:
    watcher.plan = make_plan("paused", channels=("email",))
    pause(testbed)
    let_hours_pass(testbed.database, 2)
    with MailServer(replies={"RCPT TO:<D@E.F>": "550 no such user"}) as server:
        target = MailTarget(url=f"smtp://{server.address}", sender="s@b.c", recipients=("a@b.c", "d@e.f"))
        watcher.channel = MailChannel(target)
        for _ in range(3):
            pass_minutes(watcher, testbed.database, 1)
    assert len(server.mails) == 1
    (channel,) = read_channels(watcher.ledger, ["email"])
    assert channel.refused_recipients == ({"recipient": "d@e.f", "reply": "550 no such user"},)
    assert channel.error is None


def test_a_message_that_was_sent_and_not_noted_is_sent_again_with_the_same_id(
    testbed: Testbed, watcher: Watcher, webhook: WebhookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher.plan = make_plan("paused")
    pause(testbed)
    let_hours_pass(testbed.database, 2)
    with monkeypatch.context() as dying:
        dying.setattr(watcher.ledger.alerts, "note_sent", _die)
        dying.setattr(watcher.ledger.alerts, "release_channel", _die)
        with pytest.raises(KeyboardInterrupt):
            watcher.look()
    watcher.look()
    assert len(webhook.taken) == 1, "the channel is still that of the process that died"
    pass_minutes(watcher, testbed.database, 3)
    watcher.look()
    first, second = webhook.taken
    assert first["id"] == second["id"]


def _die(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_message_that_could_not_be_sent_for_a_day_is_given_up(
    testbed: Testbed, watcher: Watcher, webhook: WebhookReceiver
) -> None:
    watcher.plan = make_plan("paused")
    webhook.status = 500
    pause(testbed)
    let_hours_pass(testbed.database, 2)
    watcher.look()
    let_hours_pass(testbed.database, GIVEN_UP_AFTER / timedelta(hours=1) + 1)
    webhook.status = 200
    watcher.look()
    assert webhook.taken == []
    (alert,) = read_alerts(watcher.ledger)
    assert alert.unsent == 0


def test_the_messages_of_a_channel_that_has_left_the_settings_are_given_up_after_a_day(
    testbed: Testbed, watcher: Watcher, webhook: WebhookReceiver
) -> None:
    """Until then they wait for a process that has the channel; after that `alerts` no longer counts them."""
    watcher.plan = make_plan("paused", channels=("email", "webhook"))
    pause(testbed)
    let_hours_pass(testbed.database, 2)
    watcher.look()
    (alert,) = read_alerts(watcher.ledger)
    assert alert.unsent == 1
    watcher.plan = make_plan("paused")
    let_hours_pass(testbed.database, GIVEN_UP_AFTER / timedelta(hours=1) - 1)
    watcher.look()
    assert [message.channel for message in watcher.ledger.alerts.list_messages()] == ["email"]
    let_hours_pass(testbed.database, 2)
    watcher.look()
    assert watcher.ledger.alerts.list_messages() == []
    assert {message["state"] for message in webhook.taken} == {"firing"}


def test_an_alert_that_goes_on_is_repeated_at_intervals(
    testbed: Testbed, watcher: Watcher, webhook: WebhookReceiver
) -> None:
    database = testbed.database
    watcher.plan = make_plan("paused", repeat_seconds=4 * 3600.0)
    pause(testbed)
    let_hours_pass(database, 2)
    watcher.look()
    pass_minutes(watcher, database, 180)
    assert len(webhook.taken) == 1
    pass_minutes(watcher, database, 90)
    watcher.look()
    assert [message["repeated"] for message in webhook.taken] == [0, 1]
    watcher.plan = make_plan("paused")
    pass_minutes(watcher, database, 600)
    assert len(webhook.taken) == 2


def test_a_pause_is_the_reason_of_its_backlog_which_counts_anew_from_its_end(
    testbed: Testbed, source_db: SourceDb, watcher: Watcher, webhook: WebhookReceiver
) -> None:
    database = testbed.database
    watcher.plan = make_plan("paused", "backlog_age")
    source_db.create_orders(3)
    testbed.poll()
    pause(testbed)
    watcher.look()
    pass_minutes(watcher, database, 40)
    assert webhook.taken == []
    resume(testbed)
    watcher.look()
    assert webhook.taken == []
    pass_minutes(watcher, database, 16)
    assert webhook.states == [("backlog_age", "firing")]
    testbed.deliver()
    watcher.look()
    assert webhook.states == [("backlog_age", "firing"), ("backlog_age", "resolved")]


def test_a_stream_is_not_polled_or_its_polls_fail(testbed: Testbed, source_db: SourceDb, watcher: Watcher) -> None:
    database = testbed.database
    watcher.plan = make_plan("no_poll")
    source_db.create_orders(1)
    testbed.poll()
    watcher.look()
    pass_minutes(watcher, database, 10)
    database.streams.update_one(
        {"_id": "orders"}, [{"$set": {"health.last_poll_at": "$$NOW", "health.error": "login failed"}}]
    )
    assert read_alerts(watcher.ledger) == ()
    pass_minutes(watcher, database, 6)
    (alert,) = read_alerts(watcher.ledger)
    assert (alert.rule, alert.stream) == ("no_poll", "orders")
    assert "login failed" in alert.detail
    testbed.poll()
    watcher.look()
    assert watcher.list() == [("no_poll", "resolved")]


def test_what_happened_while_no_process_watched_is_not_held_against_the_streams(
    testbed: Testbed, source_db: SourceDb, watcher: Watcher
) -> None:
    watcher.plan = make_plan("no_poll", "backlog_age")
    source_db.create_orders(2)
    testbed.poll()
    watcher.look()
    let_hours_pass(testbed.database, 12)
    watcher.look()
    assert watcher.list() == []


def test_what_fires_goes_on_after_a_time_in_which_no_process_watched(
    testbed: Testbed, source_db: SourceDb, watcher: Watcher
) -> None:
    watcher.plan = make_plan("no_poll", "backlog_age")
    source_db.create_orders(2)
    testbed.poll()
    watcher.look()
    pass_minutes(watcher, testbed.database, 20)
    let_hours_pass(testbed.database, 10 * MINUTE)
    watcher.look()
    assert sorted(watcher.list()) == [("backlog_age", "firing"), ("no_poll", "firing")]


def test_a_process_watches_also_while_another_measures_and_a_short_gap_counts_as_watched(
    settings_dir: Path, mongo_database: Any
) -> None:
    with Connections(load_settings(directory=settings_dir, environment={})) as connections:
        ledger = connections.prepared_ledger
        assert ledger.maintenance.acquire(JOB, seconds=600)
        watch_alerts(connections)
        since = ledger.alerts.load_watched_since()
        assert since is not None
        let_hours_pass(mongo_database, 2 * MINUTE)
        watch_alerts(connections)
        assert ledger.alerts.load_watched_since() == since - timedelta(minutes=2)


def stop_beat(database: Any) -> None:
    database.beat.update_one({"_id": "beat"}, {"$set": {"at": datetime.now(UTC) - timedelta(hours=3)}})


def test_a_restart_and_a_weekend_are_no_missing_worker_or_beat(ledger: Ledger, database: Any, watcher: Watcher) -> None:
    watcher.plan = make_plan(*OF_PROCESSES)
    ledger.heartbeats.record_worker("w", {})
    ledger.heartbeats.record_beat({})
    watcher.look()
    let_hours_pass(database, 1 * MINUTE)
    stop_beat(database)
    watcher.look()
    for hours in (1.0, 60.0):
        let_hours_pass(database, hours)
        watcher.look()
        assert watcher.list() == []
    pass_minutes(watcher, database, 3)
    assert sorted(watcher.list()) == [("no_beat", "firing"), ("no_worker", "firing")]


def test_a_check_counts_from_the_last_heartbeat_if_no_process_watches(
    ledger: Ledger, database: Any, watcher: Watcher
) -> None:
    ledger.heartbeats.record_worker("w", {})
    ledger.heartbeats.record_beat({})
    let_hours_pass(database, 1)
    stop_beat(database)
    evaluate_alerts(ledger=ledger, plan=make_plan(*OF_PROCESSES))
    assert sorted(watcher.list()) == [("no_beat", "firing"), ("no_worker", "firing")]


def test_after_an_outage_of_the_workers_a_backlog_counts_anew(
    testbed: Testbed, source_db: SourceDb, watcher: Watcher
) -> None:
    database = testbed.database
    watcher.plan = make_plan("no_worker", "backlog_age", "no_poll")
    source_db.create_orders(2)
    testbed.poll()
    watcher.look()
    pass_minutes(watcher, database, 20)
    assert watcher.list() == [("no_worker", "firing")]
    for minutes in (0, 0, 10):
        let_minutes_pass(database, minutes)
        testbed.ledger.heartbeats.record_worker("w", {})
        watcher.look()
        assert watcher.list() == [("no_worker", "resolved")]
    let_minutes_pass(database, 10)
    testbed.ledger.heartbeats.record_worker("w", {})
    watcher.look()
    assert ("backlog_age", "firing") in watcher.list()


def test_a_short_restart_of_the_workers_is_no_reason_of_a_backlog(
    testbed: Testbed, source_db: SourceDb, watcher: Watcher
) -> None:
    watcher.plan = make_plan("no_worker", "backlog_age")
    source_db.create_orders(2)
    testbed.poll()
    watcher.look()
    let_minutes_pass(testbed.database, 0.5)
    testbed.ledger.heartbeats.record_worker("w", {})
    watcher.look()
    let_minutes_pass(testbed.database, 14.6)
    testbed.ledger.heartbeats.record_worker("w", {})
    watcher.look()
    assert watcher.list() == [("backlog_age", "firing")]


def test_a_rule_that_meets_a_bug_says_nothing_new_and_holds_up_no_other(
    testbed: Testbed, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher.plan = make_plan("no_poll", "paused")
    watcher.look()
    pass_minutes(watcher, testbed.database, 30)
    assert watcher.list() == [("no_poll", "firing")]
    pause(testbed)
    monkeypatch.setitem(MEASURES, "no_poll", lambda _: 1 / 0)  # type: ignore[arg-type]
    pass_minutes(watcher, testbed.database, 90)
    assert sorted(watcher.list()) == [("no_poll", "firing"), ("paused", "firing")]


def test_processes_with_different_settings_do_not_begin_and_end_an_alert_each_round(
    testbed: Testbed, watcher: Watcher, webhook: WebhookReceiver
) -> None:
    pause(testbed)
    let_hours_pass(testbed.database, 2)
    strict, lenient = make_plan("paused"), make_plan("paused", thresholds={"paused": 10 * 3600.0})
    for plan in (strict, lenient) * 3:
        watcher.plan = plan
        watcher.look()
    assert webhook.states == [("paused", "firing"), ("paused", "resolved")]
    watcher.plan = strict
    pass_minutes(watcher, testbed.database, 6)
    assert webhook.states[2:] == [("paused", "firing")]


def test_of_processes_with_different_settings_those_of_the_last_one_to_start_hold(
    ledger: Ledger, database: Any
) -> None:
    now = ledger.streams.server_time()

    def claim(fingerprint: str, minutes_ago: float) -> bool:
        return ledger.alerts.claim_plan(
            fingerprint, process=f"host:{fingerprint}", started_at=now - timedelta(minutes=minutes_ago)
        )

    assert ledger.alerts.load_plans() == []
    assert claim("old", 9)
    assert claim("new", 5)
    assert not claim("old", 9)
    assert claim("new", 7), "the same settings, whenever the process started"
    assert [plan["process"] for plan in ledger.alerts.load_plans()] == ["host:new", "host:old"]
    assert claim("old", 1), "a restart decides anew"
    assert not claim("new", 5)
    let_hours_pass(database, 2 * MINUTE)
    assert claim("new", 7), "the others are gone"
    assert [plan["fingerprint"] for plan in ledger.alerts.load_plans()] == ["new"]


def test_doctor_says_whose_settings_hold_and_what_a_channel_does_not_take(ledger: Ledger, tmp_path: Path) -> None:
    lines = 'webhook = "${HOOK}"\nsmtp = "smtp://mail.example"\nemail_from = "a@b.c"\nemail_to = ["d@e.f"]'
    (tmp_path / "syncctl.toml").write_text(f"[alerts]\n{lines}\n")
    settings = load_settings(directory=tmp_path, environment={"HOOK": "https://hooks.example/hook/ab12"})
    services: Any = SimpleNamespace(settings=settings, ledger=ledger)
    now = ledger.streams.server_time()
    assert check_firing(services).status is Status.OK
    for name, minutes in (("one", 3), ("two", 2), ("three", 1)):
        ledger.alerts.claim_plan(name, process=f"{name}:1", started_at=now - timedelta(minutes=minutes))
    found = check_firing(services)
    assert found.status is Status.WARN
    assert found.detail.startswith(
        "two:1 and one:1 (machine:pid) run with other settings of alerts or streams than three:"
    )
    ledger.alerts.note_channel("email", None, refused={"d@e.f": "550 no such user"})
    found = check_channel(services, "email")
    assert (found.status, found.detail) == (Status.WARN, "d@e.f was refused: 550 no such user")
    assert "correct alerts.email_to" in found.hint
    key = AlertKey(rule="circuit_open", partner="erp")
    given_up = dict.fromkeys(("id", "channel", "detail"), "webhook") | {"state": "firing", "since": now, "at": now}
    message = AlertMessage(key=key, value=1.0, threshold=1.0, repeated=0, **given_up)  # type: ignore[arg-type]
    ledger.alerts.give_up(message, "HTTP 400")
    found = check_channel(services, "webhook")
    assert found.status is Status.WARN
    assert found.detail.startswith("circuit_open (partner erp), firing, was given up: HTTP 400")
    ledger.alerts.note_channel("webhook", "HTTP 404")
    found = check_channel(services, "webhook")
    assert found.status is Status.FAIL
    assert "HTTP 404\ncircuit_open" in found.detail
    status = read_status(ledger=ledger, configured={}, messages=0, alert_channels=("webhook", "email"))
    (warning,) = list_warnings(status, now)
    assert warning.startswith("alerts by webhook: none taken since ")
    assert warning.endswith(": HTTP 404; syncctl doctor alerts")


def test_a_plan_says_what_processes_must_agree_on() -> None:
    plan = make_plan()
    same = replace(plan, thresholds=dict(reversed(plan.thresholds.items())), streams=dict(plan.streams))
    assert plan.fingerprint == same.fingerprint
    streams = {"orders": StreamPlan(partner="default", poll_every_seconds=60.0)}
    for other in ({"thresholds": {"paused": 1.0}}, {"streams": streams}, {"repeat_seconds": 1.0}):
        assert replace(plan, **other).fingerprint != plan.fingerprint  # type: ignore[arg-type]


def open_circuits(database: Any, *names: str, minutes_ago: float = 6.0) -> None:
    """Let the circuits of streams be open, with a record behind each."""
    now = datetime.now(UTC)
    for name in names:
        breaker = {"state": "open", "since": now - timedelta(minutes=minutes_ago), "reason": "HTTP 503"}
        database.streams.update_one({"_id": name}, {"$set": {"breaker": breaker}}, upsert=True)
        record = {"_id": f"{name}-1", "stream": name, "state": "pending", "fresh": True, "due_at": now}
        database.records.replace_one({"_id": record["_id"]}, record, upsert=True)


def test_an_outage_of_a_partner_is_one_alert_that_names_its_streams(
    ledger: Ledger, database: Any, watcher: Watcher, webhook: WebhookReceiver
) -> None:
    names = [f"s{number:02}" for number in range(30)]
    watcher.plan = make_plan("circuit_open", streams={name: StreamPlan(partner="erp") for name in names})
    open_circuits(database, *names)
    watcher.look()
    (firing,) = webhook.taken
    assert (firing["rule"], firing["stream"], firing["partner"]) == ("circuit_open", None, "erp")
    assert "for s00, s01, s02, s03, s04 and 25 more: HTTP 503" in firing["detail"]
    # The first of them is back, and another has been down for a minute: it goes on.
    database.streams.update_many({"_id": {"$ne": "s29"}}, {"$unset": {"breaker": True}})
    open_circuits(database, "s29", minutes_ago=1)
    watcher.look()
    database.streams.update_many({}, {"$unset": {"breaker": True}})
    watcher.look()
    assert webhook.states == [("circuit_open", "firing"), ("circuit_open", "resolved")]


def test_what_began_while_no_channel_was_set_is_sent_once_there_is_one(
    testbed: Testbed, watcher: Watcher, webhook: WebhookReceiver
) -> None:
    for repeat_seconds in (0.0, 3600.0):
        webhook.taken.clear()
        watcher.plan = make_plan("paused", channels=(), repeat_seconds=repeat_seconds)
        pause(testbed)
        pass_minutes(watcher, testbed.database, 61)
        assert (watcher.list()[0], webhook.taken) == (("paused", "firing"), [])
        watcher.plan = make_plan("paused", repeat_seconds=repeat_seconds)
        for _ in range(3):
            watcher.look()
        (firing,) = webhook.taken
        assert (firing["rule"], firing["state"], firing["repeated"]) == ("paused", "firing", 0)
        testbed.ledger.streams.resume("orders")
        watcher.look()
        let_minutes_pass(testbed.database, 10)


def poll_ends(database: Any, *names: str, error: str | None = None) -> None:
    """Let polls of streams end now."""
    noted: dict[str, Any] = {"health.last_poll_at": "$$NOW", "health.error": error}
    if error is None:
        noted["health.polled_at"] = "$$NOW"
    for name in names:
        database.streams.update_one({"_id": name}, [{"$set": noted}], upsert=True)


@pytest.fixture
def many(database: Any, watcher: Watcher) -> list[str]:
    """Streams of one source, and one of another, that have just been polled and are watched."""
    names = [f"s{number:02}" for number in range(30)]
    erp = {name: StreamPlan(partner="erp", source="erp") for name in names}
    watcher.plan = make_plan("no_poll", streams={**erp, "elsewhere": StreamPlan(partner="erp", source="web")})
    poll_ends(database, *names, "elsewhere")
    watcher.look()
    return names


def test_a_source_that_is_down_is_one_alert_that_names_its_streams(
    database: Any, watcher: Watcher, webhook: WebhookReceiver, many: list[str]
) -> None:
    for minutes in (1, 10, 6):
        poll_ends(database, *many, error="cannot reach SQL Server")
        let_minutes_pass(database, minutes)
        poll_ends(database, "elsewhere")
        watcher.look()
    (firing,) = webhook.taken
    assert (firing["rule"], firing["stream"], firing["source"]) == ("no_poll", None, "erp")
    assert firing["text"].startswith("FIRING: no_poll (source erp, erp): s00, s01, s02, s03, s04 and 25 more: no poll")
    assert firing["detail"].endswith(": cannot reach SQL Server")
    assert firing["text"].endswith("next: syncctl doctor source")
    # It is back, and not all of them have been polled yet.
    poll_ends(database, *many[:10])
    watcher.look()
    pass_minutes(watcher, database, 1)
    poll_ends(database, *many)
    pass_minutes(watcher, database, 1)
    assert webhook.states == [("no_poll", "firing"), ("no_poll", "resolved")]


SECONDS = 1 / 60


def look_each_ten_seconds(watcher: Watcher, database: Any, minutes: float, poll: Callable[[int], object]) -> None:
    """Let time pass as processes watch, and polls end before each look."""
    for number in range(round(minutes * 6)):
        let_minutes_pass(database, 10 * SECONDS)
        poll(number)
        watcher.look()


@pytest.fixture
def few(many: list[str], watcher: Watcher, database: Any) -> list[str]:
    """Three streams of a source; two minutes without a good poll are too long."""
    names = many[:3]
    streams = {name: watcher.plan.streams[name] for name in names}
    watcher.plan = replace(watcher.plan, streams=streams, thresholds={"no_poll": 120.0})
    return names


def pause_polls(watcher: Watcher, few: list[str]) -> None:
    for name in few[:2]:
        watcher.ledger.polls.pause(name, who="anna", reason="")


def let_nobody_watch(watcher: Watcher, few: list[str]) -> None:
    let_hours_pass(watcher.ledger._database, 4 * MINUTE)


def begin_poll(watcher: Watcher, few: list[str]) -> None:
    assert watcher.ledger.polls.acquire(few[0], seconds=60, worker="w")


@pytest.mark.parametrize("happens", [lambda *_: None, pause_polls, let_nobody_watch, begin_poll])
def test_an_outage_of_a_source_is_one_alert_to_its_end(
    database: Any,
    watcher: Watcher,
    webhook: WebhookReceiver,
    few: list[str],
    happens: Callable[[Watcher, list[str]], None],
) -> None:
    look_each_ten_seconds(watcher, database, 3, lambda _: poll_ends(database, *few, error="down"))
    assert webhook.states == [("no_poll", "firing")]
    happens(watcher, few)
    look_each_ten_seconds(watcher, database, 1, lambda _: poll_ends(database, *few[1:], error="down"))
    assert webhook.states == [("no_poll", "firing")]
    # One is read again; what is wrong with the others is theirs, and counts from now.
    database.streams.update_many({}, {"$unset": {"poll": True}})
    look_each_ten_seconds(watcher, database, 1, lambda _: poll_ends(database, few[2]))
    assert webhook.states == [("no_poll", "firing"), ("no_poll", "resolved")]


def test_a_stream_with_a_trouble_of_its_own_is_not_taken_for_its_source(
    database: Any, watcher: Watcher, webhook: WebhookReceiver, few: list[str]
) -> None:
    def poll(number: int) -> None:
        poll_ends(database, few[0], error="no such column")
        if number % 8 == 0:
            poll_ends(database, *few[1:])

    look_each_ten_seconds(watcher, database, 5, poll)
    assert [(firing["stream"], firing["source"]) for firing in webhook.taken] == [(few[0], None)]


def test_a_source_of_which_no_stream_is_polled_is_one_alert(
    database: Any, watcher: Watcher, webhook: WebhookReceiver, many: list[str]
) -> None:
    pass_minutes(watcher, database, 16)
    poll_ends(database, "elsewhere")
    watcher.look()
    assert {(firing["source"], firing["stream"]) for firing in webhook.taken} == {("erp", None), (None, "elsewhere")}


def test_streams_that_fail_beside_others_that_are_read_have_alerts_of_their_own(
    database: Any, watcher: Watcher, webhook: WebhookReceiver, many: list[str]
) -> None:
    failing, well = many[:2], [*many[2:], "elsewhere"]
    for minutes in (1, 10, 6):
        poll_ends(database, *failing, error="no such column")
        let_minutes_pass(database, minutes)
        poll_ends(database, *well)
        watcher.look()
    assert [firing["stream"] for firing in webhook.taken] == failing
    # Now the source goes down: theirs go on, and the source has one too.
    pass_minutes(watcher, database, 16)
    assert [alert["source"] for alert in webhook.taken[2:]] == ["erp", None]
    assert webhook.taken[3]["stream"] == "elsewhere"


def test_an_open_circuit_that_nothing_waits_for_fires_no_more_and_counts_anew(
    ledger: Ledger, database: Any, watcher: Watcher
) -> None:
    watcher.plan = make_plan("circuit_open")
    open_circuits(database, "orders")
    watcher.look()
    assert watcher.list() == [("circuit_open", "firing")]
    database.records.update_many({}, {"$set": {"state": "discarded"}, "$unset": {"due_at": True}})
    pass_minutes(watcher, database, 60)
    assert watcher.list() == [("circuit_open", "resolved")]
    open_circuits(database, "orders", minutes_ago=66)
    watcher.look()
    assert watcher.list() == [("circuit_open", "resolved")]
    pass_minutes(watcher, database, 6)
    assert watcher.list() == [("circuit_open", "firing")]


def test_changed_columns_are_one_message_and_end_by_themselves(
    ledger: Ledger, database: Any, watcher: Watcher, webhook: WebhookReceiver
) -> None:
    watcher.plan = make_plan("schema_changed")

    def change(column: str, minutes_ago: float) -> dict[str, Any]:
        changed = SchemaChange(kind="gone", column=column, before="text", after=None, is_sent=None)
        return {"at": datetime.now(UTC) - timedelta(minutes=minutes_ago), "change": asdict(changed)}

    columns = ("street", "town", "country")
    changes = [change(column, minutes) for column, minutes in zip(columns, (4, 3, 2), strict=True)]
    database.streams.update_one({"_id": "orders"}, {"$set": {"schema_changes": changes}}, upsert=True)
    watcher.look()
    assert webhook.taken == [], "more may follow"
    pass_minutes(watcher, database, 2)
    (firing,) = webhook.taken
    assert "column street (text) has gone" in firing["detail"]
    assert "column town (text) has gone" in firing["detail"]
    assert firing["detail"].endswith("; 1 more")
    for _ in range(3):
        pass_minutes(watcher, database, 30)
    assert webhook.states == [("schema_changed", "firing"), ("schema_changed", "resolved")]


@pytest.mark.parametrize("rules", [("no_poll", "backlog_age"), ("no_poll", "backlog_age", "paused")])
def test_after_a_pause_the_time_begins_anew_whatever_rules_are_on(
    testbed: Testbed, source_db: SourceDb, watcher: Watcher, rules: tuple[str, ...]
) -> None:
    watcher.plan = make_plan(*rules)
    source_db.create_orders(1)
    testbed.poll()
    pause_streams(ledger=testbed.ledger, streams=("orders",), scope=EVERYTHING, who="anna", reason="")
    watcher.look()
    pass_minutes(watcher, testbed.database, 50)
    resume(testbed)
    watcher.look()
    pass_minutes(watcher, testbed.database, 10)
    assert watcher.list() == []
    pass_minutes(watcher, testbed.database, 6)
    assert sorted(watcher.list()) == [("backlog_age", "firing"), ("no_poll", "firing")]


def add_hour(database: Any, at: datetime, *, delivered: int, failed: int) -> None:
    counts = {"delivered": delivered, "failed": failed}
    database.reports.insert_one({"stream": "orders", "window_start": floor_hour(at), **counts})


def test_a_share_of_failures_is_judged_from_a_number_of_records_on_and_does_not_flap(
    ledger: Ledger, database: Any, watcher: Watcher
) -> None:
    watcher.plan = make_plan("failed_share")
    now = ledger.streams.server_time()
    add_hour(database, now, delivered=16, failed=3)
    watcher.look()
    assert watcher.list() == []
    database.reports.update_one({"stream": "orders"}, {"$set": {"delivered": 94, "failed": 6}})
    watcher.look()
    (alert,) = read_alerts(ledger)
    assert (alert.rule, alert.value, alert.unit) == ("failed_share", 0.06, "share")
    # With fewer records it goes on, as long as too many of them fail.
    database.reports.update_one({"stream": "orders"}, {"$set": {"delivered": 8, "failed": 2}})
    watcher.look()
    assert watcher.list() == [("failed_share", "firing")]
    # Just below the threshold it goes on.
    database.reports.update_one({"stream": "orders"}, {"$set": {"delivered": 1240}})
    database.reports.update_one({"stream": "orders"}, {"$set": {"failed": 60}})
    watcher.look()
    assert watcher.list() == [("failed_share", "firing")]
    database.reports.update_one({"stream": "orders"}, {"$set": {"delivered": 6000}})
    watcher.look()
    assert watcher.list() == [("failed_share", "resolved")]


def test_an_obstacle_that_no_other_rule_is_about_fires(testbed: Testbed, watcher: Watcher) -> None:
    database = testbed.database
    watcher.plan = make_plan("obstacle", "no_poll")
    note = {"error": "no such schema", "worker": "w", "at": datetime.now(UTC) + timedelta(days=1)}
    database.streams.update_one({"_id": "orders"}, {"$set": {"health.delivery": note}}, upsert=True)
    watcher.look()
    pass_minutes(watcher, database, 31)
    (alert,) = [alert for alert in read_alerts(watcher.ledger) if alert.rule == "obstacle"]
    assert alert.detail == "its delivery on w stops: no such schema", "what no_poll is about is left to it"
    database.streams.update_one({"_id": "orders"}, {"$unset": {"health.delivery": True}})
    watcher.look()
    assert ("obstacle", "resolved") in watcher.list()


def test_no_worker_and_no_beat_fire_and_silence_what_follows_from_them(
    testbed: Testbed, source_db: SourceDb, watcher: Watcher
) -> None:
    database, ledger = testbed.database, testbed.ledger
    watcher.plan = make_plan("no_worker", "no_beat", "backlog_age", "no_poll")
    source_db.create_orders(2)
    testbed.poll()
    ledger.heartbeats.record_worker("w", {})
    ledger.heartbeats.record_beat({})
    watcher.look()
    assert watcher.list() == []
    stop_beat(database)
    watcher.look()
    let_minutes_pass(database, 3)
    ledger.heartbeats.record_worker("w", {})
    watcher.look()
    assert watcher.list() == [("no_beat", "firing")]
    # One that stops in order leaves no heartbeat behind.
    ledger.heartbeats.forget_worker("w")
    ledger.heartbeats.record_beat({})
    watcher.look()
    assert watcher.list() == [("no_beat", "resolved")]
    pass_minutes(watcher, database, 30)
    ledger.heartbeats.record_beat({})
    watcher.look()
    assert set(watcher.list()) == {("no_worker", "firing"), ("no_beat", "resolved")}
    ledger.heartbeats.record_worker("w", {})
    watcher.look()
    assert ("no_worker", "resolved") in watcher.list()


def test_an_alert_of_a_rule_that_is_switched_off_or_a_stream_that_was_removed_ends(
    testbed: Testbed, watcher: Watcher
) -> None:
    for plan in (make_plan("no_poll"), make_plan("paused", streams={})):
        testbed.database.alerts.delete_many({})
        watcher.plan = make_plan("paused")
        pause(testbed)
        let_hours_pass(testbed.database, 2)
        watcher.look()
        assert watcher.list() == [("paused", "firing")]
        watcher.plan = plan
        watcher.look()
        assert ("paused", "resolved") in watcher.list()


def test_polls_that_are_paused_are_no_missing_polls(
    testbed: Testbed, source_db: SourceDb, watcher: Watcher, webhook: WebhookReceiver
) -> None:
    watcher.plan = make_plan("no_poll", "paused")
    source_db.create_orders(1)
    testbed.poll()
    pause_streams(ledger=testbed.ledger, streams=("orders",), scope=POLLS, who="anna", reason="")
    watcher.look()
    pass_minutes(watcher, testbed.database, 59)
    assert watcher.list() == []
    pass_minutes(watcher, testbed.database, 2)
    assert webhook.states == [("paused", "firing")]
    assert "its polls are paused by anna" in webhook.taken[0]["detail"]
    resume(testbed)
    watcher.look()
    watcher.look()
    assert webhook.states == [("paused", "firing"), ("paused", "resolved")]


def test_a_pause_with_an_end_is_not_forgotten(testbed: Testbed, watcher: Watcher) -> None:
    watcher.plan = make_plan("paused")
    ends_at = datetime.now(UTC) + timedelta(days=1)
    pause_streams(ledger=testbed.ledger, streams=("orders",), ends_at=ends_at, who="anna", reason="")
    let_hours_pass(testbed.database, 5)
    watcher.look()
    assert watcher.list() == []


def test_quiet_hours_and_a_stream_that_goes_first_are_the_reason_of_a_backlog(
    testbed: Testbed, source_db: SourceDb, watcher: Watcher
) -> None:
    database = testbed.database
    source_db.create_orders(1)
    testbed.poll()
    now = datetime.now(UTC)
    quiet = parse_quiet_hours(f"{now - timedelta(hours=1):%H:%M}-{now + timedelta(hours=1):%H:%M} UTC")
    over = parse_quiet_hours(f"{now - timedelta(hours=3):%H:%M}-{now - timedelta(minutes=5):%H:%M} UTC")
    watcher.look()
    for quiet_hours, minutes, fires in ((quiet, 20, False), (over, 10, False), (over, 6, True)):
        plan = StreamPlan(partner="default", quiet_hours=quiet_hours)
        watcher.plan = make_plan("backlog_age", streams={"orders": plan})
        pass_minutes(watcher, database, minutes)
        assert bool(read_alerts(watcher.ledger)) == fires
    orders = StreamPlan(partner="default")
    lines = StreamPlan(partner="default", after={"orders": orders})
    watcher.plan = make_plan("backlog_age", streams={"orders": orders, "lines": lines})
    database.records.insert_one({"_id": "l", "stream": "lines", "state": "pending", "fresh": True, "due_at": now})
    pass_minutes(watcher, database, 20)
    assert [alert.stream for alert in read_alerts(watcher.ledger)] == ["orders"]
    database.records.delete_one({"stream": "orders"})
    watcher.look()
    assert read_alerts(watcher.ledger) == (), "the time of lines begins when it waits no more"
    pass_minutes(watcher, database, 16)
    assert [alert.stream for alert in read_alerts(watcher.ledger)] == ["lines"]


def test_a_stream_that_waits_for_one_in_its_quiet_hours_is_as_the_settings_ask_for(
    testbed: Testbed, source_db: SourceDb, watcher: Watcher
) -> None:
    source_db.create_orders(1)
    testbed.poll()
    now = datetime.now(UTC)
    quiet = parse_quiet_hours(f"{now - timedelta(hours=1):%H:%M}-{now + timedelta(hours=1):%H:%M} UTC")
    lines = StreamPlan(partner="default", after={"orders": StreamPlan(partner="default", quiet_hours=quiet)})
    document = {"_id": "l", "stream": "lines", "state": "pending", "fresh": True, "due_at": datetime.now(UTC)}
    testbed.database.records.insert_one(document)
    testbed.database.streams.update_one(
        {"_id": "lines"}, [{"$set": {"health.last_poll_at": {"$add": ["$$NOW", 86_400_000]}}}], upsert=True
    )
    watcher.plan = make_plan("obstacle", streams={"lines": lines})
    watcher.look()
    for _ in range(2):
        pass_minutes(watcher, testbed.database, 40)
    assert watcher.list() == []
    pause(testbed)
    watcher.look()
    pass_minutes(watcher, testbed.database, 40)
    (alert,) = read_alerts(watcher.ledger)
    assert "waits for stream orders" in alert.detail
    assert "and is paused" in alert.detail, "which an operator asked for"


def test_a_partner_that_is_paused_is_one_alert_for_all_its_streams(testbed: Testbed, watcher: Watcher) -> None:
    testbed.ledger.partners.pause("default", who="anna", reason="")
    let_hours_pass(testbed.database, 2)
    watcher.plan = make_plan("paused", streams={name: StreamPlan(partner="default") for name in ("orders", "lines")})
    watcher.look()
    (alert,) = read_alerts(testbed.ledger)
    assert isinstance(alert, Alert)
    assert (alert.stream, alert.partner, alert.subject) == (None, "default", "partner default")


def test_the_oldest_due_record_is_found_among_first_attempts_and_retries(ledger: Ledger, database: Any) -> None:
    assert ledger.records.find_oldest_due("orders") is None
    ledger.records.log([new_record(1), new_record(2)], ledger.streams.server_time())
    earlier = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
    database.records.update_one({"_id": "orders-2"}, {"$set": {"fresh": False, "due_at": earlier}})
    assert ledger.records.find_oldest_due("orders") == earlier
