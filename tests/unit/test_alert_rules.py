"""The rules of alerts, their settings, and what a channel says of an alert."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from syncctl.channels.addresses import parse_mail_url, spell_webhook_secrets
from syncctl.channels.alert_text import AlertText
from syncctl.core.alert_rules import DEFAULTS, RULES, format_threshold, format_value, parse_threshold
from syncctl.errors import ConfigurationError
from syncctl.ledger.alerts import AlertKey, AlertMessage
from syncctl.pipeline.monitoring.alert_measures import MEASURES, SILENCED_BY
from syncctl.settings import Settings, describe_settings, load_settings
from syncctl.wiring.alerts import open_channels, plan_alerts

PAGE = Path(__file__).parents[2] / "docs" / "alerts.md"
NOW = datetime(2026, 1, 31, 3, 6, 13, tzinfo=UTC)
HOOK = "https://hooks.example/services/T0000/a-secret-path-42"


def make_text(**changes: Any) -> AlertText:
    fields: dict[str, Any] = {
        "id": "abc",
        "channel": "webhook",
        "key": AlertKey(rule="circuit_open", stream="orders"),
        "state": "firing",
        "value": 361.0,
        "threshold": 300.0,
        "since": NOW - timedelta(seconds=361),
        "at": NOW,
        "detail": "the partner is down: HTTP 503: <!channel> [here](https://evil.example)",
        "repeated": 0,
    }
    return AlertText(message=AlertMessage(**{**fields, **changes}), project="erp", partner="default")


def load(tmp_path: Path, alerts: str, **environment: str) -> Settings:
    (tmp_path / "syncctl.toml").write_text(f"[alerts]\n{alerts}\n")
    return load_settings(directory=tmp_path, environment=environment)


def test_each_rule_has_a_default_a_measure_and_a_row_of_its_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert list(RULES) == list(MEASURES) == list(DEFAULTS)
    shown = dict(re.findall(r"^\| \[`(\w+)`\]\(\S+\) \| ([\w.]+) \|", text, re.MULTILINE))
    assert shown == {name: rule.default for name, rule in RULES.items()}
    assert all(silenced <= RULES.keys() for silenced in SILENCED_BY.values())


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.name)
def test_the_default_of_a_rule_is_read_and_shown(rule: Any) -> None:
    threshold = parse_threshold(rule, rule.default)
    assert threshold is not None
    assert format_threshold(rule.name, threshold) in (rule.default, f"{100 * threshold:g} %")
    assert parse_threshold(rule, " OFF ") is None


def test_values_are_shown_in_the_unit_of_their_rule() -> None:
    assert format_value("failed_share", 0.0667) == "6.67 %"
    assert format_value("circuit_open", 361) == "6m"
    assert format_value("a_rule_of_a_newer_version", 90) == "90s"


def test_rules_that_are_not_written_keep_their_default_and_off_switches_one_off(tmp_path: Path) -> None:
    settings = load(tmp_path, 'rules = { circuit_open = "1m", no_beat = "off", paused = false, failed_share = 0.5 }')
    thresholds = plan_alerts(settings).thresholds
    assert thresholds == {
        "failed_share": 0.5,
        "backlog_age": 900,
        "no_poll": 900,
        "circuit_open": 60,
        "obstacle": 1800,
        "schema_changed": 300,
        "no_worker": 120,
    }
    assert plan_alerts(load(tmp_path, "")).channels == ()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('rules = { circuit = "5m" }', "did you mean circuit_open?"),
        ('rules = { no_beat = "5" }', "no_beat: 5 has no unit"),
        ('rules = { no_beat = "0s" }', 'no_beat: must be longer than 0; write "off"'),
        ("rules = { failed_share = 5 }", "failed_share: must be a share"),
        ('smtp = "smtp://mail.example"', "email_from: is required with smtp"),
        ('email_to = ["Anna <a@b.c>"]', "is not an e-mail address"),
        ('smtp = "http://mail.example"', "must begin with smtp:// or smtps://"),
        ('smtp = "smtp://u:abcdef@mail.example"', "the password is written out"),
        (f'webhook = "{HOOK}"', 'the secret is written out; write "${ALERT_WEBHOOK}"'),
        ('webhook = "${HOOK}"', "must begin with https:// or http://"),
        ('format = "xml"', "json"),
        ("timeout_seconds = 31", "must be at most 30"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, line, HOOK="ftp://x/a-secret-path-42")
    (found,) = [text for text in caught.value.why.splitlines() if words.removeprefix("email_from: ") in text][:1]
    assert found.startswith("alerts.")
    assert "a-secret-path-42" not in str(caught.value)
    assert "abcdef" not in str(caught.value)


def test_a_channel_whose_variable_is_not_set_stops_no_command_and_is_reported(tmp_path: Path) -> None:
    settings = load(tmp_path, 'webhook = "${HOOK}"\nemail_to = ["a@b.c"]')
    assert plan_alerts(settings).channels == ("webhook",), "its messages wait for a process that can send them"
    assert open_channels(settings) == []
    with pytest.raises(ConfigurationError) as caught:
        settings.check()
    assert "alerts.webhook" in caught.value.why
    assert "${HOOK} is not set" in caught.value.why
    assert "alerts.smtp" in caught.value.why


def test_the_address_of_a_webhook_and_the_password_of_a_mail_server_are_secrets(tmp_path: Path) -> None:
    lines = 'webhook = "${HOOK}"\nsmtp = "smtp://u:${PW}@mail.example"\nemail_from = "a@b.c"\nemail_to = ["a@b.c"]'
    settings = load(tmp_path, lines, HOOK=HOOK, PW="correct horse")
    assert plan_alerts(settings).channels == ("webhook", "email")
    shown = json.dumps([[entry.key, entry.value] for entry in describe_settings(settings)])
    assert "secret-path" not in shown
    assert "horse" not in shown
    assert {HOOK, "a-secret-path-42", "correct horse"} <= settings.secrets()
    assert "services" not in spell_webhook_secrets("https://h/services"), "a common word is none"
    assert HOOK not in repr(settings.alerts.find_webhook())
    assert "horse" not in repr(settings.alerts.find_mail())


@pytest.mark.parametrize(
    ("url", "port", "is_tls"),
    [("smtp://h", 587, False), ("smtps://h", 465, True), ("smtp://u:p%40w@h:25", 25, False)],
)
def test_a_mail_server_is_read_from_its_url(url: str, port: int, is_tls: bool) -> None:
    server = parse_mail_url(url)
    assert (server.host, server.port, server.is_tls) == ("h", port, is_tls)
    assert server.password in ("", "p@w")


@pytest.mark.parametrize("url", ["smtp://", "smtp://u@h", "smtp://h/x", "smtp://u:a@b@h", "h:25"])
def test_what_is_no_mail_server_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"must|has|needs|is not"):
        parse_mail_url(url)


def test_the_line_says_everything_and_mentions_nobody() -> None:
    line = make_text().line
    assert line.startswith("FIRING: circuit_open (orders, erp): the partner is down")
    assert "value 6m; threshold 5m; since 2026-01-31T03:00:12Z" in line
    assert line.endswith("next: syncctl doctor partner default")
    assert "<" not in line
    assert ">" not in line
    resolved = make_text(state="resolved").line
    assert resolved.startswith("RESOLVED: circuit_open (orders, erp): it was: the partner")
    assert "after 6m" in resolved
    assert "next:" not in resolved
    assert make_text(key=AlertKey(rule="no_beat")).line.startswith("FIRING: no_beat (erp): ")


def test_the_document_has_the_keys_of_the_page() -> None:
    (shown,) = re.findall(r"^```json\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert json.loads(shown).keys() == make_text().to_document().keys()


def test_a_card_takes_no_text_for_markdown() -> None:
    attachment = make_text().to_teams()["attachments"][0]
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    blocks = attachment["content"]["body"]
    holders = [block for block in blocks if "evil.example" in json.dumps(block)]
    assert [block["type"] for block in holders] == ["RichTextBlock"]


def test_a_mail_has_the_same_id_each_time_it_is_sent() -> None:
    mails = [make_text().to_mail(sender="s@example.com", recipients=("a@b.c", "d@e.f")) for _ in range(2)]
    assert {mail["Message-ID"] for mail in mails} == {"<abc@example.com>"}
    assert mails[0]["Subject"] == "[syncctl] FIRING: circuit_open (orders, erp)"
    assert mails[0]["To"] == "a@b.c, d@e.f"
    assert "next: syncctl doctor partner default" in mails[0].get_content()
    assert "circuit_open fires if the circuit" in mails[0].get_content()
