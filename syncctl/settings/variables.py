"""Settings from variables: those of the environment, and those of `.env`."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from syncctl.settings.layers import Layer, Layers
from syncctl.settings.names import Names, NotReadableError, NotSetError, has_reference
from syncctl.settings.problems import Problem
from syncctl.settings.request_fields import NO_REFERENCE, takes_no_reference
from syncctl.settings.schema_paths import Path, is_table, is_value

_PREFIXES = ("STREAMS", "PARTNERS", "SOURCES", "RETENTION", "BEAT", "WORKER", "LOG")


@dataclass(kw_only=True)
class VariableReader:
    """Read settings from variables: the environment, or `.env`.

    Args:
        locate: From the name of a variable to where it stands.
        fill: Whether values may hold `${NAME}`: those of `.env` may, those of the environment are taken as they are.
    """

    model: type[BaseModel]
    names: Names
    layers: Layers
    locate: Callable[[str], str]
    fill: bool
    layer: Layer = field(default_factory=Layer)

    def read(self, variables: Mapping[str, str]) -> Layer:
        """Return the layer of these variables; empty ones count as not set, foreign ones are left alone."""
        seen: dict[Path, str] = {}
        for name, value in sorted(variables.items(), key=lambda pair: pair[0] != pair[0].upper()):
            path = self._find_path(name.upper())
            if path is None or not value.strip():
                continue
            path, from_file = self._strip_file(path)
            if path in seen:
                if seen[path].upper() != name.upper():
                    self._complain(path, name, f"{seen[path]} sets it too; keep one of the two")
                continue
            seen[path] = name
            self._put(path, name, value, from_file)
        return self.layer

    def _find_path(self, name: str) -> Path | None:
        first, *rest = name.split("__")
        if rest:
            return tuple(part.lower() for part in (first, *rest)) if first in _PREFIXES else None
        key = name.lower()
        if is_value(self.model, (key,)) or is_value(self.model, (key.removesuffix("_file"),)):
            return (key,)
        return None

    def _strip_file(self, path: Path) -> tuple[Path, bool]:
        stripped = (*path[:-1], path[-1].removesuffix("_file"))
        is_file = path[-1].endswith("_file") and not is_value(self.model, path)
        return (stripped, True) if is_file and is_value(self.model, stripped) else (path, False)

    def _put(self, path: Path, name: str, value: str, from_file: bool) -> None:
        # One form in every place: what these take in a file, they take in the environment.
        is_fixed = takes_no_reference(path) and not from_file
        if is_fixed and has_reference(value):
            self._complain(path, name, NO_REFERENCE)
            return
        try:
            text = self.names.fill(value) if self.fill or is_fixed else value
            if from_file:
                text = self.names.read_file(name, text)
        except NotReadableError as error:
            self._complain(path, name, str(error))
            return
        except NotSetError as error:
            self.layers.note_absent(path, self.locate(name), str(error))
            return
        origin = f"{self.locate(name)}, {name}" if from_file else self.locate(name)
        if not self.layer.put(path, self._read_table(path, text), origin):
            self._complain(path, name, "is set as a single value and as a table of keys; keep one of the two")

    def _read_table(self, path: Path, text: str) -> Any:
        """Take JSON where a table belongs: `STREAMS__ORDERS__RETRY={"jitter": 0.5}`."""
        if is_table(self.model, path) and text.lstrip().startswith("{"):
            try:
                return json.loads(text)
            except ValueError:
                return text
        return text

    def _complain(self, path: Path, name: str, text: str) -> None:
        self.layers.problems.append(Problem(key=".".join(path), origin=self.locate(name), text=text))
