"""The chain of causes behind an exception."""

from collections.abc import Iterator


def walk_causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and everything that led to it, nearest first, however its library passes the cause on.

    SQLAlchemy keeps the cause in `orig`, aiohttp in `os_error` or `certificate_error`, others among the arguments.
    """
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        cause = waiting.pop(0)
        if isinstance(cause, BaseException) and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            wrapped = [getattr(cause, name, None) for name in ("orig", "os_error", "certificate_error", "reason")]
            waiting += [*wrapped, *getattr(cause, "exceptions", ()), *cause.args, cause.__cause__, cause.__context__]
