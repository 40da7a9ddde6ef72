"""The webhook: each alert is posted as JSON, with the same transport that calls partners."""

import json

from syncctl import __version__
from syncctl.channels.addresses import list_webhook_secrets
from syncctl.channels.alert_text import AlertText
from syncctl.core.alert_channels import ACCEPTED, SendOutcome, SendResult, WebhookTarget
from syncctl.core.redaction import SHORTEST_SECRET, Redact, spell_secret
from syncctl.core.stream import Partner, Tls
from syncctl.partner.address import parse_webhook_url, read_setting
from syncctl.partner.call_deadline import call_deadline
from syncctl.partner.proxy import spell_proxy_secrets
from syncctl.partner.response import describe_refusal, make_excerpt
from syncctl.partner.transport import Transport

ANSWER_AT_MOST_BYTES = 4 * 1024
GATEWAY_TIMEOUT = 504
TRY_AGAIN = frozenset({408, 425, 429})
WRONG_SETTINGS = frozenset({401, 403, 404, 405, 407, 410})
"""The statuses of a wrong address or a missing permission, with which no other message would be accepted either."""


class WebhookChannel:
    """Posts alerts; follows no redirect, and reads only the beginning of an answer.

    Raises:
        ConfigurationError: a certificate or a proxy that cannot be used.
    """

    name = "webhook"

    def __init__(self, target: WebhookTarget) -> None:
        base = read_setting("alerts.webhook", target.url, parse_webhook_url)
        partner = Partner(
            name="alerts",
            section="alerts",
            url=target.url,
            tls=Tls(ca=target.ca),
            proxy=target.proxy,
            timeout_seconds=target.timeout_seconds,
        )
        self._target = f"{base.path or '/'}?{base.query}" if base.query else base.path or "/"
        self._format = target.format
        self._seconds = target.timeout_seconds
        secrets = list_webhook_secrets(target.url)
        self._short_secrets = {secret for secret in secrets if len(secret) < SHORTEST_SECRET}
        spelled = {form for secret in secrets for form in spell_secret(secret)}
        self._redact = Redact(spelled | spell_proxy_secrets(target.proxy))
        self._transport = Transport(partner, base, response_at_most=ANSWER_AT_MOST_BYTES)

    def send(self, text: AlertText) -> SendResult:
        """Post an alert, and return the result."""
        document = text.to_teams() if self._format == "teams" else text.to_document()
        body = json.dumps(document).encode()
        headers = {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "User-Agent": f"syncctl/{__version__}",
            "Idempotency-Key": text.message.id,
        }
        call_deadline.begin(self._seconds)
        response, error = self._transport.exchange("POST", self._target, headers, body)
        self._transport.close_idle()
        if response is None:
            outcome: SendOutcome = "ambiguous" if call_deadline.sent else "unavailable"
            return SendResult(outcome=outcome, error=self._redact(error or "no answer"))
        if 200 <= response.status <= 299:
            return ACCEPTED
        said = describe_refusal(response, make_excerpt(response, self._redact, is_refusal=True), self._redact)
        if any(secret in said for secret in self._short_secrets):
            # The secret is too short to be masked within a text.
            said = f"HTTP {response.status}"
        return SendResult(outcome=_judge(response.status), error=f"{self._transport.host} answered {said}")

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()


def _judge(status: int) -> SendOutcome:
    """Return the outcome of an answer other than a 2xx."""
    if status == GATEWAY_TIMEOUT:
        return "ambiguous"
    if status in TRY_AGAIN or status >= 500:
        return "unavailable"
    return "misconfigured" if status in WRONG_SETTINGS or status < 400 else "rejected"
