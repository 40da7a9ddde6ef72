"""What a content type means for the body: JSON is checked, markup is escaped."""


def is_json(content_type: str) -> bool:
    """Tell whether a body of this type is JSON."""
    kind = _kind(content_type)
    return kind == "application/json" or kind.endswith("+json")


def is_markup(content_type: str) -> bool:
    """Tell whether a body of this type is XML or HTML."""
    kind = _kind(content_type)
    return kind.endswith(("/xml", "+xml", "/html"))


def _kind(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()
