"""beat: whether something starts polls and upkeep on time."""

from collections.abc import Sequence

from syncctl import __version__
from syncctl.core.durations import format_age
from syncctl.doctor.check import Finding, Unit, failed, passed, warned
from syncctl.doctor.examined import Examined
from syncctl.pipeline.status import differs_from
from syncctl.settings.describe import fingerprint_settings

_HINT = "run: syncctl beat (all on one machine: syncctl worker --beat)"


def list_units(examined: Examined) -> Sequence[Unit]:
    """Return the check of Beat."""
    return (Unit(name="beat", look=lambda: check_heartbeat(examined), needs=("mongodb",)),)


def check_heartbeat(examined: Examined) -> Finding:
    """Tell when Beat last gave a sign of life, by MongoDB's clock."""
    beat = examined.ledger.heartbeats.load_beat()
    if beat is None:
        return failed("Beat was never seen here, so nothing is polled, retried or cleaned up by itself", _HINT)
    age = format_age((examined.ledger.streams.server_time() - beat["at"]).total_seconds())
    if beat["late"]:
        return failed(f"Beat's last sign of life is {age} old, so nothing is polled or retried by itself", _HINT)
    if beat.get("version") != __version__:
        return warned(
            f"Beat was seen {age} ago, but runs {beat.get('version')} and this is {__version__}",
            f"bring all to one version (pip install syncctl=={__version__}) and restart Beat",
        )
    if differs_from(fingerprint_settings(examined.settings), beat):
        return warned(
            f"seen {age} ago; it runs with settings that differ from syncctl.toml: restart it",
            "restart Beat, after each change of the settings",
        )
    return passed(f"seen {age} ago")
