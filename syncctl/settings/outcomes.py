"""The type of the setting that says what a partner's statuses mean."""

import json
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from syncctl.core.outcome import Verdict

_CHOICES = tuple(each.value for each in (Verdict.ACCEPTED, Verdict.RETRY_LATER, Verdict.REJECTED))


def _read_table(value: object) -> object:
    """Take a table, or JSON text of one (the form for environment variables)."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else {}
        except ValueError:
            value = None
    if not isinstance(value, dict):
        raise ValueError(  # noqa: TRY004 - pydantic takes this one for a wrong value
            'must be a table, as in { 403 = "rejected" }; in a variable {"403": "rejected"}'
        )
    return {str(status): meant.strip().lower() if isinstance(meant, str) else meant for status, meant in value.items()}


def _check_table(outcomes: dict[str, str]) -> dict[str, str]:
    for status, meant in outcomes.items():
        if not (status.isascii() and status.isdigit() and 200 <= int(status) <= 599):
            raise ValueError(f"{status} is no HTTP status from 200 to 599")
        if meant not in _CHOICES:
            raise ValueError(f"{status} must be one of {', '.join(_CHOICES)}")
    return outcomes


OutcomeTable = Annotated[dict[str, str], BeforeValidator(_read_table), AfterValidator(_check_table)]
