"""The chain of causes behind an exception."""

from collections.abc import Iterator


def walk_causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and everything that led to it, nearest first, however its library passes the cause on.

    SQLAlchemy keeps it in `orig`, urllib3 in `reason` or among the arguments.
    """
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        cause = waiting.pop(0)
        if isinstance(cause, BaseException) and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            wrapped = getattr(cause, "orig", None), getattr(cause, "reason", None)
            waiting += [*wrapped, *cause.args, cause.__cause__, cause.__context__]
