"""The webhook: each alert is posted as JSON, with the parts that partners are called with."""

import json

from syncctl import __version__
from syncctl.channels.addresses import spell_webhook_secrets
from syncctl.channels.texts import AlertText
from syncctl.core.alert_channels import WebhookTarget
from syncctl.core.redaction import Redact
from syncctl.core.stream import Partner, Tls
from syncctl.partner.address import parse_webhook_url, read_setting
from syncctl.partner.call_deadline import call_deadline
from syncctl.partner.proxy import spell_proxy_secrets
from syncctl.partner.response import describe_refusal, make_excerpt
from syncctl.partner.transport import Transport

ANSWER_AT_MOST_BYTES = 4 * 1024


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
        self._redact = Redact(spell_webhook_secrets(target.url) | spell_proxy_secrets(target.proxy))
        self._transport = Transport(partner, base, response_at_most=ANSWER_AT_MOST_BYTES)

    def send(self, text: AlertText) -> str | None:
        """Post an alert; return what went wrong in one line without a secret, None if it was taken."""
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
            return self._redact(error or "no answer")
        if 200 <= response.status <= 299:
            return None
        excerpt = make_excerpt(response, self._redact, is_refusal=True)
        return f"{self._transport.host} answered {describe_refusal(response, excerpt, self._redact)}"

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()
