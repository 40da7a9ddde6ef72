"""Did you mean: the existing name that a misspelled one was probably meant to be."""

from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher, get_close_matches

_CLOSE = 0.75
_VERY_CLOSE = 0.85


def find_near(word: str, names: Iterable[str]) -> str | None:
    """Return the one name that starts with the word, or the name that differs from it by a letter or two, or None.

    Names that start with another letter must be closer: "orders" is not a misspelling of "workers".
    """
    known = list(names)
    begun = [name for name in known if name.startswith(word)] if len(word) >= 3 else []
    if len(begun) == 1:
        return begun[0]
    ratios = {name: SequenceMatcher(None, word, name).ratio() for name in known}
    near = [name for name in known if ratios[name] >= (_CLOSE if name[:1] == word[:1] else _VERY_CLOSE)]
    return max(near, key=lambda name: ratios[name], default=None)


def suggest(word: str, names: Sequence[str], *, at_most: int = 50) -> str:
    """Return `did you mean ...?` for the closest name, or a list of the names if none is close.

    Less strict than `find_near`, because the text only helps to correct a setting.

    Args:
        at_most: How many names the list shows.
    """
    folded = {name.casefold(): name for name in names}
    near = get_close_matches(word.casefold(), list(folded), n=1)
    if near:
        return f"did you mean {folded[near[0]]}?"
    if not names:
        return "there are none"
    rest = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return f"known: {', '.join(names[:at_most])}{rest}"
