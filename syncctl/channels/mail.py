"""E-mail: each alert is a mail through one mail server, over TLS."""

import smtplib
import socket
import ssl
import threading
from contextlib import suppress

from syncctl.channels.addresses import MailServer, parse_mail_url
from syncctl.channels.alert_text import AlertText
from syncctl.core.alert_channels import ACCEPTED, MailTarget, SendOutcome, SendResult
from syncctl.core.redaction import Redact, find_secrets
from syncctl.core.safe_text import clean_text
from syncctl.core.stream import Partner, Tls
from syncctl.partner.address import read_setting
from syncctl.partner.tls import make_tls_context

REPLY_AT_MOST = 200
READY = 220
"""The code of a server's greeting (RFC 5321, 4.2.3)."""
FOR_GOOD = 500


class MailChannel:
    """Mails alerts.

    `smtp://` asks for STARTTLS; a server that does not offer it gets mails in the clear, but never a password.

    Raises:
        ConfigurationError: a certificate that cannot be used.
    """

    name = "email"

    def __init__(self, target: MailTarget) -> None:
        self._server = read_setting("alerts.smtp", target.url, parse_mail_url)
        self._target = target
        self._redact = Redact({self._server.password, *find_secrets(target.url)})
        partner = Partner(name="alerts", section="alerts", url="", tls=Tls(ca=target.ca))
        self._tls = make_tls_context(partner)

    def send(self, text: AlertText) -> SendResult:
        """Mail an alert, and return the result. If a recipient is refused, the others still get the mail."""
        exchange = _Exchange(self._server, self._tls, seconds=self._target.timeout_seconds)
        mail = text.to_mail(sender=self._target.sender, recipients=self._target.recipients)
        result = exchange.run(mail, sender=self._target.sender, recipients=self._target.recipients)
        return SendResult(
            outcome=result.outcome,
            error=None if result.error is None else clean_text(self._redact(result.error)),
            refused={recipient: clean_text(self._redact(reply)) for recipient, reply in result.refused.items()},
        )

    def close(self) -> None:
        """Do nothing: there is no connection to close."""


class _Refusal(Exception):
    """The mail was not offered to the server."""


class _Exchange:
    """The sending of one mail, in its own thread: a server that answers byte by byte would outlast every time-out."""

    def __init__(self, server: MailServer, tls: ssl.SSLContext, *, seconds: float) -> None:
        self._server = server
        self._tls = tls
        self._seconds = seconds
        self._client: smtplib.SMTP | None = None
        self._result = ACCEPTED
        #: Whether the server may have taken the mail.
        self._has_begun = False

    def run(self, mail: object, *, sender: str, recipients: tuple[str, ...]) -> SendResult:
        """Send the mail, and return the result."""
        thread = threading.Thread(target=self._try, args=(mail, sender, recipients), name="mail", daemon=True)
        thread.start()
        thread.join(self._seconds)
        if thread.is_alive():
            self._cut()
            error = f"no full answer from {self._server.name} within {self._seconds:g} s"
            return SendResult(outcome="ambiguous" if self._has_begun else "unavailable", error=error)
        return self._result

    def _try(self, mail: object, sender: str, recipients: tuple[str, ...]) -> None:
        try:
            self._send(mail, sender, recipients)
        except Exception as error:  # noqa: BLE001 - every error becomes an outcome
            outcome = _judge(error, has_begun=self._has_begun)
            self._result = SendResult(outcome=outcome, error=_explain(error, self._server.name))
        finally:
            if self._client is not None:
                self._client.close()

    def _send(self, mail: object, sender: str, recipients: tuple[str, ...]) -> None:
        server = self._server
        # The client's own time-out is longer, so that the deadline of the whole exchange comes first.
        host, own, seconds = server.host, _name_own_host(), self._seconds + 1
        client = (
            smtplib.SMTP_SSL(local_hostname=own, timeout=seconds, context=self._tls)
            if server.is_tls
            else smtplib.SMTP(local_hostname=own, timeout=seconds)
        )
        self._client = client
        # `connect` does not set it, and TLS checks the certificate against it.
        client._host = host  # type: ignore[attr-defined]
        code, reply = client.connect(host, server.port)
        if code != READY:
            raise smtplib.SMTPConnectError(code, reply)
        client.ehlo_or_helo_if_needed()
        if not server.is_tls and client.has_extn("starttls"):
            client.starttls(context=self._tls)
            client.ehlo()
        elif not server.is_tls and server.user:
            raise _Refusal(f"{server.name} offers no STARTTLS, and the password is not sent in the clear")
        if server.user:
            client.login(server.user, server.password)
        self._has_begun = True
        refused = client.send_message(mail, sender, recipients)  # type: ignore[arg-type]
        replies = {recipient: f"{code} {_clean(reply)}" for recipient, (code, reply) in refused.items()}
        self._result = SendResult(outcome="accepted", refused=replies)
        # The server has the mail: an error at the end of the session changes nothing.
        with suppress(Exception):
            client.quit()

    def _cut(self) -> None:
        connection = getattr(self._client, "sock", None)
        if connection is not None:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def _name_own_host() -> str:
    """Return the name for the greeting; the standard library would ask DNS, which may take long."""
    name = socket.gethostname()
    return name if name.isascii() and " " not in name else "localhost"


def _judge(error: Exception, *, has_begun: bool) -> SendOutcome:
    """Return the outcome that an error means: a code of 5xx is final (RFC 5321, 4.2.1)."""
    match error:
        case _Refusal() | ssl.SSLCertVerificationError():
            return "misconfigured"
        case smtplib.SMTPRecipientsRefused():
            is_for_good = all(code >= FOR_GOOD for code, _ in error.recipients.values())
            return "misconfigured" if is_for_good else "unavailable"
        case smtplib.SMTPAuthenticationError() | smtplib.SMTPSenderRefused() if error.smtp_code >= FOR_GOOD:
            return "misconfigured"
        case smtplib.SMTPDataError() if error.smtp_code >= FOR_GOOD:
            return "rejected"
        case smtplib.SMTPResponseException():
            return "unavailable"
    return "ambiguous" if has_begun else "unavailable"


def _explain(error: Exception, name: str) -> str:
    match error:
        case _Refusal():
            return str(error)
        case smtplib.SMTPAuthenticationError():
            return f"{name} refused the login: {_read_reply(error)}"
        case smtplib.SMTPRecipientsRefused():
            code, reply = next(iter(error.recipients.values()), (0, b""))
            return f"{name} refused every recipient: {code} {_clean(reply)}"
        case smtplib.SMTPResponseException():
            return f"{name} answered {_read_reply(error)}"
        case smtplib.SMTPServerDisconnected():
            return f"{name} closed the connection without an answer"
        case smtplib.SMTPException():
            return f"the mail was not taken by {name}: {type(error).__name__}"
        case socket.gaierror():
            return f"the name of {name} is unknown here"
        case ssl.SSLCertVerificationError():
            return f"the certificate of {name} is not trusted: {error.verify_message}"
        case ssl.SSLError():
            return f"TLS with {name} failed: {(error.reason or 'no reason given').replace('_', ' ').lower()}"
        case TimeoutError():
            return f"no answer from {name} in time"
        case OSError() if error.strerror:
            return f"cannot connect to {name}: {error.strerror}"
    return f"the mail to {name} failed: {type(error).__name__}"


def _read_reply(error: smtplib.SMTPResponseException) -> str:
    return f"{error.smtp_code} {_clean(error.smtp_error)}"


def _clean(reply: bytes | str) -> str:
    text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else reply
    return clean_text(text)[:REPLY_AT_MOST]
