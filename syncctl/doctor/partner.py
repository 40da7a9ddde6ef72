"""partner: whether each partner answers, without changing anything there."""

from collections.abc import Sequence

from syncctl.doctor.check import Finding, Unit, failed, passed, skipped, warned
from syncctl.doctor.examined import Examined
from syncctl.partner.client import PartnerClient


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
    clients = [PartnerClient(partner, stream, max_connections=1) for stream in streams]
    try:
        probe = clients[0].probe()
    finally:
        for client in clients:
            client.close()
    prefix = f"partners.{name}"
    url, token = ("PARTNER_URL", "PARTNER_TOKEN") if name == "default" else (f"{prefix}.url", f"{prefix}.auth.token")
    if not probe.reachable:
        return failed(probe.detail, f"check {url}, and whether this machine may connect there (firewall, proxy, DNS)")
    status = probe.status or 0
    if status in {401, 403}:
        return warned(probe.detail, f"check {token}; some partners refuse OPTIONS to everybody")
    if status >= 500:
        return warned(probe.detail, "ask the partner whether it is in trouble; deliveries are retried meanwhile")
    return passed(probe.detail)
