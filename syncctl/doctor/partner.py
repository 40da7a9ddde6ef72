"""partner: whether each partner answers, without changing anything there."""

from collections.abc import Sequence

from syncctl.core.stream import Partner
from syncctl.doctor.check import Finding, Unit, failed, join_findings, passed, skipped, warned
from syncctl.doctor.examined import Examined
from syncctl.partner.client import PartnerClient, Probe


def list_units(examined: Examined) -> Sequence[Unit]:
    """Return a check for each partner that a stream uses."""
    names = dict.fromkeys(stream.partner for stream in examined.settings.streams.values())
    if not names:
        return (Unit(name="partner", look=lambda: skipped("no stream is configured")),)
    return tuple(Unit(name=f"partner {name}", look=lambda name=name: check_partner(examined, name)) for name in names)  # type: ignore[misc]


def check_partner(examined: Examined, name: str) -> Finding:
    """See that a call of each stream could be made, and send one OPTIONS to the base URL."""
    settings = examined.settings
    partner = examined.partner(name)
    streams = [settings.stream(each) for each in settings.stream_names if settings.streams[each].partner == name]
    # With a token of its own, it would take theirs from the workers where a partner knows only the newest.
    token_cache = examined.token_cache if partner.auth.kind == "oauth2" else None
    clients = [PartnerClient(partner, stream, max_connections=1, token_cache=token_cache) for stream in streams]
    try:
        probe = clients[0].probe()
    finally:
        for client in clients:
            client.close()
    finding = _judge(probe, name, partner)
    if partner.tls.verify:
        return finding
    open_door = warned("its certificate is not looked at", f"set partners.{name}.ca in place of verify = false")
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
        return warned(probe.detail, f"check {secret}; some partners refuse OPTIONS to everybody")
    if status >= 500:
        return warned(probe.detail, "ask the partner whether it is in trouble; deliveries are retried meanwhile")
    return passed(probe.detail)
