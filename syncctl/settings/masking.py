"""The types of the settings that keep values from leaving the source: a mask for a column, the secret of its hashes."""

import json
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from syncctl.core.masking import MASKS, Mask
from syncctl.settings.fields import Token

_SHORTEST_SECRET = 32


def _read_masks(value: object) -> object:
    """Take a table, or JSON text of one (the form for environment variables)."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else {}
        except ValueError:
            value = None
    if not isinstance(value, dict):
        raise ValueError(  # noqa: TRY004 - pydantic takes this one for a wrong value
            'must be a table, as in { ssn = "drop" }; in a variable {"ssn": "drop"}'
        )
    known = ", ".join(f'"{each}"' for each in MASKS)
    masks = {column: mask.strip().lower() if isinstance(mask, str) else mask for column, mask in value.items()}
    for column, mask in masks.items():
        if mask not in MASKS:
            raise ValueError(f"{column} must be one of {known}")
    return masks


def _check_secret(secret: str | None) -> str | None:
    if secret is not None and len(secret.strip()) < _SHORTEST_SECRET:
        raise ValueError(
            f"has less than {_SHORTEST_SECRET} characters, so that hashes could be reversed by trying; "
            f"make one with: openssl rand -hex 32"
        )
    return None if secret is None else secret.strip()


MaskTable = Annotated[dict[str, Mask], BeforeValidator(_read_masks)]
MaskSecret = Annotated[Token, AfterValidator(_check_secret)]
