"""The names that `syncctl doctor` takes."""

from collections.abc import Iterable, Sequence

from syncctl.core.spelling import find_near
from syncctl.errors import UsageError

GROUPS = (
    "configuration",
    "redis",
    "mongodb",
    "indexes",
    "source",
    "partner",
    "workers",
    "queue",
    "beat",
    "streams",
)


def choose_checks(words: Sequence[str]) -> tuple[str, ...]:
    """Return what was asked for in the order of the groups: whole groups, or single checks such as `source orders`.

    A word that is no group names a check of the group before it; nothing asks for everything.

    Raises:
        UsageError: the first word is no group.
    """
    chosen: dict[str, list[str]] = {}
    last = ""
    for word in words:
        group, _, rest = word.strip().partition(" ")
        if group in GROUPS:
            last = group
            chosen.setdefault(group, [])
        elif last:
            rest = word.strip()
        else:
            raise _no_such_check(word, find_near(word, GROUPS), GROUPS)
        if rest.strip():
            chosen[last].append(f"{last} {rest.strip()}")
    names = (name for group in GROUPS if group in chosen for name in (chosen[group] or [group]))
    return tuple(dict.fromkeys(names)) or GROUPS


def settle_names(chosen: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Return what was asked for as names of these settings, or their beginnings.

    A word behind a name continues it, where there is such a check: `source orders index`.

    Raises:
        UsageError: There is no check of such a name.
    """
    settled: list[str] = []
    base = ""
    bases: set[str] = set()
    for name in chosen:
        continued = f"{base} {name.partition(' ')[2]}"
        if name in GROUPS or is_begun(name, known):
            base = name
            settled.append(name)
        elif base and continued in known:
            bases.add(base)
            settled.append(continued)
        else:
            raise _find_near(name, known)
    return tuple(name for name in settled if name not in bases)


def is_begun(name: str, known: Iterable[str]) -> bool:
    """Tell whether a check has this name, or one that goes on behind it."""
    return any(each == name or each.startswith(f"{name} ") for each in known)


def is_chosen(name: str, chosen: Iterable[str]) -> bool:
    """Tell whether a check was asked for: itself, the beginning of its name, or its group."""
    return group_of(name) in chosen or any(name == each or name.startswith(f"{each} ") for each in chosen)


def _find_near(name: str, known: Sequence[str]) -> UsageError:
    group, _, rest = name.partition(" ")
    siblings = [each for each in known if group_of(each) == group]
    near = find_near(rest, [each.partition(" ")[2] for each in siblings])
    return _no_such_check(name, f"{group} {near}" if near else find_near(rest, GROUPS), siblings)


def group_of(name: str) -> str:
    """Return the group that a check belongs to."""
    return name.partition(" ")[0]


def _no_such_check(name: str, near: str | None, known: Sequence[str]) -> UsageError:
    return UsageError(
        f"no such check: {name}",
        why=f"did you mean {near}?" if near else f"there is {', '.join(known)}",
        hint=f"run: syncctl doctor {near}" if near else "run: syncctl doctor",
    )
