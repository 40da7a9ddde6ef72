"""Values that settings and options may be given by mistake, drawn by a seeded generator."""

import random
from collections.abc import Sequence

TEXTS = (
    "", " ", "\t", "orders", "default", "id", "id,line", "now", "beginning", "none", "true", "no", "30", "0", "-1",
    "5s", "0s", "24h", "1e9", "1.5m", "9" * 30 + "d", "9" * 400, "nan", "inf", "\u00b2", "\uff19", "--", "-", "=",
    "a=b", "a=1,b=2", ",", ";", "; --", "'", '"', "`", "[", "]", "{", "}", "{}", "{id}", "{order id}", "{{ row.id }}",
    "{% for", "${NAME}", "$${", "${", "$", "%s", "%(x)s", "\\", "../x", "no/such", "orders-abc123",
    f"orders-{'ab' * 16}", "2026-01-31", "2026-13-45", "9999-12-31", "0001-01-01T00:00:00+14:00", "50/second",
    "0/day", "POST /orders", "PUT /o/{id}", "GET /", "POST /../x", "http://h", "http://u:p@h:1/x?y#z", "https://[::1",
    "redis://h/x", "mongodb://h/\u00e9", "sqlite:///no/such.db", "mssql+pyodbc://h", "Driver=x;Server=y",
    "\u0111\u01a1n h\u00e0ng", "\U0001f4a5", "[red]x[/red]", "\x1b[31m", "\x7f", "\u2028", "\ufeff", "a" * 10_000,
    "Europe/Berlin", "UTC", "drop", "hash", "last4", "snapshot", "rowversion", "increasing", "strict", "$",
    "items[0].id", "status=ok", "a.b.c", "select 1", "dbo.[order lines]", "a.b.c.d", "*", "(", "(a+)+$",
    "application/json", '{"a": "b"}', '{"a": 1}', '["id"]', "[1, [2]]", "null", "1" * 5000, "\r\n", "x" * 300 + "=",
    "-" * 50,
)  # fmt: skip
#: Bytes that are not UTF-8 stand in arguments and variables as halves of surrogate pairs.
UNDECODABLE = ("\udcff", "a\udc80b")


def draw_text(rng: random.Random) -> str:
    """Return a text: one of the list, two of them, or any characters."""
    kind = rng.random()
    if kind < 0.8:
        return rng.choice(TEXTS)
    if kind < 0.9:
        return rng.choice(TEXTS) + rng.choice(TEXTS)
    alphabet = "az09AZ _-./\\:;,'\"[]{}()$%#@!?*+=<>|&^~\t\n\u00e9\u00df\u6ce8\U0001f4a5"
    return "".join(rng.choices(alphabet, k=rng.randint(1, 20)))


def draw_literal(rng: random.Random, depth: int = 0) -> str:
    """Return a value as TOML: of any type, sometimes none that TOML has."""
    kinds: Sequence[str] = ("text",) * 12 + ("number",) * 4 + ("other",) * 4 + ("list",) * 3 + ("table",) * 3 + ("raw",)
    match rng.choice(kinds if depth < 4 else kinds[:20]):
        case "text":
            return quote_toml(draw_text(rng))
        case "number":
            return rng.choice(
                ("0", "1", "-1", "30", "0.5", "1.5", "1e999", "-0.0", "nan", "inf", "9" * 25, "0x1F", "1_000")
            )
        case "other":
            return rng.choice(
                ("true", "false", "1979-05-27", "07:32:00", "1979-05-27T07:32:00Z", "1979-05-27 07:32:00")
            )
        case "list":
            return f"[{', '.join(draw_literal(rng, depth + 1) for _ in range(rng.randint(0, 3)))}]"
        case "table":
            pairs = (
                f"{quote_toml(rng.choice(TEXTS))} = {draw_literal(rng, depth + 1)}" for _ in range(rng.randint(0, 3))
            )
            return "{" + ", ".join(pairs) + "}"
        case _:
            return rng.choice(("", "=", "'", '"""', "[[", "\\", "bare", "'''a\nb'''", "#"))


def quote_toml(text: str) -> str:
    """Return a text as TOML writes it."""
    escaped = "".join(
        f"\\u{ord(char):04x}" if ord(char) < 32 or ord(char) == 127 or char in '"\\' else char for char in text
    )
    return f'"{escaped}"'
