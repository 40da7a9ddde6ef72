"""What was probably meant by a name that does not exist."""

from collections.abc import Iterable
from difflib import SequenceMatcher

_CLOSE = 0.75
_VERY_CLOSE = 0.85


def find_near(word: str, names: Iterable[str]) -> str | None:
    """Return the name that was probably meant: the only one that begins so, or one with a letter or two changed.

    Names that begin with another letter must come nearer: "orders" is not a slip of "workers".
    """
    known = list(names)
    begun = [name for name in known if name.startswith(word)] if len(word) >= 3 else []
    if len(begun) == 1:
        return begun[0]
    ratios = {name: SequenceMatcher(None, word, name).ratio() for name in known}
    near = [name for name in known if ratios[name] >= (_CLOSE if name[:1] == word[:1] else _VERY_CLOSE)]
    return max(near, key=lambda name: ratios[name], default=None)
