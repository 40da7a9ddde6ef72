"""Layers: the values from each place that settings come from, and the origin of each value."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path as FilePath
from typing import Any

from syncctl.core.files import stamp_file
from syncctl.core.redaction import find_secrets, spell_secret
from syncctl.settings.model import Settings
from syncctl.settings.problems import DEEPEST, Problem
from syncctl.settings.schema_paths import Path, is_credential

#: Former keys of a stream, and the keys that replace them.
_RENAMED_KEYS = {"batch": "rows_per_call"}
#: Former values of a stream's keys, and the values that replace them.
_RENAMED_VALUES = {("ambiguous", "hold"): "fail"}
_NEEDED_LATER = ("sources", "partners", "source_url", "partner_url", "partner_token", "mask_secret", "alerts")


@dataclass(kw_only=True)
class Layer:
    """The values from one place, and the origin of each value and of each table above it."""

    tree: dict[str, Any] = field(default_factory=dict, repr=False)
    origins: dict[Path, str] = field(default_factory=dict)
    #: A warning for each former key or value that was read under its present name.
    deprecated: list[str] = field(default_factory=list)

    def put(self, path: Path, value: Any, origin: str) -> bool:
        """Set a value and note its origin; return False if a table and a value collide."""
        path, value = self._rename(path, value, origin)
        table = self.open_table(path[:-1], origin)
        if table is None or (isinstance(table.get(path[-1]), dict) and not isinstance(value, dict)):
            return False
        self.origins[path] = origin
        if isinstance(value, dict):
            inner = self.open_table(path, origin)
            return inner is not None and all(self.put((*path, key), below, origin) for key, below in value.items())
        table[path[-1]] = value
        return True

    def _rename(self, path: Path, value: Any, origin: str) -> tuple[Path, Any]:
        """Return the present names of a deprecated key or value, and note a warning."""
        if len(path) != 3 or path[0] != "streams":
            return path, value
        name = ".".join(path)
        if key := _RENAMED_KEYS.get(path[2]):
            self.deprecated.append(f"{name} ({origin}) is deprecated; rename it to {key}")
            return (*path[:2], key), value
        if isinstance(value, str) and (present := _RENAMED_VALUES.get((path[2], value.strip().lower()))):
            self.deprecated.append(f'{name} = "{value}" ({origin}) is deprecated; write "{present}"')
            return path, present
        return path, value

    def open_table(self, path: Path, origin: str) -> dict[str, Any] | None:
        """Return the table at a path, made if there is none; None if a value is in the way."""
        table = self.tree
        for depth, key in enumerate(path, start=1):
            inner = table.setdefault(key, {})
            if not isinstance(inner, dict):
                return None
            self.origins.setdefault(path[:depth], origin)
            table = inner
        return table


@dataclass(kw_only=True)
class Layers:
    """All layers, the strongest first, and the errors that were found while they were read."""

    layers: tuple[Layer, ...] = ()
    problems: list[Problem] = field(default_factory=list)
    #: Values of sources and partners that refer to a `${NAME}` that is not set: errors only once they are needed.
    absent: dict[Path, Problem] = field(default_factory=dict)
    #: Secrets that were refused because of their place: no error may show them.
    hidden: set[str] = field(default_factory=set, repr=False)
    #: The names of the files that were read.
    files: tuple[str, ...] = ()
    #: The paths of `.env` and `syncctl.toml`, each with its `stamp_file` from just before it was read.
    stamps: Mapping[FilePath, tuple[int, int] | None] = field(default_factory=dict)
    #: The values that were filled in, each with its `${NAME}`.
    named: Mapping[str, str] = field(default_factory=dict, repr=False)
    #: The files that NAME_FILE names, by NAME.
    named_files: Mapping[str, FilePath] = field(default_factory=dict)
    #: The directory that relative paths in settings start from.
    directory: FilePath = FilePath()

    @cached_property
    def merged(self) -> dict[str, Any]:
        """The values of all layers in one tree, once all have been read."""
        merged: dict[str, Any] = {}
        for layer in reversed(self.layers):
            _merge_into(merged, layer.tree)
        return merged

    def list_deprecated(self) -> tuple[str, ...]:
        """Return a warning for each deprecated key or value."""
        return tuple(warning for layer in self.layers for warning in layer.deprecated)

    def list_changed_files(self) -> tuple[str, ...]:
        """Return the names of the files that were written, made or deleted after they were read."""
        return tuple(path.name for path, stamp in self.stamps.items() if stamp_file(path) != stamp)

    def list_names(self, kind: str) -> tuple[str, ...]:
        """Return the names of the sections of a kind, as in `[streams.orders]`."""
        return tuple(self.merged.get(kind, ()))

    def find_hidden(self) -> set[str]:
        """Return the texts that no error may show: credentials, and the secrets in URLs wherever they stand."""
        hidden = self.hidden | self.named.keys()
        for layer in self.layers:
            hidden |= _find_hidden(layer.tree, ())
        return hidden

    def complain(self, path: Path, origin: str, text: str) -> None:
        """Note an error."""
        self.problems.append(Problem(key=".".join(path), origin=origin, text=text))

    def find_origin(self, path: Path) -> str | None:
        """Return where the value at exactly this path stands; None for a default."""
        return next((layer.origins[path] for layer in self.layers if path in layer.origins), None)

    def find_nearest_origin(self, path: Path) -> str:
        """Return where a path or the nearest table above it stands, other than a table of names such as `streams`."""
        for length in range(len(path), min(len(path), 2) - 1, -1):
            if origin := self.find_origin(path[:length]):
                return origin
        return "default"

    def note_absent(self, path: Path, origin: str, text: str) -> None:
        """Note a value whose `${NAME}` is not set; for a source, a partner or alerts, it is an error only if needed."""
        if path[0] in _NEEDED_LATER:
            self.absent[path] = Problem(key=".".join(path), origin=origin, text=text)
        else:
            self.complain(path, origin, text)

    def find_absent(self, path: Path) -> Problem | None:
        """Return why a value is absent; None if another layer sets it."""
        problem = self.absent.get(path)
        return problem if problem and not any(_holds(layer.tree, path) for layer in self.layers) else None


def _merge_into(merged: dict[str, Any], tree: Mapping[str, Any]) -> None:
    for key, value in tree.items():
        if isinstance(value, dict):
            below = merged.get(key)
            if not isinstance(below, dict):
                below = merged[key] = {}
            _merge_into(below, value)
        else:
            merged[key] = value


def _find_hidden(tree: Mapping[str, Any], above: Path) -> set[str]:
    hidden: set[str] = set()
    for key, value in tree.items():
        path = (*above, key)
        if isinstance(value, dict):
            hidden |= _find_hidden(value, path)
        elif isinstance(value, str):
            hidden |= find_secrets(value)
            hidden |= spell_secret(value) if is_credential(Settings, path) or "headers" in path[2:3] else set()
    return hidden


def _holds(tree: Mapping[str, Any], path: Path) -> bool:
    inner: Any = tree
    for key in path:
        if not isinstance(inner, Mapping) or key not in inner:
            return False
        inner = inner[key]
    return True


def read_flags(flags: Mapping[str, Any], origins: Mapping[str, str]) -> Layer:
    """Return the layer of the command line, as in `{"worker.concurrency": 8}`; None is a flag that was not given."""
    layer = Layer()
    for key, value in flags.items():
        if value is not None:
            layer.put(tuple(key.split(".")), value, origins.get(key, "command line"))
    return layer


def is_too_deep(value: Any) -> bool:
    """Tell whether tables and lists are nested deeper than settings may be."""
    level = [value]
    for _ in range(DEEPEST):
        level = [inner for outer in level for inner in _list_inner(outer)]
        if not level:
            return False
    return True


def _list_inner(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
