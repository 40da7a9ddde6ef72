"""Quotes of a template of JSON: where they stand around a value, a text of the row would end them."""

from jinja2 import nodes

JSON_FILTERS = ("json", "tojson")
QUOTED = "_json_in_quotes"
"""The filter that takes the place of `json` where a value stands between quotes of the template."""
_OUTSIDE, _INSIDE, _ESCAPED = range(3)
_START = frozenset({_OUTSIDE})
_Places = frozenset[int]


def is_joiner(assignment: nodes.Assign) -> bool:
    call = assignment.node
    return (
        isinstance(assignment.target, nodes.Name)
        and isinstance(call, nodes.Call)
        and isinstance(call.node, nodes.Name)
        and call.node.name == "joiner"
        and not (call.dyn_args or call.dyn_kwargs)
        and all(isinstance(each, nodes.Const) for each in [*call.args, *(each.value for each in call.kwargs)])
    )


def mark_quoted(tree: nodes.Template) -> None:
    """Give values between quotes the filter that refuses text; numbers, true, false and null may stand there.

    A template whose macros open quotes and leave them to others to close is left as it is.

    Raises:
        ValueError: Quotes are around a call that writes JSON.
    """
    macros = list(tree.find_all(nodes.Macro))
    blocks: list[nodes.Macro | nodes.CallBlock] = [*macros, *tree.find_all(nodes.CallBlock)]
    joiners = [each for each in tree.find_all(nodes.Assign) if is_joiner(each)]
    texts = [str(each.value) for joiner in joiners for each in joiner.find_all(nodes.Const)]
    writers = {each.name for each in macros if any(one.name in JSON_FILTERS for one in each.find_all(nodes.Filter))}
    quotes = _Quotes(writers | {"caller", "loop"})
    is_whole = all(quotes.follow(each.body, _START) == _START for each in blocks)
    if is_whole and not any('"' in each for each in texts):
        quotes.follow(tree.body, _START)


class _Quotes:
    """Follow what a template writes, with its branches and loops.

    Args:
        writers: The names whose call writes JSON.
    """

    def __init__(self, writers: set[str]) -> None:
        self._writers = writers

    def follow(self, body: list[nodes.Node], places: _Places) -> _Places:
        """Return where its text can be after a part of the template: outside of JSON's quotes, or between them."""
        for node in body:
            match node:
                case nodes.Output():
                    for each in node.nodes:
                        places = self._follow_written(each, places)
                case nodes.If():
                    ways = [self.follow(each, places) for each in (node.body, node.else_)]
                    places = frozenset[int]().union(*ways, *(self.follow(each.body, places) for each in node.elif_))
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
                    f"line {expression.lineno}: quotes stand around {name}(), which writes JSON; leave them out"
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
