"""The groups of checks, and the names of checks that `syncctl doctor` accepts."""

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
    "alerts",
)


def choose_checks(words: Sequence[str]) -> tuple[str, ...]:
    """Return the chosen groups and single checks such as `source orders`, in the order of the groups.

    A word that is not a group names a check of the group before it. Without any word, all groups are chosen.

    Raises:
        UsageError: The first word is not a group.
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
    """Return the chosen names; each must be, or begin, the name of a check of these settings.

    A word after a name continues it if such a check exists: `source orders index`.

    Raises:
        UsageError: No check has, or begins with, such a name.
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
    """Tell whether a check has this name, or one that continues it."""
    return any(check == name or check.startswith(f"{name} ") for check in known)


def is_chosen(name: str, chosen: Iterable[str]) -> bool:
    """Tell whether a check was chosen: by its name, by the beginning of its name, or by its group."""
    return group_of(name) in chosen or any(name == choice or name.startswith(f"{choice} ") for choice in chosen)


def _find_near(name: str, known: Sequence[str]) -> UsageError:
    group, _, rest = name.partition(" ")
    siblings = [check for check in known if group_of(check) == group]
    near = find_near(rest, [check.partition(" ")[2] for check in siblings])
    return _no_such_check(name, f"{group} {near}" if near else find_near(rest, GROUPS), siblings)


def group_of(name: str) -> str:
    """Return the group that a check belongs to."""
    return name.partition(" ")[0]


def _no_such_check(name: str, near: str | None, known: Sequence[str]) -> UsageError:
    return UsageError(
        f"no such check: {name}",
        why=f"did you mean {near}?" if near else f"known: {', '.join(known)}",
        hint=f"run: syncctl doctor {near}" if near else "run: syncctl doctor",
    )
