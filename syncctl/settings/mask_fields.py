"""The types of the settings that keep values from leaving the source: a mask for a column, the secret of its hashes."""

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from syncctl.core.column_masks import MASKS, Mask
from syncctl.settings.fields import Token
from syncctl.settings.section import read_table

_SHORTEST_SECRET = 32


def _read_masks(value: object) -> object:
    table = read_table(value, 'must be a table, as in { ssn = "drop" }; in a variable {"ssn": "drop"}')
    known = ", ".join(f'"{each}"' for each in MASKS)
    masks = {column: mask.strip().lower() if isinstance(mask, str) else mask for column, mask in table.items()}
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
