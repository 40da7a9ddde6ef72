"""Values that take the place of secrets in examples, so that everyone who reads the examples knows them."""

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from syncctl.core.redaction import find_secrets
from syncctl.settings.field_types import Kind, find_kind
from syncctl.settings.problems import Problem
from syncctl.settings.schema_paths import FILLED_IN, Path, is_credential, list_values, read_value

if TYPE_CHECKING:
    from syncctl.settings.model import Settings

EXAMPLE_VALUES = frozenset(
    {"secret", "password", "str0ng-enough", "changeme", "example", "test", "token", "xxx", "todo"}
)
"""The values in lower case, including those of syncctl's own examples and pages."""
_PLACEHOLDER = re.compile(r"<.*>|\.{3,}|x{3,}|\*+|your[-_ ].+|change[-_ ]?(me|it|this).*|replace[-_ ]?me.*")


def is_example(value: str) -> bool:
    """Tell whether a secret has the value of an example, or is a placeholder to be replaced."""
    plain = value.strip().lower().removeprefix("bearer ").strip()
    return plain in EXAMPLE_VALUES or _PLACEHOLDER.fullmatch(plain) is not None


def list_example_secrets(settings: "Settings") -> Iterator[Problem]:
    """Yield each secret that has the value of an example, with the variable that should hold the real one."""
    layers = settings.layers
    for path, value, is_url in _list_secrets(settings):
        shared = FILLED_IN.get(path)
        if shared is not None and value == getattr(settings, shared):
            continue
        if not any(is_example(secret) for secret in (find_secrets(value) if is_url else {value})):
            continue
        variable = layers.named.get(value) or "__".join(path).upper().replace("-", "_")
        yield Problem(key=".".join(path), origin=layers.find_origin(path) or "", text=variable)


def _list_secrets(settings: "Settings") -> Iterator[tuple[Path, str, bool]]:
    """Yield the path and the value of each setting that is or holds a secret, and whether it is a URL."""
    for path, field in list_values(type(settings), settings.section_names()):
        value, is_url = read_value(settings, path), find_kind(field) is Kind.URL
        if isinstance(value, Mapping):
            for name, inner in value.items():
                if is_credential(type(settings), (*path, name)):
                    yield (*path, name), inner, False
        elif value and (is_url or is_credential(type(settings), path)):
            yield path, value, is_url
