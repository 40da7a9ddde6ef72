"""Wrong settings as lines for people: the key, where its value stands, and the fix."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from syncctl.core.redaction import redact
from syncctl.errors import ConfigurationError

HINT = "correct what is named, then run: syncctl config"


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One wrong setting.

    Args:
        key: As in `streams.orders.start`.
        origin: Where its value stands: `syncctl.toml line 12`, `.env line 3`, `environment`.
        text: What is wrong and how to put it right. Never holds a secret.
    """

    key: str
    origin: str
    text: str

    def without(self, secrets: Iterable[str]) -> "Problem":
        """Return this problem with secrets masked in its text."""
        return replace(self, text=redact(self.text, secrets))

    def __str__(self) -> str:
        return f"{self.key} ({self.origin}): {self.text}" if self.origin else f"{self.key}: {self.text}"


def make_error(problems: Iterable[Problem], *, secrets: Iterable[str] = ()) -> ConfigurationError:
    """Gather problems into one error, one line each, with every known secret masked."""
    hidden = tuple(secrets)
    lines = list(dict.fromkeys(str(problem.without(hidden)) for problem in problems))
    count = "a setting is wrong" if len(lines) == 1 else f"{len(lines)} settings are wrong"
    return ConfigurationError(count, why="\n".join(lines), hint=HINT)
