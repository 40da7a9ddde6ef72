"""Counts as people say them: `1 record`, `2,000 records`."""


def say_count(number: int, noun: str) -> str:
    """Return a number with its noun, of which the plural has an s."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
