"""The texts of an alert for the channels: one line for people, a JSON document for programs, a card for Teams, a mail.

The detail of an alert may quote the answer of a partner or a source, so no channel may interpret it as markup.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Any

from syncctl.core.alert_rules import RULES, format_threshold, format_value
from syncctl.core.durations import format_age
from syncctl.ledger.alerts import FIRING, RESOLVED, AlertMessage

TEST = "test"
_STATE_WORDS = {FIRING: "FIRING", RESOLVED: "RESOLVED", TEST: "TEST"}
_COLOURS = {FIRING: "Attention", RESOLVED: "Good", TEST: "Accent"}
_WITHOUT_MARKUP = str.maketrans({"<": "\u2039", ">": "\u203a"})
"""Slack reads text in angle brackets as a link, or as a mention of a person or of a whole channel."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AlertText:
    """An alert as a channel shows it."""

    message: AlertMessage
    #: The project's name, which tells several installations apart.
    project: str
    #: The partner of the alert's stream.
    partner: str | None = None

    @property
    def headline(self) -> str:
        """The state, the rule and the subject."""
        key = self.message.key
        about = f"{key.subject}, {self.project}" if key.about else self.project
        return f"{_STATE_WORDS[self.message.state]}: {key.rule} ({about})"

    @property
    def facts(self) -> Mapping[str, str]:
        """Further facts, by their names."""
        message = self.message
        if message.state == TEST:
            return {}
        rule = message.key.rule
        facts = {
            "value": format_value(rule, message.value),
            "threshold": format_threshold(rule, message.threshold),
            "since": _format(message.since),
        }
        if message.state == RESOLVED:
            facts["ended"] = f"{_format(message.at)}, after {format_age((message.at - message.since).total_seconds())}"
        elif message.repeated:
            facts["repeated"] = str(message.repeated)
        return facts

    @property
    def detail(self) -> str:
        """The detail of the alert, marked as past if the alert has ended."""
        return f"it was: {self.message.detail}" if self.message.state == RESOLVED else self.message.detail

    @property
    def hint(self) -> str:
        """The next command; empty if there is nothing to do."""
        rule = RULES.get(self.message.key.rule)
        if rule is None or self.message.state != FIRING:
            return ""
        if self.message.key.source:
            return rule.source_hint
        partner = self.message.key.partner or self.partner or ""
        return rule.hint.format(stream=self.message.key.stream or "", partner=partner).rstrip()

    @property
    def line(self) -> str:
        """Everything in one line."""
        facts = "; ".join(f"{name} {value}" for name, value in self.facts.items())
        parts = [f"{self.headline}: {self.detail}", facts, f"next: {self.hint}" if self.hint else ""]
        return " | ".join(part for part in parts if part).translate(_WITHOUT_MARKUP)

    def to_document(self) -> dict[str, Any]:
        """Return the JSON document of a webhook. Slack shows its `text`."""
        message, rule = self.message, RULES.get(self.message.key.rule)
        return {
            "text": self.line,
            "id": message.id,
            "project": self.project,
            "rule": message.key.rule,
            "stream": message.key.stream,
            "partner": message.key.partner or self.partner,
            "source": message.key.source,
            "state": message.state,
            "value": round(message.value, 4),
            "threshold": message.threshold,
            "unit": rule.unit if rule else None,
            "since": _format(message.since),
            "at": _format(message.at),
            "repeated": message.repeated,
            "detail": message.detail,
        }

    def to_teams(self) -> dict[str, Any]:
        """Return a message with an Adaptive Card; its text is in text runs, in which Teams reads no Markdown."""
        blocks: list[dict[str, Any]] = [
            _make_run(self.headline, weight="Bolder", size="Medium", color=_COLOURS[self.message.state]),
            _make_run(self.detail),
        ]
        if self.facts:
            pairs = [{"title": name, "value": value} for name, value in self.facts.items()]
            blocks.append({"type": "FactSet", "facts": pairs})
        if self.hint:
            blocks.append(_make_run(self.hint, fontType="Monospace"))
        card = {
            "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
            "type": "AdaptiveCard",
            "version": "1.4",
            "body": blocks,
        }
        attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
        return {"type": "message", "attachments": [attachment]}

    def to_mail(self, *, sender: str, recipients: tuple[str, ...]) -> EmailMessage:
        """Return a mail. A repetition has the same `Message-ID`, so that mail programs can drop it."""
        mail = EmailMessage()
        mail["Subject"] = f"[syncctl] {self.headline}"
        mail["From"] = sender
        mail["To"] = ", ".join(recipients)
        mail["Date"] = format_datetime(self.message.at)
        mail["Message-ID"] = f"<{self.message.id}@{sender.rpartition('@')[2]}>"
        mail["Auto-Submitted"] = "auto-generated"
        rule = RULES.get(self.message.key.rule)
        lines = [self.detail, "", *(f"{name}: {value}" for name, value in self.facts.items())]
        lines += ["", f"next: {self.hint}"] if self.hint else []
        lines += ["", f"{rule.name} fires if {rule.fires_if}."] if rule else []
        mail.set_content("\n".join(lines) + "\n")
        return mail


def _make_run(text: str, **looks: str) -> dict[str, Any]:
    return {"type": "RichTextBlock", "inlines": [{"type": "TextRun", "text": text, **looks}]}


def _format(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"
