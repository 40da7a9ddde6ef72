"""The types of the settings that say where calls go: method and path."""

import re
from typing import Annotated

from pydantic import AfterValidator

from syncctl.settings.fields import OptionalText, is_dots

NO_DELETES = "none"
_ENDPOINT = re.compile(r"(POST|PUT|PATCH|DELETE)[ \t]+(/\S*)", re.IGNORECASE)
_BRACES = re.compile(r"\{[^{}/]+\}")


def split_endpoint(text: str) -> tuple[str, str]:
    """Return (method, path) of `POST /orders` or `PUT /orders/{id}`.

    Raises:
        ValueError: with the form that is allowed.
    """
    match = _ENDPOINT.fullmatch(text.strip())
    if match is None:
        raise ValueError(
            f'{text!r} is not an endpoint; write POST, PUT, PATCH or DELETE and a path, as in "POST /orders"'
        )
    if set("{}") & set(_BRACES.sub("", match[2])):
        raise ValueError(f'{match[2]!r} has an odd brace; write a column as in "PUT /orders/{{id}}"')
    path = match[2].partition("?")[0]
    if any(is_dots(segment) for segment in path.split("/")):
        raise ValueError(f"{match[2]!r} has a segment . or .., which servers resolve; write the path that is meant")
    if "#" in match[2]:
        raise ValueError(f"{match[2]!r} has a #, and what follows it is never sent; leave it out, or write %23")
    return match[1].upper(), match[2]


def _check_endpoint(text: str) -> str:
    return " ".join(split_endpoint(text))


def _check_delete_endpoint(text: str | None) -> str | None:
    if text is None or text.strip().lower() == NO_DELETES:
        return None if text is None else NO_DELETES
    return " ".join(split_endpoint(text))


Endpoint = Annotated[str, AfterValidator(_check_endpoint)]
DeleteEndpoint = Annotated[OptionalText, AfterValidator(_check_delete_endpoint)]
