"""partner: whether each partner answers, without changing anything there, and whether the workers call it."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from http import HTTPStatus
from statistics import median
from typing import TYPE_CHECKING, Any

from syncctl.core.durations import format_age
from syncctl.core.states import BreakerState
from syncctl.core.stream import Partner
from syncctl.doctor.check import Finding, Unit, failed, join_findings, passed, skipped, warned
from syncctl.ledger.holds import find_pause
from syncctl.ledger.partners import PACE_MINUTES
from syncctl.partner.client import PartnerClient, Probe
from syncctl.pipeline.pause import describe_pause

if TYPE_CHECKING:
    from syncctl.doctor.examination import Services

CALLS_PER_SECOND_FROM = 600
"""From this many calls a minute on, the proposed rate is in calls a second."""


def list_units(services: "Services") -> Sequence[Unit]:
    """Return two checks for each partner that a stream uses."""
    names = dict.fromkeys(stream.partner for stream in services.settings.streams.values())
    if not names:
        return (Unit(name="partner", look=lambda: skipped("no stream is configured")),)
    answers = [Unit(name=f"partner {name}", look=lambda name=name: check_partner(services, name)) for name in names]  # type: ignore[misc]
    calls = [
        Unit(name=f"partner {name} calls", look=lambda name=name: check_calls(services, name), needs=("mongodb",))  # type: ignore[misc]
        for name in names
    ]
    return (*answers, *calls)


def check_partner(services: "Services", name: str) -> Finding:
    """Check whether a call of each stream could be made, and send one OPTIONS request to the base URL."""
    settings = services.settings
    partner = services.partner(name)
    streams = [settings.stream(stream) for stream in settings.stream_names if settings.streams[stream].partner == name]
    # Use the workers' token: asking for a new one would invalidate it at a partner that accepts only the newest.
    token_cache = services.token_cache if partner.auth.kind == "oauth2" else None
    clients = [PartnerClient(partner, stream, token_cache=token_cache) for stream in streams]
    try:
        probe = clients[0].probe()
    finally:
        for client in clients:
            client.close()
    finding = _judge(probe, name, partner)
    if partner.tls.verify:
        return finding
    open_door = warned("its certificate is not checked", f"set partners.{name}.ca in place of verify = false")
    return join_findings([finding, open_door])


def _judge(probe: Probe, name: str, partner: Partner) -> Finding:
    prefix = f"partners.{name}"
    url = "PARTNER_URL" if name == "default" else f"{prefix}.url"
    secret = f"{prefix}.auth"
    if partner.auth.kind in {"none", "bearer"}:
        secret = "PARTNER_TOKEN" if name == "default" else f"{prefix}.auth.token"
    if not probe.is_signed:
        return failed(probe.detail, f"check {prefix}.auth, and whether this machine may connect to its token_url")
    if not probe.reachable:
        return failed(probe.detail, f"check {url}, and whether this machine may connect there (firewall, proxy, DNS)")
    status = probe.status or 0
    if status in {401, 403}:
        return warned(probe.detail, f"check {secret}; some partners refuse every OPTIONS request")
    # With 501 the partner does not know OPTIONS, which says nothing about other calls.
    if status >= 500 and status != HTTPStatus.NOT_IMPLEMENTED:
        return warned(probe.detail, "ask the partner whether it has a problem; deliveries are retried in the meantime")
    return passed(probe.detail)


def check_calls(services: "Services", name: str) -> Finding:
    """Check whether a partner is paused, or its circuit is open."""
    ledger = services.ledger
    document, now = ledger.partners.load_all().get(name, {}), ledger.streams.server_time()
    if paused := find_pause(document, now):
        described = describe_pause(paused, now)
        return warned(described, f"fix the cause; then run: syncctl resume --partner {name}")
    documents = ledger.streams.load_all()
    streams = [stream for stream, section in services.settings.streams.items() if section.partner == name]
    findings = [_look_at_breaker(stream, documents.get(stream, {}).get("breaker", {}), now) for stream in streams]
    findings.append(_look_at_pace(services, name, document.get("pace", ()), now))
    return join_findings(
        [finding for finding in findings if finding is not None] or [passed("neither paused nor down")]
    )


def _look_at_pace(services: "Services", name: str, pace: Sequence[Mapping[str, Any]], now: datetime) -> Finding | None:
    """Propose the rate of calls that a partner has let through, if it answers that it gets too many calls."""
    pace = [minute for minute in pace if now - minute["minute"] < timedelta(minutes=PACE_MINUTES + 1)]
    limited = sum(minute["limited"] for minute in pace)
    if not limited:
        return None
    calls = limited + sum(minute["passed"] for minute in pace)
    detail = f"{limited:,} of {calls:,} calls met its limit (429) in the last {PACE_MINUTES} minutes"
    # Only whole minutes are used: neither the one in which counting began, nor the current one.
    counted = {minute["minute"] for minute in pace}
    whole = [
        minute["passed"]
        for minute in pace
        if minute["limited"]
        and minute["minute"] - timedelta(minutes=1) in counted
        and now - minute["minute"] >= timedelta(minutes=1)
    ]
    if not whole:
        return warned(
            detail, f"the rate to set will be known in two minutes; then run: syncctl doctor partner {name} calls"
        )
    seen = median(whole)
    rate = services.partner(name).rate
    if rate is not None:
        # The partner refused calls in spite of this rate, so a lower one is proposed.
        seen = min(seen, 0.9 * 60 * rate[0] / rate[1])
    shown = f"{int(seen / 60)}/second" if seen >= CALLS_PER_SECOND_FROM else f"{max(1, int(seen))}/minute"
    hint = f'write rate = "{shown}" under [partners.{name}] in syncctl.toml, then restart the workers'
    return warned(f"{detail}; it lets about {max(1, int(median(whole))):,} calls a minute through", hint)


def _look_at_breaker(stream: str, breaker: Mapping[str, Any], now: datetime) -> Finding | None:
    state = breaker.get("state", BreakerState.CLOSED.value)
    if state == BreakerState.OPEN.value:
        seconds = (now - breaker["since"]).total_seconds()
        since = format_age(max(seconds, 1))
        return warned(
            f"stream {stream}: down (circuit open) for {since}: {breaker.get('reason') or 'no answer'}",
            f"ask the partner; a probe is sent automatically, or run: syncctl resume {stream}",
        )
    if state == BreakerState.HALF_OPEN.value:
        return passed(f"stream {stream}: recovering (half-open), with limited calls")
    return None
