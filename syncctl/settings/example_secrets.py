"""Values that stand in examples in the place of a secret: whoever reads the examples knows them."""

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from syncctl.core.redaction import find_secrets
from syncctl.settings.field_types import Kind, find_kind
from syncctl.settings.problems import Problem
from syncctl.settings.schema_paths import FILLED_IN, Path, is_credential, list_values, read_value

if TYPE_CHECKING:
    from syncctl.settings.model import Settings

EXAMPLE_VALUES = frozenset(
    {"secret", "password", "str0ng-enough", "changeme", "example", "test", "token", "xxx", "todo"}
)
"""In lower case; those of syncctl's own examples and pages are among them."""
_PLACEHOLDER = re.compile(r"<.*>|\.{3,}|x{3,}|\*+|your[-_ ].+|change[-_ ]?(me|it|this).*|replace[-_ ]?me.*")


def is_example(value: str) -> bool:
    """Tell whether a secret has the value of an example, or one that says that it is to be replaced."""
    plain = value.strip().lower().removeprefix("bearer ").strip()
    return plain in EXAMPLE_VALUES or _PLACEHOLDER.fullmatch(plain) is not None


def list_example_secrets(settings: "Settings") -> Iterator[Problem]:
    """Yield each secret that has the value of an example, with the variable that should hold the real one."""
    layers = settings.layers
    for path, value in _list_secrets(settings):
        shared = FILLED_IN.get(path)
        if shared is not None and value == getattr(settings, shared):
            continue
        if not any(is_example(secret) for secret in (find_secrets(value) if _is_url(settings, path) else {value})):
            continue
        variable = layers.named.get(value) or "__".join(path).upper().replace("-", "_")
        yield Problem(key=".".join(path), origin=layers.find_origin(path) or "", text=variable)


def _is_url(settings: "Settings", path: Path) -> bool:
    return any(known == path and find_kind(field) is Kind.URL for known, field in _list_fields(settings))


def _list_fields(settings: "Settings") -> Iterator[tuple[Path, Any]]:
    yield from list_values(type(settings), settings.section_names())


def _list_secrets(settings: "Settings") -> Iterator[tuple[Path, str]]:
    for path, _ in _list_fields(settings):
        value = read_value(settings, path)
        if isinstance(value, Mapping):
            for name, inner in value.items():
                if is_credential(type(settings), (*path, name)):
                    yield (*path, name), inner
        elif value and (is_credential(type(settings), path) or _is_url(settings, path)):
            yield path, value
