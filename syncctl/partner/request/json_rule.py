"""The rule of a JSON body: what a template writes is its own text, or has gone through `| json`."""

from collections.abc import Iterator

from jinja2 import nodes

from syncctl.partner.request.quotes import JSON_FILTERS, is_joiner, mark_quoted

_HINT = "as in {{ row.name | json }}"


def check_json_rule(tree: nodes.Template) -> None:
    """Check a template, and mark the values that stand between quotes.

    Raises:
        ValueError: A value could be written without its JSON; names the line.
    """
    for block in tree.find_all((nodes.FilterBlock, nodes.EvalContextModifier)):
        tag = "filter" if isinstance(block, nodes.FilterBlock) else "autoescape"
        raise ValueError(f"line {block.lineno}: the body is JSON, which {tag} would change; leave {{% {tag} %}} out")
    known = _find_harmless(tree)
    for each in _list_written(tree):
        if not _is_json(each, *known):
            raise ValueError(f"line {each.lineno}: the body is JSON, so each value must end in | json, {_HINT}")
    mark_quoted(tree)


def _list_written(tree: nodes.Template) -> Iterator[nodes.Expr]:
    for output in tree.find_all(nodes.Output):
        yield from output.nodes
    for block in tree.find_all(nodes.CallBlock):
        yield block.call


def _find_harmless(tree: nodes.Template) -> tuple[set[str], set[str]]:
    """Return the names that can be nothing but a macro of the template, and nothing but a joiner of its own text."""
    macros = {macro.name for macro in tree.find_all(nodes.Macro)}
    joiners = [each.target for each in tree.find_all(nodes.Assign) if is_joiner(each)]
    named = {target.name for target in joiners if isinstance(target, nodes.Name)}
    # By identity: two nodes of the same text are equal, and one of them may be given anything.
    places = {id(target) for target in joiners}
    given = {name.name for name in tree.find_all(nodes.Name) if name.ctx != "load" and id(name) not in places}
    can_join = "joiner" not in given | macros | named
    return (macros | {"caller", "loop"}) - given - named, named - given - macros if can_join else set()


def _is_json(expression: nodes.Expr | None, macros: set[str], joiners: set[str]) -> bool:
    """Tell whether an expression writes JSON, or text of the template itself; a value of the row must be encoded."""
    if isinstance(expression, nodes.CondExpr):
        return all(_is_json(each, macros, joiners) for each in (expression.expr1, expression.expr2))
    if isinstance(expression, nodes.Filter):
        return expression.name in JSON_FILTERS
    if isinstance(expression, nodes.Call):
        return _writes_own_text(expression, macros, joiners)
    return expression is None or isinstance(expression, nodes.TemplateData | nodes.Const)


def _writes_own_text(call: nodes.Call, macros: set[str], joiners: set[str]) -> bool:
    """Tell whether a call writes what the rule holds for already. A macro's `caller` could be any method of a text."""
    if not isinstance(call.node, nodes.Name) or call.dyn_kwargs or any(each.key == "caller" for each in call.kwargs):
        return False
    return call.node.name in macros or (call.node.name in joiners and not (call.args or call.kwargs or call.dyn_args))
