"""HTML and SVG that is safe by construction: every text that is not yet `Markup` is escaped."""

from collections.abc import Iterable
from html import escape
from typing import TypeAlias

from syncctl.core.safe_text import make_safe


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Child: TypeAlias = "str | int | float | Iterable[Child] | None"
_VOID_IN_HTML = frozenset({"meta", "br"})


def escape_text(value: object) -> str:
    """Return a value as HTML text; invisible characters are shown as their code numbers."""
    return escape(make_safe(str(value)), quote=True)


def render(child: Child) -> str:
    """Return a child as HTML."""
    if child is None:
        return ""
    if isinstance(child, Markup):
        return child
    if isinstance(child, str | int | float):
        return escape_text(child)
    return "".join(render(part) for part in child)


def element(name: str, /, *children: Child, **attributes: str | float | None) -> Markup:
    """Return an element without the attributes that are None; `class_` becomes `class`, `text_anchor` `text-anchor`.

    Names must come from the code; children and the values of attributes may come from anywhere.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape_text(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID_IN_HTML:
        return Markup(f"<{name}{given}>")
    return Markup(f"<{name}{given}>{render(children)}</{name}>")
