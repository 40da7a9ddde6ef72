"""The rule for JSON templates: a template writes its own text, and values that went through `| json`."""

from collections.abc import Iterator

from jinja2 import nodes

JSON_FILTERS = ("json", "tojson")
QUOTED = "_json_in_quotes"
"""The filter that replaces `json` if a value is between quotes of the template."""

_HINT = "as in {{ row.name | json }}"
_OUTSIDE, _INSIDE, _ESCAPED = range(3)
"""A position in the text: outside of JSON's quotes, between them, or after a backslash between them."""
_START = frozenset({_OUTSIDE})
_Places = frozenset[int]


def check_json_rule(tree: nodes.Template) -> None:
    """Check a template, and mark the values between quotes.

    Raises:
        ValueError: A value could be written without JSON encoding, or quotes surround JSON; the error names the line.
    """
    for block in tree.find_all((nodes.FilterBlock, nodes.EvalContextModifier)):
        tag = "filter" if isinstance(block, nodes.FilterBlock) else "autoescape"
        raise ValueError(f"line {block.lineno}: the body is JSON, which {tag} would change; leave {{% {tag} %}} out")
    macros, joiners = find_safe_names(tree)
    for expression in _list_written(tree):
        if not _is_json(expression, macros, joiners):
            raise ValueError(f"line {expression.lineno}: the body is JSON, so each value must end in | json, {_HINT}")
    _mark_quoted(tree)


def _list_written(tree: nodes.Template) -> Iterator[nodes.Expr]:
    for output in tree.find_all(nodes.Output):
        yield from output.nodes
    for block in tree.find_all(nodes.CallBlock):
        yield block.call


def find_safe_names(tree: nodes.Template) -> tuple[set[str], set[str]]:
    """Return the names that can only be macros of the template, and those that can only be its joiners."""
    macros = {macro.name for macro in tree.find_all(nodes.Macro)}
    targets = [assignment.target for assignment in tree.find_all(nodes.Assign) if _is_joiner(assignment)]
    joiners = {target.name for target in targets if isinstance(target, nodes.Name)}
    # Compared by identity: two nodes with the same text are equal, but the other one may be assigned anything.
    places = {id(target) for target in targets}
    assigned = {name.name for name in tree.find_all(nodes.Name) if name.ctx != "load" and id(name) not in places}
    can_join = "joiner" not in assigned | macros | joiners
    return (macros | {"caller", "loop"}) - assigned - joiners, joiners - assigned - macros if can_join else set()


def _is_joiner(assignment: nodes.Assign) -> bool:
    """Tell whether an assignment is `{% set name = joiner("text") %}`."""
    call = assignment.node
    return (
        isinstance(assignment.target, nodes.Name)
        and isinstance(call, nodes.Call)
        and isinstance(call.node, nodes.Name)
        and call.node.name == "joiner"
        and not (call.dyn_args or call.dyn_kwargs)
        and all(isinstance(value, nodes.Const) for value in [*call.args, *(pair.value for pair in call.kwargs)])
    )


def _is_json(expression: nodes.Expr | None, macros: set[str], joiners: set[str]) -> bool:
    """Tell whether an expression writes JSON, or the template's own text; a value of the row must be encoded."""
    if isinstance(expression, nodes.CondExpr):
        return all(_is_json(branch, macros, joiners) for branch in (expression.expr1, expression.expr2))
    if isinstance(expression, nodes.Filter):
        return expression.name in JSON_FILTERS
    if isinstance(expression, nodes.Call):
        return writes_own_text(expression, macros, joiners)
    return expression is None or isinstance(expression, nodes.TemplateData | nodes.Const)


def writes_own_text(call: nodes.Call, macros: set[str], joiners: set[str]) -> bool:
    """Tell whether a call writes text that the rule has checked. A `caller` passed to a macro could be any method."""
    if not isinstance(call.node, nodes.Name) or call.dyn_kwargs or any(pair.key == "caller" for pair in call.kwargs):
        return False
    return call.node.name in macros or (call.node.name in joiners and not (call.args or call.kwargs or call.dyn_args))


def _mark_quoted(tree: nodes.Template) -> None:
    """Give values between quotes the filter that refuses text; only numbers, true, false and null are allowed there.

    A template is left unchanged if one of its macros opens quotes that are closed elsewhere.

    Raises:
        ValueError: Quotes surround a call that writes JSON.
    """
    macros = list(tree.find_all(nodes.Macro))
    blocks: list[nodes.Macro | nodes.CallBlock] = [*macros, *tree.find_all(nodes.CallBlock)]
    joiners = [assignment for assignment in tree.find_all(nodes.Assign) if _is_joiner(assignment)]
    texts = [str(const.value) for joiner in joiners for const in joiner.find_all(nodes.Const)]
    writers = {macro.name for macro in macros if any(use.name in JSON_FILTERS for use in macro.find_all(nodes.Filter))}
    quotes = _Quotes(writers | {"caller", "loop"})
    is_whole = all(quotes.follow(block.body, _START) == _START for block in blocks)
    if is_whole and not any('"' in text for text in texts):
        quotes.follow(tree.body, _START)


class _Quotes:
    """Follows the text that a template writes, through its branches and loops.

    Args:
        writers: The names of macros and blocks whose call writes JSON.
    """

    def __init__(self, writers: set[str]) -> None:
        self._writers = writers

    def follow(self, body: list[nodes.Node], places: _Places) -> _Places:
        """Return the positions in which the text can be after a part of the template."""
        for node in body:
            match node:
                case nodes.Output():
                    for expression in node.nodes:
                        places = self._follow_written(expression, places)
                case nodes.If():
                    ways = [self.follow(branch, places) for branch in (node.body, node.else_)]
                    others = [self.follow(branch.body, places) for branch in node.elif_]
                    places = frozenset[int]().union(*ways, *others)
                case nodes.For():
                    once = places | self.follow(node.body, places)
                    places = once | self.follow(node.body, once) | self.follow(node.else_, places)
                case nodes.CallBlock(call=nodes.Call() as call):
                    places = self._follow_written(call, places)
                case nodes.With() | nodes.Block() | nodes.Scope():
                    places = self.follow(node.body, places)
        return places

    def _follow_written(self, expression: nodes.Expr, places: _Places) -> _Places:
        match expression:
            case nodes.TemplateData(data=str(text)) | nodes.Const(value=str(text)):
                return frozenset(_scan(text, place) for place in places)
            case nodes.CondExpr():
                other = places if expression.expr2 is None else self._follow_written(expression.expr2, places)
                return self._follow_written(expression.expr1, places) | other
            case nodes.Call(node=nodes.Name(name=name)) if _OUTSIDE not in places and name in self._writers:
                raise ValueError(
                    f"line {expression.lineno}: {name}() writes JSON, with quotes around a text; leave yours out"
                )
            case nodes.Filter() if _OUTSIDE not in places:
                expression.name = QUOTED
        return places


def _scan(text: str, place: int) -> int:
    for letter in text:
        if place == _ESCAPED:
            place = _INSIDE
        elif letter == '"':
            place = _INSIDE if place == _OUTSIDE else _OUTSIDE
        elif letter == "\\" and place == _INSIDE:
            place = _ESCAPED
    return place
