"""What is left to say when the settings cannot be read."""

from collections.abc import Sequence

from syncctl.doctor.check import Check, Status
from syncctl.doctor.groups import group_of
from syncctl.errors import ConfigurationError


def refuse(error: ConfigurationError, chosen: Sequence[str]) -> list[Check]:
    """Return the failed configuration, which is always told, and what else was asked for and could not be looked at."""
    hint = error.hint
    failure = Check(
        name="configuration", status=Status.FAIL, detail=error.why or error.what, hint=hint, duration_ms=0.0
    )
    rest = [
        Check(name=name, status=Status.SKIP, detail="needs configuration, which failed", hint=hint, duration_ms=0.0)
        for name in chosen
        if group_of(name) != "configuration"
    ]
    return [failure, *rest]
