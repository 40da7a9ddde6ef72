"""What a query is made of, as far as it decides whether SQL Server takes it as a subquery."""

import re
from itertools import pairwise

from syncctl.core.stream import Stream
from syncctl.errors import ConfigurationError

_PART = re.compile(
    r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|\[(?:[^\]]|\]\])*\]|[()]|[^\W\d][\w@#$]*", re.DOTALL
)


def check_subquery(stream: Stream) -> None:
    """Refuse a query that SQL Server takes in no subquery, where its own words would not say why.

    Raises:
        ConfigurationError: The query begins with WITH, or orders its rows.
    """
    words = list_words(stream.query or "")
    if words[:1] == ["with"]:
        raise ConfigurationError(
            f"streams.{stream.name}.query is wrong",
            why="it begins with WITH, and SQL Server takes that in no subquery",
            hint=f"make a view of it (CREATE VIEW ... AS WITH ...), and set streams.{stream.name}.table to the view",
        )
    # With TOP or OFFSET the order says which rows there are, and SQL Server takes it.
    if ("order", "by") in pairwise(words) and not {"top", "offset"} & set(words):
        raise ConfigurationError(
            f"streams.{stream.name}.query is wrong",
            why="it has an ORDER BY, but its rows are read in the order of the stream's cursor and key",
            hint="leave the ORDER BY out",
        )


def list_words(query: str) -> list[str]:
    """Return the keywords and bare names of a query, in lower case; none of a string, a comment or in parentheses."""
    words, depth = [], 0
    for part in _PART.findall(query):
        if part in "()":
            depth += 1 if part == "(" else -1
        elif depth == 0 and (part[0].isalpha() or part[0] == "_"):
            words.append(part.lower())
    return words
