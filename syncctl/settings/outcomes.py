"""The type of the setting that says what a partner's statuses mean."""

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from syncctl.core.outcome import Verdict
from syncctl.settings.section import read_table

_CHOICES = tuple(each.value for each in (Verdict.ACCEPTED, Verdict.RETRY_LATER, Verdict.REJECTED))


def _read_outcomes(value: object) -> object:
    table = read_table(value, 'must be a table, as in { 403 = "rejected" }; in a variable {"403": "rejected"}')
    return {str(status): meant.strip().lower() if isinstance(meant, str) else meant for status, meant in table.items()}


def _check_table(outcomes: dict[str, str]) -> dict[str, str]:
    for status, meant in outcomes.items():
        if not (status.isascii() and status.isdigit() and 200 <= int(status) <= 599):
            raise ValueError(f"{status} is no HTTP status from 200 to 599")
        if meant not in _CHOICES:
            raise ValueError(f"{status} must be one of {', '.join(_CHOICES)}")
    return outcomes


OutcomeTable = Annotated[dict[str, str], BeforeValidator(_read_outcomes), AfterValidator(_check_table)]
