"""The sections of a partner: where it is, how it knows us, and when it counts as down."""

from typing import Annotated, Literal

from syncctl.settings import fields, urls
from syncctl.settings.section import Section, setting


class AuthSettings(Section):
    """How a partner knows us."""

    type: fields.AuthKind = setting("bearer", "bearer | api_key | basic | oauth2 | hmac | none")
    token: fields.Token = setting(
        None,
        "bearer: sent as Authorization: Bearer; default: PARTNER_TOKEN",
        sample="${PARTNER_TOKEN}",
        secret=True,
    )
    name: fields.OptionalText = setting(None, "api_key: of the header or the parameter", sample="X-Api-Key")
    place: Annotated[Literal["header", "query"], fields.Lower] = setting(
        "header", "api_key: header | query", written_as="in"
    )
    value: fields.Token = setting(None, "api_key: the key", sample="${PARTNER_VALUE}", secret=True)
    user: fields.OptionalText = setting(None, "basic", sample="syncctl")
    password: fields.Token = setting(None, "basic", sample="${PARTNER_PASSWORD}", secret=True)
    token_url: urls.TokenUrl = setting(
        None, "oauth2: where tokens come from", sample="https://login.partner.example/oauth2/token"
    )
    client_id: fields.OptionalText = setting(None, "oauth2", sample="syncctl")
    client_secret: fields.Token = setting(None, "oauth2", sample="${PARTNER_CLIENT_SECRET}", secret=True)
    client_auth: Annotated[Literal["header", "body"], fields.Lower] = setting(
        "header", "oauth2: header | body: where the token endpoint wants the two"
    )
    scope: fields.OptionalText = setting(None, "oauth2: where the partner asks for it", sample="orders.write")
    audience: fields.OptionalText = setting(
        None, "oauth2: where the partner asks for it", sample="https://api.partner.example"
    )
    secret: fields.Token = setting(
        None, "hmac (Standard Webhooks): whsec_... or plain text", sample="${PARTNER_SECRET}", secret=True
    )
    previous_secret: fields.Token = setting(
        None, "hmac: signs too while keys rotate", sample="${PARTNER_PREVIOUS_SECRET}", secret=True
    )


class BreakerSettings(Section):
    """When a partner counts as down, for all workers together."""

    calls: fields.Whole = setting(10, "so many calls in a minute tell something")
    failures: fields.Part = setting(0.7, "the share of them without an answer, or with a 5xx")
    pause: fields.Duration = setting("30s", "until one record asks again; twice as long each time")
    longest_pause: fields.Duration = setting("10m", "and never longer than this")


class PartnerSettings(Section):
    """An HTTP API that is written to."""

    url: urls.PartnerUrl = setting(
        None, "where the endpoints' paths begin; default: PARTNER_URL", sample="${PARTNER_URL}", secret=True
    )
    auth: AuthSettings = setting({}, "how the partner knows us; nothing is sent where nothing is set")
    headers: fields.Headers = setting(
        {}, "sent with each call; values are taken for secrets", sample={"X-Tenant": "${PARTNER_TENANT}"}, secret=True
    )
    ca: fields.OptionalText = setting(
        None, "PEM file of the only authorities to trust; default: the system's", sample="/etc/syncctl/partner-ca.pem"
    )
    client_cert: fields.OptionalText = setting(
        None, "PEM file of the certificate that we show", sample="/etc/syncctl/client.pem"
    )
    client_key: fields.OptionalText = setting(
        None, "PEM file of its key; default: in client_cert", sample="/etc/syncctl/client.key"
    )
    client_key_password: fields.Token = setting(
        None, "of the key, where it has one", sample="${PARTNER_CLIENT_KEY_PASSWORD}", secret=True
    )
    proxy: urls.ProxyUrl = setting(
        None, "never taken from the environment", sample="http://syncctl:${PROXY_PASSWORD}@proxy:3128", secret=True
    )
    verify: bool = setting(True, "false: anybody may answer in the partner's place; warned of in each run")
    timeout_seconds: fields.Seconds = setting(30.0, "of a whole call")
    rate: fields.Rate = setting(None, "shared by all workers; default: no limit", sample="50/second")
    max_in_flight: fields.Whole = setting(32, "calls at once, exact over all workers")
    breaker: BreakerSettings = setting({}, "stops calling a partner that is down; nobody uses up attempts")
