"""Cycles of names that wait for each other."""

from collections.abc import Iterator, Mapping, Sequence


def find_cycles(waits_for: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, ...]]:
    """Yield each cycle once, as its names in order; a name that waits for itself is a cycle too."""
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        if name in path:
            yield path[path.index(name) :]
        elif name not in done:
            for other in waits_for.get(name, ()):
                yield from visit(other, (*path, name))
            done.add(name)

    for name in waits_for:
        yield from visit(name, ())
