"""The check that a rendered body is JSON."""

import simplejson

from syncctl.partner.call import Unsendable


def check_json(text: str) -> None:
    """Check that a text is one JSON document.

    Raises:
        Unsendable: it is not; names the place, and never shows what stands there.
    """
    try:
        simplejson.loads(text, use_decimal=True)
    except simplejson.JSONDecodeError as error:
        # The library's text is a pattern: what would show a character of the body begins at the percent sign.
        wrong = str(error.msg).partition("%")[0].strip()
        raise Unsendable(f"the body is not JSON: line {error.lineno}, column {error.colno}: {wrong}") from error
    except RecursionError as error:
        raise Unsendable("the body is not JSON: it is nested too deeply") from error
