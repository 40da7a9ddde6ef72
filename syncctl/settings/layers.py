"""The layers that settings come from, each value with the place where it stands."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from syncctl.settings.problems import Problem
from syncctl.settings.schema_paths import Path

_NEEDED_LATER = ("sources", "partners", "source_url", "partner_url", "partner_token", "mask_secret")


@dataclass(kw_only=True)
class Layer:
    """Values of one rank, and where each of them and each table above it stands."""

    tree: dict[str, Any] = field(default_factory=dict, repr=False)
    origins: dict[Path, str] = field(default_factory=dict)

    def put(self, path: Path, value: Any, origin: str) -> bool:
        """Set a value and note its origin; False where table and value collide."""
        table = self.open_table(path[:-1], origin)
        if table is None or (isinstance(table.get(path[-1]), dict) and not isinstance(value, dict)):
            return False
        self.origins[path] = origin
        if isinstance(value, dict):
            inner = self.open_table(path, origin)
            return inner is not None and all(self.put((*path, key), below, origin) for key, below in value.items())
        table[path[-1]] = value
        return True

    def open_table(self, path: Path, origin: str) -> dict[str, Any] | None:
        """Return the table at a path, made where there is none; None where a value is in the way."""
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
    """All layers, the first the strongest, and what was found wrong while they were read.

    Args:
        absent: Values of sources and partners whose `${NAME}` is set nowhere: wrong only once needed.
        hidden: Texts that no error may show.
        named: Values that came by `${NAME}`, and that name.
        directory: Where relative paths in settings begin.
    """

    layers: tuple[Layer, ...] = ()
    problems: list[Problem] = field(default_factory=list)
    absent: dict[Path, Problem] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set, repr=False)
    files: tuple[str, ...] = ()
    named: dict[str, str] = field(default_factory=dict, repr=False)
    directory: FilePath = FilePath()

    def merge(self) -> dict[str, Any]:
        """Return the values of all layers in one tree."""
        merged: dict[str, Any] = {}
        for layer in reversed(self.layers):
            _merge_into(merged, layer.tree)
        return merged

    def find_origin(self, path: Path) -> str | None:
        """Return where the value at exactly this path stands, None for a default."""
        return next((layer.origins[path] for layer in self.layers if path in layer.origins), None)

    def find_nearest_origin(self, path: Path) -> str:
        """Return where a path or the nearest table above it stands; of several by name, its own alone."""
        for length in range(len(path), min(len(path), 2) - 1, -1):
            if origin := self.find_origin(path[:length]):
                return origin
        return "default"

    def note_absent(self, path: Path, origin: str, text: str) -> None:
        """Note a value whose `${NAME}` is set nowhere; a source's or a partner's may never be needed."""
        problem = Problem(key=".".join(path), origin=origin, text=text)
        if path[0] in _NEEDED_LATER:
            self.absent[path] = problem
        else:
            self.problems.append(problem)

    def find_absent(self, path: Path) -> Problem | None:
        """Return why a value is absent, None when a stronger layer sets it after all."""
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


def _holds(tree: Mapping[str, Any], path: Path) -> bool:
    inner: Any = tree
    for key in path:
        if not isinstance(inner, Mapping) or key not in inner:
            return False
        inner = inner[key]
    return True


def read_flags(flags: Mapping[str, Any], origins: Mapping[str, str]) -> Layer:
    """Return the layer of the command line, as in `{"worker.concurrency": 8}`; None: not given."""
    layer = Layer()
    for key, value in flags.items():
        if value is not None:
            layer.put(tuple(key.split(".")), value, origins.get(key, "command line"))
    return layer
