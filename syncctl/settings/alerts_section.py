"""The section of alerts: through which channels they are sent, and the thresholds of the rules."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator

from syncctl.channels.addresses import check_mail_address, parse_mail_url
from syncctl.core.alert_channels import MailTarget, WebhookTarget
from syncctl.core.alert_rules import DEFAULTS, RULES, parse_threshold
from syncctl.core.spelling import find_near
from syncctl.partner.address import parse_webhook_url
from syncctl.settings.field_types import (
    Kind,
    Lower,
    OptionalText,
    Seconds,
    Span,
    TextList,
    Whole,
    parsed_by,
    read_table,
)
from syncctl.settings.section import Broken, Section, rule, setting
from syncctl.settings.url_types import ProxyUrl

LONGEST_DEADLINE_SECONDS = 30.0


def _read_rules(value: object) -> object:
    """Read thresholds as text, with the defaults of those that are not set."""
    table = read_table(value)
    if not isinstance(table, dict):
        return table
    written = {str(name): _to_text(threshold) for name, threshold in table.items()}
    return {name: _to_text(default) for name, default in DEFAULTS.items()} | written


def _to_text(threshold: Any) -> Any:
    if threshold is False:
        return "off"
    is_number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
    return f"{threshold:g}" if is_number else threshold


def _check_rules(rules: dict[str, str]) -> dict[str, str]:
    for name, threshold in rules.items():
        if name not in RULES:
            near = find_near(name, RULES)
            raise ValueError(f"has no rule {name!r}; " + (f"did you mean {near}?" if near else ", ".join(RULES)))
        try:
            parse_threshold(RULES[name], threshold)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return rules


def _check_deadline(seconds: float) -> float:
    if seconds > LONGEST_DEADLINE_SECONDS:
        raise ValueError(f"must be at most {LONGEST_DEADLINE_SECONDS:g}; a process measures nothing while it sends")
    return seconds


def _check_mail_address(text: str | None) -> str | None:
    return None if text is None else check_mail_address(text)


def _check_mail_addresses(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(check_mail_address(text) for text in texts)


WebhookUrl = Annotated[OptionalText, parsed_by(parse_webhook_url), Kind.CREDENTIAL]
MailUrl = Annotated[OptionalText, parsed_by(parse_mail_url), Kind.URL]
MailAddress = Annotated[OptionalText, AfterValidator(_check_mail_address)]
MailAddresses = Annotated[TextList, AfterValidator(_check_mail_addresses)]
Deadline = Annotated[Seconds, AfterValidator(_check_deadline)]
Rules = Annotated[dict[str, str], BeforeValidator(_read_rules), AfterValidator(_check_rules)]


class AlertsSettings(Section):
    """Which alerts fire, and where they are sent; see docs/alerts.md."""

    webhook: WebhookUrl = setting(
        None,
        "URL to which each alert is posted as JSON, which Slack shows as it is; a secret",
        sample="${ALERT_WEBHOOK_URL}",
        secret=True,
    )
    format: Annotated[Literal["json", "teams"], Lower] = setting(
        "json", "json | teams: an Adaptive Card for Microsoft Teams"
    )
    proxy: ProxyUrl = setting(
        None,
        "HTTP proxy to the webhook; never taken from the environment",
        sample="http://syncctl:${PROXY_PASSWORD}@proxy:3128",
        secret=True,
    )
    smtp: MailUrl = setting(
        None,
        "mail server: smtp:// with STARTTLS, or smtps://",
        sample="smtp://syncctl:${SMTP_PASSWORD}@mail.example:587",
        secret=True,
    )
    email_from: MailAddress = setting(None, "sender of the mails", sample="syncctl@example.com")
    email_to: MailAddresses = setting((), "recipients of the mails", sample=["oncall@example.com"])
    ca: OptionalText = setting(
        None,
        "PEM file of the only certificate authorities to trust; default: those of the system",
        sample="/etc/syncctl/alerts-ca.pem",
    )
    timeout_seconds: Deadline = setting(10.0, "deadline of one message; at most 30")
    repeat_every: Span = setting("4h", "how often the message of an alert that still fires is repeated; 0s: never")
    minimum_records: Whole = setting(
        20, "failed_share: minimum records finished in the last hour before the share is judged"
    )
    rules: Rules = setting(
        dict(DEFAULTS), 'thresholds; rules that are not written keep their default, and "off" switches one off'
    )

    @rule("smtp", "email_from", "email_to")
    def _check_mail(self) -> Broken:
        if self.smtp:
            for key in ("email_from", "email_to"):
                if not getattr(self, key):
                    yield key, "is required with smtp; set it to an e-mail address"

    def list_thresholds(self) -> dict[str, float]:
        """Return the thresholds of the rules that are on: seconds, or a share."""
        parsed = {name: parse_threshold(RULES[name], text) for name, text in self.rules.items()}
        return {name: threshold for name, threshold in parsed.items() if threshold is not None}

    def find_webhook(self) -> WebhookTarget | None:
        """Return the webhook that alerts are posted to; None if none is set."""
        return self.build(WebhookTarget, url=self.webhook) if self.webhook else None

    def find_mail(self) -> MailTarget | None:
        """Return the target that alerts are mailed to; None if none is set."""
        if not (self.smtp and self.email_from):
            return None
        return self.build(MailTarget, url=self.smtp, sender=self.email_from, recipients=self.email_to)
