"""Partners whose certificates nobody looks at: said aloud in every run."""

from collections.abc import Iterable

from syncctl.core.stream import Partner
from syncctl.logs import get_logger

log = get_logger(__name__)

_told: set[str] = set()


def warn_unverified(partners: Iterable[Partner]) -> None:
    """Say in the log, once for each process and partner, that anybody may answer in a partner's place."""
    for partner in partners:
        if not partner.tls.verify and partner.name not in _told:
            _told.add(partner.name)
            hint = f"set partners.{partner.name}.ca in place of verify = false"
            log.warning("partner.unverified", partner=partner.name, hint=hint)
