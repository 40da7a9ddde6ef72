"""A template with bounds: its loops, its joins and its filters count what they make."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

from jinja2 import nodes, pass_context
from jinja2.filters import FILTERS
from jinja2.runtime import Context, markup_join, str_join
from jinja2.visitor import NodeTransformer

from syncctl.partner.request.limits import FORESEEN, Quota

QUOTA = "_quota"
"""The name of a rendering's quota among its variables; a template that names it is refused."""
_ROUNDS, _JOINED = "_rounds", "_joined"
_TAKE_SETTINGS = ("replace", "join")
"""Filters of Jinja2 that are given whether markup is written, as their first argument."""


def find_quota(context: Context) -> Quota:
    """Return what the rendering may still make."""
    found: Quota = context.parent[QUOTA]
    return found


def bound_tree(tree: nodes.Template) -> nodes.Template:
    """Return a template whose loops and `~` count what they make. The text that it writes stays the same."""
    bounded: nodes.Template = _Bounder().visit(tree)
    bounded.set_environment(tree.environment)  # type: ignore[arg-type]
    return bounded


class _Bounder(NodeTransformer):
    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802 - the name of the node
        self.generic_visit(node)
        node.iter = _filter(_ROUNDS, cast("nodes.Expr", node.iter))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:  # noqa: N802
        self.generic_visit(node)
        return _filter(_JOINED, nodes.List(node.nodes, lineno=node.lineno))


def _filter(name: str, value: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(value, name, [], [], None, None, lineno=value.lineno)


def list_filters(names: Iterable[str]) -> dict[str, Callable[..., Any]]:
    """Return filters of Jinja2, with bounds where they can make much of little, and those that bounds are made of."""
    filters = {name: _bound_filter(name) if name in FORESEEN else FILTERS[name] for name in names}
    return {**filters, _ROUNDS: _count_rounds, _JOINED: _join}


def _bound_filter(name: str) -> Callable[..., Any]:
    plain: Callable[..., Any] = FILTERS[name]
    foresee: Callable[..., int] = FORESEEN[name]

    @pass_context
    def bounded(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        if name == "join" and isinstance(value, Iterator):
            value = list(value)
        find_quota(context).take(foresee(value, *args, **kwargs))
        settings = (context.eval_ctx,) if name in _TAKE_SETTINGS else ()
        return plain(*settings, value, *args, **kwargs)

    return bounded


@pass_context
def _count_rounds(context: Context, values: Iterable[Any]) -> Iterator[Any]:
    return find_quota(context).count_rounds(values)


@pass_context
def _join(context: Context, values: list[Any]) -> str:
    find_quota(context).take(sum(len(each) for each in values if isinstance(each, str)))
    return markup_join(values) if context.eval_ctx.autoescape else str_join(values)
