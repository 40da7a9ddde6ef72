"""From settings to use cases: what tasks and commands call. Everything is connected to when it is first used."""

from typing import TYPE_CHECKING

from syncctl.wiring.operators import RoundTrip
from syncctl.wiring.previews import PreviewServices
from syncctl.wiring.repairs import RepairServices

if TYPE_CHECKING:
    from syncctl.settings import Settings

__all__ = ["RoundTrip", "Services", "open_services"]


class Services(PreviewServices, RepairServices):
    """Every use case, made from the settings. One per process: connections do not cross a fork."""


def open_services(settings: "Settings") -> Services:
    """Return the services of one command, for these settings; use it as a context manager."""
    return Services(settings, for_person=True)
