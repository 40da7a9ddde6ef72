"""Remote values: the partner's own ids of a row, captured from its answers and known as `remote.NAME`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from syncctl.core.answer_conditions import parse_path
from syncctl.core.rows import Value

REMOTE = "remote."
"""The prefix of a remote value's name, in a path and in `fields`."""
HEADER = "header:"
"""The prefix of a capture that reads a header of the answer."""
HOW_TO_CAPTURE = 'write capture = { id = "data.id" } too, if the partner\'s answers have its id at data.id'
LENGTH_AT_MOST = 512
"""The most characters of a captured text."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PLACEHOLDER = re.compile(r"\{remote\.([^{}/]+)\}")


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteChange:
    """The change of the partner's object for a row, according to an answer."""

    #: The values that were captured, by name.
    values: Mapping[str, Value] = field(default_factory=dict)
    #: The object is a new one: the values of an earlier one no longer apply.
    is_new: bool = False
    #: The object is deleted.
    is_gone: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class LostObject:
    """An object that the partner no longer has, as it was last known."""

    #: By name.
    values: Mapping[str, Value] = field(default_factory=dict)
    #: The version whose answer described it last; 0 if none did.
    seq: int = 0


def parse_capture(text: str) -> tuple[Literal["json", "header"], str]:
    """Read where a value stands: a path into the JSON of the answer, or `header:NAME`.

    Raises:
        ValueError: It is neither.
    """
    text = text.strip()
    if text.lower().startswith(HEADER):
        name = text[len(HEADER) :].strip()
        if _HEADER_NAME.fullmatch(name) is None:
            raise ValueError(f"{text!r} names no header; write for example header:Location")
        return "header", name
    parse_path(text)
    return "json", text


def check_name(name: str) -> str:
    """Return the name of a remote value.

    Raises:
        ValueError: Neither a path nor a template could hold it.
    """
    if _NAME.fullmatch(name) is None or len(name) > 60:
        raise ValueError(f"{name!r} is not a name; use letters, digits and _, at most 60, not beginning with a digit")
    return name


@lru_cache
def find_remote_names(path: str) -> tuple[str, ...]:
    """Return the names of the remote values that a path needs, in its order."""
    return tuple(dict.fromkeys(_PLACEHOLDER.findall(path)))
