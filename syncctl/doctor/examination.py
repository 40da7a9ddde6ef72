"""The whole examination: the checks of these settings, run and freed from secrets."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from syncctl.core.redaction import redact
from syncctl.doctor import beat, calls, configuration, mongodb, partner, redis_server, source, streams, workers
from syncctl.doctor.check import Check, Unit
from syncctl.doctor.examined import Examined
from syncctl.doctor.groups import GROUPS, group_of, is_chosen, settle_names
from syncctl.doctor.runner import Runner
from syncctl.settings import Settings


class Examination:
    """The checks that were asked for; running them changes nothing anywhere.

    Args:
        directory: Where `.env` is.
        chosen: Groups, and names of single checks.
        timeout_seconds: The deadline of each check.

    Raises:
        UsageError: there is no check of such a name.
    """

    def __init__(
        self, settings: Settings, *, directory: Path, chosen: Sequence[str] = GROUPS, timeout_seconds: float
    ) -> None:
        self._examined = Examined(settings, timeout_seconds=timeout_seconds)
        self._timeout_seconds = timeout_seconds
        units = _list_units(self._examined, directory)
        chosen = settle_names(chosen, [unit.name for unit in units])
        self.units = tuple(unit for unit in units if is_chosen(unit.name, chosen))

    def run(self, *, on_done: Callable[[int], None] = lambda _: None) -> list[Check]:
        """Run every check and return one result for each, in order, without a secret.

        Args:
            on_done: Told how many are done.
        """
        runner = Runner(self.units, timeout_seconds=self._timeout_seconds, on_done=on_done)
        checks = runner.run()
        if not runner.left_behind:
            self._examined.close()
        secrets = self._examined.settings.secrets()
        return [
            replace(check, detail=redact(check.detail, secrets), hint=redact(check.hint, secrets)) for check in checks
        ]


def _list_units(examined: Examined, directory: Path) -> list[Unit]:
    """Return every check of these settings, in the order in which they are shown."""
    units = (
        *configuration.list_units(examined, directory),
        *redis_server.list_units(examined),
        *mongodb.list_units(examined),
        *source.list_units(examined),
        *partner.list_units(examined),
        *calls.list_units(examined),
        *workers.list_units(examined),
        *beat.list_units(examined),
        *streams.list_units(examined),
    )
    return sorted(units, key=lambda unit: GROUPS.index(group_of(unit.name)))
