"""The section of a partner: its address, how syncctl authenticates to it, its limits and its circuit breaker."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator

from syncctl.core.durations import format_duration, parse_rate
from syncctl.core.stream import BreakerRules, Credentials, Partner, Tls
from syncctl.partner.auth import KINDS
from syncctl.settings.field_types import (
    Duration,
    FailureRate,
    Kind,
    Lower,
    OptionalText,
    OptionalWhole,
    Rate,
    Seconds,
    Token,
    Whole,
    read_table,
)
from syncctl.settings.schema_paths import list_fields, read_key
from syncctl.settings.section import Broken, Section, rule, setting
from syncctl.settings.url_types import PartnerUrl, ProxyUrl, TokenUrl


def _check_auth_kind(kind: str) -> str:
    if kind not in KINDS:
        raise ValueError("must be one of " + ", ".join(f'"{known}"' for known in KINDS))
    return kind


AuthKind = Annotated[str, Lower, AfterValidator(_check_auth_kind)]
Headers = Annotated[dict[str, str], BeforeValidator(read_table), Kind.CREDENTIAL]


class AuthSettings(Section):
    """How syncctl authenticates to a partner."""

    type: AuthKind = setting("bearer", "bearer | api_key | basic | oauth2 | hmac | none")
    token: Token = setting(
        None,
        "bearer: the token, sent as Authorization: Bearer; default: PARTNER_TOKEN",
        sample="${PARTNER_TOKEN}",
        secret=True,
    )
    name: OptionalText = setting(None, "api_key: name of the header or query parameter", sample="X-Api-Key")
    place: Annotated[Literal["header", "query"], Lower] = setting("header", "api_key: header | query", written_as="in")
    value: Token = setting(None, "api_key: the key", sample="${PARTNER_VALUE}", secret=True)
    user: OptionalText = setting(None, "basic: user name", sample="syncctl")
    password: Token = setting(None, "basic: password", sample="${PARTNER_PASSWORD}", secret=True)
    token_url: TokenUrl = setting(
        None, "oauth2: URL of the token endpoint", sample="https://login.partner.example/oauth2/token"
    )
    client_id: OptionalText = setting(None, "oauth2: client id", sample="syncctl")
    client_secret: Token = setting(None, "oauth2: client secret", sample="${PARTNER_CLIENT_SECRET}", secret=True)
    client_auth: Annotated[Literal["header", "body"], Lower] = setting(
        "header", "oauth2: header | body: where the token endpoint expects client id and secret"
    )
    scope: OptionalText = setting(None, "oauth2: scope, if the token endpoint requires one", sample="orders.write")
    audience: OptionalText = setting(
        None, "oauth2: audience, if the token endpoint requires one", sample="https://api.partner.example"
    )
    secret: Token = setting(
        None, "hmac (Standard Webhooks): whsec_... or plain text", sample="${PARTNER_SECRET}", secret=True
    )
    previous_secret: Token = setting(
        None, "hmac: also signs while secrets are rotated", sample="${PARTNER_PREVIOUS_SECRET}", secret=True
    )

    @rule("type")
    def _check_keys_of_kind(self) -> Broken:
        kind = KINDS[self.type]
        used = {"type", *kind.needs, *kind.takes}
        # "none" sets a token aside without removing it.
        used |= {"token"} if self.type == "none" else set()
        for name, field in type(self).model_fields.items():
            key = field.alias or name
            if name in self.model_fields_set and key not in used and getattr(self, name) is not None:
                owner = next(other.kind for other in KINDS.values() if key in (*other.needs, *other.takes))
                yield key, f'is for type {owner}; set type = "{owner}" or remove it'

    def list_values(self) -> dict[str, str]:
        """Return the values that are set, by key."""
        values = {key: read_key(self, key) for key in list_fields(type(self)) if key != "type"}
        return {key: value for key, value in values.items() if value is not None}

    def make_credentials(self) -> Credentials:
        """Return the credentials of this kind; none if nothing is set."""
        kind = KINDS[self.type]
        values = {key: value for key, value in self.list_values().items() if key in (*kind.needs, *kind.takes)}
        return Credentials(kind=self.type, values=values) if values else Credentials()


class BreakerSettings(Section):
    """When the circuit breaker of a partner opens, for all workers together."""

    calls: Whole = setting(10, "minimum calls per minute before the failure rate is judged")
    failures: FailureRate = setting(
        0.7, "failure rate that opens the circuit; failures: no answer, a 5xx, a limit with Retry-After"
    )
    pause: Duration = setting("30s", "how long the circuit stays open before one probe; doubles each time")
    longest_pause: Duration = setting("10m", "upper limit of that pause")

    @rule("pause", "longest_pause")
    def _check_pauses(self) -> Broken:
        if self.longest_pause < self.pause:
            shown = f"{format_duration(self.longest_pause)} is shorter than pause ({format_duration(self.pause)})"
            yield "longest_pause", f"{shown}, which is the first pause; raise longest_pause or lower pause"

    def make_rules(self) -> BreakerRules:
        """Return the rules of the breaker."""
        return BreakerRules(
            minimum_calls=self.calls,
            failure_rate=self.failures,
            open_seconds=self.pause,
            longest_open_seconds=self.longest_pause,
        )


class PartnerSettings(Section):
    """An HTTP API that is written to."""

    url: PartnerUrl = setting(
        None, "base URL of the endpoints; default: PARTNER_URL", sample="${PARTNER_URL}", secret=True
    )
    auth: AuthSettings = setting({}, "how syncctl authenticates; nothing is sent unless a credential is set")
    headers: Headers = setting(
        {},
        "headers of every call; values are secrets",
        sample={"X-Tenant": "${PARTNER_TENANT}"},
        secret=True,
    )
    ca: OptionalText = setting(
        None,
        "PEM file of the only certificate authorities to trust; default: those of the system",
        sample="/etc/syncctl/partner-ca.pem",
    )
    client_cert: OptionalText = setting(None, "PEM file of the client certificate", sample="/etc/syncctl/client.pem")
    client_key: OptionalText = setting(
        None, "PEM file of its private key; default: client_cert", sample="/etc/syncctl/client.key"
    )
    client_key_password: Token = setting(
        None, "password of the private key, if it has one", sample="${PARTNER_CLIENT_KEY_PASSWORD}", secret=True
    )
    proxy: ProxyUrl = setting(
        None,
        "HTTP proxy; never taken from the environment",
        sample="http://syncctl:${PROXY_PASSWORD}@proxy:3128",
        secret=True,
    )
    verify: bool = setting(
        True, "false disables certificate checks: anyone can impersonate the partner; each run warns about it"
    )
    timeout_seconds: Seconds = setting(30.0, "deadline of a whole call")
    rate: Rate = setting(None, "rate limit of all workers together; default: no limit", sample="50/second")
    max_in_flight: OptionalWhole = setting(
        None, "concurrency limit of all workers together; default: a limit that adapts to the partner", sample=32
    )
    breaker: BreakerSettings = setting({}, "circuit breaker: while the partner is down, no attempts are used up")

    @rule("client_cert", "client_key", "client_key_password")
    def _check_client_certificate(self) -> Broken:
        for key in ("client_key", "client_key_password"):
            if getattr(self, key) and not self.client_cert:
                yield "client_cert", f"is required with {key}; set it to the PEM file of the certificate"

    @rule("ca", "verify")
    def _check_verify(self) -> Broken:
        if self.ca and not self.verify:
            yield "verify", "is false, so ca has no effect; remove one of the two"

    def make_partner(self, name: str) -> Partner:
        """Return the partner that is called."""
        return self.build(
            Partner,
            name=name,
            section="",
            auth=self.auth.make_credentials(),
            tls=self.build(Tls),
            rate=parse_rate(self.rate) if self.rate else None,
            breaker=self.breaker.make_rules(),
        )
