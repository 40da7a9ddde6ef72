"""oauth2: a token from the partner's token endpoint by client credentials (RFC 6749, 4.4).

A client has one token for all its calls, because a partner may accept only the newest one.
"""

import math
from typing import Any
from urllib.parse import quote_plus, urlencode

from syncctl.core.redaction import REDACTED, Redact
from syncctl.core.safe_text import clean_text
from syncctl.core.stream import Partner
from syncctl.partner.address import parse_token_url, read_setting
from syncctl.partner.auth.base import Auth, AuthError, AuthHeaders, Values
from syncctl.partner.auth.basic import encode_basic
from syncctl.partner.auth.shared_token import TokenCache
from syncctl.partner.auth.token_renewal import Token, find_store
from syncctl.partner.call import Call
from syncctl.partner.call_deadline import call_deadline
from syncctl.partner.response import Response, describe_refusal, make_excerpt, read_json

ASSUMED_SECONDS = 300.0
"""The assumed lifetime of a token if the endpoint does not state one; RFC 6749 leaves it open."""
LONGEST_SECONDS = 30 * 86400.0

NAMES_AT_MOST = 8
NAME_AT_MOST = 40

_PROVEN_TYPES = frozenset({"mac", "dpop", "pop"})
"""Types of tokens that are useless without a proof of possession by the client (RFC 9449)."""
_WRONG_CREDENTIALS = {400, 401, 403}
"""The answers of a token endpoint to a client that it does not know or does not allow (RFC 6749, 5.2)."""
_AUTHORIZATION = "Authorization"


class OAuth2(Auth):
    """A token that is fetched, kept, and renewed before it expires or when it is refused."""

    kind = "oauth2"
    needs = ("token_url", "client_id", "client_secret")
    takes = ("scope", "audience", "client_auth")
    waits = True

    def __init__(self, partner: Partner, redact: Redact, token_cache: TokenCache | None = None) -> None:
        super().__init__(partner, redact, token_cache)
        # This imports aiohttp, which the settings do not need although they import this module too.
        from syncctl.partner.transport import Transport

        base = read_setting(f"partners.{partner.name}.auth.token_url", self.values["token_url"], parse_token_url)
        self._transport = Transport(partner, base)
        self._target = f"{base.path or '/'}?{base.query}" if base.query else base.path or "/"

    def sign(self, call: Call) -> AuthHeaders:  # noqa: ARG002
        """Return the header with a valid token.

        Raises:
            AuthError: the token endpoint returns no token, or not in time.
        """
        token = find_store(self.values, self.token_cache).take(self._fetch)
        return AuthHeaders(headers={_AUTHORIZATION: f"Bearer {token}"}, secrets=(token,))

    def may_wait(self) -> bool:
        """Tell whether a token has to be fetched before the next call."""
        return not find_store(self.values, self.token_cache).has_fresh()

    def refused(self, auth_headers: AuthHeaders) -> bool:
        """Drop a token that the partner no longer accepts."""
        return find_store(self.values, self.token_cache).drop(auth_headers.secrets[0])

    def show(self) -> AuthHeaders:
        """Return the header without a token."""
        return AuthHeaders(headers={_AUTHORIZATION: f"Bearer {REDACTED}"})

    @classmethod
    def spell_secrets(cls, values: Values) -> set[str]:
        """Return the client's secret, plain and as it is sent; tokens are in the `secrets` of their calls."""
        if "client_secret" not in values:
            return set()
        return {values["client_secret"], _encode_client(values)}

    def _fetch(self) -> Token:
        form = {"grant_type": "client_credentials"}
        form |= {name: self.values[name] for name in ("scope", "audience") if name in self.values}
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        if self.values.get("client_auth") == "body":
            form |= {name: self.values[name] for name in ("client_id", "client_secret")}
        else:
            headers[_AUTHORIZATION] = f"Basic {_encode_client(self.values)}"
        body = urlencode(form).encode("ascii")
        headers["Content-Length"] = str(len(body))
        response, error = self._transport.exchange("POST", self._target, headers, body)
        # Nothing of the record itself has been sent yet.
        call_deadline.sent = False
        self._transport.close_idle()
        if response is None or error is not None:
            raise AuthError(f"no token: {error}")
        if not 200 <= response.status <= 299:
            refusal = describe_refusal(response, make_excerpt(response, self.redact, is_refusal=True), self.redact)
            status = 401 if response.status in _WRONG_CREDENTIALS else None
            raise AuthError(f"no token from {self._transport.host}: {refusal}", status=status)
        return _read_token(response, self._transport.host, self.redact)


def _encode_client(values: Values) -> str:
    """Return the client's id and secret for Basic, each first encoded as a form value (RFC 6749, 2.3.1)."""
    return encode_basic(quote_plus(values.get("client_id", "")), quote_plus(values["client_secret"]))


def _read_token(response: Response, host: str, redact: Redact) -> Token:
    """Return the token in a response.

    Its type is ignored, unless it says that the text alone is not a credential: endpoints write BearerToken, jwt or the
    name of a product there.

    Raises:
        AuthError: the response has no token that could be sent; the error never shows any part of it.
    """
    try:
        document = read_json(response)
    except ValueError:
        document = None
    fields = document if isinstance(document, dict) else {}
    text, kind = fields.get("access_token"), str(fields.get("token_type", ""))
    if not isinstance(text, str) or not text or not text.isascii() or not text.isprintable() or " " in text:
        came = _describe_answer(response, document, redact)
        raise AuthError(f"no token from {host}: its answer holds no access_token that could be sent: {came}")
    if kind.lower() in _PROVEN_TYPES:
        raise AuthError(f"no token from {host}: its token is of the type {kind}, which needs a proof with each call")
    return Token(text=text, seconds=_read_seconds(fields.get("expires_in", ASSUMED_SECONDS)))


def _read_seconds(value: Any) -> float:
    """Return a lifetime within its bounds; the assumed one if the value is not a usable number."""
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        return ASSUMED_SECONDS
    return min(seconds, LONGEST_SECONDS) if math.isfinite(seconds) and seconds > 0 else ASSUMED_SECONDS


def _describe_answer(response: Response, document: object, redact: Redact) -> str:
    """Return a description of an answer that has no token, without any of its values."""
    if isinstance(document, dict):
        names = ", ".join(clean_text(redact(str(name)))[:NAME_AT_MOST] for name in list(document)[:NAMES_AT_MOST])
        return f"JSON with {names}" if names else "JSON without a field"
    if response.coding:
        return f"{len(response.body)} {response.coding}-encoded bytes"
    kind = clean_text(redact(response.headers.get("Content-Type", "no content type")))
    return f"{len(response.body)} bytes of {kind.partition(';')[0][:NAME_AT_MOST]}"
